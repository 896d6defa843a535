"""Several processes with simulated devices each, through the entry point, against one process with as many devices."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import chex
from flax import traverse_util
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests import multihost_recipe
from vljepa_jax import checkpoint, config, dump, evaluation, run_log, train
from vljepa_jax.data import openclipart
from vljepa_jax.data.sources import FIELDS

ROOT = pathlib.Path(__file__).parents[1]
STEPS = list(range(1, 13))
SECONDS = 240  # of patience with a busy machine

pytestmark = pytest.mark.usefixtures("quick_compiler")  # `environ` says the same to the other processes


class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A few records of the built-in data set."""

  __module__ = "__main__"  # see sources_test.py
  VERSION = tfds.core.Version("1.0.0")
  COUNTS = {"train": 200, "test": 24}

  def _info(self):
    features = {field: tfds.features.Text() for field in FIELDS if field != "label"}
    features["label"] = tfds.features.ClassLabel(names=list(openclipart.CLASSES))
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    del dl_manager
    return {split: self._generate_examples(split, count) for split, count in self.COUNTS.items()}

  def _generate_examples(self, split, count):
    records = openclipart.data_source(split)
    for i in range(count):
      yield i, {field: records[i][field] for field in FIELDS}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  builder = Pictures(data_dir=str(tmp_path_factory.mktemp("data")), file_format="array_record")
  builder.download_and_prepare()
  return str(builder.data_path)


@pytest.fixture(scope="module")
def recipe(dataset):
  return config.parse(multihost_recipe.get_config(dataset))


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
  """The workdir of one process with eight devices."""
  workdir = tmp_path_factory.mktemp("alone")
  train.run(recipe, workdir)
  return workdir


@pytest.fixture(scope="module")
def stopped(dataset, tmp_path_factory):
  """Workdir, exit codes and outputs of two processes with four devices each, once the second has got a SIGTERM."""
  workdir = tmp_path_factory.mktemp("two")
  with Processes(2, 4, command(dataset, workdir)) as processes:
    processes.wait_for("step  2/12")
    processes.started[1].send_signal(signal.SIGTERM)
    return workdir, *processes.end()


@pytest.fixture(scope="module")
def launched(stopped, dataset):
  """Workdir and process of `launch/local.sh` that has gone on with the run of `stopped` to its end."""
  workdir = stopped[0]
  done = subprocess.run(
      ["launch/local.sh", "2", *command(dataset, workdir)], cwd=ROOT, env=environ(DEVICES="4"), capture_output=True,
      text=True, timeout=SECONDS)
  return workdir, done


def command(dataset, workdir, *more):
  return [f"--config=tests/multihost_recipe.py:{dataset}", f"--workdir={workdir}", *more]


def environ(**more):
  path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
  kept = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
  # The last one: XLA's remarks on how it cuts arrays are no part of the output.
  return kept | {"PATH": path, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"} | more


class Processes:
  """The entry point in several processes; `with` kills what is left of them."""

  def __init__(self, count, devices, arguments):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    shared = dict(
        JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(devices), JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
        JAX_NUM_PROCESSES=str(count))
    self.started = [
        subprocess.Popen(
            [sys.executable, "-m", "vljepa_jax.main", *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=environ(JAX_PROCESS_ID=str(i), **shared))
        for i in range(count)]
    self._said = ""

  def __enter__(self):
    return self

  def __exit__(self, *error):
    for process in self.started:
      process.kill()
      process.communicate()

  def wait_for(self, text):
    """Returns once process 0 has printed a line that begins with `text`."""
    for line in self.started[0].stdout:
      self._said += line
      if line.startswith(text):
        return
    raise AssertionError(f"process 0 ended without {text!r}:\n{self._said}")

  def end(self):
    """Exit codes and outputs."""
    outputs = [process.communicate(timeout=SECONDS)[0] for process in self.started]
    return [process.returncode for process in self.started], [self._said + outputs[0], *outputs[1:]]


def losses(workdir):
  return {record["step"]: record["loss"] for record in run_log.read_metrics(workdir) if "loss" in record}


def ids(workdir):
  return {record["step"]: record["batch_ids"] for record in run_log.read_metrics(workdir) if "batch_ids" in record}


def final_state(recipe, workdir):
  parts = train.make_parts(recipe)
  with checkpoint.Checkpoints(workdir / checkpoint.FOLDER, 2) as checkpoints:
    return jax.device_get(checkpoints.restore(parts.state))


def saved(folder):
  return sorted(int(name) for name in os.listdir(folder))


def last_step(output):
  """The step after which a run says it was stopped."""
  (step,) = re.findall(r"^stopped after step (\d+); run the same command again", output, re.MULTILINE)
  return int(step)


def test_a_signal_to_one_process_stops_both_after_the_same_step(stopped):
  workdir, codes, outputs = stopped
  assert codes == [0, 0], outputs
  step = last_step(outputs[0])
  assert 2 <= step < 12
  assert saved(workdir / checkpoint.FOLDER)[-1] == step
  assert not outputs[1]


def test_the_launcher_goes_on_with_the_run_and_prints_it_once(stopped, launched):
  step = last_step(stopped[2][0])
  _, done = launched
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert f"  going on after step {step}" in lines
  assert [int(line.split()[1].split("/")[0]) for line in lines if line.startswith("step")] == STEPS[step:]
  assert sum(line.startswith("class top-1") for line in lines) == 1
  assert "data 2 x fsdp 4 x tensor 1, 2 processes" in done.stdout
  assert "Gloo" not in done.stdout


# Not bit by bit: Gloo adds up in another order than the threads of one process do.
def test_losses_are_those_of_one_process(launched, alone):
  mine, theirs = losses(launched[0]), losses(alone)
  assert list(mine) == list(theirs) == STEPS
  assert ids(launched[0]) == ids(alone)
  np.testing.assert_allclose(list(mine.values()), list(theirs.values()), rtol=1e-5)


def test_parameters_and_input_are_those_of_one_process(launched, alone, recipe):
  (mine, position), (theirs, their_position) = final_state(recipe, launched[0]), final_state(recipe, alone)
  assert position == their_position
  mine, theirs = (traverse_util.flatten_dict(state.params, sep="/") for state in (mine, theirs))
  for params in (mine, theirs):
    # A softmax does not see a bias that all keys share: its gradient is rounding alone, which Adam makes large.
    del params["y_encoder/backbone/layers_0/key/bias"]
  chex.assert_trees_all_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_results_are_those_of_one_process(launched, alone):
  mine, theirs = evaluation.read_results(launched[0]), evaluation.read_results(alone)
  for results in (mine, theirs):
    del results["train"]["seconds"], results["train"]["samples_per_second"]
    assert results.pop("media") == "picture"
  chex.assert_trees_all_close(mine, theirs, rtol=1e-6)


def test_a_checkpoint_moves_between_one_and_two_processes(alone, recipe, dataset, tmp_path):
  shutil.copytree(alone / checkpoint.FOLDER / "6", tmp_path / checkpoint.FOLDER / "6")
  for name in (config.FILE, run_log.METRICS):
    shutil.copy(alone / name, tmp_path)
  # Here every parameter lies in parts on devices of both.
  with Processes(2, 2, command(dataset, tmp_path, "--config.mesh.data=1")) as processes:
    processes.wait_for("step  7/12")
    processes.started[0].send_signal(signal.SIGINT)
    codes, outputs = processes.end()
  assert codes == [0, 0], outputs
  assert saved(tmp_path / checkpoint.FOLDER) == [6, last_step(outputs[0])]
  train.run(recipe, tmp_path)
  mine, theirs = losses(tmp_path), losses(alone)
  assert list(mine) == STEPS
  np.testing.assert_allclose(list(mine.values()), list(theirs.values()), rtol=1e-5)


@pytest.mark.slow
def test_a_step_that_is_not_finite_ends_both_with_one_dump(dataset, tmp_path):
  changes = ["--config.optim.learning_rate=1e30", "--config.optim.warmup_steps=0", "--config.train.checkpoint_every=1"]
  with Processes(2, 4, command(dataset, tmp_path, *changes)) as processes:
    codes, outputs = processes.end()
  assert codes == [2, 2], outputs
  for output in outputs:
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert re.match(r"error: the (loss|norm of the gradients) is (nan|inf) at step \d+; lower config.optim", line)
  (folder,) = tmp_path.glob("dump-*")
  found = dump.read(folder)
  assert len(found.record_ids) == 16 and saved(tmp_path / checkpoint.FOLDER)[-1] == found.checkpoint < found.step


@pytest.mark.slow
def test_both_go_on_before_a_checkpoint_that_one_cannot_read(alone, dataset, tmp_path):
  shutil.copytree(alone, tmp_path, dirs_exist_ok=True)
  (tmp_path / evaluation.RESULTS).unlink()
  data = max((tmp_path / checkpoint.FOLDER / "12" / "state").rglob("*"), key=lambda path: path.stat().st_size)
  data.write_bytes(data.read_bytes()[:-1000])
  with Processes(2, 4, command(dataset, tmp_path)) as processes:
    codes, outputs = processes.end()
  assert codes == [0, 0], outputs
  assert "it is now 12.damaged, and the run goes on from step 6" in outputs[0]
  assert "  going on after step 6" in outputs[0].splitlines()
  assert ids(tmp_path) == ids(alone)


def test_a_mistake_is_said_once(alone, dataset):
  done = subprocess.run(
      ["launch/local.sh", "2", *command(dataset, alone, "--config.seed=1")], cwd=ROOT, env=environ(DEVICES="4"),
      capture_output=True, text=True, timeout=SECONDS)
  assert done.returncode == 2
  assert done.stderr.count("holds a run with config.seed 0, not 1") == 1
