"""Whole studies of nano models: the same data for all, and a killed sweep ends with the numbers of one that was not."""

import dataclasses
import signal

from configs import compare
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_decoder, tiny_model, tiny_run
from vljepa_jax import evaluation, features
from vljepa_jax.compare import results, run as run_lib, sides, study as study_lib, sweep, task as task_lib
from vljepa_jax.errors import UserError
from vljepa_jax.y_decoder import step as decoder_step

pytestmark = pytest.mark.usefixtures("quick_compiler")
TASK = "openclipart"
TIMES = ("seconds", "samples_per_second", "ms_per_sample", "answers")


def tiny_study(**changes):
  """Two arms, one rate, one seed, four steps; the Y-encoder is that of the sweep's seed in all runs."""
  recipe = compare.get_config("debug")
  recipe.rates, recipe.seeds = (3e-3,), (1,)
  recipe.tasks.openclipart.update(dict(records=40, validation=8, points=(1, 2, 4)))
  recipe.tasks.openclipart.decoder.update_from_flattened_dict({
      "texts.error_records": 8, "train.steps": 2, "train.eval_every": 2, "train.checkpoint_every": 2})
  recipe.tasks.openclipart.config.train.update(dict(steps=4, checkpoint_every=2))
  recipe.tasks.openclipart.config.update_from_flattened_dict(changes)
  return study_lib.parse(recipe)


@pytest.fixture(scope="module", autouse=True)
def small_and_compiled_once():
  same_program = lambda config: dataclasses.replace(config, seed=0, name="any")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sides.parts_lib, "make_step", tiny_run.once(sides.parts_lib.make_step, same_program))
    patch.setattr(sides.token_step, "make_step", tiny_run.once(sides.token_step.make_step, same_program))
    patch.setattr(decoder_step, "make_step", tiny_run.once(
        decoder_step.make_step, lambda recipe: dataclasses.replace(recipe, model_workdir="")))
    patch.setattr(task_lib, "open_source", tiny_decoder.train_source)
    patch.setattr(evaluation, "open_held_out", lambda *_: tiny_model.small_held_out())
    patch.setattr(sweep.cost, "STEPS", 1)
    patch.setattr(sweep.cost, "ANSWERS", 1)
    patch.setattr(sweep.cost, "STREAMS", 1)
    patch.setattr(sweep.cost, "EVENTS", 2)
    yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of a study that was never stopped."""
  workdir = tmp_path_factory.mktemp("whole")
  assert sweep.run(tiny_study(), workdir, [TASK])
  return workdir


def timeless(value):
  """Results without times."""
  if isinstance(value, dict):
    return {k: timeless(v) for k, v in value.items() if k not in TIMES}
  return [timeless(v) for v in value] if isinstance(value, list) else value


def test_both_sides_see_the_same_data_in_the_same_order(whole):
  found, missing = results.collect(tiny_study(), whole)
  task = found["tasks"][TASK]
  assert not missing and task["same_data"]
  arms = task["arms"]
  assert {arm["runs"][0]["data"] for arm in arms.values()} != {None}
  assert [point["step"] for point in arms["tokens"]["runs"][0]["points"]] == [1, 2, 4]
  assert arms["vljepa"]["trained"] < arms["tokens"]["trained"]
  assert arms["vljepa"]["flops_per_sample"] > 0 and set(task["answers"]["tokens"]) >= {"words", "class"}


def test_a_stopped_sweep_ends_with_the_same_numbers(whole, tmp_path, monkeypatch):
  measure, calls = run_lib.Evaluator.measure, []

  def stopped(self, step, state):
    calls.append(step)
    if len(calls) == 4:  # in the middle of a reported run
      signal.raise_signal(signal.SIGTERM)
    return measure(self, step, state)

  monkeypatch.setattr(run_lib.Evaluator, "measure", stopped)
  assert not sweep.run(tiny_study(), tmp_path, [TASK])
  assert calls[3] == 2  # of 4 steps
  monkeypatch.undo()
  assert sweep.run(tiny_study(), tmp_path, [TASK])
  again, uninterrupted = (results.collect(tiny_study(), folder)[0] for folder in (tmp_path, whole))
  assert timeless(again) == timeless(uninterrupted)


def test_what_is_finished_is_not_made_again(whole, monkeypatch):
  monkeypatch.setattr(run_lib, "make_side", None)
  assert sweep.run(tiny_study(), whole, [TASK])


def test_another_study_in_the_same_folder_is_refused(whole):
  with pytest.raises(UserError, match="weight_decay 0.05, not 0.5"):
    sweep.run(tiny_study(**{"optim.weight_decay": 0.5}), whole, [TASK])


def test_a_task_that_is_not_there_is_named(whole):
  with pytest.raises(UserError, match="no task 'nothing'; it has openclipart"):
    sweep.run(tiny_study(), whole, ["nothing"])


def test_an_unfinished_study_is_not_collected(tmp_path):
  with pytest.raises(UserError, match="has not all runs of openclipart"):
    results.write(tiny_study(), tmp_path, tmp_path / "out.json", "")


@pytest.fixture(scope="module")
def task(whole):
  study = tiny_study()
  config = study_lib.arm_config(study, TASK, "vljepa", 3e-3, 1)
  return task_lib.open_task(study.tasks[TASK], config, whole / TASK, lambda done, total: None), config


def test_embeddings_that_were_kept_give_the_same_loss_and_gradients(task):
  task, config = task
  side = sides.EmbeddingSide(config, task, None)
  with jax.set_mesh(side.parts.mesh):
    state = side.first_state()
    plain, kept = task.iterator(config), side.batches(task.iterator(config), state)
    assert isinstance(kept, sides.FrozenTargets)
    embed, score_of = sides.step.make_objective(side.parts.model, side.parts.frozen, sides.parts_lib.make_loss(
        config, side.parts))
    found = []
    for batches in (plain, kept):
      batch = {k: jnp.asarray(v) for k, v in next(batches).items()}
      loss = lambda params: score_of(batch, jax.random.key(0))(embed(params, batch, jax.random.key(1)), params)[0]
      found.append(jax.jit(jax.value_and_grad(loss))(state.params))
  (loss, grads), (same_loss, same_grads) = found
  np.testing.assert_allclose(loss, same_loss, rtol=1e-6)
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same_grads), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * max(np.abs(a).max(), 1e-6))


class Spelled:
  """A decoder that keeps what it is to spell out first."""

  embeds = None

  def decode(self, embeds):
    self.embeds = embeds if self.embeds is None else self.embeds
    return ["a cat"] * len(embeds)


def test_the_mean_error_is_taken_off_before_words_are_spelled(task):
  task, config = task
  decoder = Spelled()
  side = sides.EmbeddingSide(config, task, None)
  with jax.set_mesh(side.parts.mesh):
    state = side.first_state()
    y_encoder = features.hash_params(state.params["y_encoder"])
    side = sides.EmbeddingSide(config, task, sides.Speller(decoder, y_encoder))
    assert {"cider", "cider_uncentred"} <= side.measure(state, task.test).keys()
    model = side.model(state)
    visual = np.stack([task.tokens[i, 0] for i in range(len(task.source))]).astype(np.float32)
    error = model.predict(visual) - model.encode_text(task.source.captions())
    expected = model.predict(task.test.visual) - error.mean(axis=0)
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  np.testing.assert_allclose(decoder.embeds, expected, atol=1e-5)
  assert np.abs(expected - model.predict(task.test.visual)).max() > 0.01


def test_a_decoder_of_another_y_encoder_is_not_asked(task):
  task, config = task
  side = sides.EmbeddingSide(config, task, sides.Speller(Spelled(), "another"))
  with jax.set_mesh(side.parts.mesh):
    assert "cider_uncentred" not in side.measure(side.first_state(), task.test)


def test_arms_get_equal_batches(task):
  task, config = task
  study = tiny_study()
  configs = (study_lib.arm_config(study, TASK, arm, rate, 1) for arm, rate in (("vljepa", 1e-3), ("tokens", 1.0)))
  first, second = map(task.iterator, configs)
  for _ in range(3):
    a, b = next(first), next(second)
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def test_other_data_in_the_same_folder_is_refused(whole):
  recipe = tiny_study()
  changed = dataclasses.replace(recipe.tasks[TASK], records=30)
  with pytest.raises(UserError, match="holds runs of a task with records 40, not 30"):
    sweep.run(dataclasses.replace(recipe, tasks={TASK: changed}), whole, [TASK])


def test_a_rate_that_diverges_is_the_worst_and_the_study_goes_on(tmp_path):
  study = tiny_study()
  recipe = dataclasses.replace(study.tasks[TASK], decoder={}, decoder_of="")
  study = dataclasses.replace(study, rates=(3e-3, 1e30), tasks={TASK: recipe})
  assert sweep.run(study, tmp_path, [TASK])
  found = results.collect(study, tmp_path)[0]["tasks"][TASK]["arms"]
  assert all(arm["learning_rate"] == 3e-3 and arm["sweep"]["1e+30"]["score"] == 0 for arm in found.values())


def test_words_come_back_from_their_ids(task):
  task, _ = task
  words = sides.Words(task, ("caption",))
  text = next(text for text in task.bank if len(text) < 40)
  ids = words.targets([text])
  assert words.texts(ids) == [text]
  assert ids[0, len(text)] == sides.EOS and (ids[0, len(text) + 1:] == sides.PAD).all()  # bytes


def test_validation_and_test_captions_are_never_trained_on(task):
  task, _ = task
  assert len(task.source) + len(task.validation.labels) <= 40
  shown = set(task.source.captions())
  assert not shown & {wordings[0] for held in (task.validation,) for wordings in held.references}
