"""Frames of pictures that move: GIF, WebP, PNG and AVIF files with several frames, by Pillow."""

from collections.abc import Callable, Iterator
import os

import numpy as np
from PIL import Image

from vljepa_jax.data.image import opened_image, read_file, to_rgb
from vljepa_jax.data.moments import cut_segment, on_show, sample_moments

ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # several frames of other formats are pages
UNTOLD = 0.1  # seconds of a frame that tells none, or less than `SHORTEST`, as browsers show it
SHORTEST = 0.011


def read_picture_clip(
    path: str | os.PathLike, count: int, start: float = 0.0, end: float | None = None,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
  """Frames of an animation, as `read_clip` gives those of a video; of a picture that does not move, the one it has.

  Args:
    path: of a picture file.
    count: frames wanted of an animation, T.
    start: of the segment, in seconds.
    end: of the segment; None, or what lies beyond it, is the end.
    rng: as of `sample_moments`.

  Returns:
    (T, H, W, 3) uint8, or (1, H, W, 3).

  Raises:
    FileNotFoundError: there is no such file.
    MediaError: it cannot be read, or the segment begins after its end.
  """
  frames = list(picture_clip(
      read_file(path), lambda first, last: sample_moments(first, last, count, rng), start, end, os.fspath(path)))
  return frames[0][None] if len(frames) == 1 else np.stack(frames)


def picture_clip(
    data: bytes, choose: Callable[[float, float], np.ndarray], start: float, end: float | None, name: str
) -> Iterator[np.ndarray]:
  """Frames of an animation one at a time, as `clip_pictures` gives those of a video; of a picture the one it has.

  `choose` is asked for animations only.
  """
  with opened_image(data, name) as image:
    if image.format not in ANIMATED or getattr(image, "n_frames", 1) == 1:
      yield to_rgb(image, name)
      return
    ends = np.cumsum(_seconds(image))
    moments = choose(*cut_segment(name, start, end, ends[-1]))
    before, frame = -1, None
    for number in on_show(np.concatenate([[0.0], ends[:-1]]), moments).tolist():
      if number != before:
        before, frame = number, _frame(image, number, name)
      yield frame


def _seconds(image: Image.Image) -> list[float]:
  """What each frame lasts."""
  lasts = []
  for number in range(image.n_frames):
    image.seek(number)
    image.load()
    seconds = image.info.get("duration", 0) / 1000
    lasts.append(seconds if seconds >= SHORTEST else UNTOLD)
  return lasts


def _frame(image: Image.Image, number: int, name: str) -> np.ndarray:
  image.seek(number)
  return to_rgb(image, name)
