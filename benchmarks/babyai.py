"""Rates and sizes of the babyai world: python benchmarks/babyai.py.

Needs `pip install minigrid`. On one core: clips generated a second; bytes of a clip as tile codes and as pixels; clips
of 8 frames rendered a second from tile codes by one gather, and by a loop over tiles, in turns.
"""

import pathlib
import sys
import time

from absl import flags
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from vljepa_jax import cli
from vljepa_jax.data.babyai import HELD_OUT_PAIRS, tiles

_CLIPS = flags.DEFINE_integer("clips", 800, "Clips to generate.", lower_bound=8)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Times that both ways of rendering run; the best counts.", lower_bound=1)
FRAMES = 8


def render_by_loop(atlas: np.ndarray, codes: np.ndarray) -> np.ndarray:
  """What `tiles.render` does, one tile after the other."""
  size = tiles.SIZE * tiles.TILE
  pixels = np.empty((len(codes), size, size, 3), np.uint8)
  for frame, out in zip(codes, pixels):
    for (row, column), code in np.ndenumerate(frame):
      y, x = row * tiles.TILE, column * tiles.TILE
      out[y : y + tiles.TILE, x : x + tiles.TILE] = atlas[code]
  return pixels


def seconds(work) -> float:
  start = time.perf_counter()
  work()
  return time.perf_counter() - start


def main() -> None:
  from vljepa_jax.data.babyai.chain import make_record

  atlas = tiles.draw_atlas()
  make_record("warm", (0,), 0, HELD_OUT_PAIRS, False)
  records = []
  took = seconds(lambda: records.extend(
      make_record(str(i), (0, 1), i, HELD_OUT_PAIRS, False) for i in range(_CLIPS.value)))
  clips = [tiles.unpack(record["codes"]) for record in records]
  print(f"{_CLIPS.value} clips of {np.mean([len(codes) for codes in clips]):.1f} frames on average, one core")
  print(f"  generated     {_CLIPS.value / took:8,.0f} clips/s, texts included")
  packed = np.mean([len(record["codes"]) for record in records])
  pixels = np.mean([len(codes) for codes in clips]) * tiles.CELLS * tiles.TILE**2 * 3
  print(f"  packed        {packed:8,.0f} bytes a clip; as pixels {pixels:,.0f}, {pixels / packed:,.0f} times as many")
  sampled = [codes[np.linspace(0, len(codes) - 1, FRAMES).astype(int)] for codes in clips]
  ways = {"one gather": tiles.render, "loop": render_by_loop}
  best = {name: np.inf for name in ways}
  for _ in range(_ROUNDS.value):
    for name, way in ways.items():
      best[name] = min(best[name], seconds(lambda way=way: [way(atlas, codes) for codes in sampled]))
  for name, took in best.items():
    print(f"  {name:<13} {_CLIPS.value / took:8,.0f} clips/s of {FRAMES} frames rendered")
  print(f"  the gather is {best['loop'] / best['one gather']:.1f} times as fast as the loop")


if __name__ == "__main__":
  cli.run(main)
