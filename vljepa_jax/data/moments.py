"""At which moments a clip is looked at, and which frames are on show then."""

from collections.abc import Sequence

import numpy as np

from vljepa_jax.errors import MediaError

SUB_SEGMENTS = 0.5  # share of training views that show a part of the clip only
LEAST = 0.5  # smallest part, as a share of the clip
EARLY = 1e-6  # seconds; timestamps are rounded


def sample_moments(start: float, end: float, count: int, rng: np.random.Generator | None = None) -> np.ndarray:
  """One moment of each of `count` equal parts of a clip.

  Args:
    start: of the clip, in seconds.
    end: of the clip.
    count: how many.
    rng: for training, draws a moment within each part; half the time the parts are those of a random sub-segment of
      half the clip or more. None takes the middle of each.

  Returns:
    (count,) float64 seconds, ascending.
  """
  if rng is None:
    within = np.full(count, 0.5)
  else:
    if rng.random() < SUB_SEGMENTS:
      length = rng.uniform(LEAST, 1) * (end - start)
      start = rng.uniform(start, end - length)
      end = start + length
    within = rng.random(count)
  return start + (np.arange(count) + within) * ((end - start) / count)


def cut_segment(name: str, start: float, end: float | None, total: float) -> tuple[float, float]:
  """Start and end of a segment within a video of `total` seconds; MediaError if it begins after the video's end."""
  if start and start >= total - EARLY:
    raise MediaError(f"{name} ends after {total:.2f} s, but its segment begins at {start:.2f} s")
  return start, total if end is None else min(end, total)


def on_show(times: Sequence[float], moments: np.ndarray) -> np.ndarray:
  """The frame on show at each moment, (count,) int: the last that has begun, or the first.

  Args:
    times: ascending seconds at which the frames begin.
    moments: (count,) seconds.
  """
  return np.maximum(np.searchsorted(np.asarray(times), moments + EARLY, side="right") - 1, 0)
