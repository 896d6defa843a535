"""Data sets of one's own: a table of files, with captions and questions about each. See docs/data.md.

Columns of a row:
  path       of a video or picture, from the manifest's folder or absolute
  caption    a text, or a list of wordings; or captions: field -> text or list (in CSV: caption.brief, ...)
  query, answer    a question; or questions: a list of {query, answer, kind, candidates}, the last two if wanted
  start, end       seconds, of a segment of a video
  label      name of a class
  split      "train" where it is left out
  id         the path, with the segment, where it is left out
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import difflib
import functools
import math
import os
import pathlib
from typing import Any

import numpy as np

from vljepa_jax.data import tables
from vljepa_jax.data.animation import read_picture_clip
from vljepa_jax.data.clips import ClipQuestion, ClipRecord, ClipSource, with_candidates
from vljepa_jax.data.image import ENDINGS as PICTURES
from vljepa_jax.data.video_clip import read_clip
from vljepa_jax.errors import MediaError

COLUMNS = ("path", "caption", "captions", "query", "answer", "questions", "start", "end", "label", "split", "id")
QUESTION = ("query", "answer", "kind", "candidates")
KIND = "question"  # of questions that tell none
TRAIN = "train"
RESERVED = ("caption", "answer")  # views that every data set has
STILL = tuple(ending for ending in PICTURES if ending != ".gif")
SAMPLE = 1 << 16  # bytes at either end of a file that tell it from others


@dataclasses.dataclass(frozen=True, slots=True)
class Media:
  """Where a clip lies: a file, and the segment of it in seconds."""

  path: str
  start: float
  end: float | None

  @property
  def is_picture(self) -> bool:
    """Whether the file is one of Pillow's."""
    return self.path.lower().endswith(PICTURES)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
  """One row of a manifest; `label` is still a name, and the record has none."""

  record: ClipRecord
  media: Media
  split: str
  label: str | None


def is_manifest(dataset: str) -> bool:
  """Whether the name of a data set is that of a manifest."""
  return dataset.lower().endswith(tables.ENDINGS)


def open_manifest(dataset: str, split: str) -> ClipSource:
  """One split of a manifest. Nothing is decoded, but every file must be there.

  Classes are the sorted labels of the whole manifest. A question without candidates has all answers to questions of
  its kind in the split.

  Args:
    dataset: a .jsonl, .csv or .parquet file.
    split: one that its rows name.

  Raises:
    FileNotFoundError: there is no such manifest.
    ValueError: a row is wrong, in the message with file and line; or there is no such split.
    ImportError: Parquet needs pyarrow.
  """
  path = pathlib.Path(dataset)
  if not path.is_file():
    raise FileNotFoundError(f"there is no manifest {dataset}")
  state = path.stat()
  rows, classes = _read(path, (state.st_mtime_ns, state.st_size))
  mine = [row for row in rows if row.split == split]
  if not mine:
    splits = ", ".join(dict.fromkeys(row.split for row in rows))
    raise ValueError(f"{dataset} has no split {split!r}; it has {splits}; the column 'split' tells them apart")
  places = {name: i for i, name in enumerate(classes)}
  records = [dataclasses.replace(row.record, label=places.get(row.label, -1)) for row in mine]
  media = [row.media for row in mine]
  return ClipSource(
      dataset, split, classes, with_candidates(records), Reader(media), functools.partial(_fingerprint, media),
      media_kind([row.media.path for row in rows]))  # of the whole manifest, so that its splits are looked at alike


def media_kind(names: Iterable[str]) -> str:
  """The `media` of a `ClipSource` with files of these names: "picture" if they hold pictures that do not move."""
  return "picture" if all(name.lower().endswith(STILL) for name in names) else "clip"


class Reader:
  """The frames of a manifest's clips, by index."""

  def __init__(self, media: Sequence[Media]):
    self._media = media

  def __call__(self, index: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    media = self._media[index]
    read = read_picture_clip if media.is_picture else read_clip
    try:
      return read(media.path, count, media.start, media.end, rng)
    except OSError as error:
      raise MediaError(f"{media.path} cannot be read: {error}") from error


@functools.lru_cache(maxsize=2)  # splits of one manifest are opened one after another
def _read(path: pathlib.Path, state: tuple[int, int]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
  """All rows, checked, and the classes; `state` of the file tells whether it is still the same."""
  del state
  rows, places = [], []
  for place, cells in tables.read_rows(path):
    try:
      rows.append(make_row(path.parent, cells))
    except ValueError as error:
      raise ValueError(f"{place}: {error}") from error
    places.append(place)
  if not rows:
    raise ValueError(f"{path} has no rows")
  _check_ids(rows, places)
  check_names(path, rows)
  _check_files(rows, places)
  return tuple(rows), tuple(sorted({row.label for row in rows if row.label is not None}))


def make_row(folder: pathlib.Path, cells: tables.Row) -> Row:
  """A row of a manifest in a folder; ValueError says what is wrong with it."""
  _check_columns(cells)
  path = _text(cells, "path")
  start, end = _seconds(cells, "start"), _seconds(cells, "end")
  if start is not None and start < 0:
    raise ValueError(f"start must be 0 or more, not {start:g}")
  if end is not None and end <= (start or 0.0):
    raise ValueError(f"end {end:g} must be after start {start or 0.0:g}")
  segment = "" if start is None and end is None else f"#{start or 0.0:g}-{'' if end is None else f'{end:g}'}"
  label = cells.get("label")
  return Row(
      ClipRecord(
          str(cells["id"]) if "id" in cells else path + segment, _captions(cells), _questions(cells), -1),
      Media(os.path.join(folder, path), start or 0.0, end),
      _text(cells, "split") if "split" in cells else TRAIN,
      None if label is None else _words(str(label), "label"))


def _check_columns(cells: tables.Row) -> None:
  for name in cells:
    if name not in COLUMNS and not (name.startswith("caption.") and len(name) > len("caption.")):
      raise ValueError(f"there is no column {name!r}; {_nearest(name, COLUMNS)}")


def _nearest(name: str, known: Sequence[str]) -> str:
  near = difflib.get_close_matches(name, known, n=1)
  return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def _captions(cells: tables.Row) -> dict[str, tuple[str, ...]]:
  """Field -> wordings."""
  dotted = {name.removeprefix("caption."): value for name, value in cells.items() if name.startswith("caption.")}
  forms = [name for name in ("caption", "captions") if name in cells] + ["caption.*"] * bool(dotted)
  if len(forms) != 1:
    raise ValueError(
        f"the columns {' and '.join(forms)} exclude each other" if forms else "there is no caption; give it a text")
  fields = {"caption": cells["caption"]} if "caption" in cells else dotted or cells["captions"]
  if not isinstance(fields, Mapping) or not any(value is not None for value in fields.values()):
    raise ValueError("captions must be an object, such as {\"brief\": \"a cat\"}; of one text it is the column caption")
  fields = {field: value for field, value in fields.items() if value is not None}
  for field in fields:
    if not field.strip() or set(field) & set(":,"):
      raise ValueError(f"the field {field!r} of captions must be a name without ':' and ','")
  return {_shared(field): _wordings(value, f"caption {field!r}" if len(fields) > 1 else "caption")
          for field, value in fields.items()}


def _wordings(value: Any, what: str) -> tuple[str, ...]:
  """A text, or a list of texts."""
  texts = [value] if isinstance(value, str) else value
  if not isinstance(texts, list) or not texts:
    raise ValueError(f"the {what} must be a text or a list of texts, not {value!r}")
  return tuple(_words(text, what) for text in texts)


def _questions(cells: tables.Row) -> tuple[ClipQuestion, ...]:
  if "query" in cells or "answer" in cells:
    if "questions" in cells:
      raise ValueError("the columns query and questions exclude each other")
    return (_question({name: cells[name] for name in ("query", "answer") if name in cells}),)
  asked = cells.get("questions", [])
  if not isinstance(asked, list) or not all(isinstance(question, Mapping) for question in asked):
    raise ValueError("questions must be a list of objects, such as [{\"query\": ..., \"answer\": ...}]")
  return tuple(map(_question, asked))


def _question(given: Mapping[str, Any]) -> ClipQuestion:
  given = {name: value for name, value in given.items() if value is not None}
  for name in given:
    if name not in QUESTION:
      raise ValueError(f"a question has no {name!r}; {_nearest(name, QUESTION)}")
  for name in ("query", "answer"):
    if name not in given:
      raise ValueError(f"a question has no {name}; it needs query and answer")
  answer = _words(given["answer"], "answer")
  candidates = _wordings(given["candidates"], "candidates") if "candidates" in given else ()
  if candidates and answer not in candidates:
    raise ValueError(f"the answer {answer!r} is none of its candidates")
  kind = _words(given.get("kind", KIND), "kind")
  return ClipQuestion(_shared(kind), _wordings(given["query"], "query"), answer, candidates)


@functools.lru_cache(maxsize=10_000)
def _shared(name: str) -> str:
  """The one copy of a name that recurs in every row."""
  return name


def _text(cells: tables.Row, name: str) -> str:
  if name not in cells:
    raise ValueError(f"there is no {name}")
  return _words(cells[name], name)


def _words(value: Any, what: str) -> str:
  if not isinstance(value, str):
    raise ValueError(f"the {what} must be a text, not {value!r}")
  if not value.strip():
    raise ValueError(f"the {what} is empty")
  try:
    value.encode("utf-8")  # JSON can spell half a character
  except UnicodeEncodeError as error:
    raise ValueError(f"the {what} is not UTF-8 text") from error
  return value


def _seconds(cells: tables.Row, name: str) -> float | None:
  if name not in cells:
    return None
  value = cells[name]
  try:
    seconds = math.nan if isinstance(value, bool) else float(value)
  except (TypeError, ValueError):
    seconds = math.nan
  if not math.isfinite(seconds):
    raise ValueError(f"{name} must be a number of seconds, not {value!r}")
  return seconds


def _check_ids(rows: Sequence[Row], places: Sequence[str]) -> None:
  seen = {}
  for row, place in zip(rows, places):
    if row.record.id in seen:
      raise ValueError(
          f"{place}: the id {row.record.id!r} is that of {seen[row.record.id]}, too; the column 'id' tells rows apart")
    seen[row.record.id] = place


def check_names(path: pathlib.Path, rows: Sequence[Row]) -> None:
  """Fields and kinds are names of views, and must differ."""
  fields = {field for row in rows for field in row.record.captions} | set(RESERVED)
  for row in rows:
    for question in row.record.questions:
      if question.kind in fields:
        raise ValueError(f"{path}: {question.kind!r} is no name for a kind of questions: captions are called so")


def _check_files(rows: Sequence[Row], places: Sequence[str]) -> None:
  files = {}
  for row, place in zip(rows, places):
    files.setdefault(row.media.path, place)
  missing = [name for name in files if not os.path.isfile(name)]
  if missing:
    raise ValueError(
        f"{files[missing[0]]}: there is no file {missing[0]} ({len(missing):,} of {len(files):,} files are missing)")


def _fingerprint(media: Sequence[Media], index: int) -> bytes:
  """Both ends of a file, its length and the segment: whole videos are too long to hash."""
  clip = media[index]
  with open(clip.path, "rb") as file:
    head = file.read(SAMPLE)
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - SAMPLE, 0))
    return repr((size, clip.start, clip.end)).encode() + head + file.read()
