"""TFDS folders whose features have names of their own, read by a map from ours to theirs.

Ours are `picture` or `video`, `caption` or `caption.FIELD` for several fields, and if wanted `label`, `id`, `query`
with `answer`. A picture is a `tfds.features.Image`, or encoded bytes in a `Text`; a video is a `tfds.features.Video`
(which needs TensorFlow), a `Sequence` of images, or an encoded file in a `Text`. Texts are a `Text` or a `Sequence` of
wordings, a label is a `ClassLabel`. The set must be stored as ArrayRecord.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from vljepa_jax.data.clips import ClipQuestion, ClipRecord, ClipSource, with_candidates
from vljepa_jax.data.image import read_image
from vljepa_jax.data.manifest import KIND
from vljepa_jax.data.moments import sample_moments
from vljepa_jax.data.tfds_records import Records
from vljepa_jax.data.video_clip import read_clip
from vljepa_jax.errors import MediaError

PICTURE, VIDEO, CAPTION, LABEL, ID, QUERY, ANSWER = "picture", "video", "caption", "label", "id", "query", "answer"
OURS = (PICTURE, VIDEO, CAPTION, LABEL, ID, QUERY, ANSWER)


def open_tfds(path: pathlib.Path, split: str, fields: Mapping[str, str]) -> ClipSource:
  """One split of a TFDS folder. Texts are read here, pictures and videos when asked for.

  Args:
    path: such as `food101/2.0.0`, with a dataset_info.json.
    split: one of the folder's.
    fields: our names -> the folder's.

  Raises:
    ValueError: the map does not fit the folder, there is no such split, or a record has no caption.
    ImportError: a Video feature needs TensorFlow.
  """
  import tensorflow_datasets as tfds  # takes a second; only those who read data pay for it

  try:
    builder = tfds.builder_from_directory(path)
  except ImportError as error:
    raise ImportError(
        f"{path} has a feature that TFDS reads with TensorFlow only, such as Video: pip install tensorflow, or store "
        "a Sequence of Image features, or encoded videos in a Text feature") from error
  features = builder.info.features
  _check_fields(path, fields, features)
  if split not in builder.info.splits:
    raise ValueError(f"{path} has no split {split!r}; it has {', '.join(builder.info.splits)}")
  data = Records(builder, split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
  if LABEL in fields and not isinstance(features[fields[LABEL]], tfds.features.ClassLabel):
    raise ValueError(f"the feature {fields[LABEL]!r} of {path}, our 'label', must be a tfds.features.ClassLabel")
  kind = VIDEO if VIDEO in fields else PICTURE
  texts = _Records(data, features, {ours: theirs for ours, theirs in fields.items() if ours != kind})
  records = with_candidates([_record(path, split, i, texts[i]) for i in range(len(data))])
  classes = features[fields[LABEL]].names if LABEL in fields else ()
  read = _Reader(_Records(data, features, {kind: fields[kind]}), kind, records, str(path))
  return ClipSource(str(path), split, classes, records, read, data.__getitem__, "clip" if kind == VIDEO else "picture")


def _check_fields(path: pathlib.Path, fields: Mapping[str, str], features: Mapping[str, Any]) -> None:
  for ours, theirs in fields.items():
    if ours not in OURS and not ours.startswith(f"{CAPTION}."):
      raise ValueError(f"fields of {path} maps the unknown name {ours!r}; known are {', '.join(OURS)}, {CAPTION}.FIELD")
    if theirs not in features:
      raise ValueError(f"{path} has no feature {theirs!r} for {ours!r}; it has {', '.join(features)}")
  if (PICTURE in fields) == (VIDEO in fields):
    raise ValueError(f"fields of {path} must map either {PICTURE!r} or {VIDEO!r}")
  if (CAPTION in fields) == any(ours.startswith(f"{CAPTION}.") for ours in fields):
    raise ValueError(f"fields of {path} must map either {CAPTION!r} or {CAPTION}.FIELD, such as caption.brief")
  if (QUERY in fields) != (ANSWER in fields):
    raise ValueError(f"fields of {path} must map both {QUERY!r} and {ANSWER!r}, or neither")


class _Records:
  """Some features of every record by our names, as stored: texts and pictures as bytes, sequences as arrays."""

  def __init__(self, data: Sequence[bytes], features: Any, fields: Mapping[str, str]):
    from tensorflow_datasets.core import example_parser

    stored = features.get_serialized_info()
    self._data, self._fields = data, dict(fields)
    self._parser = example_parser.ExampleParserNp({theirs: stored[theirs] for theirs in fields.values()})

  def __getitem__(self, index: int) -> dict[str, Any]:
    parsed = self._parser.parse_example(self._data[index])
    return {ours: parsed[theirs] for ours, theirs in self._fields.items()}


def _record(path: pathlib.Path, split: str, index: int, raw: Mapping[str, Any]) -> ClipRecord:
  captions = {ours.removeprefix(f"{CAPTION}."): _texts(value) for ours, value in raw.items()
              if ours.partition(".")[0] == CAPTION}
  name = _texts(raw[ID])[0] if ID in raw else f"{split}-{index}"
  if not all(captions.values()):
    raise ValueError(f"record {name!r} of {path} has an empty caption")
  asked = (ClipQuestion(KIND, _texts(raw[QUERY]), _texts(raw[ANSWER])[0], ()),) if QUERY in raw else ()
  return ClipRecord(name, captions, asked, int(raw.get(LABEL, -1)))


def _texts(value: Any) -> tuple[str, ...]:
  """Wordings of a Text, a Sequence of them, or a number; blank ones are left out."""
  texts = [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in np.atleast_1d(value).tolist()]
  return tuple(text for text in texts if text.strip())


class _Reader:
  """Frames by index."""

  def __init__(self, data: _Records, kind: str, records: Sequence[ClipRecord], name: str):
    self._data, self._kind = data, kind
    self._names = [f"{kind} {record.id!r} of {name}" for record in records]

  def __call__(self, index: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    stored, name = self._data[index][self._kind], self._names[index]
    if self._kind == PICTURE:
      return read_image(_encoded(stored, name), name)[None]
    if isinstance(stored, bytes):
      return read_clip(stored, count, rng=rng, name=name)
    if not len(stored):
      raise MediaError(f"{name} holds no frame")
    numbers = sample_moments(0, len(stored), count, rng).astype(int)
    frames = {number: read_image(_encoded(stored[number], name), name) for number in sorted(set(numbers.tolist()))}
    return np.stack([frames[number] for number in numbers])


def _encoded(value: Any, name: str) -> bytes:
  if not isinstance(value, bytes):
    raise MediaError(f"{name} is not encoded bytes but {type(value).__name__}")
  return value
