"""Data sets by name: the built-in openclipart and BabyAI, a manifest of one's own files, shards, or a TFDS folder."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np

from vljepa_jax.data import babyai, openclipart
from vljepa_jax.data.clips import ClipRecord, ClipSource, ReadFrames
from vljepa_jax.data.dataset import DataSet, with_queries
from vljepa_jax.data.image import ImageError, read_image
from vljepa_jax.data.manifest import is_manifest, open_manifest
from vljepa_jax.data.shards import is_converted, open_shards
from vljepa_jax.data.tfds_clips import open_tfds
from vljepa_jax.data.tfds_records import Records

OPENCLIPART = "openclipart"
FIELDS = ("id", "image", "title", "keywords", "caption", "label")


@dataclasses.dataclass(frozen=True)
class Record:
  """What is known of a picture, its pixels aside.

  Attributes:
    label: index into the class names of its source.
  """

  id: str
  title: str
  keywords: tuple[str, ...]
  caption: str
  label: int

  @property
  def wordings(self) -> tuple[str, ...]:
    """Captions that say the same as the canonical one: itself."""
    return (self.caption,)


class Rows(Sequence):
  """Some elements of a sequence, taken when asked for."""

  def __init__(self, data: Sequence[Any], rows: Sequence[int]):
    self._data, self._rows = data, rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Any:
    return self._data[self._rows[index]]


class Source:
  """One split of a data set of pictures.

  Attributes:
    name: "openclipart" or the folder.
    split: such as "train".
    classes: class names; a record's label is an index into them.
    records: the texts of every picture, in order. They are read once here; pictures when asked for.
  """

  media = "picture"

  def __init__(self, name: str, split: str, data: Sequence[Mapping[str, Any]], classes: Sequence[str]):
    self.name = name
    self.split = split
    self.classes = tuple(classes)
    self._data = data
    self.records = tuple(decode_record(data[i]) for i in range(len(data)))

  def subset(self, rows: Sequence[int], split: str) -> "Source":
    """Some of the pictures, as a split of their own."""
    return Source(self.name, split, Rows(self._data, rows), self.classes)

  def __len__(self) -> int:
    return len(self.records)

  def hash_media(self) -> str:
    """A hash of the encoded pictures, in order."""
    digest = hashlib.sha256()
    for row in range(len(self)):
      digest.update(self._encoded(row))
    return digest.hexdigest()

  def image(self, index: int) -> np.ndarray:
    """The picture of a record, (H, W, 3) uint8; ImageError names the record if it cannot be read."""
    return read_image(self._encoded(index), self._name(index))

  def frames(self, index: int, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """The picture as a clip of one frame, (1, H, W, 3) uint8, whatever the number of frames wanted."""
    del count, rng
    return self.image(index)[None]

  def _encoded(self, index: int) -> bytes:
    data = self._data[index]["image"]
    if not isinstance(data, bytes):
      raise ImageError(
          f"{self._name(index)} is not a string of encoded bytes; store it in a tfds.features.Text field")
    return data

  def _name(self, index: int) -> str:
    return f"picture {self.records[index].id!r} of {self.name}"

  def captions(self) -> list[str]:
    """The canonical caption of every record."""
    return [record.caption for record in self.records]


AnySource = Source | ClipSource


def open_source(dataset: str | DataSet, split: str) -> AnySource:
  """Opens a split.

  Args:
    dataset: "openclipart"; "babyai"; a manifest (`data/manifest.py`); shards (`data/shards.py`); or a folder that
      `tfds.builder_from_directory` reads, such as `my_data/1.0.0`, whose records have `FIELDS`: id, title, caption,
      keywords (one a line) and image (encoded bytes) as Text, label as ClassLabel, stored as ArrayRecord. A `DataSet`
      also maps fields of other names (`data/tfds_clips.py`), and words questions anew.
    split: name of a split.

  Raises:
    FileNotFoundError: there is no such folder or manifest.
    ValueError: it is no such data set; the message names the missing field, the wrong row or the split.
    ImportError: it needs a package that is not there.
  """
  given = dataset if isinstance(dataset, DataSet) else DataSet(dataset, (), ())
  source = _open(given, split)
  if not given.queries:
    return source
  if not isinstance(source, ClipSource):
    raise ValueError(f"questions about {given.path} are made of its words; leave its queries empty")
  return with_queries(source, given.queries)


def _open(given: DataSet, split: str) -> AnySource:
  dataset, path = given.path, pathlib.Path(given.path)
  is_folder = (path / "dataset_info.json").is_file()
  if given.fields and not is_folder:
    raise ValueError(f"{dataset} is no TFDS folder with a dataset_info.json, so its fields have no other names")
  if dataset == OPENCLIPART:
    _check_split(dataset, split, openclipart.SPLITS)
    return Source(dataset, split, openclipart.data_source(split), openclipart.CLASSES)
  if dataset == babyai.NAME:
    _check_split(dataset, split, babyai.SPLITS)
    return _open_babyai(split)
  if is_manifest(dataset):
    return open_manifest(dataset, split)
  if is_converted(path) and not given.fields:
    return open_shards(path, split)
  if not is_folder:
    raise FileNotFoundError(
        f"there is no data set {dataset}; give {OPENCLIPART!r}, {babyai.NAME!r}, a manifest (.jsonl, .csv, .parquet), "
        "a folder of shards that data.convert has written, or a TFDS folder with a dataset_info.json")
  return open_tfds(path, split, dict(given.fields)) if given.fields else _open_folder(dataset, path, split)


def _open_folder(dataset: str, path: pathlib.Path, split: str) -> Source:
  import tensorflow_datasets as tfds  # takes a second; only those who read data pay for it

  builder = tfds.builder_from_directory(path)
  features = builder.info.features
  missing = [field for field in FIELDS if field not in features]
  if missing:
    raise ValueError(
        f"the records of {dataset} have no field {missing[0]!r}; they need {', '.join(FIELDS)}, or a map of fields")
  if not isinstance(features["label"], tfds.features.ClassLabel):
    raise ValueError(f"the field 'label' of {dataset} must be a tfds.features.ClassLabel")
  _check_split(dataset, split, list(builder.info.splits))
  return Source(dataset, split, Records(builder, split), features["label"].names)


class BabyAISource(ClipSource):
  """One split of the babyai data set.

  Attributes:
    clips: of all records.
    atlas: (K, P, P, 3) uint8 tiles.
  """

  def __init__(self, split: str, clips: Sequence[babyai.Clip], atlas: np.ndarray, read: ReadFrames):
    records = [ClipRecord(clip.id, clip.captions, clip.questions, clip.label) for clip in clips]
    encoded = lambda i: clips[i].codes.tobytes() + atlas.tobytes()
    super().__init__(babyai.NAME, split, babyai.ACTIONS, records, read, encoded)
    self.clips, self.atlas = clips, atlas


def _open_babyai(split: str) -> BabyAISource:
  data, atlas = babyai.data_source(split), babyai.load_atlas()
  clips = [babyai.decode(data[i]) for i in range(len(data))]

  def read(index: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    windows = rng is not None and rng.random() < babyai.WINDOWS
    frames = (babyai.window_frames if windows else babyai.sample_frames)(clips[index], count, rng)
    return babyai.render(atlas, clips[index].codes[frames])

  return BabyAISource(split, clips, atlas, read)


def decode_record(raw: Mapping[str, Any]) -> Record:
  """The texts of one stored record."""
  return Record(
      id=_text(raw["id"]),
      title=_text(raw["title"]),
      keywords=tuple(line for line in _text(raw["keywords"]).split("\n") if line),
      caption=_text(raw["caption"]),
      label=int(raw["label"]),
  )


def _text(value: str | bytes) -> str:
  return value.decode("utf-8") if isinstance(value, bytes) else value


def _check_split(dataset: str, split: str, splits: Sequence[str]) -> None:
  if split not in splits:
    raise ValueError(f"{dataset} has no split {split!r}; it has {', '.join(splits)}")
