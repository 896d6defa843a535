"""The built-in data set, and folders that TFDS reads."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.tiny_tfds import webp, write_data_set
from vljepa_jax.data import openclipart
from vljepa_jax.data.image import ImageError
from vljepa_jax.data.sources import FIELDS, Record, Source, decode_record, open_source
from vljepa_jax.data.text import normalise


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


DAMAGES = {
    "cut off": (lambda data: data[:-9], "array_record.* is not whole: 0 of its 2 records can be found; get the file"),
    "empty": (lambda data: b"", "is not whole: 0 of its 2 records"),
    "gone": (None, "array_record-00000-of-00001 is not there; get the data set anew"),
    "overwritten": (lambda data: data[:150] + bytes(50) + data[200:],
                    "record 0 of .*array_record-00000-of-00001 is damaged .*; get the file anew"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_are_not_whole(tmp_path, damage):
  path = write_data_set(tmp_path)
  change, message = DAMAGES[damage]
  (file,) = pathlib.Path(path).glob("*array_record*")
  if change:
    file.write_bytes(change(file.read_bytes()))
  else:
    file.unlink()
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    open_source(path, "train")


def test_another_format_is_refused(tmp_path):
  path = write_data_set(tmp_path)
  info = pathlib.Path(path) / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  with pytest.raises(ValueError, match="is stored as tfrecord, .*; generate it with file_format='array_record'"):
    open_source(path, "train")


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
