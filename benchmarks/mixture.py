"""Three small sources of all kinds, and a recipe that mixes them; for the benchmarks of whole runs.

`make(folder)` writes short videos and their manifest, pictures and theirs, and babyai in ArrayRecord through TFDS
(`pip install minigrid`); one video and one picture are broken. `--config=benchmarks/mixture.py:FOLDER` trains nano
towers on them by weight, with two decoding workers; TFDS_DATA_DIR has to be FOLDER/tfds.
"""

from collections.abc import Callable
from fractions import Fraction
import json
import pathlib
import sys

import av
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import base
from vljepa_jax.data.babyai import build

COUNT = 60  # videos, and as many pictures; every sixth is held out
CLIPS = 120  # of babyai
SIZE = 96, 64
FRAMES, RATE = 20, 10  # of a video
COLOURS = {"red": (220, 40, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "white": (240, 240, 240)}
NAMES = tuple(COLOURS)
BROKEN = 7
VIDEOS, PICTURES, TFDS = "videos", "pictures", "tfds"


def make(folder: pathlib.Path) -> dict[str, str]:
  """Writes the three sources; the environment that the recipe needs."""
  _make_files(folder / VIDEOS, "mp4", write_video, "a {0} bar crosses a {1} field", "{0}")
  _make_files(folder / PICTURES, "png", write_picture, "a {0} square on {1}", "{0}")
  build.build(str(folder / TFDS), CLIPS, seed=0)
  return {"TFDS_DATA_DIR": str(folder / TFDS)}


def get_config(folder: str) -> ConfigDict:
  config = base.get_config("debug")
  config.name = "mixture"
  videos, pictures = (str(pathlib.Path(folder) / name / "manifest.jsonl") for name in (VIDEOS, PICTURES))
  config.data.sources = (
      dict(name="videos", dataset=videos, view="caption", weight=0.5),
      dict(name="pictures", dataset=pictures, view="answer", weight=0.3),
      dict(name="babyai", dataset="babyai", view="caption", weight=0.2),
  )
  config.data.frames = 2
  config.data.workers = 2
  config.eval.dataset = videos
  config.eval.report = False
  return config


def _make_files(folder: pathlib.Path, kind: str, write: Callable, caption: str, answer: str) -> None:
  folder.mkdir(parents=True)
  rng, rows = np.random.default_rng(0), []
  for i in range(COUNT):
    path = folder / f"{i}.{kind}"
    fore, back = rng.choice(NAMES, 2, replace=False)
    write(path, COLOURS[fore], COLOURS[back], rng)
    if i == BROKEN:
      path.write_bytes(path.read_bytes()[:100])
    rows.append({"path": path.name, "caption": f"{caption.format(fore, back)}, number {i}", "query": "which colour?",
                 "answer": answer.format(fore), "split": "train" if i % 6 else "test"})
  (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_video(path: pathlib.Path, fore: tuple[int, ...], back: tuple[int, ...], rng: np.random.Generator) -> None:
  """Two seconds of a bar that moves."""
  width, height = SIZE
  start = int(rng.integers(width))
  with av.open(str(path), "w") as file:
    stream = file.add_stream("mpeg4", rate=RATE)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    for i in range(FRAMES):
      pixels = np.full((height, width, 3), back, np.uint8)
      pixels[:, (start + 4 * i + np.arange(12)) % width] = fore
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      frame.pts, frame.time_base = i, Fraction(1, RATE)
      file.mux(stream.encode(frame))
    file.mux(stream.encode())


def write_picture(path: pathlib.Path, fore: tuple[int, ...], back: tuple[int, ...], rng: np.random.Generator) -> None:
  """A square somewhere."""
  width, height = SIZE
  pixels = np.full((height, width, 3), back, np.uint8)
  top, left = rng.integers(height - 24), rng.integers(width - 24)
  pixels[top:top + 24, left:left + 24] = fore
  Image.fromarray(pixels).save(path)
