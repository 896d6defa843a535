import json

from PIL import Image
import pytest

from vljepa_jax.data import image, list_folder
from vljepa_jax.data.sources import open_source
from vljepa_jax.errors import UserError


def fill(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(folder / name)


def rows(folder, held_out=0.1):
  path, listed = list_folder.write(folder, held_out)
  assert [json.loads(line) for line in path.read_text().splitlines()] == listed
  return {row["path"]: {key: value for key, value in row.items() if key != "path"} for row in listed}


def test_names_texts_and_folders(tmp_path):
  fill(tmp_path, "red_car-2.png", "cats/one.png", "cats/two.png", "notes.gif")
  (tmp_path / "cats/two.txt").write_text("a cat\nsome cat\n")
  (tmp_path / "notes.txt").write_text("notes about\n\n")
  listed = rows(tmp_path, held_out=1e-9)
  assert [row["split"] for row in listed.values()].count("test") == 1
  for row in listed.values():
    row["split"] = "train"
  assert listed == {
      "cats/one.png": {"caption": "cats", "label": "cats", "split": "train"},
      "cats/two.png": {"caption": ["a cat", "some cat"], "label": "cats", "split": "train"},
      "notes.gif": {"caption": "notes about", "split": "train"},
      "red_car-2.png": {"caption": "red car 2", "split": "train"}}
  sources = [open_source(str(tmp_path / "manifest.jsonl"), split) for split in ("train", "test")]
  assert sum(map(len, sources)) == 4 and all(source.classes == ("cats",) for source in sources)


def test_folders_of_splits(tmp_path):
  fill(tmp_path, "train/cat/a.png", "test/cat/a.png", "test/b.png")
  assert {path: (row["split"], row.get("label"), row["caption"]) for path, row in rows(tmp_path).items()} == {
      "test/b.png": ("test", None, "b"), "test/cat/a.png": ("test", "cat", "cat"),
      "train/cat/a.png": ("train", "cat", "cat")}


def test_a_share_is_held_out_and_stays_so(tmp_path):
  fill(tmp_path, *(f"{i}.png" for i in range(200)))
  first = rows(tmp_path)
  assert 8 <= sum(row["split"] == "test" for row in first.values()) <= 34
  (tmp_path / "manifest.jsonl").unlink()
  fill(tmp_path, *(f"new{i}.png" for i in range(20)))
  assert {path: rows for path, rows in rows(tmp_path).items() if path in first} == first


def test_pictures_that_cannot_be_used_are_left_out_and_told(tmp_path, capsys, monkeypatch):
  fill(tmp_path, "a.png", "b.png")
  Image.new("RGB", (40, 40)).save(tmp_path / "large.png")
  (tmp_path / "c.png").write_bytes(b"no picture")
  (tmp_path / "d.mp4").write_bytes(b"not looked into")
  monkeypatch.setattr(image, "MAX_PIXELS", 1000)
  assert set(rows(tmp_path)) == {"a.png", "b.png", "d.mp4"}
  first, second = capsys.readouterr().err.splitlines()
  assert "left out" in first and "c.png is not a picture" in first and "large.png has 40 x 40 pixels" in second


def test_mistakes(tmp_path):
  with pytest.raises(UserError, match="there is no folder"):
    list_folder.write(tmp_path / "no", 0.1)
  with pytest.raises(UserError, match="holds no pictures"):
    list_folder.write(tmp_path, 0.1)
  fill(tmp_path, "a.png")
  with pytest.raises(UserError, match="--held_out=1 must be above 0 and below 1"):
    list_folder.write(tmp_path, 1.0)
  (tmp_path / "a.txt").write_text("")
  with pytest.raises(UserError, match="a.txt is empty"):
    list_folder.write(tmp_path, 0.1)
  (tmp_path / "a.txt").unlink()
  list_folder.write(tmp_path, 0.1)
  with pytest.raises(SystemExit, match="manifest.jsonl exists; delete it to list the folder again"):
    list_folder.main([str(tmp_path)])
