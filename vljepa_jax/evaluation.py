"""Runs the tasks over a held-out split: what `results.json` and the report are made of."""

from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from vljepa_jax.api import Model, make_preprocess
from vljepa_jax.config import Config
from vljepa_jax.data import babyai
from vljepa_jax.data.clips import ClipRecord, ClipSource
from vljepa_jax.data.media import EvaluationFrames
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.questions import Question
from vljepa_jax.data.sources import AnySource, Record, open_source
from vljepa_jax.data.views import questions_of
from vljepa_jax.errors import UserError
from vljepa_jax.tasks import classification, paraphrase, retrieval, vqa

RESULTS = "results.json"
SEED = 0  # of questions and triplets: the same in every run, so that runs can be compared


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """A held-out split, opened once and evaluated as often as wanted.

  Attributes:
    media: "picture" or "clip".
    classes: class names; none where records have no labels.
    records: n records.
    frames: (n, T, H, W, 3) uint8, as the model sees them, decoded when asked for; T is 1 for pictures.
    questions: about them; none where nothing is asked.
    triplets: texts for the paraphrase task; none where there are none for the data set.
    hidden: captions that training must not show.
  """

  media: str
  classes: tuple[str, ...]
  records: tuple[Record | ClipRecord, ...]
  frames: EvaluationFrames
  questions: tuple[Question, ...]
  triplets: tuple[paraphrase.Triplet, ...]
  hidden: frozenset[str]

  def captions(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The n captions, and of each one all wordings, itself first."""
    return tuple(r.caption for r in self.records), tuple(r.wordings for r in self.records)


@dataclasses.dataclass(frozen=True)
class Details:
  """What became of every single picture and question, for the report; None of a task that was left out.

  Classification is of the records that have a label, in their order.
  """

  held_out: HeldOut
  classification: classification.Details | None
  retrieval: retrieval.Details
  vqa: list[vqa.Answer]
  paraphrase: paraphrase.Details | None


def open_held_out(config: Config, split: str = "", train: AnySource | None = None) -> HeldOut:
  """The held-out split of a recipe, or another one of its data set; `train`, its training split, if it is open."""
  held_out = open_source(config.eval.dataset, split or config.eval.split)
  train = train or open_source(config.eval.dataset, "train")
  return read_held_out(held_out, train, make_preprocess(config), config.data.frames)


def read_held_out(source: AnySource, train: AnySource, preprocess: Preprocess, frames: int = 1) -> HeldOut:
  """Reads the split `source`; ValueError if it has no record.

  Args:
    source: the split.
    train: the training split; questions about pictures are made of its words.
    preprocess: what the model sees of a frame.
    frames: of a clip.
  """
  if not len(source):
    raise ValueError(f"the split {source.split!r} of {source.name} is empty: there is nothing to evaluate")
  return HeldOut(
      media=source.media,
      classes=source.classes,
      records=source.records,
      frames=EvaluationFrames(source, frames, preprocess),
      questions=questions_of(source, train, SEED),
      triplets=_triplets(source),
      # Captions of clips are made of few words and recur in all splits; their seeds and pairs are what is held out.
      hidden=frozenset() if isinstance(source, ClipSource) else frozenset(r.caption for r in source.records),
  )


def _triplets(source: AnySource) -> tuple[paraphrase.Triplet, ...]:
  records = source.records
  if source.name == babyai.NAME:
    return tuple(paraphrase.Triplet(*texts) for *texts, _ in babyai.triplets(len(records), SEED))
  if isinstance(source, ClipSource):
    return ()  # captions of one's own have no parts of which rewordings could be made
  return paraphrase.make_triplets(
      [r.caption for r in records], [r.title for r in records], [r.label for r in records], SEED)


def evaluate(
    model: Model,
    held_out: HeldOut,
    visual: np.ndarray | None = None,
    paraphrase_before: float | None = None,
) -> tuple[dict[str, Any], Details]:
  """All tasks that the split allows: classification needs labels, the others questions and triplets.

  Args:
    model: to evaluate.
    held_out: from `open_held_out`.
    visual: (n, N, D) tokens of its frames where a frozen X-encoder has given them already.
    paraphrase_before: accuracy of the Y-encoder before training, from `score_paraphrase`, to stand beside the new.

  Returns:
    The parts of `results.json` that are measured here, and details.
  """
  visual = model.encode_prepared(held_out.frames) if visual is None else visual
  matching, class_details, retrieval_details = _score_matching(model, held_out, visual)
  answered, answers = _score_questions(model, held_out, visual)
  reworded, triplets = score_paraphrase(model.encode_text, held_out.triplets)
  if reworded and paraphrase_before is not None:
    reworded["before"] = paraphrase_before
  tasks = {**matching, "vqa": answered, "paraphrase": reworded}
  results = {"media": held_out.media, **{name: numbers for name, numbers in tasks.items() if numbers}}
  return results, Details(held_out, class_details, retrieval_details, answers, triplets)


def evaluate_matching(model: Model, held_out: HeldOut, visual: np.ndarray | None = None) -> dict[str, Any]:
  """The quick part, for use while training: classification, where there are labels, and retrieval."""
  visual = model.encode_prepared(held_out.frames) if visual is None else visual
  return _score_matching(model, held_out, visual)[0]


def score_paraphrase(
    encode_text: Callable[[Sequence[str]], np.ndarray], triplets: Sequence[paraphrase.Triplet]
) -> tuple[dict[str, Any], paraphrase.Details | None]:
  """The triplet task of a text encoder (n texts -> (n, E) of unit length) alone; ({}, None) without triplets."""
  if not triplets:
    return {}, None
  return paraphrase.score(encode_text(paraphrase.triplet_texts(triplets)), triplets)


def score_triplets(
    encode_text: Callable[[Sequence[str]], np.ndarray], triplets: Sequence[paraphrase.KindTriplet]
) -> dict[str, Any]:
  """The triplet task of a text encoder alone, by kind; equal texts are encoded once, so that they tie."""
  texts, index = retrieval.distinct_texts(paraphrase.triplet_texts(paraphrase.without_kinds(triplets)))
  return paraphrase.score_kinds(encode_text(texts)[index], triplets)


def _score_matching(model, held_out, visual):
  pred = model.predict(visual)
  classes, class_details = _score_classes(model, held_out, visual, pred)
  texts, own = retrieval.distinct_texts([record.caption for record in held_out.records])
  recalls, retrieval_details = retrieval.score(pred, model.encode_text(texts), texts, own)
  return classes | recalls, class_details, retrieval_details


def _score_classes(model, held_out, visual, pred):
  labels = np.array([record.label for record in held_out.records])
  labelled = labels >= 0
  if not labelled.any():
    return {}, None
  asked = model.config.eval.class_query
  about_class = model.predict(visual[labelled], asked) if asked else pred[labelled]
  numbers, details = classification.score(
      about_class, model.encode_labels(held_out.classes), labels[labelled], held_out.classes)
  return {"classification": numbers}, details


def _score_questions(model, held_out, visual):
  questions = held_out.questions
  if not questions:
    return {}, []
  texts = tuple(dict.fromkeys(text for question in questions for text in question.candidates))
  size = model.config.eval.batch_size
  pred = np.concatenate([  # in batches: the visual tokens of a picture are repeated for every question
      model.predict(visual[[question.record for question in batch]], [question.query for question in batch])
      for batch in (questions[i:i + size] for i in range(0, len(questions), size))])
  return vqa.score(pred, model.encode_text(texts), texts, questions)


def table(results: dict[str, Any]) -> str:
  """The results as lines of text, in per cent, chance beside them."""
  rows = [("", "result", "chance", "majority", "of"), *_class_rows(results), *_retrieval_rows(results)]
  if "vqa" in results:
    answered = results["vqa"]
    rows.append(_row("questions", answered, "accuracy", "chance", f"{answered['questions']} questions"))
    for kind in question_kinds(answered):
      rows.append(_row(f"  {kind}", answered[kind], "accuracy", "chance", f"{answered[kind]['questions']} questions"))
  if "paraphrase" in results:
    reworded = results["paraphrase"]
    rows.append(_row("paraphrase", reworded, "accuracy", "chance", f"{reworded['triplets']} triplets"))
    if "before" in reworded:
      rows.append(_row("  before training", reworded, "before", "chance", f"{reworded['triplets']} triplets"))
  widths = [max(len(row[i]) for row in rows) for i in range(5)]
  return "\n".join(
      "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]).rstrip()
      for row in rows)


def _class_rows(results):
  if "classification" not in results:
    return []
  classes = results["classification"]
  return [_row(f"class top-{k}", classes, f"top{k}", chance, f"{classes['classes']} classes")
          for k, chance in ((1, "chance"), (5, "chance_top5"))]


def _retrieval_rows(results):
  image, images = ("video", "clips") if results.get("media") == "clip" else ("image", "pictures")
  ways = ("image_to_text", f"{image} -> text", "captions"), ("text_to_image", f"text -> {image}", images)
  return [_row(f"{name} R@{k[1:]}", results[way], k, chance, f"{results[way]['pool']} {pool}")
          for way, name, pool in ways for k, chance in (("r1", "chance"), ("r5", "chance_r5"), ("r10", "chance_r10"))]


def question_kinds(answered: dict[str, Any]) -> list[str]:
  """The kinds of questions in the "vqa" part of the results."""
  return [key for key, value in answered.items() if isinstance(value, dict)]


def _row(name, numbers, key, chance, of):
  majority = f"{100 * numbers['majority']:.1f}" if key in ("top1", "accuracy") and "majority" in numbers else ""
  return name, f"{100 * numbers[key]:.1f}", f"{100 * numbers[chance]:.1f}", majority, of


def write_results(workdir: pathlib.Path, results: dict[str, Any]) -> None:
  """Writes `results.json` as `write_json` does."""
  write_json(pathlib.Path(workdir) / RESULTS, results)


def write_json(path: pathlib.Path, results: dict[str, Any]) -> None:
  """Writes results to a file; whole or not at all, so that a full disk leaves the earlier one."""
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
  partial.replace(path)


def read_results(workdir: pathlib.Path) -> dict[str, Any]:
  """The earlier `results.json`; empty if there is none."""
  path = pathlib.Path(workdir) / RESULTS
  try:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}); remove it and evaluate again") from error
