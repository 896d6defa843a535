import dataclasses
import json
import os
import shlex
import shutil
import signal
import sys

import chex
import jax
import numpy as np
import pytest

from tests import tiny, tiny_model
from tests.tiny_run import before_step, copied, numbers, once
from vljepa_jax import checkpoint, config, dump, evaluation, hosts, run_log, start, train
from vljepa_jax.errors import UserError

RECIPE = tiny.ONE_LAYER | {"train.log_every": 1, "train.checkpoint_every": 4, "train.eval_every": 5}
EVERY_STEP = list(range(9))


@pytest.fixture(scope="module", autouse=True)
def small_and_cached():
  """A held-out split of 24 pictures, and compiled programs shared by the runs below."""
  held_out = tiny_model.small_held_out()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation, "open_held_out", lambda *_, **__: held_out)
    for name in ("make_parts", "make_step"):
      patch.setattr(train, name, once(getattr(train, name), lambda config: dataclasses.replace(config, profile=())))
    pretrained_params = once(start.pretrained_params, lambda config: (config.seed, config.model, config.mesh))
    patch.setattr(start, "pretrained_params", lambda *args: copied(*pretrained_params(*args)))
    yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  train.run(tiny.recipe(**RECIPE), workdir)
  return workdir


def final_state(workdir):
  parts = train.make_parts(tiny.recipe(**RECIPE))
  with checkpoint.Checkpoints(workdir / checkpoint.FOLDER, 2) as checkpoints:
    return jax.device_get(checkpoints.restore(parts.state))


def check_same_run(workdir, whole):
  assert [record["step"] for record in run_log.read_metrics(workdir)] == EVERY_STEP
  assert numbers(workdir) == numbers(whole)
  chex.assert_trees_all_equal(final_state(workdir), final_state(whole))


def test_a_run_leaves_what_it_promises(whole):
  names = {path.name for path in whole.iterdir()}
  assert names == {
      "checkpoints", "config.json", "versions.json", "metrics.jsonl", "tensorboard", "results.json", "report.html"}
  assert sorted(os.listdir(whole / "checkpoints")) == ["4", "8"]
  assert config.read(whole) == tiny.recipe(**RECIPE)
  assert json.loads((whole / "versions.json").read_text())["jax"] == jax.__version__
  results = evaluation.read_results(whole)
  assert set(results) == {
      "media", "classification", "text_to_image", "image_to_text", "vqa", "paraphrase", "params", "train"}
  assert results["train"]["samples"] == 8 * 16
  assert results["params"]["frozen"] > 0 and results["params"]["trained"] > 0


def test_every_step_is_logged_once_with_evaluations_where_they_are_due(whole):
  records = run_log.read_metrics(whole)
  assert [record["step"] for record in records] == EVERY_STEP
  assert [r["step"] for r in records if "eval/image_to_text/r1" in r] == [0, 5, 8]
  assert [r["step"] for r in records if "loss" in r] == EVERY_STEP[1:]
  assert all(a["seconds"] < b["seconds"] for a, b in zip(records, records[1:]))


@pytest.mark.parametrize("number, profile", [(signal.SIGTERM, (2, 9)), (signal.SIGINT, ())])
def test_a_stopped_run_goes_on_bit_by_bit(whole, tmp_path, monkeypatch, capsys, number, profile):
  with monkeypatch.context() as patch:
    before_step(patch, train, 3, lambda: os.kill(os.getpid(), number))
    train.run(tiny.recipe(**RECIPE, profile=profile), tmp_path)
  traces = list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))  # of steps 2 and 3
  assert len(traces) == bool(profile)
  assert "stopped after step 3; run the same command again" in capsys.readouterr().out
  assert os.listdir(tmp_path / "checkpoints") == ["3"]
  assert not (tmp_path / "results.json").exists()
  train.run(tiny.recipe(**RECIPE), tmp_path)
  assert "going on after step 3" in capsys.readouterr().out
  check_same_run(tmp_path, whole)


def test_a_killed_run_goes_on_from_its_last_checkpoint(whole, tmp_path, monkeypatch, capsys):
  class Killed(BaseException):
    pass

  def kill():
    raise Killed

  with monkeypatch.context() as patch, pytest.raises(Killed):
    before_step(patch, train, 7, kill)
    train.run(tiny.recipe(**RECIPE), tmp_path)
  with (tmp_path / run_log.METRICS).open("a") as file:
    file.write('{"step": 7, "lo')  # cut off while it was written
  train.run(tiny.recipe(**RECIPE), tmp_path)
  assert "going on after step 4" in capsys.readouterr().out
  check_same_run(tmp_path, whole)


def test_a_finished_run_only_reports(whole, monkeypatch, capsys):
  monkeypatch.setattr(train, "make_step", None)
  monkeypatch.setattr(train, "open_source", None)
  train.run(tiny.recipe(**RECIPE), whole)
  printed = capsys.readouterr().out
  assert "finished after 8 steps" in printed and "class top-1" in printed


def test_the_plan_is_printed(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(train, "train", lambda *args: args[2])
  train.run(tiny.recipe(**RECIPE), tmp_path)
  printed = capsys.readouterr().out
  for part in ("x_encoder", "vjepa2_nano", "frozen", "trained at learning rate x0.05", "pictures of openclipart",
               "data 8 x fsdp 1", "8 steps", "starting from seed 0"):
    assert part in printed


def test_another_recipe_is_refused_and_changes_nothing(whole):
  before = (whole / "config.json").read_text()
  with pytest.raises(UserError, match="config.optim.learning_rate 0.001, not 0.5"):
    train.run(tiny.recipe(**RECIPE, **{"optim.learning_rate": 0.5}), whole)
  assert (whole / "config.json").read_text() == before


def test_another_run_gives_its_parameters(whole, tmp_path, monkeypatch, capsys):
  seen = []
  monkeypatch.setattr(train, "train", lambda *args: seen.append(jax.device_get(args[2])) or args[2])
  train.run(tiny.recipe(**RECIPE, **{"init_from": str(whole), "seed": 7}), tmp_path)
  assert "starting from the parameters of" in capsys.readouterr().out
  chex.assert_trees_all_equal(seen[0].params, final_state(whole)[0].params)
  assert seen[0].step == 0


def test_workdir_that_is_a_file(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="file"):
    train.run(tiny.recipe(), tmp_path / "file")


def test_features_need_a_frozen_encoder(tmp_path):
  groups = ((".*", 1.0),)
  with pytest.raises(UserError, match="feature_views needs a frozen X-encoder"):
    train.run(tiny.recipe(**{"data.feature_views": 2, "optim.groups": groups}), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_cached_features_train_and_are_used_again(tmp_path, monkeypatch):
  changes = {**RECIPE, "data.feature_views": 2, "train.steps": 2}
  with monkeypatch.context() as patch:
    before_step(patch, train, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    train.run(tiny.recipe(**changes), tmp_path)
  caches = sorted((tmp_path / "features").iterdir())
  assert len(caches) == 15 and {cache.suffix for cache in caches} == {".array_record"}  # 2 views of 1,836 pictures
  made = [cache.stat().st_mtime_ns for cache in caches]
  train.run(tiny.recipe(**changes), tmp_path)
  assert [cache.stat().st_mtime_ns for cache in sorted((tmp_path / "features").iterdir())] == made
  assert (tmp_path / "results.json").exists()


def send_once(number, function):
  """`function`, but its first call sends a signal to this process before it does anything."""
  sent = []

  def wrapped(*args, **kwargs):
    if not sent:
      sent.append(None)
      os.kill(os.getpid(), number)
    return function(*args, **kwargs)

  return wrapped


@pytest.mark.parametrize("step, message, saved", [
    (0, "stopped; run the same command again", []), (5, "stopped after step 5; run the same command", ["4", "5"])])
def test_a_signal_breaks_an_evaluation_off_and_the_next_start_makes_it(
    whole, tmp_path, monkeypatch, capsys, step, message, saved):
  with monkeypatch.context() as patch:
    measure = train.Evaluator.measure
    patch.setattr(train.Evaluator, "measure", lambda self, done, state: (
        send_once(signal.SIGTERM, measure) if done == step else measure)(self, done, state))
    train.run(tiny.recipe(**RECIPE), tmp_path)
  printed = capsys.readouterr().out
  assert message in printed and f"to go on from there: {shlex.join(sys.orig_argv)}" in printed
  assert sorted(os.listdir(tmp_path / "checkpoints")) == saved
  assert not any("eval/image_to_text/r1" in r for r in run_log.read_metrics(tmp_path) if r["step"] == step)
  train.run(tiny.recipe(**RECIPE), tmp_path)
  check_same_run(tmp_path, whole)


def test_a_signal_at_the_very_end_leaves_the_evaluation_to_the_next_start(whole, tmp_path, monkeypatch, capsys):
  with monkeypatch.context() as patch:
    patch.setattr(evaluation, "evaluate", send_once(signal.SIGINT, evaluation.evaluate))
    train.run(tiny.recipe(**RECIPE), tmp_path)
  assert "stopped; run the same command again" in capsys.readouterr().out
  assert not (tmp_path / "results.json").exists()
  train.run(tiny.recipe(**RECIPE), tmp_path)
  check_same_run(tmp_path, whole)
  assert (tmp_path / "results.json").exists()


def test_a_signal_while_a_checkpoint_is_written_loses_nothing(whole, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, "save", send_once(signal.SIGTERM, checkpoint.Checkpoints.save))
    train.run(tiny.recipe(**RECIPE), tmp_path)
  assert sorted(os.listdir(tmp_path / "checkpoints")) == ["4", "5"]
  train.run(tiny.recipe(**RECIPE), tmp_path)
  check_same_run(tmp_path, whole)


def test_a_run_goes_on_before_a_damaged_checkpoint(whole, tmp_path, capsys):
  shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
  (tmp_path / "results.json").unlink()
  shutil.rmtree(tmp_path / "checkpoints" / "8" / "state")
  train.run(tiny.recipe(**RECIPE), tmp_path)
  assert "going on after step 4" in capsys.readouterr().out
  check_same_run(tmp_path, whole)
  assert sorted(os.listdir(tmp_path / "checkpoints")) == ["4", "8", "8.damaged"]


@pytest.fixture
def unmeasured(monkeypatch):
  """Evaluations give nothing, in no time."""
  monkeypatch.setattr(train.Evaluator, "measure", lambda *_: {"eval/nothing": 0.0})


@pytest.mark.usefixtures("unmeasured")
def test_a_step_that_is_not_finite_stops_the_run_unsaved_and_leaves_a_dump(tmp_path, monkeypatch):
  make_step = train.make_step

  def make(*args):
    step_fn = make_step(*args)

    def diverged(state, batch):
      """A step whose parameters are no numbers any more, as after too high a learning rate."""
      scale = state.params["log_scale"]
      spoiled = state.params | {"log_scale": jax.device_put(np.float32(np.nan), scale.sharding)}
      return step_fn(state.replace(params=spoiled), batch)

    return diverged

  monkeypatch.setattr(train, "make_step", make)
  with pytest.raises(UserError, match="the loss is nan at step 1; lower config.optim.learning_rate, .* --replay=.*-1 "):
    train.run(tiny.recipe(**RECIPE | {"train.checkpoint_every": 1}), tmp_path)
  assert os.listdir(tmp_path / "checkpoints") == []
  found = dump.read(tmp_path / "dump-1")
  assert (found.step, found.checkpoint, len(found.record_ids)) == (1, None, 16)
  assert set(found.streams) == {"captions"} and np.isnan(found.metrics["loss"])


@pytest.mark.usefixtures("unmeasured")
def test_gradients_that_are_not_finite_stop_the_run_too(tmp_path, monkeypatch):
  make_step = train.make_step

  def make(*args):
    step_fn = make_step(*args)

    def overflow(state, batch):
      state, metrics = step_fn(state, batch)
      return state, metrics | {"grad_norm": jax.device_put(np.float32(np.inf), metrics["loss"].sharding)}

    return overflow

  monkeypatch.setattr(train, "make_step", make)
  with pytest.raises(UserError, match="the norm of the gradients is inf at step 1; "):
    train.run(tiny.recipe(**RECIPE), tmp_path)


def test_a_workdir_that_is_not_shared_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setattr(hosts, "PATIENCE", 0)
  with pytest.raises(UserError, match="does not hold the config that process 0 has written there; all processes need"):
    train.check_shared(tiny.recipe(**RECIPE), tmp_path)
  train.prepare_workdir(tiny.recipe(**RECIPE), tmp_path)
  train.check_shared(tiny.recipe(**RECIPE), tmp_path)
