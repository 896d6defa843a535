"""The order of things in the loop: what the device is given, and when its numbers are looked at."""

import types

import jax
import numpy as np
import pytest

from tests import tiny
from vljepa_jax import batch_ids, progress, train
from vljepa_jax.interrupt import StopRequest, Vote

STEPS = 5


class Number:
  """A number on a device that notes when somebody waits for it."""

  def __init__(self, events, step):
    self._events, self._step = events, step

  def __array__(self, dtype=None, copy=None):
    self._events.append(("fetch", self._step))
    return np.float32(1.0)

  def __float__(self):
    return float(self.__array__())

  def block_until_ready(self):
    self._events.append(("wait", self._step))
    return self


class Input:
  """Gives one batch for ever."""

  def __init__(self, batch):
    self._batch = batch

  def __next__(self):
    return dict(self._batch)

  def get_state(self):
    return {}


class Log:
  records = []

  def __init__(self, workdir):
    self.workdir, self.lines = workdir, []

  def write(self, step, numbers):
    self.lines.append((step, numbers))


def run_loop(monkeypatch, tmp_path, step_fn, **changes):
  """`train.train` around a stand-in for the step, the input and the checkpoints."""
  config = tiny.recipe(**{
      "train.steps": STEPS, "train.log_every": 1, "train.eval_every": 99, "train.checkpoint_every": 99, **changes})
  parts = train.make_parts(config, jax.devices()[:1])
  batch = tiny.batch(0, config) | {"record_id": np.zeros(16), "stream": np.zeros(16, int)}
  log = Log(tmp_path)
  monkeypatch.setattr(train, "make_step", lambda *_: step_fn)
  monkeypatch.setattr(batch_ids, "Fingerprint", lambda _: lambda rows: np.uint32(len(rows.record_id)))
  monkeypatch.setattr(train.sharding, "put_batch", lambda batch, _: batch)
  saved = []
  checkpoints = types.SimpleNamespace(
      save=lambda step, *_: saved.append(step), wait=lambda: None, agreed_step=lambda: max(saved, default=None))
  evaluator = types.SimpleNamespace(is_due=lambda _: False)
  log.saved = saved
  train.train(
      config, parts, None, Input(batch), checkpoints, evaluator, log, progress.Clock(0.0, 0), StopRequest(),
      Vote(parts.mesh))
  return log


def metrics(events, step):
  return {name: Number(events, step) for name in ("loss", "temperature", "batch_recall", "grad_norm")}


def test_numbers_are_fetched_once_the_next_step_is_under_way(monkeypatch, tmp_path):
  events, steps = [], iter(range(1, STEPS + 1))

  def step_fn(state, batch):
    step = next(steps)
    events.append(("dispatch", step))
    return state, metrics(events, step)

  log = run_loop(monkeypatch, tmp_path, step_fn)
  order = list(dict.fromkeys(events))
  expected = [("dispatch", 1)]
  for step in range(1, STEPS):
    expected += [("dispatch", step + 1), ("fetch", step)]
  assert order == [*expected, ("fetch", STEPS)]
  assert [step for step, _ in log.lines] == [1, 2, 3, 4, 5]


def test_silent_copies_are_refused_in_the_loop(monkeypatch, tmp_path):
  def step_fn(state, batch):
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
      jax.numpy.add(batch["query"], 1)
    return state, metrics([], 1)

  run_loop(monkeypatch, tmp_path, step_fn)


def test_the_log_has_the_speed(monkeypatch, tmp_path):
  log = run_loop(monkeypatch, tmp_path, lambda state, batch: (state, metrics([], 1)))
  assert all(numbers["model_tflops_per_second"] > 0 and "mfu" not in numbers for _, numbers in log.lines)


def test_the_profile_of_some_steps(monkeypatch, tmp_path):
  events, steps = [], iter(range(1, STEPS + 1))
  for name in ("start_trace", "stop_trace"):
    call = getattr(jax.profiler, name)
    monkeypatch.setattr(jax.profiler, name, lambda *args, name=name, call=call: events.append(name) or call(*args))

  def step_fn(state, batch):
    step = next(steps)
    events.append(("dispatch", step))
    return state, metrics(events, step)

  run_loop(monkeypatch, tmp_path, step_fn, profile=(2, 4), **{"train.log_every": 99})
  order = [event for event in dict.fromkeys(events) if event[0] != "fetch"]
  assert order == [
      ("dispatch", 1), "start_trace", ("dispatch", 2), ("dispatch", 3), ("wait", 3), "stop_trace", ("dispatch", 4),
      ("dispatch", 5)]
  (folder,) = (tmp_path / "profile" / "plugins" / "profile").iterdir()
  assert {path.suffixes[-1] for path in folder.iterdir()} == {".pb", ".gz"}


@pytest.mark.parametrize("profile", [(1, 2), (STEPS, STEPS + 1), (2, STEPS + 1)])
def test_a_profile_may_end_with_the_run(monkeypatch, tmp_path, profile):
  run_loop(monkeypatch, tmp_path, lambda state, batch: (state, metrics([], 1)), profile=profile)
  assert len(list((tmp_path / "profile" / "plugins" / "profile").iterdir())) == 1
