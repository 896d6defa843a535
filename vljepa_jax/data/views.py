"""The texts that records give in training: captions, or questions with their answers."""

from collections.abc import Callable, Collection, Sequence
import logging
from typing import Protocol

import numpy as np

from vljepa_jax.data.augment import Augment
from vljepa_jax.data.captions import caption_variant, held_out_captions, is_held_out
from vljepa_jax.data.clips import ClipSource
from vljepa_jax.data.questions import KINDS, Question, QuestionMaker, Vocabulary, evaluation_questions
from vljepa_jax.data.sources import AnySource, Source

_LOG = logging.getLogger(__name__)

CAPTION = "caption"


class Texts(Protocol):
  """The texts of one source.

  Attributes:
    views: names of what can be drawn.
  """

  views: tuple[str, ...]

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
  """Captions of clips, of one field or of any, and the questions that come with them, in random wordings."""

  def __init__(self, source: ClipSource):
    self._records = source.records
    self._fields = source.fields
    self.views = (CAPTION, *source.fields, *source.kinds)

  def usable(self, view: str) -> np.ndarray:
    """See `Texts`."""
    return np.array([i for i in range(len(self._records)) if self._has(i, view)], np.int64)

  def draw(self, index: int, view: str, rng: np.random.Generator) -> tuple[str | None, str]:
    """See `Texts`."""
    return self._text(index, view, lambda texts: _pick(texts, rng))

  def first(self, index: int, view: str, rng: np.random.Generator) -> tuple[str | None, str]:
    """See `Texts`."""
    return self._text(index, view, lambda texts: texts[0])

  def _text(self, index: int, view: str, pick: Callable[[Sequence[str]], str]) -> tuple[str | None, str]:
    record = self._records[index]
    if view == CAPTION:
      view = pick(tuple(record.captions))
    if view in self._fields:
      return None, pick(record.captions[view])
    question = next(question for question in record.questions if question.kind == view)
    return pick(question.queries), question.answer

  def _has(self, index: int, view: str) -> bool:
    record = self._records[index]
    return view == CAPTION or view in record.captions or any(view == question.kind for question in record.questions)


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
    return tuple(
        Question(question.queries[0], question.answer, question.candidates, question.kind, i)
        for kind in source.kinds for i, record in enumerate(source.records)
        for question in record.questions if question.kind == kind)
  vocabulary = Vocabulary(train.records, len(train.classes))
  return tuple(evaluation_questions(QuestionMaker(source.records, source.classes, vocabulary), seed))


def _pick(texts: Sequence[str], rng: np.random.Generator) -> str:
  return texts[rng.integers(len(texts))]
