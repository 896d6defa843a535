"""What there is to convert: rows of a manifest and members of tar files, and what is wrong with some of them."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import pathlib
import re
from typing import Any

from vljepa_jax.data import tables
from vljepa_jax.data.conversion import tar
from vljepa_jax.data.image import ENDINGS as PICTURES
from vljepa_jax.data.manifest import Row, check_names, is_manifest, make_row
from vljepa_jax.errors import UserError, one_line


@dataclasses.dataclass(frozen=True)
class Item:
  """One clip to convert.

  Attributes:
    record: its row, for messages.
    path: of the file that it lies in.
    member: its name in a tar file; None of a file of its own.
    offset: of its first byte in the tar file.
    size: in bytes.
    start: of the segment, in seconds.
    end: of the segment; None is that of the video.
    texts: id, captions, questions and label as an index has them; the label is still a name.
  """

  record: str
  path: str
  member: str | None
  offset: int
  size: int
  start: float
  end: float | None
  texts: Mapping[str, Any]

  @property
  def name(self) -> str:
    """What messages call it."""
    return self.path if self.member is None else f"{self.path}/{self.member}"

  @property
  def is_picture(self) -> bool:
    """Whether it is read by Pillow."""
    return self.name.lower().endswith(PICTURES)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """All that a command names.

  Attributes:
    splits: name -> its items, in order.
    classes: sorted names of labels.
    quarantined: entries of the quarantine file for rows that are wrong in themselves.
  """

  splits: Mapping[str, Sequence[Item]]
  classes: Sequence[str]
  quarantined: Sequence[Mapping[str, Any]]

  @property
  def rows(self) -> int:
    """Rows and groups of members, good and bad."""
    return sum(map(len, self.splits.values())) + len(self.quarantined)


def quarantine(path: str | None, record: str | None, reason: Exception | str) -> dict[str, Any]:
  """An entry of the quarantine file."""
  told = {"path": path, "record": record, "reason": reason if isinstance(reason, str) else one_line(reason)}
  return {name: text and text.encode("utf-8", "backslashreplace").decode() for name, text in told.items()}


def read_inputs(manifest: str | None, webdataset: str | None, split: str) -> Inputs:
  """The rows of a manifest or of tar files; UserError if there are none that can be used.

  Args:
    manifest: a .jsonl, .csv or .parquet file.
    webdataset: tar files: a pattern with `*`, or with `{000..009}`.
    split: of members that tell none.
  """
  found = _manifest_rows(manifest) if manifest else tar.read_rows(webdataset, split)
  rows, items, bad, seen = [], {}, [], {}
  for record, path, row, place in found:
    if isinstance(row, Row):
      row = _fault(row, record, seen) or row
    if isinstance(row, Exception):
      bad.append(quarantine(path, record, row))
      continue
    rows.append(row)
    items.setdefault(row.split, []).append(_item(row, record, place))
  if not rows:
    raise UserError(f"{manifest or webdataset} has no row that can be used" + (f": {bad[0]['reason']}" if bad else ""))
  check_names(pathlib.Path(manifest or webdataset), rows)
  for name in items:
    if not re.fullmatch(r"\w+", name) or name == "all":
      raise UserError(f"the split {name!r} must be a word of letters, digits and _, and not 'all', for TFDS to read it")
  classes = sorted({row.label for row in rows if row.label is not None})
  return Inputs(items, classes, bad)


def _manifest_rows(manifest: str) -> Iterator[tuple[str, str | None, Row | Exception, None]]:
  path = pathlib.Path(manifest)
  if not is_manifest(manifest) or not path.is_file():
    raise UserError(f"there is no manifest {manifest}; give a {', '.join(tables.ENDINGS)} file")
  for record, cells in tables.try_rows(path):
    if isinstance(cells, ValueError):
      yield record, None, cells, None
      continue
    named = str(cells["path"]) if "path" in cells else None
    try:
      row = make_row(path.parent, cells)
    except ValueError as error:
      yield record, named, error, None
    else:
      yield record, row.media.path, row, None


def _fault(row: Row, record: str, seen: dict[str, str]) -> ValueError | None:
  """What is wrong with a row that is right in itself."""
  try:
    json.dumps([row.media.path, dataclasses.asdict(row.record)], ensure_ascii=False).encode("utf-8")
  except UnicodeEncodeError:
    return ValueError("a name in it is not UTF-8 text")
  first = seen.setdefault(row.record.id, record)
  if first == record:
    return None
  return ValueError(f"the id {row.record.id!r} is that of {first}, too; the column 'id' tells rows apart")


def _item(row: Row, record: str, place: tar.Place | None) -> Item:
  member, offset, size = place or (None, 0, 0)
  questions = [dataclasses.asdict(question) for question in row.record.questions]
  texts = dict(id=row.record.id, captions=row.record.captions, questions=questions, label=row.label)
  return Item(record, row.media.path, member, offset, size, row.media.start, row.media.end,
              json.loads(json.dumps(texts)))
