"""What goes wrong around a run: it is one line, and once it is put right the same command ends as if nothing had been.

Every run here goes on from a checkpoint that SIGTERM left. What is told of each kind of broken file, and how damaged
checkpoints are set aside, is tested beside the code that does it.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess

import chex
from configs import base
import jax
import numpy as np
from PIL import Image
import pytest

from tests import tiny, tiny_run
from tests.tiny_tfds import write_data_set
from tests.tiny_video import write_video
from vljepa_jax import checkpoint, evaluation, run_log, start, train
from vljepa_jax import config as config_lib
from vljepa_jax import parts as parts_lib
from vljepa_jax.errors import UserError

STEPS, STOPPED = 6, 3
pytestmark = pytest.mark.usefixtures("quick_compiler", "quick_runs")


@dataclasses.dataclass(frozen=True)
class World:
  """Data, a run on it that was never stopped, and one that was."""

  data: pathlib.Path
  whole: pathlib.Path
  stopped: pathlib.Path
  recipe: config_lib.Config


@pytest.fixture(scope="module")
def quick_runs():
  """Nothing is evaluated, and what is compiled is shared."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train.Evaluator, "measure", lambda *_: {"eval/nothing": 0.0})
    patch.setattr(train, "conclude", lambda *_: None)
    for name in ("make_parts", "make_step"):
      patch.setattr(train, name, tiny_run.once(getattr(train, name), lambda config: config.model))
    pretrained_params = tiny_run.once(start.pretrained_params, lambda config: config.model)
    patch.setattr(start, "pretrained_params", lambda *args: tiny_run.copied(*pretrained_params(*args)))
    yield


def write_files(folder):
  """Eight videos and eight pictures with their manifest, and a set of two pictures in ArrayRecord."""
  folder.mkdir()
  rows = []
  for i in range(16):
    name = f"{i}.mp4" if i < 8 else f"{i}.png"
    if i < 8:
      write_video(folder / name, np.random.default_rng(i).integers(0, 255, (4, 3)), size=(32, 32))
    else:
      Image.new("RGB", (32, 32), (15 * i, 99, 0)).save(folder / name)
    rows.append({"path": name, "caption": f"clip {i}", "split": "test" if i % 8 == 7 else "train"})
  (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  write_data_set(folder)


def make_recipe(folder, **changes):
  config = base.get_config("debug")
  manifest = str(folder / "m.jsonl")
  config.data.sources = (
      dict(name="clips", dataset=manifest, view="caption", weight=0.5),
      dict(name="pets", dataset=str(folder / "pets" / "1.0.0"), view="caption", weight=0.5))
  config.eval.dataset = manifest
  config.data.frames = 2
  config.update_from_flattened_dict({
      **tiny.ONE_LAYER, "train.steps": STEPS, "train.log_every": 1, "train.checkpoint_every": 2, **changes})
  return config_lib.parse(config)


def make_world(folder, **changes):
  data, whole, stopped = (folder / name for name in ("data", "whole", "stopped"))
  write_files(data)
  shutil.copytree(data, folder / "kept")
  recipe = make_recipe(data, **changes)
  train.run(recipe, whole)
  with pytest.MonkeyPatch.context() as patch:
    tiny_run.before_step(patch, train, STOPPED, lambda: os.kill(os.getpid(), signal.SIGTERM))
    train.run(recipe, stopped)
  assert checkpoint.latest_step(stopped / checkpoint.FOLDER) == STOPPED
  return World(data, whole, stopped, recipe)


@pytest.fixture(scope="module")
def decoding(tmp_path_factory):
  """Files are decoded in every step."""
  return make_world(tmp_path_factory.mktemp("decoding"))


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
  """Tokens come from a cache."""
  return make_world(tmp_path_factory.mktemp("cached"), **{"data.feature_views": 1})


@pytest.fixture
def workdir(tmp_path):
  """A folder on a file system of its own, of eight megabytes."""
  mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], capture_output=True)
  yield tmp_path / "run"
  if not mounted.returncode:
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def restore_files(world):
  shutil.rmtree(world.data)
  shutil.copytree(world.data.parent / "kept", world.data)


def final_state(world, workdir):
  with checkpoint.Checkpoints(workdir / checkpoint.FOLDER, 2) as checkpoints:
    return jax.device_get(checkpoints.restore(train.make_parts(world.recipe).state))


def check_same_run(world, workdir):
  assert [record["step"] for record in run_log.read_metrics(workdir)] == list(range(STEPS + 1))
  assert tiny_run.numbers(workdir) == tiny_run.numbers(world.whole)
  chex.assert_trees_all_equal(final_state(world, workdir), final_state(world, world.whole))


def rewrite(path, change):
  path.write_bytes(change(path.read_bytes()))


def cut_off(path):
  rewrite(path, lambda data: data[:-9])


def shard(world):
  (path,) = (world.data / "pets" / "1.0.0").glob("*array_record*")
  return path


def features(workdir):
  """The largest file of the cache, that of the clips."""
  return sorted((workdir / "features").iterdir(), key=lambda path: path.stat().st_size)[-1]


def mounted(workdir):
  if not os.path.ismount(workdir.parent):
    pytest.skip("this user may not mount a file system")
  return str(workdir.parent)


def fill(world, workdir):
  mounted(workdir)
  with open(workdir.parent / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
    while file.write(bytes(1024)):
      pass


def remount(workdir, how):
  subprocess.run(["mount", "-o", f"remount,{how}", mounted(workdir)], check=True)


@dataclasses.dataclass(frozen=True)
class Fault:
  """What happens to a (world, workdir), what the run says, and how it is put right if not by restoring the data."""

  happen: Callable
  message: str
  mend: Callable = lambda world, workdir: restore_files(world)


STOPPING = {
    "wrong manifest column": Fault(
        lambda world, _: rewrite(world.data / "m.jsonl", lambda data: data.replace(b'"caption"', b'"captoin"', 1)),
        r"m.jsonl, line 1: there is no column 'captoin'; did you mean 'caption'\?"),
    "empty caption": Fault(
        lambda world, _: rewrite(world.data / "m.jsonl", lambda data: data.replace(b"clip 3", b" ")),
        "m.jsonl, line 4: .*caption"),
    "missing file": Fault(
        lambda world, _: (rewrite(world.data / "m.jsonl", bytes), (world.data / "3.mp4").unlink()),
        "m.jsonl, line 4: there is no file .*3.mp4"),
    "truncated ArrayRecord": Fault(lambda world, _: cut_off(shard(world)), "pets.* is not whole: 0 of its 2 records"),
    "missing ArrayRecord": Fault(lambda world, _: shard(world).unlink(), "pets.* is not there; get the data set anew"),
    "full disk": Fault(
        fill, r"No space left on device", lambda _, workdir: (workdir.parent / "filler").unlink()),
    "read-only workdir": Fault(
        lambda _, workdir: remount(workdir, "ro"), "--workdir=.* cannot be written: Read-only file system",
        lambda _, workdir: remount(workdir, "rw")),
}


@pytest.mark.parametrize("fault", STOPPING)
def test_a_run_stops_with_one_line_and_loses_nothing(decoding, workdir, fault):
  fault = STOPPING[fault]
  shutil.copytree(decoding.stopped, workdir)
  fault.happen(decoding, workdir)
  try:
    with pytest.raises(UserError, match=fault.message) as caught:
      train.run(decoding.recipe, workdir)
  finally:
    fault.mend(decoding, workdir)
  assert "\n" not in str(caught.value)
  train.run(decoding.recipe, workdir)
  check_same_run(decoding, workdir)


def test_a_truncated_cache_is_made_again(cached, workdir, capsys):
  shutil.copytree(cached.stopped, workdir)
  path = features(workdir)
  cut_off(path)
  train.run(cached.recipe, workdir)
  assert capsys.readouterr().err == f"warning: {path} is not whole; its tokens are computed again\n"
  check_same_run(cached, workdir)


def test_damage_inside_of_a_cache_stops_the_run(cached, workdir):
  shutil.copytree(cached.stopped, workdir)
  path = features(workdir)
  rewrite(path, lambda data: data[:1000] + bytes(2000) + data[3000:])
  with pytest.raises(UserError, match=f"{path.name} is damaged .*; delete it, and the same command makes"):
    train.run(cached.recipe, workdir)
  path.unlink()
  train.run(cached.recipe, workdir)
  check_same_run(cached, workdir)


def break_clips(folder):
  """What a run does not stop for."""
  rewrite(folder / "2.mp4", lambda data: data[:100])
  Image.new("1", (10_000, 10_000)).save(folder / "9.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest undoes the module's own filter
def test_files_that_cannot_be_read_are_replaced_and_told_once(decoding, workdir, caplog):
  break_clips(decoding.data)
  recipe = dataclasses.replace(decoding.recipe, data=dataclasses.replace(decoding.recipe.data, max_failures=1.0))
  try:
    train.run(recipe, workdir)
  finally:
    restore_files(decoding)
  assert checkpoint.latest_step(workdir / checkpoint.FOLDER) == STEPS
  told = sorted(r.getMessage() for r in caplog.records if "left out in training" in r.getMessage())
  assert len(told) == 2
  assert "2.mp4 cannot be read as a video" in told[0] and "9.png has 10000 x 10000 pixels; the limit is" in told[1]


def test_a_cache_names_the_file_that_cannot_be_read(cached, workdir):
  break_clips(cached.data)
  try:
    with pytest.raises(UserError, match="2.mp4 cannot be read as a video") as caught:
      train.run(cached.recipe, workdir)
  finally:
    restore_files(cached)
  assert "\n" not in str(caught.value)
  train.run(cached.recipe, workdir)
  check_same_run(cached, workdir)


def test_a_signal_while_a_step_is_compiled_stops_after_that_step(decoding, workdir, monkeypatch, capsys):
  with monkeypatch.context() as patch:
    patch.setattr(train, "make_step", signalled_when_traced)
    train.run(decoding.recipe, workdir)
  assert "stopped after step 1; run the same command again" in capsys.readouterr().out
  assert checkpoint.latest_step(workdir / checkpoint.FOLDER) == 1
  train.run(decoding.recipe, workdir)
  check_same_run(decoding, workdir)


def signalled_when_traced(config, parts):
  step = parts_lib.make_step(config, parts)

  def traced(state, batch):
    os.kill(os.getpid(), signal.SIGTERM)
    return step(state, batch)

  return jax.jit(traced, out_shardings=(parts.shardings, parts.whole), donate_argnums=0)
