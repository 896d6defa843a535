"""TFDS folders with names of their own; written and read without TensorFlow."""

import io
import pickle

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from tests.tiny_video import write_video
from vljepa_jax.data.dataset import DataSet
from vljepa_jax.data.sources import open_source
from vljepa_jax.errors import MediaError

FEATURES = {
    "jpg": lambda: tfds.features.Image(shape=(None, None, 3)), "bytes": tfds.features.Text,
    "frames": lambda: tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3))), "mp4": tfds.features.Text,
    "text": tfds.features.Text, "texts": lambda: tfds.features.Sequence(tfds.features.Text()),
    "class": lambda: tfds.features.ClassLabel(names=["cat", "dog"]), "q": tfds.features.Text, "a": tfds.features.Text,
    "number": lambda: tfds.features.Scalar(np.int64)}


def png(shade):
  buffer = io.BytesIO()
  Image.new("RGB", (8, 6), (shade,) * 3).save(buffer, "PNG")
  return buffer.getvalue()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  video = write_video(folder / "v.mp4", [20 * (i + 1) for i in range(10)])

  class Own(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    __module__ = "__main__"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      features = tfds.features.FeaturesDict({name: make() for name, make in FEATURES.items()})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for i in range(3):
        yield i, {
            "jpg": io.BytesIO(png(50 * i)), "bytes": png(50 * i), "mp4": open(video, "rb").read(),
            "frames": [io.BytesIO(png(10 * frame)) for frame in range(8)], "text": f"text {i}", "class": i % 2,
            "texts": [f"a {i}", f"b {i}"], "q": "what?", "a": f"answer {i}", "number": 40 + i}

  builder = Own(data_dir=str(folder), file_format="array_record")
  builder.download_and_prepare()
  return str(builder.data_path)


def opened(path, **fields):
  pairs = tuple((ours.replace("__", "."), theirs) for ours, theirs in fields.items())
  return open_source(DataSet(path, pairs, ()), "train")


@pytest.mark.parametrize("feature", ["jpg", "bytes"])
def test_pictures(path, feature):
  source = opened(path, picture=feature, caption="texts", label="class", id="number", query="q", answer="a")
  assert source.media == "picture" and source.classes == ("cat", "dog") and len(source) == 3
  by_id = {record.id: i for i, record in enumerate(source.records)}
  record = source.records[by_id["41"]]
  assert record.captions == {"caption": ("a 1", "b 1")} and record.label == 1
  assert record.questions[0].queries == ("what?",) and record.questions[0].answer == "answer 1"
  assert record.questions[0].candidates == ("answer 0", "answer 1", "answer 2")
  np.testing.assert_array_equal(source.frames(by_id["41"], 4), np.full((1, 6, 8, 3), 50))


def test_frames_of_a_sequence(path):
  source = opened(path, video="frames", caption__brief="text", caption__detailed="texts")
  assert source.media == "clip" and source.fields == ("brief", "detailed") and source.classes == ()
  assert {record.id for record in source.records} == {"train-0", "train-1", "train-2"}
  assert list(source.frames(0, 4)[:, 0, 0, 0]) == [10, 30, 50, 70]
  assert list(source.frames(0, 16)[:, 0, 0, 0]) == [10 * (i // 2) for i in range(16)]
  drawn = {tuple(source.frames(0, 2, np.random.default_rng(i))[:, 0, 0, 0]) for i in range(20)}
  assert len(drawn) > 5
  np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).frames(1, 4), source.frames(1, 4))


def test_encoded_videos(path):
  source = opened(path, video="mp4", caption="text")
  assert [round(frame.mean() / 20) for frame in source.frames(0, 5)] == [2, 4, 6, 8, 10]
  assert source.hash_media() == opened(path, video="mp4", caption="text").hash_media()


@pytest.mark.parametrize("fields, message", [
    (dict(picture="png", caption="text"), "has no feature 'png' for 'picture'; it has"),
    (dict(image="jpg", caption="text"), "maps the unknown name 'image'; known are picture, video"),
    (dict(caption="text"), "must map either 'picture' or 'video'"),
    (dict(picture="jpg", video="mp4", caption="text"), "must map either 'picture' or 'video'"),
    (dict(picture="jpg"), "must map either 'caption' or caption.FIELD"),
    (dict(picture="jpg", caption="text", query="q"), "must map both 'query' and 'answer'"),
    (dict(picture="jpg", caption="text", label="number"), "our 'label', must be a tfds.features.ClassLabel"),
])
def test_maps_that_do_not_fit(path, fields, message):
  with pytest.raises(ValueError, match=message):
    opened(path, **fields)


def test_what_is_no_picture_names_its_record(path):
  with pytest.raises(MediaError, match="picture '40' of .*1.0.0 is not a picture"):
    source = opened(path, picture="text", caption="text", id="number")
    source.frames([record.id for record in source.records].index("40"), 1)
  with pytest.raises(ValueError, match="has no split 'test'; it has train"):
    open_source(DataSet(path, (("picture", "jpg"), ("caption", "text")), ()), "test")
