"""Device mesh, and where every array of a run lies on it."""

from collections.abc import Sequence
import functools
import math
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from vljepa_jax.config import Mesh
from vljepa_jax.errors import UserError
from vljepa_jax.optim import path_name

AXES = ("slice", "data", "fsdp", "tensor")

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]


def make_mesh(config: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """Mesh with axes `AXES` over all devices, or those given; one size may be -1 (the rest).

  Several slices of a TPU lie along `slice`, so that only that axis crosses the data-centre network. On other devices
  `slice` is the outermost axis and nothing else.

  Raises:
    UserError: the sizes do not multiply to the number of devices, or the devices lie in another number of slices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = mesh_sizes(config, len(devices))
  # Linen's logical constraints are written for Auto axes; make_mesh would give Explicit ones.
  auto = (AxisType.Auto,) * len(AXES)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if sizes[0] != slices and (slices > 1 or devices[0].platform == "tpu"):
    raise UserError(f"config.mesh.slice is {sizes[0]}, but the devices lie in {slices} slice(s); set it to {slices}")
  if slices > 1:
    place = functools.partial(
        mesh_utils.create_hybrid_device_mesh, (1, *sizes[1:]), (slices, 1, 1, 1), devices)
  else:
    place = functools.partial(mesh_utils.create_device_mesh, sizes, devices)
  try:
    grid = place()
  except NotImplementedError:  # whole axes of the torus do not do: an axis of the mesh takes a part of one
    grid = place(allow_split_physical_axes=True)
  return jax.sharding.Mesh(grid, AXES, axis_types=auto)


def mesh_sizes(config: Mesh, count: int) -> tuple[int, ...]:
  """Size of every axis over `count` devices, the -1 made out; UserError where they do not fit."""
  sizes = [config.slice, config.data, config.fsdp, config.tensor]
  if sizes.count(-1) == 1:
    sizes[sizes.index(-1)] = count // -math.prod(sizes)
  if min(sizes) < 1 or math.prod(sizes) != count:
    given = " ".join(f"{axis}={getattr(config, axis)}" for axis in AXES)
    raise UserError(
        f"config.mesh {given} does not fit {count} device(s); the product must be the number of devices, and one of "
        f"them may be -1; {_nearest_words(config, count)}")
  return tuple(sizes)


def _nearest_words(config: Mesh, count: int) -> str:
  """Sizes that would fit: those given, each moved to the nearest divisor of what is left, the last taking the rest."""
  left, fits = count, {}
  for axis in ("slice", "tensor", "data"):
    wanted = max(getattr(config, axis), 1)
    fits[axis] = min((n for n in range(1, left + 1) if left % n == 0), key=lambda n: (abs(n - wanted), n))
    left //= fits[axis]
  fits["fsdp"] = left
  return "nearest: " + " ".join(f"{axis}={fits[axis]}" for axis in AXES)


def check_batch_size(batch_size: int, micro_batches: int, mesh: jax.sharding.Mesh, rules: Rules) -> None:
  """UserError where a global batch cannot be dealt out evenly over the mesh."""
  parts = micro_batches * batch_parts(mesh, rules)
  if batch_size % parts:
    below, above = batch_size // parts * parts, -(-batch_size // parts) * parts
    raise UserError(
        f"config.train.batch_size {batch_size} must be a multiple of {parts}, the devices that share a batch "
        f"times config.loss.micro_batches; {f'{below} or ' if below else ''}{above} would do")


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """A whole copy on every device."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh: jax.sharding.Mesh, rules: Rules) -> NamedSharding:
  """Rows of a batch over the mesh axes of `act_batch`."""
  return nn.logical_to_mesh_sharding(P("act_batch"), mesh, rules)


def batch_axes(rules: Rules) -> tuple[str, ...]:
  """The mesh axes that the rows of a batch lie over."""
  axes = dict(rules)["act_batch"]
  return (axes,) if isinstance(axes, str) else tuple(axes or ())


def batch_parts(mesh: jax.sharding.Mesh, rules: Rules) -> int:
  """How many parts the rows of a batch are dealt out in."""
  return math.prod(mesh.shape[axis] for axis in batch_axes(rules))


def unbox(boxed: Any) -> Any:
  """Parameters without their logical names.

  Unlike `flax.linen.unbox` it adds no sharding constraint, which fails on shapes once a mesh is set.
  """
  named = lambda x: isinstance(x, nn.meta.AxisMetadata)
  return jax.tree.map(lambda x: x.value if named(x) else x, boxed, is_leaf=named)


def param_shardings(boxed: Any, mesh: jax.sharding.Mesh, rules: Rules) -> Any:
  """Sharding of every parameter from the logical axis names that its module gave it.

  Args:
    boxed: abstract parameters as `model.init` returns them, names included.

  Raises:
    UserError: a name without a rule (which flax would silently replicate), or a size that does not divide.
  """
  specs = nn.get_partition_spec(boxed)
  known = {name for name, _ in rules}

  def sharding(path, spec, shape):
    for name in spec:
      if name is not None and name not in known:
        raise UserError(f"config.mesh.rules has no entry for {name!r}, an axis of {path_name(path)!r}")
    placed = nn.logical_to_mesh_sharding(spec, mesh, rules)
    for size, axes in zip(shape.shape, placed.spec):
      parts = math.prod(mesh.shape[a] for a in ((axes,) if isinstance(axes, str) else axes or ()))
      if size % parts:
        raise UserError(f"{path_name(path)!r} {shape.shape} does not divide over the mesh by {placed.spec}")
    return placed

  return jax.tree_util.tree_map_with_path(sharding, specs, unbox(boxed), is_leaf=lambda x: isinstance(x, P))


def opt_state_shardings(tx: optax.GradientTransformation, params: Any, shardings: Any, mesh: jax.sharding.Mesh) -> Any:
  """Moments lie as their parameters do, counters everywhere.

  Without this, `jit(tx.init)` would replicate the moments.

  Args:
    params: unboxed abstract parameters.
    shardings: of the parameters.
  """
  hole = lambda x: isinstance(x, optax.MaskedNode)  # what `optax.partition` leaves for other groups' parameters
  return optax.tree.map_params(
      tx,
      lambda leaf, sharding: leaf if hole(leaf) else sharding,
      jax.eval_shape(tx.init, params),
      shardings,
      transform_non_params=lambda _: replicated(mesh),
      is_leaf=hole,
  )


def with_shardings(shapes: Any, shardings: Any) -> Any:
  """ShapeDtypeStructs that also say where they lie."""
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def process_share(rows: NamedSharding) -> tuple[int, int]:
  """Which of how many equal parts of a global batch this process loads; several may load the same one.

  Parts are numbered by their first row: where a process holds neighbouring rows, part i is the i-th piece of the batch.

  Args:
    rows: sharding of batches.

  Raises:
    UserError: processes share some of their rows, but not all.
  """
  held = {}
  for device, (index, *_) in rows.devices_indices_map((rows.num_devices,)).items():
    held.setdefault(device.process_index, set()).add(index.indices(rows.num_devices)[:2])
  shares = sorted({tuple(sorted(spans)) for spans in held.values()})
  spans = [span for share in shares for span in share]
  if len(set(spans)) != len(spans) or len({len(share) for share in shares}) > 1:
    raise UserError(
        "config.mesh deals the rows of a batch out to the hosts unevenly: the data and fsdp axes together must cut it "
        "into a multiple or a divisor of the number of hosts")
  return shares.index(tuple(sorted(held[jax.process_index()]))), len(shares)


def put_same(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
  """A global array from the whole of it, which every process has; unlike `jax.device_put` it does not compare them."""
  with jax.transfer_guard_host_to_device("allow"):  # see `put_batch`
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def to_host(x: jax.Array | np.ndarray) -> np.ndarray:
  """The whole array, whichever processes hold it; all of them have to ask for it together."""
  if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
    x = jax.device_put(x, replicated(x.sharding.mesh))
  return jax.device_get(x)


def put_batch(batch: dict[str, np.ndarray | jax.Array], sharding: NamedSharding) -> dict[str, jax.Array]:
  """Global arrays from the rows that this process loads, see `process_share`; those that are some already stay."""
  put = functools.partial(jax.make_array_from_process_local_data, sharding)
  with jax.transfer_guard_host_to_device("allow"):  # of several processes, JAX does not see that it is explicit
    return {name: rows if isinstance(rows, jax.Array) else put(rows) for name, rows in batch.items()}
