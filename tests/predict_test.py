import json
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from tests import tiny_model
import vljepa_jax
from vljepa_jax import predict
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny_model.save_workdir(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """Seven pictures, one of them in a folder below, a damaged one, an empty one, and a file that is none."""
  folder = tmp_path_factory.mktemp("pictures")
  (folder / "below").mkdir()
  rng = np.random.default_rng(0)
  for i in range(7):
    name = f"below/{i}.PNG" if i == 6 else f"{i}.png"
    Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)).save(folder / name)
  (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff")
  (folder / "empty.webp").write_bytes(b"")
  (folder / "notes.txt").write_text("not a picture")
  return folder


@pytest.fixture
def texts(tmp_path):
  path = tmp_path / "texts.txt"
  path.write_text("\ufeffa cat\n\n  a dog \na cat\nfour\nfive\nsix\nseven\n", encoding="utf-8")
  return path


def run(workdir, source, query="", candidates=None, texts=None):
  return predict.run(workdir, pathlib.Path(source), query, candidates, texts)


def test_candidates_are_ranked_with_or_without_a_question(workdir, pictures):
  model = vljepa_jax.load(workdir)
  picture = pictures / "0.png"
  assert run(workdir, picture, candidates="cat, dog,cat,") == {
      str(picture): model.classify([picture], ["cat", "dog"])[0]}
  assert run(workdir, picture, "is there a dog?", "yes,no") == {
      str(picture): model.answer([picture], "is there a dog?", ["yes", "no"])[0]}


def test_a_loaded_model_is_the_saved_one(workdir, pictures):
  loaded, original = vljepa_jax.load(workdir), tiny_model.debug_model()
  picture = [pictures / "0.png"]
  np.testing.assert_array_equal(loaded.encode_image(picture), original.encode_image(picture))
  np.testing.assert_array_equal(loaded.encode_text(["a cat"]), original.encode_text(["a cat"]))


def test_a_folder_leaves_out_what_cannot_be_read(workdir, pictures, capsys):
  rows = run(workdir, pictures, candidates="cat,dog")
  assert list(rows) == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "below/6.PNG"]
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 2 and "damaged.jpg" in lines[0] and "empty.webp" in lines[1]


def test_search_gives_five_pictures_for_every_text(workdir, pictures, texts):
  rows = run(workdir, pictures, texts=texts)
  assert list(rows) == ["a cat", "a dog", "four", "five", "six", "seven"]
  model = vljepa_jax.load(workdir)
  names, pixels = predict.read_pictures(pictures, Preprocess("pad_square", 32))
  scores = model.encode_text(["a cat"]) @ model.predict(model.encode_image(pixels)).T
  assert [name for name, _ in rows["a cat"]] == [names[i] for i in np.argsort(-scores[0])[:5]]


def test_one_picture_gets_its_five_texts(workdir, pictures, texts):
  rows = run(workdir, pictures / "1.png", texts=texts)
  assert list(rows) == [str(pictures / "1.png")]
  (ranked,) = rows.values()
  assert len(ranked) == 5 and ranked == sorted(ranked, key=lambda r: -r[1])


@pytest.mark.parametrize("source, candidates, texts, message", [
    ("nowhere.png", "a", None, "nowhere.png does not exist"),
    ("damaged.jpg", "a", None, "damaged.jpg"),
    ("empty.webp", "a", None, "empty .0 bytes."),
    ("hollow", "a", None, "holds no picture"),
    ("broken", "a", None, "none of its pictures can be read"),
    ("0.png", " , ", None, "--candidates is empty"),
    ("0.png", None, "blank.txt", "blank.txt is empty"),
    ("0.png", None, "absent.txt", "absent.txt cannot be read: No such file"),
    ("0.png", None, "0.png", "not UTF-8"),
    ("0.png", None, None, "either --candidates .* or --texts"),
    ("0.png", "a", "blank.txt", "either --candidates .* or --texts"),
])
def test_what_the_user_gets_wrong_is_one_sentence(workdir, pictures, tmp_path, source, candidates, texts, message):
  (tmp_path / "hollow").mkdir()
  (tmp_path / "broken").mkdir()
  (tmp_path / "broken/x.png").write_bytes(b"no")
  (tmp_path / "blank.txt").write_text(" \n\n")
  place = lambda name: next((d / name for d in (tmp_path, pictures) if (d / name).exists()), tmp_path / name)
  with pytest.raises(UserError, match=message) as error:
    run(workdir, place(source), "", candidates, texts and place(texts))
  assert "\n" not in str(error.value)


def test_no_workdir_and_no_checkpoint(tmp_path, pictures):
  with pytest.raises(UserError, match="no config.json"):
    run(tmp_path, pictures / "0.png", candidates="a")
  from vljepa_jax import config
  config.write(tiny_model.debug_config(), tmp_path)
  with pytest.raises(UserError, match="holds no checkpoint"):
    run(tmp_path, pictures / "0.png", candidates="a")


def test_json_and_lines(workdir, pictures, capsys):
  picture = str(pictures / "0.png")
  rows = run(workdir, picture, candidates="cat,dog")
  printed = json.loads(predict.to_json(rows))
  assert [(r["text"], r["score"]) for r in printed[picture]] == rows[picture]
  predict.print_rows(rows)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == picture and len(lines) == 3
  assert lines[1].split() == [printed[picture][0]["text"], f"{printed[picture][0]['score']:.3f}"]


def test_the_command(workdir, pictures):
  command = [sys.executable, "-m", "vljepa_jax.predict", f"--workdir={workdir}", f"--input={pictures / '0.png'}"]
  done = subprocess.run([*command, "--candidates=cat,dog", "--json"], capture_output=True, text=True)
  assert done.returncode == 0 and not done.stderr
  assert {r["text"] for r in json.loads(done.stdout)[str(pictures / "0.png")]} == {"cat", "dog"}


def test_command_line_errors_are_one_line_and_code_two(tmp_path):
  done = subprocess.run(
      [sys.executable, "-m", "vljepa_jax.predict", f"--workdir={tmp_path}", "--input=x.png", "--candidates=a"],
      capture_output=True, text=True)
  assert done.returncode == 2 and not done.stdout
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
