"""Converted clips are read as the media that they come from."""

import json
import pickle

import numpy as np
from PIL import Image
import pytest

from tests.tiny_video import encode_video
from vljepa_jax.data import shards
from vljepa_jax.data.conversion.frames import Encoding
from vljepa_jax.data.conversion.items import read_inputs
from vljepa_jax.data.conversion.shard import Shard, convert_shard, write_items, write_lines
from vljepa_jax.data.shards import open_shards
from vljepa_jax.data.sources import open_source
from vljepa_jax.data.views import ClipTexts
from vljepa_jax.errors import MediaError

SIZE = (64, 48)


def moving(number):
  """Twenty frames that differ in all of their pixels, smoothly, as films do."""
  across = np.linspace(0, 120, SIZE[0])[None, :, None] + np.linspace(0, 60, SIZE[1])[:, None, None]
  return [np.uint8(np.broadcast_to(across + 3 * frame + 5 * number, (SIZE[1], SIZE[0], 3))) for frame in range(20)]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
  folder = tmp_path_factory.mktemp("media")
  rows = []
  for i in range(5):
    encode_video(folder / f"{i}.mp4", moving(i), codec="libx264", crf=4)
    captions = {"brief": f"clip {i}", "detailed": [f"the clip {i}", f"{i}, a\u2028clip\x85"]}
    rows.append({"path": f"{i}.mp4", "captions": captions, "query": ["which?", "what?"], "answer": f"number {i % 2}",
                 "label": "odd" if i % 2 else "even"})
  rows[4] |= {"start": 0.5, "end": 1.5}
  Image.fromarray(moving(7)[0]).save(folder / "p.png")
  rows.append({"path": "p.png", "caption": "a picture", "split": "test", "label": "none"})
  (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return str(folder / "m.jsonl")


def convert(manifest, folder, codec):
  """What the command does, without Beam and TFDS."""
  inputs, counts = read_inputs(manifest, None, "train"), {"train": 2, "test": 1}
  for split, count in counts.items():
    for number in range(count):
      shard = Shard(str(folder), split, number, count)
      items = inputs.splits[split][number::count]
      for item in items:
        item.texts["label"] = inputs.classes.index(item.texts["label"])
      write_items(shard, items)
      convert_shard(shard, Encoding(256, 10.0, 0, 0.0, codec, 95))
  write_lines(folder / shards.CONVERSION, [dict(
      format=shards.FORMAT, shards=counts, media="clip", classes=list(inputs.classes))])
  (folder / shards.INFO).write_text("{}")
  return folder


@pytest.fixture(scope="module", params=["jpeg", "h264"])
def converted(request, manifest, tmp_path_factory):
  return convert(manifest, tmp_path_factory.mktemp(request.param), request.param)


def places(source):
  return {record.id: i for i, record in enumerate(source.records)}


def test_texts_are_those_of_the_manifest(manifest, converted):
  for split in ("train", "test"):
    ours, theirs = open_source(str(converted), split), open_source(manifest, split)
    by_id = {record.id: record for record in ours.records}
    assert by_id == {record.id: record for record in theirs.records} and len(ours) == len(theirs)
    assert (ours.classes, ours.media, ours.split) == (theirs.classes, theirs.media, split)
    assert set(ours.fields) == set(theirs.fields) and ours.kinds == theirs.kinds
  texts = ClipTexts(open_source(str(converted), "train"))
  drawn = [texts.draw(0, "brief:0.8,detailed:0.2", np.random.default_rng(i))[1] for i in range(200)]
  assert 0.7 < np.mean([text == "clip 0" for text in drawn]) < 0.9


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_frames_are_those_of_the_manifest(manifest, converted, seed):
  ours, theirs = open_source(str(converted), "train"), open_source(manifest, "train")
  rng = lambda: None if seed is None else np.random.default_rng(seed)
  for record in theirs.records:
    mine, other = places(ours)[record.id], places(theirs)[record.id]
    for count in (1, 4, 30):
      frames, expected = ours.frames(mine, count, rng()), theirs.frames(other, count, rng())
      assert frames.shape == expected.shape and frames.dtype == np.uint8
      # Frames are 3 levels apart.
      assert np.abs(frames.mean((1, 2, 3)) - expected.mean((1, 2, 3))).max() < 1
      assert np.abs(frames.astype(int) - expected.astype(int)).mean() < 3


def test_pictures(manifest, converted):
  frames = open_source(str(converted), "test").frames(0, 4)
  assert frames.shape == (1, SIZE[1], SIZE[0], 3)
  assert np.abs(frames.astype(int) - open_source(manifest, "test").frames(0, 4)).mean() < 2


def test_only_frames_that_are_wanted_are_decoded(manifest, tmp_path, monkeypatch):
  source = open_shards(convert(manifest, tmp_path, "jpeg"), "train")
  decoded = []
  monkeypatch.setattr(shards, "read_image", lambda data, name: decoded.append(data) or np.zeros((2, 2, 3), np.uint8))
  assert source.frames(0, 3).shape == (3, 2, 2, 3) and len(decoded) == 3


def test_sources_travel_to_workers(converted):
  source = open_source(str(converted), "train")
  source.frames(0, 2)
  np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).frames(1, 4), source.frames(1, 4))
  assert source.hash_media() == open_source(str(converted), "train").hash_media()
  assert source.hash_media() != open_source(str(converted), "test").hash_media()


def test_damage_inside_a_shard_is_that_of_a_file(manifest, tmp_path):
  folder = convert(manifest, tmp_path, "jpeg")
  path = next(folder.glob("*train*-00000-of-*"))
  data = np.fromfile(path, np.uint8)
  used = np.flatnonzero(data)  # blocks are padded
  data[used[len(used) // 2]] ^= 255
  data.tofile(path)
  source, damaged = open_source(str(folder), "train"), 0
  for i in range(len(source)):
    try:
      source.frames(i, 2)
    except MediaError as error:
      damaged += "is damaged in its shard" in str(error)
  assert damaged


def test_folders_that_are_of_no_use(manifest, tmp_path):
  folder = convert(manifest, tmp_path, "jpeg")
  with pytest.raises(ValueError, match="has no split 'val'; it has train, test"):
    open_shards(folder, "val")
  index = shards.index_path(folder, "train", 1)
  whole = index.read_text()
  for damaged in (whole[:-20], whole.rpartition("{")[0], ""):
    index.write_text(damaged)
    with pytest.raises(ValueError, match="train-00001.jsonl .*run the conversion again"):
      open_shards(folder, "train")
  (folder / shards.INFO).unlink()
  with pytest.raises(ValueError, match="is not finished; run the same command again"):
    open_source(str(folder), "train")
