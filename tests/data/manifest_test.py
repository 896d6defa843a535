"""Data sets of one's own: every form of a row, and one error for everything that is wrong with it."""

import json
import pickle
import re

import numpy as np
from PIL import Image
import pytest

from tests.tiny_video import write_video
from vljepa_jax.data import manifest
from vljepa_jax.data.dataset import DataSet
from vljepa_jax.data.image import ImageError
from vljepa_jax.data.sources import open_source
from vljepa_jax.data.views import questions_of
from vljepa_jax.errors import MediaError

SHADES = {"a.png": 20, "b.png": 120, "sub/c.png": 220}


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "sub").mkdir()
  for name, shade in SHADES.items():
    Image.new("RGB", (6, 4), (shade,) * 3).save(tmp_path / name)
  return tmp_path


def write(folder, *rows, name="m.jsonl"):
  lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
  (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
  return str(folder / name)


def open_rows(folder, *rows, split="train"):
  return open_source(write(folder, *rows), split)


def test_a_minimal_manifest(folder):
  source = open_rows(
      folder, {"path": "a.png", "caption": "dark"}, "",
      {"path": str(folder / "b.png"), "caption": ["grey", "medium"]})
  assert [record.id for record in source.records] == ["a.png", str(folder / "b.png")]
  assert source.media == "picture" and source.classes == () and len(source) == 2
  assert [record.label for record in source.records] == [-1, -1]
  assert source.records[1].captions == {"caption": ("grey", "medium")} and source.records[1].caption == "grey"
  assert source.records[0].questions == () and source.kinds == ()
  np.testing.assert_array_equal(source.frames(1, 8), np.full((1, 4, 6, 3), 120))


def test_everything_that_a_row_may_have(folder):
  asked = [{"query": ["what?", "which?"], "answer": "cat", "kind": "thing", "candidates": ["cat", "dog"]},
           {"query": "how dark?", "answer": "very"}]
  source = open_rows(
      folder,
      {"path": "a.png", "captions": {"brief": "cat", "detailed": ["a cat", "some cat"]}, "questions": asked,
       "label": "pet", "split": "test", "id": 7, "start": None},
      {"path": "b.png", "caption": "dog", "query": "how dark?", "answer": "a little", "label": "animal",
       "split": "test"},
      {"path": "sub/c.png", "caption": "bird", "query": "how dark?", "answer": "not", "label": "zebra"}, split="test")
  assert source.classes == ("animal", "pet", "zebra"), "of the whole manifest"
  first, second = source.records
  assert first.id == "7" and first.label == 1 and second.label == 0
  assert first.captions == {"brief": ("cat",), "detailed": ("a cat", "some cat")}
  assert source.fields == ("brief", "detailed", "caption")
  questions = [(q.kind, q.record, q.query, q.answer, q.candidates) for q in questions_of(source, source, 0)]
  assert questions == [
      ("thing", 0, "what?", "cat", ("cat", "dog")),
      ("question", 0, "how dark?", "very", ("a little", "very")),  # the answers of the split
      ("question", 1, "how dark?", "a little", ("a little", "very"))]


def test_csv(folder):
  path = write(folder, "\ufeffpath,caption.brief,caption.detailed,start,label,query,answer",
               'a.png,cat,"a cat, dark",,pet,what?,it', "b.png,dog,,,,,", name="m.csv")
  source = open_source(path, "train")
  assert [record.captions for record in source.records] == [
      {"brief": ("cat",), "detailed": ("a cat, dark",)}, {"brief": ("dog",)}]
  assert [record.label for record in source.records] == [0, -1] and len(source.records[1].questions) == 0


def test_parquet(folder):
  pyarrow = pytest.importorskip("pyarrow")
  import pyarrow.parquet as parquet
  rows = [{"path": "a.png", "captions": {"brief": ["cat"], "detailed": None}, "start": None},
          {"path": "b.png", "captions": {"brief": ["dog"], "detailed": ["a dog"]}, "start": 0.0}]
  parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "m.parquet")
  source = open_source(str(folder / "m.parquet"), "train")
  assert [record.captions for record in source.records] == [
      {"brief": ("cat",)}, {"brief": ("dog",), "detailed": ("a dog",)}]
  rows[1]["path"] = "no.png"
  parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "m.parquet")
  with pytest.raises(ValueError, match="m.parquet, row 2: there is no file .*no.png"):
    open_source(str(folder / "m.parquet"), "train")


def test_parquet_needs_pyarrow(folder, monkeypatch):
  (folder / "m.parquet").write_bytes(b"PAR1")
  monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
  with pytest.raises(ImportError, match="m.parquet needs pyarrow: pip install pyarrow"):
    open_source(str(folder / "m.parquet"), "train")


GOOD = {"path": "a.png", "caption": "x"}


@pytest.mark.parametrize("row, message", [
    ("{", "this is no JSON"),
    ("[1]", "a line must be a JSON object"),
    (GOOD | {"captoin": "x"}, "there is no column 'captoin'; did you mean 'caption'?"),
    (GOOD | {"zzz": "x"}, "there is no column 'zzz'; known are path, caption"),
    ({"caption": "x"}, "there is no path"),
    ({"path": "a.png"}, "there is no caption"),
    ({"path": "", "caption": "x"}, "the path is empty"),
    (GOOD | {"caption": " \n"}, "the caption is empty"),
    (GOOD | {"caption": ["x", ""]}, "the caption is empty"),
    (GOOD | {"caption": []}, r"the caption must be a text or a list of texts, not \[\]"),
    (GOOD | {"caption": 3}, "the caption must be a text or a list of texts, not 3"),
    (GOOD | {"captions": {"brief": "x"}}, "the columns caption and captions exclude each other"),
    (GOOD | {"caption.brief": "x"}, "the columns caption and caption.* exclude each other"),
    ({"path": "a.png", "captions": "x"}, "captions must be an object"),
    ({"path": "a.png", "captions": {"a:b": "x"}}, "the field 'a:b' of captions must be a name without"),
    ({"path": "a.png", "captions": {"a": "x", "b": ""}}, "the caption 'b' is empty"),
    (GOOD | {"caption": "\ud800"}, "the caption is not UTF-8 text"),
    (GOOD | {"query": "q"}, "a question has no answer"),
    (GOOD | {"answer": "q"}, "a question has no query"),
    (GOOD | {"query": "q", "answer": " "}, "the answer is empty"),
    (GOOD | {"query": "q", "answer": "a", "questions": []}, "query and questions exclude each other"),
    (GOOD | {"questions": {"query": "q"}}, "questions must be a list of objects"),
    (GOOD | {"questions": [{"query": "q", "anwser": "a"}]}, "a question has no 'anwser'; did you mean 'answer'?"),
    (GOOD | {"questions": [{"query": "q", "answer": "a", "candidates": ["b"]}]}, "'a' is none of its candidates"),
    (GOOD | {"questions": [{"query": "q", "answer": "a", "kind": "caption"}]}, "'caption' is no name for a kind"),
    (GOOD | {"start": 2, "end": 2.0}, "end 2 must be after start 2"),
    (GOOD | {"end": 0}, "end 0 must be after start 0"),
    (GOOD | {"start": -1}, "start must be 0 or more, not -1"),
    (GOOD | {"start": "x"}, "start must be a number of seconds, not 'x'"),
    (GOOD | {"start": float("nan")}, "start must be a number of seconds, not nan"),
    (GOOD | {"label": ""}, "the label is empty"),
    (GOOD | {"split": 1}, "the split must be a text, not 1"),
    ({"path": "b.png", "caption": "x"}, "the id 'b.png' is that of .*m.jsonl, line 1, too; the column 'id'"),
])
def test_what_is_wrong_with_a_row_is_told_with_its_place(folder, row, message):
  place = "" if "no name for a kind" in message else ", line 2"
  with pytest.raises(ValueError, match=f"m.jsonl{place}: .*{message}"):
    open_rows(folder, {"path": "b.png", "caption": "y"}, row)


def test_missing_files_are_counted(folder):
  rows = [{"path": f"{name}.png", "caption": "x"} for name in ("a", "x", "b", "y")]
  with pytest.raises(ValueError, match=re.escape(
      f"m.jsonl, line 2: there is no file {folder}/x.png (2 of 4 files are missing)")):
    open_rows(folder, *rows)


@pytest.mark.parametrize("name, data, message", [
    ("m.jsonl", b'{"path": "a.png", "caption": "x"}\n{"path": "b.png", "caption": "caf\xe9"}\n',
     "m.jsonl, line 2: this is not UTF-8 text"),
    ("m.csv", b"path,caption\na.png,x\nb.png,caf\xe9\n", "m.csv, line 3: this is not UTF-8 text"),
    ("m.csv", b"path,caption\na.png,x,y\n", "m.csv, line 2: there are more cells than columns"),
    ("m.csv", b'path,caption\na.png,"x\n', "m.csv, line 2: this is no CSV"),
    ("m.jsonl", b"\n", "m.jsonl has no rows"),
    ("m.csv", b"path,caption\n", "m.csv has no rows"),
])
def test_files_that_are_no_table(folder, name, data, message):
  (folder / name).write_bytes(data)
  with pytest.raises(ValueError, match=message):
    open_source(str(folder / name), "train")


def test_splits(folder):
  rows = [{"path": "a.png", "caption": "x", "split": "train"}, {"path": "b.png", "caption": "y", "split": "test"}]
  assert [record.id for record in open_rows(folder, *rows, split="test").records] == ["b.png"]
  with pytest.raises(ValueError, match="m.jsonl has no split 'dev'; it has train, test"):
    open_rows(folder, *rows, split="dev")
  with pytest.raises(FileNotFoundError, match="there is no manifest no.jsonl"):
    open_source("no.jsonl", "train")


def test_a_changed_manifest_is_read_again(folder):
  assert open_rows(folder, {"path": "a.png", "caption": "x"}).records[0].caption == "x"
  assert open_rows(folder, {"path": "a.png", "caption": "other"}).records[0].caption == "other"


def test_segments_of_a_video(folder):
  write_video(folder / "v.mp4", [20 * (i // 5 + 1) for i in range(30)])  # level i in half a second i
  source = open_rows(
      folder, {"path": "v.mp4", "caption": "all"}, {"path": "v.mp4", "caption": "part", "start": 1, "end": 2.0},
      {"path": "v.mp4", "caption": "rest", "start": 2.5}, {"path": "a.png", "caption": "still"})
  assert source.media == "clip"
  assert [record.id for record in source.records] == ["v.mp4", "v.mp4#1-2", "v.mp4#2.5-", "a.png"]
  levels = lambda index, count: [int(round(frame.mean() / 20)) for frame in source.frames(index, count)]
  assert levels(0, 6) == [1, 2, 3, 4, 5, 6] and levels(1, 4) == [3, 3, 4, 4] and levels(2, 2) == [6, 6]
  drawn = {tuple(source.frames(0, 2, np.random.default_rng(i)).mean(axis=(1, 2, 3)).round()) for i in range(20)}
  assert len(drawn) > 3
  rows = [{"path": "v.mp4", "caption": "all"}, {"path": "a.png", "caption": "still", "split": "test"}]
  assert open_rows(folder, *rows, split="test").media == "clip", "all splits are looked at alike"
  copy = pickle.loads(pickle.dumps(source))  # as it goes to workers
  np.testing.assert_array_equal(copy.frames(1, 4), source.frames(1, 4))


def test_files_that_break_later(folder):
  source = open_rows(folder, {"path": "a.png", "caption": "x"}, {"path": "b.png", "caption": "y"})
  (folder / "a.png").write_bytes(b"no picture")
  (folder / "b.png").unlink()
  with pytest.raises(ImageError, match="a.png is not a picture"):
    source.frames(0, 1)
  with pytest.raises(MediaError, match="b.png"):
    source.frames(1, 1)


def test_the_hash_follows_files_and_segments(folder):
  rows = [{"path": "a.png", "caption": "x"}]
  one = open_rows(folder, *rows).hash_media()
  assert open_rows(folder, {"path": "a.png", "caption": "other"}).hash_media() == one
  assert open_rows(folder, {"path": "a.png", "caption": "x", "end": 1}).hash_media() != one
  Image.new("RGB", (6, 4), (21,) * 3).save(folder / "a.png")
  assert open_rows(folder, *rows).hash_media() != one


def test_queries_of_the_recipe_stand_in_place_of_those_of_rows(folder):
  path = write(folder, {"path": "a.png", "caption": "x", "query": "own?", "answer": "yes"})
  source = open_source(DataSet(path, (), (("question", ("new?", "newer?")),)), "train")
  assert source.records[0].questions[0].queries == ("new?", "newer?")
  with pytest.raises(ValueError, match="is no TFDS folder with a dataset_info.json, so its fields"):
    open_source(DataSet(path, (("picture", "path"),), ()), "train")
  with pytest.raises(ValueError, match="questions about openclipart are made of its words"):
    open_source(DataSet("openclipart", (), (("what", ("which?",)),)), "train")


def test_opening_many_rows_decodes_nothing(folder, monkeypatch):
  monkeypatch.setattr(manifest, "read_picture_clip", None)
  source = open_rows(folder, *({"path": "a.png", "caption": f"{i}", "id": i} for i in range(2000)))
  assert len(source) == 2000 and source.records[1999].caption == "1999"
