"""Writes a stream of sub-goals as a video, for `python -m vljepa_jax.stream`, and prints what it shows.

  pip install minigrid av
  python -m vljepa_jax.data.babyai.film --out=film.mp4 [--events=20] [--fps=4] [--seed=0]
"""

import argparse
from collections.abc import Iterator, Sequence
import os
import sys

import numpy as np

from vljepa_jax.data.babyai.streams import Event, make_stream
from vljepa_jax.data.babyai.tiles import SIZE, draw_atlas, render
from vljepa_jax.errors import UserError, one_line

TILE = 32  # pixels; the room has 8 x 8 tiles
BITS = 2_000_000  # a second: hardly any loss


def main(argv: Sequence[str] | None = None) -> None:
  """The command; exits with one line for what the caller can put right."""
  parser = argparse.ArgumentParser(description="Writes a stream of sub-goals as a video.")
  parser.add_argument("--out", required=True, help="the video to write, such as film.mp4")
  parser.add_argument("--events", type=int, default=20, help="sub-goals")
  parser.add_argument("--fps", type=int, default=4, help="steps of the agent in a second")
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args(argv)
  try:
    for event in write_film(args.out, args.seed, args.events, args.fps):
      print(f"{event.start / args.fps:8.1f} - {(event.end + 1) / args.fps:8.1f} s  {event.caption}")
  except (UserError, ValueError, OSError, ImportError) as error:
    sys.exit(one_line(error))


def write_film(path: str | os.PathLike, seed: int, events: int, fps: int) -> tuple[Event, ...]:
  """Writes the first events of a stream, one frame for every step of the agent, and returns them.

  Args:
    path: of the video; its ending says which container.
    seed: of the stream.
    events: how many.
    fps: frames a second.

  Raises:
    UserError: minigrid is missing, or there is no such container.
    ImportError: PyAV is missing.
    OSError: the file cannot be written.
    ValueError: a number is out of its range.
  """
  if fps < 1:
    raise ValueError(f"a film has at least one frame a second, not {fps}")
  stream = make_stream(seed, 0, events)
  atlas = draw_atlas(TILE)
  _encode(os.fspath(path), (render(atlas, codes) for codes in stream.codes), fps)
  return stream.events


def _encode(path: str, frames: Iterator[np.ndarray], fps: int) -> None:
  try:
    import av
  except ImportError as error:
    raise ImportError("writing videos needs PyAV: pip install av") from error
  try:
    with av.open(path, "w") as container:
      stream = container.add_stream("mpeg4", rate=fps)
      stream.width = stream.height = TILE * SIZE
      stream.pix_fmt, stream.bit_rate = "yuv420p", BITS
      for pixels in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
      container.mux(stream.encode())
  except (av.error.FFmpegError, ValueError) as error:
    raise UserError(f"{path} cannot be written as a video: {one_line(error)}") from error


if __name__ == "__main__":
  main()
