"""Frames of a video file or a camera at an even rate."""

from collections.abc import Iterator
import math
from typing import Any

import numpy as np

from vljepa_jax.data.moments import EARLY
from vljepa_jax.data.video import VideoError, open_video, pixels, timed_frames


def read_video(source: str, fps: float) -> Iterator[np.ndarray]:
  """Frames at k / fps seconds after the first one, each the one on show at that moment.

  Timestamps count, so files of a variable frame rate are right as well. Rotation tags are applied. A camera never
  ends.

  Args:
    source: a file of any kind that FFmpeg reads, or the index of a camera, such as "0".
    fps: frames a second of what is given.

  Returns:
    Frames (H, W, 3) uint8, one at a time. The source is open already.

  Raises:
    VideoError: there is no such source, it is no video, or, while reading, it is damaged or holds no frame.
    ImportError: PyAV is missing.
  """
  if not (math.isfinite(fps) and fps > 0):
    raise ValueError(f"fps must be positive, not {fps}")
  container = open_video(source)
  container.streams.video[0].thread_type = "AUTO"
  return _frames(container, source, fps)


def _frames(container: Any, source: str, fps: float) -> Iterator[np.ndarray]:
  """Frames at an even rate; closes the container."""
  with container:
    number, shown, end, size = 0, None, 0.0, ()
    for time, seconds, frame in timed_frames(container, source):
      if shown is None:
        size = frame.width, frame.height  # a stream may change its size; what comes out does not
      elif number / fps < time - EARLY:
        picture = pixels(shown, *size)
        while number / fps < time - EARLY:
          yield picture
          number += 1
      shown, end = frame, time + seconds
    if shown is None:
      raise VideoError(f"{source} holds no frame")
    picture = pixels(shown, *size)
    while number == 0 or number / fps < end - EARLY:
      yield picture
      number += 1
