import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from vljepa_jax.aot import hlo

# A loop of three turns that gathers a weight, multiplies, and updates a row of a stack; then a reduce-scatter.
PROGRAM = """HloModule step, entry_computation_layout={...}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_update (p0: f32[3,8,128], p1: f32[8,128], p2: s32[]) -> f32[3,8,128] {
  %p0 = f32[3,8,128]{2,1,0:T(8,128)} parameter(0)
  %p1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %p2 = s32[]{:T(128)} parameter(2)
  %row = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%p1)
  ROOT %updated = f32[3,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%p0, %row, %p2, %p2, %p2)
}

%all-reduce-scatter.1 (input: f32[16,128]) -> f32[4,128] {
  %input = f32[16,128]{1,0:T(8,128)} parameter(0)
  %whole = f32[16,128]{1,0:T(8,128)} all-reduce(%input), channel_id=2, replica_groups={{0,1,2,3}}, to_apply=%add
  %me = u32[] partition-id()
  ROOT %mine = f32[4,128]{1,0:T(8,128)} dynamic-slice(%whole, %me), dynamic_slice_sizes={4,128}
}

%body (state: (s32[], f32[8,128], f32[3,8,128])) -> (s32[], f32[8,128], f32[3,8,128]) {
  %state = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, /*index=2*/f32[3,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %stack = f32[3,8,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=2
  %part = f32[2,100]{1,0:T(8,128)} slice(%x), slice={[0:2], [0:100]}
  %gathered = f32[8,100]{1,0:T(8,128)} all-gather(%part), channel_id=1, replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}, metadata={op_name="jit(step)/y_encoder/gather"}
  %held = f32[8,100]{1,0:T(8,128)S(1)} copy(%gathered)
  %kernel = f32[8,128]{1,0:T(8,128)} custom-call(%x, %held), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"
"metadata":"{\\"block_q\\": 256}"
}}
  %stacked = f32[3,8,128]{2,1,0:T(8,128)} fusion(%stack, %kernel, %i), kind=kLoop, calls=%fused_update
  ROOT %next = (s32[], f32[8,128], f32[3,8,128]) tuple(%i, %kernel, %stacked)
}

%condition (state.1: (s32[], f32[8,128], f32[3,8,128])) -> pred[] {
  %state.1 = (s32[], f32[8,128], f32[3,8,128]) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %turns = s32[]{:T(128)} constant(3)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %turns), direction=LT
}

ENTRY %main (x.1: f32[8,128], g: f32[16,128]) -> f32[4,128] {
  %x.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %g = f32[16,128]{1,0:T(8,128)} parameter(1)
  %zero = s32[] constant(0)
  %empty = f32[3,8,128]{2,1,0:T(8,128)} broadcast(%zero), dimensions={}
  %start = (s32[], f32[8,128], f32[3,8,128]) tuple(%zero, %x.1, %empty)
  %loop = (s32[], f32[8,128], f32[3,8,128]) while(%start), condition=%condition, body=%body
  ROOT %scattered = f32[4,128]{1,0:T(8,128)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/transpose/predictor"}
}
"""


def test_traffic_of_a_program_by_hand():
  tile = 8 * 128 * 4  # bytes of the smallest array in memory: (2, 100) takes as much
  turn = (
      (tile + tile)  # slice: what is read and written
      + (tile + tile)  # all-gather
      + tile  # copy: read; what it writes lies on the chip
      + (tile + tile)  # kernel: reads x, not what lies on the chip; writes
      + (tile + 512 + tile))  # fusion: the row and the index are read, the row of the stack written
  ends = (512 + 3 * tile) + (2 * tile + tile)  # broadcast; reduce-scatter, whose result is padded
  traffic = hlo.Program(PROGRAM).traffic()
  assert abs(traffic.hbm_bytes - 3 * turn - ends) <= 4 * 1024  # scalars are not padded the same way everywhere


def test_collectives_of_a_program():
  gather, scatter = sorted(hlo.Program(PROGRAM).traffic().collectives, key=lambda c: c.op)
  assert (gather.op, gather.bytes, gather.times) == ("all-gather", 4 * 2 * 100 * 4, 3)
  assert gather.group == (0, 1, 2, 3) and gather.place == "jit(step)/y_encoder/gather"
  assert (scatter.op, scatter.bytes, scatter.times) == ("reduce-scatter", 16 * 128 * 4, 1)
  assert scatter.place == "jit(step)/transpose/predictor"


def test_an_exchange_between_slices():
  """Two slices of eight chips: each chip hands over its share."""
  send = (
      '  %send = (s32[1,1,128]{2,1,0:T(1,128)}, u32[]{:S(2)}, token[]) send(%x.1, %zero), channel_id=5, '
      'is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
      '_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}\n  %start =')
  found = hlo.Program(PROGRAM.replace("  %start =", send)).traffic().collectives
  (between,) = [c for c in found if c.op == "all-reduce"]
  assert (between.bytes, between.times, between.group) == (512, 1, (0, 8))


def test_a_limit_that_a_loop_carries():
  carried = PROGRAM.replace("%turns = s32[]{:T(128)} constant(3)", "%turns = s32[] get-tuple-element(%state.1), index=3")
  carried = carried.replace("%start = (s32[], f32[8,128], f32[3,8,128]) tuple(%zero, %x.1, %empty)",
                            "%five = s32[] constant(5)\n  %limit = s32[] copy(%five)\n"
                            "  %start = (s32[], f32[8,128], f32[3,8,128], s32[]) tuple(%zero, %x.1, %empty, %limit)")
  (gather,) = [c for c in hlo.Program(carried).traffic().collectives if c.op == "all-gather"]
  assert gather.times == 5


@pytest.mark.parametrize("text, group", [
    ("replica_groups={{0,4},{1,5},{2,6},{3,7}}, use_global_device_ids=true", (0, 4)),
    ("replica_groups=[2,4]<=[8], dimensions={0}", (0, 1, 2, 3)),
    ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", (0, 4)),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, x", (0, 4)),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", tuple(range(8))),
    ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, x", (0, 1, 2, 3)),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}", (3, 2)),
    ("replica_groups=mesh['a'=8] {'a':(2)2}", (0, 2)),
    ("source_target_pairs={{0,1},{1,3},{2,0},{3,2}}", (0, 1, 3, 2)),
])
def test_groups_of_devices(text, group):
  assert hlo.device_group(text) == group


@pytest.mark.parametrize("shape, size, padded", [
    ("f32[8,128]{1,0:T(8,128)}", 4096, 4096),
    ("bf16[96,256,32,64]{3,2,1,0:T(8,128)(2,1)}", 2 * 96 * 256 * 32 * 64, 2 * 96 * 256 * 32 * 128),
    ("bf16[96,256,32,64]{1,3,2,0:T(8,128)(2,1)}", 2 * 96 * 256 * 32 * 64, 2 * 96 * 256 * 32 * 64),
    ("f32[3,5]{0,1:T(8,128)}", 60, 4 * 128 * 8),
    ("(f32[8,128]{1,0:T(8,128)}, s32[]{:S(6)})", 4096 + 4, 4096),
    ("f32[8,128]{1,0:T(8,128)S(1)}", 4096, 0),
    ("pred[7]", 7, 7),
])
def test_bytes_of_a_shape(shape, size, padded):
  assert hlo.array_bytes(shape) == size
  assert hlo.hbm_bytes(shape) == padded


def test_text_that_is_no_program():
  with pytest.raises(ValueError, match="no ENTRY"):
    hlo.Program("nothing")


def test_a_loop_without_an_end():
  program = hlo.Program(PROGRAM.replace("constant(3)", "get-tuple-element(%state.1), index=0"))
  with pytest.raises(ValueError, match="%loop does not count to a constant"):
    program.traffic()


def test_a_real_program_on_eight_devices():
  """A scanned layer, compiled here: what XLA gathers and adds up is found, as often as the loop turns."""
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
  rows, cut = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P(None, "fsdp"))

  def loss(weights, x):
    return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0])

  weights = jax.device_put(np.ones((5, 64, 64), np.float32), cut)
  x = jax.device_put(np.ones((16, 64), np.float32), rows)
  text = jax.jit(loss, out_shardings=NamedSharding(mesh, P())).lower(weights, x).compile().as_text()
  gathers = [c for c in hlo.Program(text).traffic().collectives if c.op == "all-gather"]
  assert sum(c.bytes * c.times for c in gathers) == 5 * 64 * 64 * 4
  assert all(c.group == (0, 1, 2, 3) for c in gathers)
