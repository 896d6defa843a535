"""Clips with captions and questions: data sets of moving pictures, and of pictures with such texts."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import hashlib

import numpy as np

# (index of the clip, frames wanted, rng) -> (frames, H, W, 3) uint8. Without an rng the frames of evaluation.
ReadFrames = Callable[[int, int, np.random.Generator | None], np.ndarray]


@dataclasses.dataclass(frozen=True, slots=True)
class ClipQuestion:
  """A question that can be asked about a clip.

  Attributes:
    kind: what sort of question it is.
    queries: wordings; the first is that of evaluation.
    answer: one of the candidates.
    candidates: all possible answers.
  """

  kind: str
  queries: tuple[str, ...]
  answer: str
  candidates: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ClipRecord:
  """What is known of a clip, its frames aside.

  Attributes:
    captions: field, such as "brief" or "detailed" -> wordings. The first of the first field is the canonical caption.
    questions: with their answers.
    label: index into the class names of its source; -1 is of none.
  """

  id: str
  captions: Mapping[str, tuple[str, ...]]
  questions: tuple[ClipQuestion, ...]
  label: int

  @property
  def caption(self) -> str:
    """The canonical caption."""
    return next(iter(self.captions.values()))[0]

  @property
  def title(self) -> str:
    """What the clip is called."""
    return self.caption

  @property
  def wordings(self) -> tuple[str, ...]:
    """Captions that say the same as the canonical one."""
    return next(iter(self.captions.values()))


class ClipSource:
  """One split of a data set of clips.

  Args:
    name: of the data set.
    split: such as "train".
    classes: class names; a record's label is an index into them.
    records: of all clips, in order.
    read: the frames of a clip.
    encoded: the stored form of a clip, or what tells it from others, for `hash_media`.
    media: "clip", or "picture" where nothing moves.
  """

  def __init__(
      self, name: str, split: str, classes: Sequence[str], records: Sequence[ClipRecord], read: ReadFrames,
      encoded: Callable[[int], bytes], media: str = "clip",
  ):
    self.name = name
    self.split = split
    self.classes = tuple(classes)
    self.records = tuple(records)
    self._read = read
    self._encoded = encoded
    self.media = media

  def with_records(self, records: Sequence[ClipRecord]) -> "ClipSource":
    """The same clips with other texts."""
    return ClipSource(self.name, self.split, self.classes, records, self._read, self._encoded, self.media)

  def subset(self, rows: Sequence[int], split: str) -> "ClipSource":
    """Some of the clips, as a split of their own."""
    return ClipSource(
        self.name, split, self.classes, [self.records[i] for i in rows],
        lambda index, count, rng: self._read(rows[index], count, rng), lambda index: self._encoded(rows[index]),
        self.media)

  def __len__(self) -> int:
    return len(self.records)

  def frames(self, index: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Frames of a clip, (count, H, W, 3) uint8: those of evaluation, or with an rng some for training.

    What does not move may come as one frame. MediaError names a clip that cannot be read.
    """
    return self._read(index, count, rng)

  def hash_media(self) -> str:
    """A hash of the stored clips, in order."""
    digest = hashlib.sha256()
    for row in range(len(self)):
      digest.update(self._encoded(row))
    return digest.hexdigest()

  def captions(self) -> list[str]:
    """The canonical caption of every record."""
    return [record.caption for record in self.records]

  @functools.cached_property
  def fields(self) -> tuple[str, ...]:
    """The fields of captions, in order."""
    return tuple(dict.fromkeys(field for record in self.records for field in record.captions))

  @functools.cached_property
  def kinds(self) -> tuple[str, ...]:
    """The kinds of questions, in order of appearance."""
    return tuple(dict.fromkeys(question.kind for record in self.records for question in record.questions))


def with_candidates(records: Sequence[ClipRecord]) -> list[ClipRecord]:
  """The records of a split; a question without candidates gets all answers to questions of its kind among them."""
  answers = {}
  for record in records:
    for question in record.questions:
      answers.setdefault(question.kind, set()).add(question.answer)
  pools = {kind: tuple(sorted(texts)) for kind, texts in answers.items()}
  return [
      dataclasses.replace(record, questions=tuple(
          question if question.candidates else dataclasses.replace(question, candidates=pools[question.kind])
          for question in record.questions)) if record.questions else record
      for record in records]
