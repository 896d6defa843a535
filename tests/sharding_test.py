import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from tests import tiny
from vljepa_jax import optim, sharding
from vljepa_jax.config import Mesh
from vljepa_jax.errors import UserError

RULES = (("act_batch", ("slice", "data", "fsdp")), ("embed", "fsdp"), ("mlp", "tensor"))


def mesh(data, fsdp, tensor=1, slices=1):
  return sharding.make_mesh(Mesh(slices, data, fsdp, tensor, RULES))


def boxed(*axes, shape=(8, 6)):
  """Abstract parameters of one dense layer."""
  named = nn.with_logical_partitioning(nn.initializers.ones, axes)
  return {"up": {"kernel": jax.eval_shape(lambda: named(jax.random.key(0), shape))}}


@pytest.mark.parametrize("wanted, sizes", [
    ((-1, 1), (8, 1, 1)), ((8, 1), (8, 1, 1)), ((4, 2), (4, 2, 1)), ((2, -1), (2, 4, 1)), ((2, 2, 2), (2, 2, 2)),
    ((1, 2, -1), (1, 2, 4)),
])
def test_mesh_over_all_devices(wanted, sizes):
  assert mesh(*wanted).devices.shape == (1, *sizes)


@pytest.mark.parametrize("data, fsdp", [(3, 1), (-1, -1), (3, -1), (16, 1), (0, 8), (-2, 1)])
def test_mesh_that_does_not_fit_the_devices(data, fsdp):
  with pytest.raises(UserError, match="8 device"):
    mesh(data, fsdp)


def test_an_axis_for_slices_is_the_outermost():
  assert mesh(-1, 2, 1, slices=2).devices.shape == (2, 2, 2, 1)


def test_sizes_that_would_fit_are_named():
  with pytest.raises(UserError, match="nearest: slice=1 data=2 fsdp=4 tensor=1"):
    mesh(3, 2)


def test_slices_of_a_tpu_must_be_those_of_the_mesh():
  device = lambda number: types.SimpleNamespace(slice_index=number // 4, platform="tpu")
  with pytest.raises(UserError, match="config.mesh.slice is 1, but the devices lie in 2 slice"):
    sharding.make_mesh(Mesh(1, 8, 1, 1, RULES), [device(i) for i in range(8)])


def test_weights_lie_by_the_rules():
  assert sharding.param_shardings(boxed("embed", "mlp"), mesh(4, 2), RULES)["up"]["kernel"].spec == P("fsdp", "tensor")


def test_a_name_without_rule_raises():
  with pytest.raises(UserError, match="'embde', an axis of 'up/kernel'"):
    sharding.param_shardings(boxed("embde", "mlp"), mesh(4, 2), RULES)


def test_a_size_that_does_not_divide_raises():
  with pytest.raises(UserError, match="up/kernel"):
    sharding.param_shardings(boxed("embed", "mlp", shape=(7, 6)), mesh(4, 2), RULES)


def test_moments_lie_like_their_parameters():
  groups = (("frozen/.*", None), (".*", 1.0))
  names = {"frozen": boxed("embed", "mlp"), "fast": boxed("embed", "mlp")}
  shapes = sharding.unbox(names)
  tx = optim.make_optimizer(dataclasses.replace(tiny.recipe().optim, groups=groups), 10, shapes)
  wide = mesh(2, 4)
  placed = sharding.opt_state_shardings(tx, shapes, sharding.param_shardings(names, wide, RULES), wide)
  state = jax.jit(tx.init, out_shardings=placed)(jax.tree.map(lambda x: jnp.ones(x.shape), shapes))
  moments = [x for x in jax.tree.leaves(state) if x.ndim]
  assert len(moments) == 2
  assert all(x.sharding.spec == P("fsdp", "tensor") for x in moments)
  assert all(x.sharding.spec == P() for x in jax.tree.leaves(state) if not x.ndim)
  assert isinstance(placed[1].inner_states["x1.0"].inner_state[0].mu["frozen"]["up"]["kernel"], optax.MaskedNode)


def test_rows_of_a_batch_go_round_all_devices():
  wide = mesh(4, 2)
  rows = sharding.put_batch({"x": np.arange(16)}, sharding.batch_sharding(wide, RULES))["x"]
  assert rows.addressable_shards[0].data.shape == (2,)
  np.testing.assert_array_equal(rows, np.arange(16))


def test_batch_must_divide_the_mesh():
  sharding.check_batch_size(16, 2, mesh(4, 2), RULES)
  sharding.check_batch_size(12, 1, mesh(2, 2, 2), RULES)
  with pytest.raises(UserError, match="batch_size 12 must be a multiple of 8, the devices .*; 8 or 16 would do"):
    sharding.check_batch_size(12, 1, mesh(4, 2), RULES)


@dataclasses.dataclass(frozen=True)
class Device:
  process_index: int
  number: int


class Dealt:
  """Stands in for a sharding of rows over devices of several processes, given the rows of each."""

  def __init__(self, *held):
    self._rows = {Device(process, i): (slice(row, row + 1),)
                  for process, rows in enumerate(held) for i, row in enumerate(rows)}
    self.num_devices = len(self._rows)

  def devices_indices_map(self, shape):
    assert shape == (self.num_devices,)
    return self._rows


@pytest.mark.parametrize("held, shares", [
    (([0, 1, 2, 3],), [(0, 1)]),
    (([0, 1], [2, 3]), [(0, 2), (1, 2)]),
    (([2, 3], [0, 1]), [(1, 2), (0, 2)]),
    (([0, 1, 4, 5], [2, 3, 6, 7]), [(0, 2), (1, 2)]),  # hosts of a torus
    (([0, 1], [0, 1], [2, 3], [2, 3]), [(0, 2), (0, 2), (1, 2), (1, 2)]),  # the tensor axis crosses hosts
    (([0, 1], [0, 1]), [(0, 1), (0, 1)]),
])
def test_every_process_loads_the_rows_that_it_holds(monkeypatch, held, shares):
  for process, share in enumerate(shares):
    monkeypatch.setattr(jax, "process_index", lambda: process)
    assert sharding.process_share(Dealt(*held)) == share


@pytest.mark.parametrize("held", [([0, 1], [1, 2]), ([0, 1, 2], [3])])
def test_rows_that_processes_share_in_part_are_refused(held):
  with pytest.raises(UserError, match="config.mesh deals the rows of a batch out to the hosts unevenly"):
    sharding.process_share(Dealt(*held))


def test_what_all_processes_have_is_put_and_fetched_whole():
  whole = np.arange(24.0, dtype=np.float32).reshape(8, 3)
  placed = jax.sharding.NamedSharding(mesh(4, 2), P(("data", "fsdp")))
  with jax.transfer_guard("disallow"):
    x = sharding.put_same(whole, placed)
    np.testing.assert_array_equal(sharding.to_host(x), whole)
  assert x.sharding == placed
