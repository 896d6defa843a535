"""The built-in data set, and folders that TFDS reads."""

import io

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from vljepa_jax.data import openclipart
from vljepa_jax.data.image import ImageError
from vljepa_jax.data.sources import FIELDS, Record, Source, decode_record, open_source
from vljepa_jax.data.text import normalise


def webp(shade: int) -> bytes:
  buffer = io.BytesIO()
  Image.new("RGB", (8, 8), (shade, shade, shade)).save(buffer, "WEBP", lossless=True)
  return buffer.getvalue()


def write_data_set(folder, without: str | None = None, label=None) -> str:
  """A two-record TFDS folder as a user would write it."""
  features = {field: tfds.features.Text() for field in FIELDS if field not in ("label", without)}
  features["label"] = label or tfds.features.ClassLabel(names=["cat", "dog"])

  class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    # As in a script: for classes of importable modules TFDS 4.9 needs a package that it does not declare.
    __module__ = "__main__"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      del dl_manager
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for i in range(2):
        record = {"id": f"p{i}", "title": f"pet {i}", "caption": f"pet {i}, fur", "keywords": "fur\ntail", "label": i,
                  "image": webp(i)}
        yield i, {key: value for key, value in record.items() if key in features}

  builder = Pets(data_dir=str(folder), file_format="array_record")
  builder.download_and_prepare()
  return str(builder.data_path)


def test_decode_record():
  raw = {"id": b"a", "title": "caf\u00e9".encode(), "keywords": b"x\ny z", "caption": "c", "label": np.int64(3)}
  assert decode_record(raw) == Record("a", "caf\u00e9", ("x", "y z"), "c", 3)
  assert decode_record(raw | {"keywords": b""}).keywords == ()


@pytest.fixture(scope="module")
def splits():
  return {split: open_source("openclipart", split) for split in openclipart.SPLITS}


def test_openclipart_is_whole(splits):
  train, test = splits["train"], splits["test"]
  assert len(train) > 1000 and 0.15 < len(test) / (len(train) + len(test)) < 0.3
  assert train.classes == openclipart.CLASSES
  for source in splits.values():
    assert all(record.caption and 0 <= record.label < len(source.classes) for record in source.records)
  assert train.image(0).shape == (openclipart.IMAGE_SIZE, openclipart.IMAGE_SIZE, 3)


def test_no_caption_is_in_both_splits(splits):
  train, test = (set(map(normalise, splits[split].captions())) for split in openclipart.SPLITS)
  assert not train & test


def test_tfds_folder(tmp_path):
  source = open_source(write_data_set(tmp_path), "train")
  assert source.classes == ("cat", "dog") and len(source) == 2
  by_id = {record.id: i for i, record in enumerate(source.records)}
  assert source.records[by_id["p1"]] == Record("p1", "pet 1", ("fur", "tail"), "pet 1, fur", 1)
  np.testing.assert_array_equal(source.image(by_id["p1"]), np.full((8, 8, 3), 1))


def test_missing_field_is_named(tmp_path):
  path = write_data_set(tmp_path, without="caption")
  with pytest.raises(ValueError, match="1.0.0 have no field 'caption'; they need id, image, title"):
    open_source(path, "train")


def test_label_must_be_a_class(tmp_path):
  path = write_data_set(tmp_path, label=tfds.features.Scalar(np.int64))
  with pytest.raises(ValueError, match="'label' of .* must be a tfds.features.ClassLabel"):
    open_source(path, "train")


def test_unknown_data_set_and_split(tmp_path):
  with pytest.raises(FileNotFoundError, match="there is no data set openclip; give 'openclipart'"):
    open_source("openclip", "train")
  with pytest.raises(FileNotFoundError, match="there is no data set"):
    open_source(str(tmp_path), "train")
  with pytest.raises(ValueError, match="openclipart has no split 'dev'; it has train, test"):
    open_source("openclipart", "dev")
  with pytest.raises(ValueError, match="has no split 'test'; it has train"):
    open_source(write_data_set(tmp_path), "test")


def test_a_bad_picture_names_its_record():
  raw = {"id": "p7", "title": "", "keywords": "", "caption": "c", "label": 0}
  source = Source("mine", "train", [raw | {"image": b""}, raw | {"image": np.zeros((2, 2, 3), np.uint8)}], ["cat"])
  with pytest.raises(ImageError, match="picture 'p7' of mine is empty"):
    source.image(0)
  with pytest.raises(ImageError, match="picture 'p7' of mine is not a string of encoded bytes"):
    source.image(1)
