"""The texts that records give in training: captions, or questions with their answers."""

from collections.abc import Callable, Collection, Mapping, Sequence
import functools
import logging
from typing import Any, Protocol

import numpy as np

from vljepa_jax.data.augment import Augment
from vljepa_jax.data.captions import caption_variant, held_out_captions, is_held_out
from vljepa_jax.data.clips import ClipSource
from vljepa_jax.data.questions import KINDS, Question, QuestionMaker, Vocabulary, evaluation_questions
from vljepa_jax.data.sources import AnySource, Source

_LOG = logging.getLogger(__name__)

CAPTION = "caption"
ANSWER = "answer"  # to any question that comes with a clip


class Texts(Protocol):
  """The texts of one source.

  Attributes:
    views: names of what can be drawn.
  """

  views: tuple[str, ...]

  def check(self, view: str) -> None:
    """ValueError says what there is, "has ...", if there is no such view."""

  def usable(self, view: str) -> np.ndarray:
    """Sorted indices of the records that have such a text and may be trained on."""

  def draw(self, index: int, view: str, rng: np.random.Generator) -> tuple[str | None, str]:
    """A query, None in views of captions, and the target text."""

  def first(self, index: int, view: str, rng: np.random.Generator) -> tuple[str | None, str]:
    """The same in the canonical wording, where there is one."""


class PictureTexts:
  """Captions of pictures, and questions made from their words (`data/questions.py`).

  Args:
    source: the pictures.
    augment: of captions.
    held_out: captions of the evaluation split. A record that has one of them is left out, and no variant of a caption
      equals one.
  """

  views = (CAPTION, *KINDS)

  def __init__(self, source: Source, augment: Augment, held_out: Collection[str]):
    self._records = source.records
    self._augment = augment
    self._held_out = held_out_captions(held_out)
    self._allowed = np.array([
        i for i, record in enumerate(source.records) if not is_held_out(record.caption, self._held_out)], np.int64)
    vocabulary = Vocabulary(source.records, len(source.classes), self._held_out)
    self._questions = QuestionMaker(source.records, source.classes, vocabulary)
    lost = len(source) - len(self._allowed)
    if lost:
      _LOG.warning("%s: %d of %d records have a caption of the evaluation split and are left out",
                   source.name, lost, len(source))

  def check(self, view: str) -> None:
    """See `Texts`."""
    _check_names((view,), self.views)

  def usable(self, view: str) -> np.ndarray:
    """See `Texts`."""
    if view == CAPTION:
      return self._allowed
    return np.array([i for i in self._allowed if view in self._questions.kinds(int(i))], np.int64)

  def draw(self, index: int, view: str, rng: np.random.Generator) -> tuple[str | None, str]:
    """See `Texts`."""
    if view == CAPTION:
      return None, caption_variant(self._records[index], self._augment, self._held_out, rng)
    question = self._questions.make(index, view, rng)
    return question.query, question.answer

  def first(self, index: int, view: str, rng: np.random.Generator) -> tuple[str | None, str]:
    """See `Texts`."""
    return (None, self._records[index].caption) if view == CAPTION else self.draw(index, view, rng)


class ClipTexts:
  """Captions of clips, and the questions that come with them, in random wordings.

  Views are "caption" (of any field, evenly), a field, fields with weights such as "brief:0.7,detailed:0.3" (of those
  that a record has; without ":" a weight is 1), "answer" (any question), or a kind of question.
  """

  def __init__(self, source: ClipSource):
    self._records = source.records
    self._fields = source.fields
    answer = (ANSWER,) if source.kinds else ()
    self.views = tuple(dict.fromkeys((CAPTION, *source.fields, *answer, *source.kinds)))

  def check(self, view: str) -> None:
    """See `Texts`."""
    names = field_weights(view)
    _check_names(names, self._fields if len(names) > 1 else self.views)

  def usable(self, view: str) -> np.ndarray:
    """See `Texts`."""
    names = field_weights(view)
    return np.array([i for i in range(len(self._records)) if any(self._has(i, name) for name in names)], np.int64)

  def draw(self, index: int, view: str, rng: np.random.Generator) -> tuple[str | None, str]:
    """See `Texts`."""
    names = {name: weight for name, weight in field_weights(view).items() if self._has(index, name)}
    if len(names) > 1:
      shares = np.cumsum(list(names.values()))
      view = tuple(names)[int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))]
    else:
      view = next(iter(names))
    return self._text(index, view, lambda texts: _pick(texts, rng))

  def first(self, index: int, view: str, rng: np.random.Generator) -> tuple[str | None, str]:
    """See `Texts`."""
    view = next(name for name in field_weights(view) if self._has(index, name))
    return self._text(index, view, lambda texts: texts[0])

  def _text(self, index: int, view: str, pick: Callable[[Sequence[Any]], Any]) -> tuple[str | None, str]:
    record = self._records[index]
    if view == CAPTION:
      view = pick(tuple(record.captions))
    if view in self._fields:
      return None, pick(record.captions[view])
    asked = [question for question in record.questions if view in (question.kind, ANSWER)]
    question = pick(asked) if len(asked) > 1 else asked[0]
    return pick(question.queries), question.answer

  def _has(self, index: int, view: str) -> bool:
    record = self._records[index]
    return (view == CAPTION or view in record.captions or bool(view == ANSWER and record.questions)
            or any(view == question.kind for question in record.questions))


@functools.lru_cache(maxsize=1000)
def field_weights(view: str) -> Mapping[str, float]:
  """Names of a view and their weights: "brief:0.7,detailed:0.3" or, of one name, that name.

  ValueError for a weight that is none, and for a name that comes twice.
  """
  weights = {}
  for part in view.split(","):
    name, colon, number = part.strip().partition(":")
    try:
      weight = float(number) if colon else 1.0
    except ValueError:
      weight = 0.0
    if not (0 < weight < float("inf")) or not name or name in weights:
      raise ValueError("takes names with weights above 0, such as 'brief:0.7,detailed:0.3'")
    weights[name] = weight
  return weights


def _check_names(names: Collection[str], known: Sequence[str]) -> None:
  for name in names:
    if name not in known:
      raise ValueError(f"has {', '.join(known)}")


def open_texts(source: AnySource, augment: Augment, held_out: Collection[str]) -> Texts:
  """The texts of a source; `held_out` as in `PictureTexts`. Captions of clips recur in all splits by their nature."""
  return ClipTexts(source) if isinstance(source, ClipSource) else PictureTexts(source, augment, held_out)


def questions_of(source: AnySource, train: AnySource, seed: int) -> tuple[Question, ...]:
  """The questions of evaluation about a split, the same ones every time.

  Args:
    source: the held-out split.
    train: the training split of the same data set; questions about pictures use its words.
    seed: of what is drawn.
  """
  if isinstance(source, ClipSource):
    return tuple(  # in the first wording
        Question(question.queries[0], question.answer, question.candidates, question.kind, i)
        for kind in source.kinds for i, record in enumerate(source.records)
        for question in record.questions if question.kind == kind)
  vocabulary = Vocabulary(train.records, len(train.classes))
  return tuple(evaluation_questions(QuestionMaker(source.records, source.classes, vocabulary), seed))


def _pick(texts: Sequence[str], rng: np.random.Generator) -> str:
  return texts[rng.integers(len(texts))]
