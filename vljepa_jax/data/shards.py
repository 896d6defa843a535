"""Converted data sets: shards of encoded frames as ArrayRecord, their texts beside them. See docs/data.md.

A folder that `python -m vljepa_jax.data.convert` has written:
  conversion.json                               what was converted, and how
  clips-SPLIT.array_record-NUMBER-of-COUNT      a `tf.train.Example` for each clip; `Stored` has its features
  index/SPLIT-NUMBER.jsonl                      a header, then the texts of each clip of that shard
  quarantine.jsonl                              what was left out, and why
  dataset_info.json, features.json, ...         for TFDS; written last
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from vljepa_jax.data.clips import ClipQuestion, ClipRecord, ClipSource, with_candidates
from vljepa_jax.data.image import read_image
from vljepa_jax.data.moments import on_show, sample_moments
from vljepa_jax.data.video_clip import read_clip
from vljepa_jax.errors import MediaError, one_line

CONVERSION = "conversion.json"
INFO = "dataset_info.json"
QUARANTINE = "quarantine.jsonl"
FORMAT = 1  # of the folder
NAME, VERSION = "clips", "1.0.0"  # of the data set, for TFDS
MICRO = 1_000_000  # times are stored in microseconds


def is_converted(folder: pathlib.Path) -> bool:
  """Whether a folder is one of a conversion, finished or not."""
  return (folder / CONVERSION).is_file()


def data_path(folder: pathlib.Path, split: str, number: int, count: int) -> pathlib.Path:
  """Where the clips of a shard lie, as TFDS calls it."""
  return folder / f"{NAME}-{split}.array_record-{number:05d}-of-{count:05d}"


def index_path(folder: pathlib.Path, split: str, number: int) -> pathlib.Path:
  """Where the texts of a shard lie."""
  return folder / "index" / f"{split}-{number:05d}.jsonl"


def open_shards(folder: pathlib.Path, split: str) -> ClipSource:
  """One split of a converted data set. Texts are read here, frames when asked for.

  Raises:
    ValueError: the conversion is not finished, the folder is damaged or of another version, or has no such split.
  """
  if not (folder / INFO).is_file():
    raise ValueError(f"the conversion into {folder} is not finished; run the same command again")
  conversion = json.loads((folder / CONVERSION).read_text(encoding="utf-8"))
  if conversion["format"] != FORMAT:
    raise ValueError(f"{folder} has format {conversion['format']}, and this version reads {FORMAT}; convert it again")
  shards = conversion["shards"]
  if split not in shards:
    raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(shards)}")
  rows = [row for number in range(shards[split]) for row in read_index(index_path(folder, split, number))[1]]
  records = with_candidates([_record(row) for row in rows])
  paths = [str(data_path(folder, split, number, shards[split])) for number in range(shards[split])]
  read = _Reader(paths, [f"clip {record.id!r} of {folder}" for record in records])
  hashes = [row["sha256"].encode() for row in rows]
  return ClipSource(
      str(folder), split, conversion["classes"], records, read, hashes.__getitem__, conversion["media"])


def read_index(path: pathlib.Path) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
  """Header and rows of a shard's index; ValueError if it is damaged."""
  try:
    header, *rows = read_lines(path)
  except (OSError, ValueError) as error:
    raise ValueError(f"{path} cannot be read; delete it and run the conversion again") from error
  if header["records"] != len(rows):
    raise ValueError(f"{path} has {len(rows)} rows of {header['records']}; delete it and run the conversion again")
  return header, rows


def read_lines(path: pathlib.Path) -> list[Any]:
  """Rows of a file of JSON lines; OSError or ValueError if it cannot be read."""
  with path.open(encoding="utf-8") as file:  # str.splitlines would end lines within texts, too
    return list(map(json.loads, file))


def _record(row: Mapping[str, Any]) -> ClipRecord:
  captions = {field: tuple(wordings) for field, wordings in row["captions"].items()}
  questions = tuple(
      ClipQuestion(asked["kind"], tuple(asked["queries"]), asked["answer"], tuple(asked["candidates"]))
      for asked in row["questions"])
  return ClipRecord(row["id"], captions, questions, row["label"])


@dataclasses.dataclass(frozen=True)
class Stored:
  """The pictures of a stored clip.

  Attributes:
    frames: JPEG files.
    video: in their place, a file with a key frame every few frames; empty if there is none.
    times: microseconds after the clip's start at which each frame begins, ascending.
    duration: of the clip, in microseconds; 0 of a picture.
  """

  frames: Sequence[bytes]
  video: bytes
  times: Sequence[int]
  duration: int

  def to_features(self) -> dict[str, Any]:
    """The features of an Example that hold it."""
    return dict(frames=list(self.frames), video=[self.video], times=list(self.times), duration=[self.duration])

  @classmethod
  def parse(cls, record: bytes) -> "Stored":
    """Of an encoded Example."""
    from tensorflow_datasets.proto import tf_example_pb2  # takes a second; only those who read data pay for it

    features = tf_example_pb2.Example.FromString(record).features.feature
    return cls(features["frames"].bytes_list.value, features["video"].bytes_list.value[0],
               features["times"].int64_list.value, features["duration"].int64_list.value[0])


class _Reader:
  """Frames by index: of a clip no more is decoded than what is asked for."""

  def __init__(self, paths: Sequence[str], names: Sequence[str]):
    from array_record.python import array_record_data_source

    self._data, self._names = array_record_data_source.ArrayRecordDataSource(paths), names
    if len(self._data) != len(names):
      raise ValueError(f"the shards of {paths[0]} hold {len(self._data):,} clips, and their index {len(names):,}")

  def __call__(self, index: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    name = self._names[index]
    try:
      stored = Stored.parse(self._data[index])
    except RuntimeError as error:  # the library knows no other; checksums are part of the format
      raise MediaError(
          f"{name} is damaged in its shard ({one_line(error).partition(';')[0]}); delete the shard and convert again"
      ) from error
    seconds = stored.duration / MICRO
    if stored.video:
      return read_clip(stored.video, count, 0.0, seconds, rng, name)
    if not stored.frames:
      raise MediaError(f"{name} holds no frame")
    if not stored.duration:
      return read_image(stored.frames[0], name)[None]
    numbers = on_show(np.asarray(stored.times) / MICRO, sample_moments(0.0, seconds, count, rng))
    frames = {number: read_image(stored.frames[number], name) for number in dict.fromkeys(numbers.tolist())}
    return np.stack([frames[number] for number in numbers.tolist()])
