import dataclasses
import json

import numpy as np
import pytest

from tests import tiny_model
from vljepa_jax import evaluate, evaluation, progress, report
from vljepa_jax.data.clips import ClipQuestion, ClipRecord, ClipSource
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.sources import Source
from vljepa_jax.errors import MediaError, UserError

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


def records_of_ones_own(count=8, **changes):
  """Noise with captions; every third record has a label, each with a question."""
  records, frames = [], np.random.default_rng(0).integers(0, 255, (count, 2, 40, 30, 3), np.uint8)
  for i in range(count):
    asked = (ClipQuestion("place", ("where?",), f"here {i % 2}", ("here 0", "here 1")),)
    records.append(ClipRecord(f"r{i}", {"caption": (f"caption {i}",)}, asked, i // 3 if i % 3 == 0 else -1))
  records = [dataclasses.replace(record, **changes) for record in records]
  read = lambda index, wanted, rng: frames[index, :1] if index == 4 else frames[index][:wanted]
  return ClipSource("mine", "test", ("a", "b", "c"), records, read, None)


def test_frames_are_decoded_when_asked_for():
  source = records_of_ones_own()
  read, asked = source._read, []
  source._read = lambda index, count, rng: asked.append(index) or read(index, count, rng)
  held_out = evaluation.read_held_out(source, source, Preprocess("pad_square", 32), 2)
  frames = held_out.frames
  assert not asked and frames.shape == (8, 2, 32, 32, 3) and len(frames) == 8
  fit = Preprocess("pad_square", 32)
  whole = np.stack([np.stack([fit(read(i, 2, None)[t % len(read(i, 2, None))]) for t in range(2)]) for i in range(8)])
  np.testing.assert_array_equal(frames[3:6], whole[3:6])  # a picture among clips is repeated
  assert sorted(asked) == [3, 4, 5]
  for key in (2, np.int64(2), slice(None), [1, 7], (slice(2), 1), (3, 0)):
    np.testing.assert_array_equal(frames[key], whole[key])
  assert frames[8:].shape == (0, 2, 32, 32, 3)


def test_encoding_frames_on_demand_is_that_of_an_array(held_out):
  model = tiny_model.debug_model()
  np.testing.assert_array_equal(model.encode_prepared(held_out.frames), model.encode_prepared(held_out.frames[:]))


def test_a_file_that_cannot_be_read_is_named():
  source = records_of_ones_own()

  def read(index, count, rng):
    raise MediaError("b.mp4 is damaged after 1.0 s")

  source._read = read
  held_out = evaluation.read_held_out(source, source, Preprocess("pad_square", 32), 2)
  with pytest.raises(UserError, match="b.mp4 is damaged after 1.0 s"):
    held_out.frames[2:4]


def own_results(**changes):
  source = records_of_ones_own(**changes)
  held_out = evaluation.read_held_out(source, source, Preprocess("pad_square", 32), 1)
  return evaluation.evaluate(tiny_model.debug_model(), held_out, paraphrase_before=0.5)


def test_records_without_label_are_not_classified():
  results, details = own_results()
  assert results["classification"]["pictures"] == 3 and list(details.classification.labels) == [0, 1, 2]
  assert results["vqa"]["questions"] == 8 and set(results["vqa"]) >= {"place"}
  assert results["image_to_text"]["pool"] == 8 and "paraphrase" not in results and details.paraphrase is None


def test_tasks_without_records_are_left_out():
  results, details = own_results(label=-1, questions=())
  assert set(results) == {"media", "image_to_text", "text_to_image"}
  assert details.classification is None and details.vqa == []
  lines = evaluation.table(results).splitlines()
  assert len(lines) == 7 and not any(word in line for line in lines for word in ("class", "questions", "paraphrase"))
  progress.print_evaluation(3, results)
  page = report.make_report(results, details, [], {"name": "mine"})
  assert "<h2>Where it fails</h2><p class=\"quiet\">Clips whose own" in page
  for word in ("Class, top-1", "Held out, class", "<h2>Questions", "Other words, or", "Worst classes"):
    assert word not in page
  whole = report.make_report(*own_results(), [], {"name": "mine"})
  assert "Class, top-1" in whole and "<h2>Questions" in whole and "Worst classes" in whole


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
