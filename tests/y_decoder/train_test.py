import json
import os
import pathlib
import signal
import subprocess
import sys

import chex
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp
from PIL import Image
import pytest

from tests import tiny_decoder, tiny_model, tiny_run
import vljepa_jax
from vljepa_jax import checkpoint, config as config_lib, evaluate, evaluation, predict, run_log
from vljepa_jax.errors import UserError
from vljepa_jax.y_decoder import held_out as held_out_lib
from vljepa_jax.y_decoder import text_decoder, train

EVERY_STEP = list(range(1, 9))


@pytest.fixture(scope="module", autouse=True)
def small_and_cached():
  """24 held-out and 48 training pictures, and compiled steps shared by the runs below."""
  held_out, made = tiny_model.small_held_out(), {}
  make_step = train.step_lib.make_step

  def kept(recipe, parts):
    key = repr((recipe, parts.model))
    if key not in made:
      made[key] = make_step(recipe, parts)
    return made[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation, "open_held_out", lambda *_: held_out)
    patch.setattr(train, "open_source", tiny_decoder.train_source)
    patch.setattr(held_out_lib, "open_source", tiny_decoder.train_source)
    patch.setattr(train.step_lib, "make_step", kept)
    yield


@pytest.fixture(scope="module")
def model_workdir(tmp_path_factory):
  return tiny_decoder.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def whole(model_workdir, tmp_path_factory):
  """The workdir of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  train.run(tiny_decoder.recipe(model_workdir), workdir)
  return workdir


@pytest.fixture(scope="module")
def model(model_workdir, whole):
  return vljepa_jax.load(model_workdir, decoder=whole)


def saved(workdir):
  """The newest checkpoint as it is, and what was logged, times left out."""
  times = ("seconds", "samples_per_second")
  numbers = [{k: v for k, v in record.items() if k not in times} for record in run_log.read_metrics(workdir)]
  return ocp.load_checkpointables(checkpoint.find_checkpoint(workdir)), numbers


def test_a_run_leaves_what_it_promises(whole, model_workdir):
  assert {path.name for path in whole.iterdir()} == {
      "checkpoints", "config.json", "versions.json", "metrics.jsonl", "tensorboard", "results.json", "y_decoder.json"}
  assert sorted(os.listdir(whole / "checkpoints")) == ["4", "8"]
  records = run_log.read_metrics(whole)
  assert [record["step"] for record in records] == EVERY_STEP
  assert [r["step"] for r in records if "eval/decoder/from_target/exact_match" in r] == [5]
  results = evaluation.read_results(whole)
  assert set(results) == {"decoder", "noise", "params", "train", "examples"}
  assert set(results["noise"]) == {"captions", "what"} and results["train"]["samples"] == 8 * 16
  for part in ("from_target", "from_pred"):
    assert set(results["decoder"][part]) == {
        "exact_match", "token_accuracy", "round_trip", "to_truth", "cider", "bleu4"}
  bond = text_decoder.read_bond(whole)
  assert bond.model_workdir == str(model_workdir) and bond.tokens == tuple(sorted(bond.tokens))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_bit_by_bit(whole, model_workdir, tmp_path, monkeypatch, capsys, number):
  with monkeypatch.context() as patch:
    tiny_run.before_step(patch, train.step_lib, 3, lambda: os.kill(os.getpid(), number))
    train.run(tiny_decoder.recipe(model_workdir), tmp_path)
  assert "stopped after step 3; run the same command again" in capsys.readouterr().out
  assert os.listdir(tmp_path / "checkpoints") == ["3"] and not (tmp_path / "results.json").exists()
  train.run(tiny_decoder.recipe(model_workdir), tmp_path)
  assert "going on after step 3" in capsys.readouterr().out
  chex.assert_trees_all_equal(saved(tmp_path), saved(whole))
  assert evaluation.read_results(tmp_path)["decoder"] == evaluation.read_results(whole)["decoder"]


def test_a_finished_run_only_reports(whole, model_workdir, monkeypatch, capsys):
  monkeypatch.setattr(train, "load_finished", None)
  train.run(tiny_decoder.recipe(model_workdir), whole)
  printed = capsys.readouterr().out
  assert "finished after 8 steps" in printed and "true embedding" in printed and "nearest training text" in printed


def test_another_recipe_is_refused(whole, model_workdir):
  with pytest.raises(UserError, match="config.optim.learning_rate 0.001, not 0.5; choose another --workdir$"):
    train.run(tiny_decoder.recipe(model_workdir, **{"optim.learning_rate": 0.5}), whole)
  with pytest.raises(UserError, match="config.json: this is the recipe of a model, not of a Y-decoder"):
    train.run(tiny_decoder.recipe(model_workdir), model_workdir)


def test_a_loss_that_is_not_finite_stops_the_run(model_workdir, tmp_path):
  with pytest.raises(UserError, match="the loss is nan at step"):
    train.run(tiny_decoder.recipe(model_workdir, **{"optim.learning_rate": 1e30, "optim.warmup_steps": 0}), tmp_path)


def other_params():
  """Those of the debug model with a changed Y-encoder."""
  params = jax.tree.map(np.array, tiny_model.debug_params())
  params["y_encoder"]["head"]["bias"] += 1
  return params


def test_models_that_do_not_do(whole, model_workdir, tmp_path):
  with pytest.raises(UserError, match="nowhere is not the workdir of a run: it does not exist"):
    train.run(tiny_decoder.recipe("nowhere"), tmp_path / "a")
  (tmp_path / "empty").mkdir()
  config_lib.write(tiny_model.debug_config(), tmp_path / "empty")
  with pytest.raises(UserError, match="holds no checkpoint"):
    train.run(tiny_decoder.recipe(tmp_path / "empty"), tmp_path / "a")
  with pytest.raises(UserError, match="is unfinished: 5 of 8 steps; go on with the command"):
    train.run(tiny_decoder.recipe(tiny_decoder.save_model(tmp_path / "unfinished", done=5)), tmp_path / "a")
  assert not (tmp_path / "a" / checkpoint.FOLDER).exists()


def test_a_decoder_knows_its_model(whole, model_workdir, tmp_path):
  other = tiny_decoder.save_model(tmp_path / "other", other_params())
  with pytest.raises(UserError, match=f"was trained for the Y-encoder of {model_workdir}, whose parameters are not"):
    vljepa_jax.load(other, decoder=whole)
  with pytest.raises(UserError, match="is not the workdir of a Y-decoder: it has no y_decoder.json"):
    vljepa_jax.load(model_workdir, decoder=model_workdir)
  tokens = text_decoder.read_bond(whole).tokens
  with pytest.raises(UserError, match="holds a run for another Y-encoder or other texts than"):
    train.bind(whole, text_decoder.Bond(str(other), "0", tokens))
  (tmp_path / "y_decoder.json").write_text("{}")
  with pytest.raises(UserError, match="y_decoder.json is damaged"):
    text_decoder.read_bond(tmp_path)


def test_a_loaded_decoder_gives_the_words_of_the_results(model, whole):
  held_out = tiny_model.small_held_out()
  pred = model.predict(model.encode_prepared(held_out.frames))
  texts = model.decode(pred, beam=2)
  assert texts[:20] == [example["from_pred"] for example in evaluation.read_results(whole)["examples"]]
  assert model.describe(list(held_out.frames[:3, 0]), beam=2) == texts[:3]
  again = model.decode(pred[:5])
  assert again == [model.decode(row[None])[0] for row in pred[:5]]  # batches and padding change nothing


def test_the_evaluation_again(model_workdir, whole):
  before = evaluation.read_results(whole)
  assert evaluate.run_decoder(model_workdir, whole) == before["decoder"]
  assert evaluation.read_results(whole) == before
  assert evaluate.run_decoder(model_workdir, whole, "other") == before["decoder"]
  path = whole / "results-other.json"
  assert json.loads(path.read_text()) == {"decoder": before["decoder"]}
  path.unlink()
  assert 0 <= before["decoder"]["trained_on"] < 1


def test_lengths_and_wrong_choices(model):
  embed = model.encode_text(["a cat", "dog"])
  assert all(len(text.encode()) <= 4 for text in model.decode(embed, max_length=4))
  for choices, message in (
      (dict(max_length=25), "max_length must be within 1..24"), (dict(max_length=0), "max_length must be within"),
      (dict(beam=0), "beam must be 1"), (dict(bank=["a"]), "a bank is for decode='nearest'"),
      (dict(decode="words"), "decode must be 'decoder' or 'nearest', not 'words'"),
      (dict(decode="nearest"), "there are no texts in the bank"),
  ):
    with pytest.raises(ValueError, match=message):
      model.decode(embed, **choices)
  with pytest.raises(ValueError, match=r"must be a non-empty \(n, 32\) array, not \(2, 31\)"):
    model.decode(embed[:, 1:])


def test_the_nearest_text_of_a_bank_needs_no_decoder(model_workdir):
  model = vljepa_jax.load(model_workdir)
  bank = ["a cat", "the quick brown fox", "dog", "car, vehicle"]
  assert model.decode(model.encode_text(bank[::-1]), decode="nearest", bank=bank) == bank[::-1]
  with pytest.raises(ValueError, match="this model has no decoder: load it with"):
    model.decode(model.encode_text(bank))


def test_the_command_spells_out_and_candidates_need_no_decoder(model, model_workdir, whole, tmp_path, monkeypatch):
  picture = tmp_path / "a.png"
  Image.fromarray(tiny_model.small_held_out().frames[0, 0]).save(picture)
  rows = predict.run(model_workdir, picture, "", None, None, decoder=str(whole), beam=2)
  (((text, score),),) = rows.values()
  assert list(rows) == [str(picture)] and text == model.describe([picture], beam=2)[0] and -1 <= score <= 1
  asked = predict.run(model_workdir, picture, "what is this?", None, None, decoder=str(whole))
  assert asked[str(picture)][0][0] == model.describe([picture], "what is this?")[0]
  with pytest.raises(UserError, match="either --candidates .* or --texts .* or --decoder"):
    predict.run(model_workdir, picture, "", "cat,dog", None, decoder=str(whole))
  monkeypatch.setattr(text_decoder, "load", None)
  monkeypatch.setattr(text_decoder, "TextDecoder", None)
  ranked = predict.run(model_workdir, picture, "what is this?", "cat,dog", None)
  assert {text for text, _ in ranked[str(picture)]} == {"cat", "dog"}


def test_main_trains_a_decoder_where_the_recipe_says_so(model_workdir, tmp_path):
  root = pathlib.Path(__file__).parents[2]
  command = [sys.executable, "-m", "vljepa_jax.main", "--config=configs/decoder.py:debug", f"--workdir={tmp_path}/d"]
  done = subprocess.run(
      [*command, f"--config.model_workdir={tmp_path}/none"], cwd=root, capture_output=True, text=True, timeout=300)
  assert done.returncode == 2 and done.stdout == ""
  assert done.stderr == (
      f"error: {tmp_path}/none is not the workdir of a run: it does not exist; train one with python -m "
      "vljepa_jax.main\n")


def test_results_are_json(whole):
  assert json.loads((whole / "results.json").read_text())["decoder"]["texts"] == 24
