"""Slide-shows: streams made of still pictures, with a moving camera, uneven durations and cross-fades.

What is seen when is known by construction, so they serve to measure when a stream is best decoded.
"""

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from vljepa_jax.data.preprocess import Box, Preprocess

# Seconds that a picture is shown: log-normal, cut off at both ends.
MEDIAN_SECONDS, SPREAD = 4.0, 0.8
SHORTEST, LONGEST = 1.0, 20.0
# Seconds of a cross-fade, evenly drawn; others are hard cuts. No fade takes more than half of either picture.
FADE_SHARE, FADE_SECONDS = 0.7, (0.2, 1.0)
# Share of the canvas that the camera sees, evenly drawn for the first and the last moment of a picture.
VIEW_AREA = (0.5, 1.0)
# The hand that holds the camera: share of the view's side, and hertz.
SHAKE, SHAKE_RATE = 0.01, (0.3, 2.0)


@dataclasses.dataclass(frozen=True)
class Annotation:
  """What a stretch of a stream shows. Times in seconds."""

  start: float
  end: float
  caption: str


@dataclasses.dataclass(frozen=True)
class _Camera:
  """The first and the last view, (centre x, centre y, side) as shares of the canvas's middle square, and its shake."""

  first: np.ndarray
  last: np.ndarray
  rates: np.ndarray
  phases: np.ndarray

  def box(self, share: float, time: float, canvas: int) -> Box:
    """The view in pixels when `share` of the picture's time is over."""
    x, y, side = self.first + np.clip(share, 0, 1) * (self.last - self.first)
    shake = SHAKE * side * np.sin(2 * np.pi * (self.rates * time + self.phases))
    left, top = np.clip(np.array([x, y]) + shake - side / 2, 0, 1 - side) * canvas
    return left, top, min(left + side * canvas, canvas), min(top + side * canvas, canvas)


class Slideshow:
  """A stream of pictures, frame by frame. Iterating draws the frames; they are never held together.

  Args:
    pictures: n (H, W, 3) uint8 arrays, or anything that gives one by its index.
    captions: what each shows.
    seed: the same one gives the same frames.
    preprocess: the canvas of a picture and the size of frames.
    fps: frames a second.

  Attributes:
    annotations: one for every picture; they follow each other without a gap. The border lies in the middle of a
      cross-fade.

  Raises:
    ValueError: there are no pictures, or not as many captions, or `fps` is not positive.
  """

  def __init__(
      self, pictures: Sequence[np.ndarray], captions: Sequence[str], seed: int, preprocess: Preprocess, fps: float
  ):
    if not len(pictures) or len(pictures) != len(captions):
      raise ValueError(f"a slide-show needs pictures and a caption for each, not {len(pictures)} and {len(captions)}")
    if not fps > 0:
      raise ValueError(f"fps must be positive, not {fps}")
    self.fps = fps
    self._pictures = pictures
    self._preprocess = preprocess
    rng = np.random.default_rng(seed)
    seconds = np.clip(MEDIAN_SECONDS * np.exp(SPREAD * rng.normal(size=len(pictures))), SHORTEST, LONGEST)
    self._borders = np.concatenate([[0.0], np.cumsum(seconds)])
    self._fades = _fades(seconds, rng)
    self._cameras = [_camera(rng) for _ in captions]
    self.annotations = tuple(
        Annotation(float(start), float(end), caption)
        for start, end, caption in zip(self._borders, self._borders[1:], captions))

  def __len__(self) -> int:
    return int(np.ceil(self._borders[-1] * self.fps))

  def __iter__(self) -> Iterator[np.ndarray]:
    """Frames (size, size, 3) uint8; frame k is seen at k / fps seconds."""
    canvases = {}
    for time in np.arange(len(self)) / self.fps:
      shown = self._shown(time)
      canvases = {i: canvases[i] if i in canvases else self._preprocess.canvas(self._pictures[i]) for i in shown}
      mixed = sum(weight * self._view(canvases[i], i, time).astype(np.float32) for i, weight in shown.items())
      yield np.rint(mixed).astype(np.uint8)

  def _shown(self, time: float) -> dict[int, float]:
    """The pictures of a moment with their weights, which add up to one."""
    i = min(int(np.searchsorted(self._borders, time, side="right")) - 1, len(self._cameras) - 1)
    for before in (i - 1, i):  # the fade at the start of picture i, and the one at its end
      fade = self._fades[before] if 0 <= before < len(self._fades) else 0.0
      past = time - (self._borders[before + 1] - fade / 2)
      if 0 < past < fade:
        return {before: 1 - past / fade, before + 1: past / fade}
    return {i: 1.0}

  def _view(self, canvas: np.ndarray, i: int, time: float) -> np.ndarray:
    """What the camera sees of picture i: its canvas (H, W, 3) -> (size, size, 3), uint8."""
    height, width = canvas.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    start, end = self._borders[i], self._borders[i + 1]
    box = self._cameras[i].box((time - start) / (end - start), time, side)
    return self._preprocess.cut(canvas[top:top + side, left:left + side], box)


def _fades(seconds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Length of the cross-fade between every two pictures that meet, (n - 1,) seconds; 0 is a hard cut."""
  count = len(seconds) - 1
  drawn = rng.uniform(*FADE_SECONDS, count) * (rng.random(count) < FADE_SHARE)
  return np.minimum(drawn, np.minimum(seconds[:-1], seconds[1:]) / 2)


def _camera(rng: np.random.Generator) -> _Camera:
  sides = np.sqrt(rng.uniform(*VIEW_AREA, 2))
  views = [np.array([*rng.uniform(side / 2, 1 - side / 2, 2), side]) for side in sides]
  return _Camera(*views, rng.uniform(*SHAKE_RATE, 2), rng.random(2))
