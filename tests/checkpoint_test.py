import errno
import shutil
import subprocess

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from vljepa_jax import checkpoint
from vljepa_jax.errors import UserError
from vljepa_jax.step import TrainState

ROWS = 64


def mesh(data, fsdp):
  return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def make_state(seed, ema=True, rows=ROWS):
  """A small state with the holes that frozen parameters leave."""
  rng = np.random.default_rng(seed)
  leaf = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  params = {"fast": {"kernel": leaf(rows, 4)}, "slow": {"kernel": leaf(rows, 4)}, "log_scale": leaf()}
  groups = {"frozen": optax.set_to_zero(), "x0.05": optax.adamw(1e-3)}
  labels = {"fast": "x0.05", "slow": "frozen", "log_scale": "x0.05"}
  averages = {"fast": {"kernel": leaf(rows, 4)}, "slow": {"kernel": None}, "log_scale": leaf()}
  return TrainState(
      step=jnp.int32(seed),
      params=params,
      opt_state=optax.chain(optax.clip_by_global_norm(1.0), optax.partition(groups, labels)).init(params),
      rng=jax.random.key_data(jax.random.key(seed)),
      ema=averages if ema else None,
  )


def abstract(state, sharding=None):
  whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  place = lambda x: sharding if sharding is not None and x.ndim == 2 else whole
  if sharding is not None:
    whole = NamedSharding(sharding.mesh, P())
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), state)


def save(folder, *seeds, keep=2, **kind):
  with checkpoint.Checkpoints(folder, keep) as checkpoints:
    for seed in seeds:
      checkpoints.save(seed, make_state(seed, **kind), {"global_next_index": 10 * seed})


def restore(folder, state):
  with checkpoint.Checkpoints(folder, 2) as checkpoints:
    return checkpoints.restore(state)


@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
def test_newest_state_comes_back_bit_by_bit_on_any_mesh(tmp_path, shape):
  save(tmp_path, 1, 2)
  sharding = NamedSharding(mesh(*shape), P("fsdp"))
  state, data = restore(tmp_path, abstract(make_state(0), sharding))
  chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(make_state(2)))
  assert data == {"global_next_index": 20}
  assert state.params["fast"]["kernel"].sharding == sharding


def test_older_checkpoints_go(tmp_path):
  save(tmp_path, 1, 2, 3)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


def test_a_saved_state_may_be_donated_at_once(tmp_path):
  state, expected = make_state(5), jax.device_get(jax.tree.map(jnp.copy, make_state(5)))
  spoil = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones_like(x), s), donate_argnums=0)
  with checkpoint.Checkpoints(tmp_path, 1) as checkpoints:
    checkpoints.save(5, state, {"global_next_index": 0})
    jax.block_until_ready(spoil(state))
  chex.assert_trees_all_equal(jax.device_get(restore(tmp_path, abstract(make_state(0)))[0]), expected)


def altered(kind):
  state = make_state(0)
  fast = state.params["fast"]["kernel"]
  changed = {
      "shape": {"fast": {"kernel": fast[:32]}},
      "dtype": {"fast": {"kernel": fast.astype(jnp.bfloat16)}},
      "missing": {"fast": {"kernel": fast, "bias": fast[0]}},
  }
  if kind == "unexpected":
    return state.replace(params={k: v for k, v in state.params.items() if k != "fast"})
  return state.replace(params=state.params | changed[kind])


@pytest.mark.parametrize("kind, message", [
    ("shape", r"'params/fast/kernel' is float32\[64, 4\] in the checkpoint, float32\[32, 4\] in the config"),
    ("dtype", r"'params/fast/kernel' is float32\[64, 4\] in the checkpoint, bfloat16\[64, 4\] in the config"),
    ("missing", "the config has 'params/fast/bias', the checkpoint does not"),
    ("unexpected", "the checkpoint has 'params/fast/kernel', the config does not"),
])
def test_a_checkpoint_of_another_model_is_refused(tmp_path, kind, message):
  save(tmp_path, 1)
  wanted = altered(kind)
  with pytest.raises(UserError, match=message):
    restore(tmp_path, abstract(wanted))
  with pytest.raises(UserError, match=message.replace("params/", "")):
    checkpoint.load_params(tmp_path, abstract(wanted.params))


@pytest.mark.parametrize("ema", [True, False])
def test_parameters_alone_are_the_averaged_ones_where_there_are_any(tmp_path, ema):
  save(tmp_path / checkpoint.FOLDER, 3, 4, ema=ema)
  state = make_state(4, ema=ema)
  expected = state.params | ({"fast": state.ema["fast"], "log_scale": state.ema["log_scale"]} if ema else {})
  for path in (tmp_path, tmp_path / checkpoint.FOLDER, tmp_path / checkpoint.FOLDER / "4"):
    chex.assert_trees_all_equal(checkpoint.load_params(path, abstract(state.params)), expected)


@pytest.mark.parametrize("name, message", [("nowhere", "does not exist"), ("", "holds no checkpoint")])
def test_no_checkpoint(tmp_path, name, message):
  with pytest.raises(UserError, match=message):
    checkpoint.find_checkpoint(tmp_path / name)


def largest(folder):
  return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def rewrite(path, change):
  path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "truncated": lambda step: rewrite(largest(step / "state" / "ocdbt.process_0"), lambda data: data[:len(data) // 2]),
    "empty": lambda step: rewrite(largest(step / "state" / "ocdbt.process_0"), lambda data: b""),
    "zeros": lambda step: rewrite(largest(step / "state" / "ocdbt.process_0"), lambda data: bytes(len(data))),
    "missing file": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "no metadata": lambda step: (step / "state" / "_METADATA").unlink(),
    "no state": lambda step: shutil.rmtree(step / "state"),
    "no data": lambda step: shutil.rmtree(step / "data"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_written_again(tmp_path, capfd, damage):
  save(tmp_path, 1, 2)
  DAMAGES[damage](tmp_path / "2")
  with checkpoint.Checkpoints(tmp_path, 2) as checkpoints:
    state, data = checkpoints.restore(abstract(make_state(0)))
    chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(make_state(1)))
    assert data == {"global_next_index": 10}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2.damaged"]
    checkpoints.save(2, make_state(2), {"global_next_index": 20})
  (line,) = capfd.readouterr().err.strip().splitlines()
  assert line.startswith(f"warning: the checkpoint {tmp_path}/2 cannot be read: ")
  assert line.endswith("it is now 2.damaged, and the run goes on from step 1")
  assert {"no state": "2/state is missing", "no data": "2/data is missing"}.get(damage, "") in line
  assert restore(tmp_path, abstract(make_state(0)))[1] == {"global_next_index": 20}


def test_what_was_set_aside_before_stays(tmp_path):
  save(tmp_path, 1)
  for _ in range(2):
    save(tmp_path, 2)
    DAMAGES["no data"](tmp_path / "2")
    restore(tmp_path, abstract(make_state(0)))
  assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2.damaged", "2.damaged2"]


def test_nothing_is_renamed_where_no_checkpoint_is_good(tmp_path):
  save(tmp_path, 1, 2)
  for step in ("1", "2"):
    DAMAGES["no state"](tmp_path / step)
  for _ in range(2):
    with pytest.raises(UserError, match="/2 cannot be read: 2/state is missing; 1 older cannot be read either; "):
      restore(tmp_path, abstract(make_state(0)))
  assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
  with pytest.raises(UserError, match="cannot be read"):
    checkpoint.load_params(tmp_path, abstract(make_state(0).params))


def test_a_folder_that_has_gone_is_not_made_anew(tmp_path):
  folder = tmp_path / "checkpoints"
  with pytest.raises(UserError, match="the folder has gone; there is no complete checkpoint yet"):
    with checkpoint.Checkpoints(folder, 2) as checkpoints:
      shutil.rmtree(folder)
      checkpoints.save(1, make_state(1), {})
  assert not folder.exists()


@pytest.fixture
def small_disk(tmp_path):
  """A file system of four megabytes."""
  mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], capture_output=True)
  if mounted.returncode:
    pytest.skip("this user may not mount a file system")
  yield tmp_path
  subprocess.run(["umount", str(tmp_path)], check=True)


def test_full_disk_keeps_the_last_checkpoint(small_disk, capfd):
  folder = small_disk / "checkpoints"
  save(folder, 1, keep=1)
  with open(small_disk / "filler", "wb", buffering=0) as file, pytest.raises(OSError):
    while file.write(bytes(4096)):
      pass
  with pytest.raises(UserError, match="No space left on device; the last complete checkpoint is step 1"):
    save(folder, 2, keep=1)
  assert "Traceback" not in capfd.readouterr().err
  (small_disk / "filler").unlink()
  state, _ = restore(folder, abstract(make_state(0)))
  chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(make_state(1)))


def test_what_a_killed_save_left_is_cleared_away(tmp_path, capfd):
  save(tmp_path, 1)
  shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
  with checkpoint.Checkpoints(tmp_path, 2) as checkpoints:
    assert checkpoints.latest_step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
  assert capfd.readouterr().err == "warning: the checkpoint of step 2 was not written to its end, and is removed\n"


def test_failed_save_of_any_kind_tells_the_last_checkpoint(tmp_path, monkeypatch):
  with checkpoint.Checkpoints(tmp_path, 1) as checkpoints:
    def fail(*_):
      raise RuntimeError("wrapped") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints._checkpointer, "save_checkpointables_async", fail)
    with pytest.raises(UserError, match="No space left on device; there is no complete checkpoint yet"):
      checkpoints.save(1, make_state(1), {})
