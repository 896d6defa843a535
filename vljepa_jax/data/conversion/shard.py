"""One shard: its clips are encoded and written, those that cannot be read are told."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
from typing import Any
import uuid

from vljepa_jax.data.conversion.frames import Encoding, encode
from vljepa_jax.data.conversion.items import Item, quarantine
from vljepa_jax.data.shards import Stored, data_path, index_path, read_index, read_lines
from vljepa_jax.errors import MediaError, UserError, one_line

TEMPORARY = ".tmp-"  # in names of files that are being written
PLAN = ".plan"  # folder of what shards are to be made of
# Faults of machines and networks, not of files: what cannot be read now may be read later.
PASSING = frozenset((errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.ENOTCONN,
                     errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH))
OPTIONS = "group_size:1"  # records are read one by one


@dataclasses.dataclass(frozen=True)
class Shard:
  """Which part of a conversion."""

  folder: str
  split: str
  number: int
  count: int

  @property
  def data(self) -> pathlib.Path:
    """Of its clips."""
    return data_path(pathlib.Path(self.folder), self.split, self.number, self.count)

  @property
  def index(self) -> pathlib.Path:
    """Of its texts."""
    return index_path(pathlib.Path(self.folder), self.split, self.number)

  @property
  def plan(self) -> pathlib.Path:
    """Of its items, while the conversion runs."""
    return pathlib.Path(self.folder) / PLAN / self.index.name

  def header(self) -> Mapping[str, Any] | None:
    """The header of the index, if the shard is finished: the index is written after the clips."""
    try:
      header, _ = read_index(self.index)
      return header if self.data.stat().st_size == header["bytes"] else None
    except (OSError, ValueError):
      return None


def write_items(shard: Shard, items: Sequence[Item]) -> None:
  """Writes down what a shard is made of, for the process that makes it."""
  write_lines(shard.plan, map(dataclasses.asdict, items))


def convert_shard(shard: Shard, encoding: Encoding) -> None:
  """Makes a shard of the items that were written down, unless it is finished.

  Raises:
    UserError: it cannot be written.
  """
  if shard.header():
    return
  items = [Item(**row) for row in read_lines(shard.plan)]
  rows, bad = [], []
  temporary = _temporary(shard.data)
  try:
    with _Writer(temporary) as writer:
      for item, stored in _encoded(items, encoding, bad):
        record = to_example(item.texts, stored)
        writer.write(record)
        rows.append({**item.texts, "sha256": hashlib.sha256(record).hexdigest()})
    header = dict(records=len(rows), bytes=temporary.stat().st_size, quarantined=bad)
    os.replace(temporary, shard.data)
  except OSError as error:
    raise UserError(f"{shard.data} cannot be written: {error}") from error
  finally:
    temporary.unlink(missing_ok=True)
  write_lines(shard.index, [header, *rows])


def _encoded(items: Sequence[Item], encoding: Encoding, bad: list) -> Iterator[tuple[Item, Stored]]:
  """The items that can be read; the others become entries of `bad`."""
  for item in items:
    try:
      stored = encode(item, encoding)
    except (ImportError, MemoryError):
      raise
    except Exception as error:  # MediaError, and whatever decoders raise beside: one file must not end it all
      if any(getattr(fault, "errno", None) in PASSING for fault in (error, error.__cause__)):
        raise UserError(f"{item.name} cannot be read now: {one_line(error)}; run the same command again") from error
      kind = "" if isinstance(error, (MediaError, OSError)) else f"{type(error).__name__}: "
      bad.append(quarantine(item.name, item.record, kind + one_line(error)))
    else:
      yield item, stored


def to_example(texts: Mapping[str, Any], stored: Stored) -> bytes:
  """A `tf.train.Example` of a clip, as `finish.features` describes it to TFDS; the same bytes every time."""
  from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

  captions = [(field, text) for field, wordings in texts["captions"].items() for text in wordings]
  values = dict(
      id=[texts["id"]], label=[texts["label"]], **stored.to_features(),
      **{"captions/field": [field for field, _ in captions], "captions/text": [text for _, text in captions]},
      questions=[json.dumps(question, ensure_ascii=False) for question in texts["questions"]])
  features = {}
  for name, column in values.items():
    if name in ("label", "times", "duration"):
      features[name] = tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=column))
    else:
      encoded = [value.encode() if isinstance(value, str) else value for value in column]
      features[name] = tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=encoded))
  example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
  return example.SerializeToString(deterministic=True)


def write_lines(path: pathlib.Path, rows: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> None:
  """Writes JSON lines under a temporary name and renames the file; UserError if that cannot be done."""
  temporary = _temporary(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="utf-8") as file:
      file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(temporary, path)
  except OSError as error:
    raise UserError(f"{path} cannot be written: {error}") from error
  finally:
    temporary.unlink(missing_ok=True)


def _temporary(path: pathlib.Path) -> pathlib.Path:
  """A name of its own beside a file: a runner may make a shard twice at a time."""
  return path.with_name(path.name + TEMPORARY + uuid.uuid4().hex[:8])


class _Writer:
  """An ArrayRecord file; its library's errors become OSErrors."""

  def __init__(self, path: pathlib.Path):
    from array_record.python import array_record_module

    self._make, self._path = array_record_module.ArrayRecordWriter, path

  def __enter__(self) -> "_Writer":
    self._writer = self._call(self._make, str(self._path), OPTIONS)
    return self

  def write(self, record: bytes) -> None:
    """Appends a record."""
    self._call(self._writer.write, record)

  def __exit__(self, *_) -> None:
    self._call(self._writer.close)

  def _call(self, function, *arguments):
    try:
      return function(*arguments)
    except RuntimeError as error:
      raise OSError(str(error)) from error
