"""What a manifest and tar files hold, and what is wrong with some of it."""

import io
import json
import tarfile

import pytest

from vljepa_jax.data.conversion.items import read_inputs
from vljepa_jax.errors import UserError


def write_lines(path, *lines):
  path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines) + b"\n")
  return str(path)


def write_tar(path, members):
  with tarfile.open(path, "w") as file:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      file.addfile(info, io.BytesIO(data))
  return str(path)


def reasons(inputs):
  return [(entry["record"].rpartition("/")[2], entry["reason"]) for entry in inputs.quarantined]


def test_rows_of_a_manifest(tmp_path):
  path = write_lines(
      tmp_path / "m.jsonl",
      {"path": "a.mp4", "captions": {"brief": "a", "detailed": ["b", "c"]}, "start": 1, "end": 2.5, "label": "x"},
      {"path": "b.jpg", "caption": "d", "query": "q", "answer": "r", "split": "test"})
  inputs = read_inputs(path, None, "train")
  (first,), (second,) = inputs.splits["train"], inputs.splits["test"]
  assert (first.path, first.start, first.end, first.member) == (str(tmp_path / "a.mp4"), 1.0, 2.5, None)
  assert first.texts == {
      "id": "a.mp4#1-2.5", "captions": {"brief": ["a"], "detailed": ["b", "c"]}, "questions": [], "label": "x"}
  assert second.is_picture and not first.is_picture and inputs.classes == ["x"] and inputs.rows == 2
  assert second.texts["questions"] == [
      {"kind": "question", "queries": ["q"], "answer": "r", "candidates": []}]


def test_rows_that_are_wrong_are_told_and_the_others_stay(tmp_path):
  good = {"path": "a.mp4", "caption": "fine"}
  path = write_lines(
      tmp_path / "m.jsonl", good, b'{"path": "b.mp4", "caption": "\xff"}', b"{no", {"path": "c.mp4", "captoin": "x"},
      {"path": "d.mp4"}, good, {"path": "e.mp4", "caption": "x", "start": 2, "end": 1},
      b'{"path": "f.mp4", "caption": "\\ud800"}', {"path": "g.mp4", "caption": "last"})
  inputs = read_inputs(path, None, "train")
  assert [item.texts["id"] for item in inputs.splits["train"]] == ["a.mp4", "g.mp4"] and inputs.rows == 9
  told = reasons(inputs)
  assert [place for place, _ in told] == [f"m.jsonl, line {line}" for line in (2, 3, 4, 5, 6, 7, 8)]
  for (_, reason), words in zip(told, (
      "not UTF-8", "this is no JSON", "did you mean 'caption'", "there is no caption", "is that of", "after start",
      "not UTF-8"), strict=True):
    assert words in reason
  assert inputs.quarantined[2]["path"] == "c.mp4"


def test_csv_that_is_not_utf8(tmp_path):
  path = write_lines(tmp_path / "m.csv", b"path,caption", b"a.mp4,caf\xe9", b"b.mp4,tea", b"c.mp4,x,y")
  inputs = read_inputs(path, None, "train")
  assert [item.texts["id"] for item in inputs.splits["train"]] == ["b.mp4"]
  assert [place for place, _ in reasons(inputs)] == ["m.csv, line 2", "m.csv, line 4"]


def test_tar_files(tmp_path):
  write_tar(tmp_path / "s-00.tar", [
      ("d.1/a.mp4", b"video"), ("d.1/a.txt", "Grüße\n".encode()), ("b.jpg", b"picture"),
      ("b.json", json.dumps({"caption": "tea", "label": "x", "split": "test", "width": 3, "sha256": None}).encode()),
      ("c.txt", b"alone"), ("\udcff.jpg", b"p"), ("\udcff.txt", b"odd"),
      ("e.png", b"p"), ("f.png", b"p"), ("f.txt", b"\xff"), ("g.png", b"p"), ("g.json", b"[]")])
  write_tar(tmp_path / "s-01.tar", [("a.webp", b"q"), ("a.txt", b"second")])
  inputs = read_inputs(None, str(tmp_path / "s-{00..02}.tar"), "train")
  first, second = inputs.splits["train"]
  with open(first.path, "rb") as file:
    file.seek(first.offset)
    assert file.read(first.size) == b"video"
  assert first.texts["captions"] == {"caption": ["Grüße"]} and first.texts["id"] == "s-00.tar/d.1/a"
  assert second.texts["id"] == "s-01.tar/a" and second.is_picture
  assert inputs.splits["test"][0].texts["label"] == "x"
  told = dict(reasons(inputs))
  assert set(told) == {"c", "e", "f", "g", "s-02.tar", "\\udcff"} and "not UTF-8" in told["\\udcff"]
  assert "one only; there are .txt" in told["c"] and "no caption" in told["e"]
  assert "txt is not UTF-8" in told["f"] and "must be an object" in told["g"] and "No such file" in told["s-02.tar"]


def test_tar_files_of_one_name_in_several_folders(tmp_path):
  for folder in "ab":
    (tmp_path / folder).mkdir()
    write_tar(tmp_path / folder / "0.tar", [("c.jpg", b"p"), ("c.txt", b"text")])
  inputs = read_inputs(None, f"{tmp_path}/*/0.tar", "train")
  assert [item.texts["id"] for item in inputs.splits["train"]] == ["a/0.tar/c", "b/0.tar/c"]
  assert not inputs.quarantined


def test_a_tar_file_that_breaks_off(tmp_path):
  members = [("a.jpg", b"x" * 600), ("a.txt", b"a"), ("b.jpg", b"x" * 9000), ("b.txt", b"b")]
  path = write_tar(tmp_path / "s.tar", members)
  data = (tmp_path / "s.tar").read_bytes()
  (tmp_path / "s.tar").write_bytes(data[:4500])
  inputs = read_inputs(None, str(tmp_path / "*.tar"), "train")
  assert [item.texts["captions"] for item in inputs.splits["train"]] == [{"caption": ["a"]}]
  assert any("cannot be read to its end" in entry["reason"] for entry in inputs.quarantined), path


@pytest.mark.parametrize("lines, message", [
    ([b"{no"], "no row that can be used: this is no JSON"),
    ([{"path": "a.jpg", "caption": "x", "split": "a-b"}], "the split 'a-b' must be a word"),
    ([{"path": "a.jpg", "caption": "x", "questions": [{"query": "q", "answer": "a", "kind": "caption"}]}],
     "'caption' is no name for a kind of questions"),
])
def test_manifests_that_are_of_no_use(tmp_path, lines, message):
  with pytest.raises(ValueError, match=message):
    read_inputs(write_lines(tmp_path / "m.jsonl", *lines), None, "train")


def test_inputs_that_are_not_there(tmp_path):
  with pytest.raises(UserError, match="there is no manifest"):
    read_inputs(str(tmp_path / "m.jsonl"), None, "train")
  with pytest.raises(UserError, match="there is no tar file"):
    read_inputs(None, str(tmp_path / "{0..3}.tar"), "train")
