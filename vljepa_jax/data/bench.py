"""How fast data is read, beside plain loops that do the same: python -m vljepa_jax.data.bench [--rounds=7]

Clips: converted shards, 8 frames of each, against decoding the videos that they come from with PyAV. The videos are
made here: H.264, 1280 x 720 at 30 frames a second, 5 seconds each, a slow pan over a wall of openclipart's pictures on
noise. Pictures: a folder of 480 x 360 JPEG files, cut out of such walls, against Pillow alone. Both end as what the
model sees: 256 x 256 pixels, cut out of the middle.

Times are those of the processor, so "a second" is a second of one core; medians of rounds in which the ways take turns.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
import statistics
import tempfile
import time

import av
import numpy as np
from PIL import Image

from vljepa_jax.data import openclipart
from vljepa_jax.data.augment import Augment
from vljepa_jax.data.conversion.frames import CODECS, Encoding
from vljepa_jax.data.conversion.items import read_inputs
from vljepa_jax.data.conversion.shard import Shard, convert_shard, write_items, write_lines
from vljepa_jax.data.image import read_image
from vljepa_jax.data.media import training_frames
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.shards import CONVERSION, FORMAT, INFO
from vljepa_jax.data.sources import open_source

SIZE = 256
FRAMES = 8
WIDTH, HEIGHT, RATE, SECONDS = 1280, 720, 30, 5
PAN = 4  # pixels a frame
PICTURE = (480, 360)
PREPROCESS = Preprocess("vjepa2", SIZE)
AUGMENT = Augment(min_area=0.5, flip=0.5, jitter=0.0, drop_keywords=0.0, shuffle_keywords=0.0, drop_title=0.0)

Ways = Mapping[str, Callable[[int], np.ndarray]]  # each gives what the model sees of a clip or picture, by number


def main(argv: Sequence[str] | None = None) -> None:
  """Makes the media, reads them in every way, and prints rates and ratios."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--clips", type=int, default=6)
  parser.add_argument("--pictures", type=int, default=100)
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    print(f"{args.clips} clips, {WIDTH} x {HEIGHT}, {SECONDS} s, H.264; {FRAMES} frames of each to {SIZE} px")
    _compare(_clip_ways(folder, args.clips), args.clips, args.rounds, "clips")
    print(f"{args.pictures} pictures, {PICTURE[0]} x {PICTURE[1]}, JPEG; to {SIZE} px")
    _compare(_picture_ways(folder, args.pictures), args.pictures, args.rounds, "pictures")


def _compare(ways: Ways, count: int, rounds: int, what: str) -> None:
  """Prints the rate of each way, and how many times that of the first it is."""
  rates = {name: [] for name in ways}
  for read in ways.values():
    read(0)
  for _ in range(rounds):
    for name, read in ways.items():
      began = time.process_time()
      for number in range(count):
        read(number)
      rates[name].append(count / (time.process_time() - began))
  first = rates[next(iter(ways))]
  for name, mine in rates.items():
    ratio = statistics.median(one / other for one, other in zip(mine, first))
    print(f"  {name:<42} {statistics.median(mine):8.1f} {what} a second per core  {ratio:6.2f}", flush=True)


def _clip_ways(folder: pathlib.Path, count: int) -> Ways:
  for number in range(count):
    _write_video(folder / f"{number}.mp4", number)
  rows = [{"path": f"{number}.mp4", "caption": "a wall"} for number in range(count)]
  manifest = _write_manifest(folder / "clips.jsonl", rows)
  sources = {f"shards, {codec}": open_source(_convert(manifest, folder / codec, codec), "train") for codec in CODECS}
  sources["the videos, by our reader"] = open_source(manifest, "train")
  return {"the videos, by a plain PyAV loop": lambda number: _plain_clip(folder / f"{number}.mp4")} | {
      name: lambda number, source=source: np.stack([PREPROCESS(frame) for frame in source.frames(number, FRAMES)])
      for name, source in sources.items()}


def _picture_ways(folder: pathlib.Path, count: int) -> Ways:
  rng = np.random.default_rng(1)
  wall = _wall(1, PICTURE[0] * 4, PICTURE[1] * 4)
  for number in range(count):
    left, top = rng.integers(0, PICTURE[0] * 3), rng.integers(0, PICTURE[1] * 3)
    wall.crop((left, top, left + PICTURE[0], top + PICTURE[1])).save(folder / f"{number}.jpg", quality=90)
  rows = [{"path": f"{number}.jpg", "caption": "a wall"} for number in range(count)]
  source = open_source(_write_manifest(folder / "pictures.jsonl", rows), "train")
  draw = lambda number: training_frames(source, number, 1, PREPROCESS, AUGMENT, np.random.default_rng(number))
  return {
      "a plain Pillow loop": lambda number: _plain_picture(folder / f"{number}.jpg"),
      "ours, as in evaluation": lambda number: PREPROCESS(source.frames(number, 1)[0]),
      "ours, with a random crop and mirror": draw,
  }


def _plain_clip(path: pathlib.Path) -> np.ndarray:
  """Every frame is decoded; those wanted are scaled."""
  wanted, shown, number = {int((i + 0.5) * RATE * SECONDS / FRAMES) for i in range(FRAMES)}, [], 0
  with av.open(str(path)) as container:
    container.streams.video[0].codec_context.thread_count = 1
    for frame in container.decode(video=0):
      if number in wanted:
        shown.append(PREPROCESS(frame.to_ndarray(format="rgb24", width=SIZE * WIDTH // HEIGHT, height=SIZE)))
      number += 1
  return np.stack(shown)


def _plain_picture(path: pathlib.Path) -> np.ndarray:
  """What `PREPROCESS` gives, in as few words as Pillow has for it."""
  with Image.open(path) as image:
    short = int(SIZE * 256 / 224)
    width, height = (int(short * side / min(image.size)) for side in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(small.crop((left, top, left + SIZE, top + SIZE)))


def _wall(seed: int, width: int, height: int) -> Image.Image:
  """Pictures of openclipart side by side, 128 pixels each, on noise."""
  rng, data = np.random.default_rng(seed), openclipart.data_source("train")
  pixels = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
  wall = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
  for left in range(0, width, 192):
    for top in range(0, height, 192):
      wall.paste(Image.fromarray(read_image(data[int(rng.integers(len(data)))]["image"])), (left, top))
  return wall


def _write_video(path: pathlib.Path, seed: int) -> None:
  """A pan over a wall."""
  wall = np.asarray(_wall(seed, WIDTH + PAN * RATE * SECONDS, HEIGHT))
  with av.open(str(path), "w") as file:
    stream = file.add_stream("libx264", rate=RATE)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    for number in range(RATE * SECONDS):
      shown = np.ascontiguousarray(wall[:, PAN * number:PAN * number + WIDTH])
      file.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
    file.mux(stream.encode())


def _write_manifest(path: pathlib.Path, rows: Sequence[Mapping[str, str]]) -> str:
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def _convert(manifest: str, folder: pathlib.Path, codec: str) -> str:
  """One shard of all, as the command makes it with its defaults; without Beam."""
  shard, items = Shard(str(folder), "train", 0, 1), read_inputs(manifest, None, "train").splits["train"]
  for item in items:
    item.texts["label"] = -1
  write_items(shard, items)
  convert_shard(shard, Encoding(size=SIZE, fps=8.0, max_frames=0, max_seconds=600.0, codec=codec, quality=90))
  write_lines(folder / CONVERSION, [dict(format=FORMAT, shards={"train": 1}, media="clip", classes=[])])
  write_lines(folder / INFO, [{}])
  return str(folder)


if __name__ == "__main__":
  main()
