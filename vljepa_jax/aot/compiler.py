"""The training step of a recipe, compiled for a slice, and what is to be known of the program."""

import dataclasses
import functools
import math
import pathlib
import re
import tempfile
import time
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vljepa_jax import parts as parts_lib
from vljepa_jax import step
from vljepa_jax.aot import hlo, topology
from vljepa_jax.config import Config
from vljepa_jax.errors import INPUT_ERRORS, UserError, as_user_error
from vljepa_jax.parts import Parts

LARGEST = 8  # consumers of memory that are named
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Exchange:
  """Collectives of one kind, over one set of mesh axes, for one part of the model.

  Attributes:
    op: as `hlo.Collective`.
    axes: mesh axes along which chips exchange.
    part: tower or other part of the step.
    bytes: of one chip in a step, all times together.
    times: how often in a step.
    chips: in a group.
    torus: how many of these chips lie along each axis of the torus; 1s left out.
    slices: how many slices a group spans.
  """

  op: str
  axes: tuple[str, ...]
  part: str
  bytes: int
  times: int
  chips: int
  torus: tuple[int, ...]
  slices: int


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What a compiler said; bytes are those of one chip.

  Attributes:
    fits: whether it could place everything.
    message: of the compiler where it could not.
    arguments: state and batch.
    temporary: all else at the worst moment, gaps included.
    code: of the program.
    consumers: the largest temporary arrays, (bytes, what).
    hbm_bytes: read and written in a step.
    exchanges: between chips in a step.
    seconds: that compiling took.
  """

  fits: bool
  message: str = ""
  arguments: int = 0
  temporary: int = 0
  code: int = 0
  consumers: tuple[tuple[int, str], ...] = ()
  hbm_bytes: int = 0
  exchanges: tuple[Exchange, ...] = ()
  seconds: float = 0.0

  @property
  def needed(self) -> int:
    """Memory of a chip that the step takes."""
    return self.arguments + self.temporary + self.code


def query_length(config: Config) -> int:
  """Of the longest batch that a recipe trains on: captions come without a question."""
  return max(0 if s.view == "caption" else config.tokenizers.query.length for s in config.data.sources)


def abstract_batch(config: Config, parts: Parts) -> dict[str, jax.ShapeDtypeStruct]:
  """The longest batch of a recipe, placed as in training."""
  shapes = step.abstract_batch(
      config.train.batch_size, config.data.frames, config.data.image_size, query_length(config),
      config.tokenizers.target.length)
  return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parts.rows) for name, x in shapes.items()}


def compile_step(config: Config, parts: Parts) -> Compiled:
  """Compiles the step that `main` runs; nothing is computed. UserError for what no slice could run."""
  began = time.monotonic()
  with tempfile.TemporaryDirectory() as folder, jax.set_mesh(parts.mesh), nn.logical_axis_rules(config.mesh.rules):
    lowered = parts_lib.make_step(config, parts).lower(parts.state, abstract_batch(config, parts))
    try:
      compiled = lowered.compile(compiler_options={"xla_dump_to": folder})
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      return Compiled(False, _first_lines(str(error)), seconds=time.monotonic() - began)
    memory = compiled.memory_analysis()
    text = _dumped(folder, "after_optimizations.txt")
    program = hlo.Program(text)
    traffic = program.traffic()
    report = _dumped(folder, "memory-usage-report.txt")
  return Compiled(
      fits=True,
      arguments=memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
      temporary=memory.temp_size_in_bytes,
      code=memory.generated_code_size_in_bytes,
      consumers=consumers(report, text),
      hbm_bytes=traffic.hbm_bytes,
      exchanges=exchanges(traffic.collectives, parts.mesh),
      seconds=time.monotonic() - began)


def state_bytes(parts: Parts) -> dict[str, int]:
  """Of one chip: parameters by tower, the rest of the state."""
  size = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
  total = lambda tree: sum(size(x) for x in jax.tree.leaves(tree))
  towers = {name: total(tree) for name, tree in parts.state.params.items() if name not in step.SCALES}
  return towers | {"optimizer": total(parts.state.opt_state), "average": total(parts.state.ema)}


def consumers(report: str, text: str) -> tuple[tuple[int, str], ...]:
  """The largest buffers of a compiler's report on memory, with the place in the model of what lies in them first."""
  main = report.partition("Memory Space: default")[2].partition("Memory Space:")[0]
  rows = re.findall(r"^\s*[\d.]+\w+\(\s*\d+%\);\s*([\d.]+)(B|KiB|MiB|GiB);\s*\d+;\s*\d+;\s*(.+)$", main, re.MULTILINE)
  units = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
  return tuple(
      (int(float(size) * units[unit]), _described(shapes, text)) for size, unit, shapes in rows[:LARGEST])


def _described(shapes: str, text: str) -> str:
  arrays = [re.sub(r"^\d+×", "", shape).strip("()") for shape in shapes.split(", ")]
  largest = max(arrays, key=hlo.array_bytes)
  line = re.search(rf'= \(?{re.escape(largest)}[^\n]*?op_name="([^"]*)"', text)
  return f"{largest} {part_of(line[1]) if line else ''}".strip()


def exchanges(collectives: tuple[hlo.Collective, ...], mesh: jax.sharding.Mesh) -> tuple[Exchange, ...]:
  """Collectives by kind, axes and part, the largest first."""
  sums: dict[tuple[Any, ...], list[int]] = {}
  for c in collectives:
    if len(c.group) > 1:
      total = sums.setdefault((c.op, group_place(c.group, mesh), part_of(c.place)), [0, 0])
      total[0] += c.bytes * c.times
      total[1] += c.times
  made = [
      Exchange(op, axes, part, size, times, math.prod(torus) * slices, torus, slices)
      for (op, (axes, torus, slices), part), (size, times) in sums.items()]
  return tuple(sorted(made, key=lambda e: -e.bytes))


def group_place(group: tuple[int, ...], mesh: jax.sharding.Mesh) -> tuple[tuple[str, ...], tuple[int, ...], int]:
  """Mesh axes along which a group of devices lies, its size along every axis of the torus, and its slices."""
  places = np.array(np.unravel_index(group, mesh.devices.shape))
  axes = tuple(axis for axis, place in zip(mesh.axis_names, places) if len(set(place.tolist())) > 1)
  devices = [mesh.devices.flat[i] for i in group]
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  extents = (len(set(along)) for along in zip(*(device.coords for device in devices)))
  return axes, tuple(extent for extent in extents if extent > 1), slices


@functools.lru_cache(maxsize=None)
def part_of(op_name: str) -> str:
  """The part of the step that an instruction belongs to."""
  for part in ("x_encoder", "y_encoder", "predictor"):
    if part in op_name:
      return part
  return "loss and optimizer" if op_name else "unnamed"


def _dumped(folder: str, ending: str) -> str:
  found = sorted(pathlib.Path(folder).glob(f"*{ending}"), key=lambda path: path.stat().st_size)
  if not found:
    raise UserError(f"this libtpu leaves no {ending!r}; requirements-aot.txt names the version that does")
  return found[-1].read_text(encoding="utf-8")


def _first_lines(message: str) -> str:
  return " ".join(line.strip() for line in message.splitlines()[:12] if line.strip())[:600]


def make_parts(config: Config, name: str, slices: int) -> Parts:
  """The parts of a run on slices that are not there; UserError where the recipe does not fit itself or the slices."""
  devices = topology.describe(name, slices)
  with as_user_error(*INPUT_ERRORS):
    return parts_lib.make_parts(config, devices)
