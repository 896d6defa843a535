import json

import numpy as np
import pytest

from tests import tiny_model
from vljepa_jax import evaluate, evaluation, report
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.sources import Source

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def held_out():
  return tiny_model.small_held_out()


@pytest.fixture(scope="module")
def results(held_out):
  return evaluation.evaluate(tiny_model.Oracle(held_out), held_out, paraphrase_before=0.5)[0]


def test_a_model_that_knows_everything_scores_full_marks(results, held_out):
  captions = len({record.caption for record in held_out.records})
  assert results["image_to_text"]["r1"] == results["text_to_image"]["r1"] == 1
  assert results["image_to_text"]["pool"] == captions and results["text_to_image"]["pool"] == len(held_out.records)
  assert results["image_to_text"]["chance"] == pytest.approx(1 / captions)
  assert results["vqa"]["accuracy"] == 1
  assert {"what", "is_there", "which_word"} <= set(evaluation.question_kinds(results["vqa"]))
  for kind in evaluation.question_kinds(results["vqa"]):
    assert results["vqa"][kind]["accuracy"] == 1 and results["vqa"][kind]["questions"] > 0


def test_an_oracle_of_captions_knows_nothing_of_classes_and_paraphrases(results):
  # Its texts have unrelated embeddings, so these two are left to chance.
  assert results["classification"]["top1"] < 0.3
  assert results["paraphrase"]["accuracy"] < 0.7 and results["paraphrase"]["before"] == 0.5


def test_a_real_model_and_tokens_that_were_kept(held_out):
  model = tiny_model.debug_model()
  results, details = evaluation.evaluate(model, held_out)
  kept, _ = evaluation.evaluate(model, held_out, visual=model.encode_prepared(held_out.frames))
  assert results == kept and "before" not in results["paraphrase"]
  assert {k: results[k] for k in ("classification", "image_to_text", "text_to_image")} == (
      evaluation.evaluate_matching(model, held_out))
  assert details.retrieval.scores.shape == (len(held_out.records), results["image_to_text"]["pool"])
  assert len(details.vqa) == len(held_out.questions)
  assert results["classification"]["classes"] == len(held_out.classes)


def test_the_table_is_in_per_cent_with_chance_beside_it(results):
  lines = evaluation.table(results).splitlines()
  row = next(line.split() for line in lines if line.startswith("image -> text R@1 "))
  assert row[4:6] == ["100.0", f"{100 * results['image_to_text']['chance']:.1f}"]
  row = next(line.split() for line in lines if "is_there" in line)
  assert row[:4] == ["is_there", "100.0", "50.0", "50.0"]
  assert any(line.split()[:3] == ["before", "training", "50.0"] for line in lines)


def test_questions_are_the_same_every_time(held_out):
  tiny_model.small_held_out.cache_clear()
  assert tiny_model.small_held_out().questions == held_out.questions


def test_an_empty_split_is_named():
  empty = Source("mine", "test", [], ("a",))
  with pytest.raises(ValueError, match="'test' of mine is empty"):
    evaluation.read_held_out(empty, empty, Preprocess("pad_square", 32))


def test_results_survive_a_failed_write(tmp_path):
  assert evaluation.read_results(tmp_path) == {}
  evaluation.write_results(tmp_path, {"a": 0.5})
  with pytest.raises(TypeError):
    evaluation.write_results(tmp_path, {"a": np.float32(1)})
  assert evaluation.read_results(tmp_path) == {"a": 0.5}


def test_evaluating_again_keeps_what_only_training_knows(tmp_path, monkeypatch, held_out):
  workdir = tiny_model.save_workdir(tmp_path)
  monkeypatch.setattr(evaluation, "open_held_out", lambda config, split: held_out)
  earlier = {"params": {"trained": 1, "frozen": 2}, "train": {"samples": 3, "seconds": 2.0, "samples_per_second": 1.5},
             "paraphrase": {"before": 0.25}, "classification": {"top1": -1}}
  (workdir / "results.json").write_text(json.dumps(earlier))
  evaluate.run(workdir)
  results = json.loads((workdir / "results.json").read_text())
  assert results["params"] == earlier["params"] and results["train"] == earlier["train"]
  assert results["paraphrase"]["before"] == 0.25 and results["classification"]["top1"] >= 0
  expected = evaluation.evaluate(tiny_model.debug_model(), held_out)[0]
  assert results["image_to_text"] == pytest.approx(expected["image_to_text"])
  assert (workdir / report.REPORT).read_text().startswith("<!doctype html>")
