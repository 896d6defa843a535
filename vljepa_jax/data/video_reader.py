"""Frames of a video file or a camera at an even rate, by PyAV."""

from collections.abc import Iterator
import math
import os
from typing import Any

import numpy as np

CAMERA = "/dev/video{}"  # Video4Linux
EARLY = 1e-6  # seconds; timestamps are rounded


class VideoError(ValueError):
  """A video that cannot be read; the message names it and the reason."""


def is_camera(source: str) -> bool:
  """Whether a source is the index of a camera rather than a file."""
  return source.isdecimal()


def read_video(source: str, fps: float) -> Iterator[np.ndarray]:
  """Frames at k / fps seconds after the first one, each the one on show at that moment.

  Timestamps count, so files of a variable frame rate are right as well. Rotation tags are not applied. A camera never
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
  container = _open(source)
  return _frames(container, source, fps)


def _open(source: str) -> Any:
  av = _import_av()
  try:
    container = av.open(CAMERA.format(source), format="v4l2") if is_camera(source) else av.open(os.fspath(source))
  except (av.error.FFmpegError, OSError) as error:
    raise VideoError(_why_not(source, error)) from error
  if not container.streams.video:
    container.close()
    raise VideoError(f"{source} holds no video")
  return container


def _import_av() -> Any:
  try:
    import av
  except ImportError as error:
    raise ImportError("reading videos needs PyAV: pip install av") from error
  return av


def _why_not(source: str, error: Exception) -> str:
  if is_camera(source):
    return f"camera {source} ({CAMERA.format(source)}) cannot be opened: {error.strerror}"
  if isinstance(error, FileNotFoundError):
    return f"there is no video {source}"
  if os.path.isfile(source) and not os.path.getsize(source):
    return f"{source} is empty (0 bytes)"
  return f"{source} cannot be read as a video: {error.strerror}"


def _frames(container: Any, source: str, fps: float) -> Iterator[np.ndarray]:
  """Frames at an even rate; closes the container."""
  with container:
    number, shown, end, size = 0, None, 0.0, None
    for time, seconds, frame in _timed(container, source):
      if shown is None:
        size = {"width": frame.width, "height": frame.height}  # a stream may change its size; what comes out does not
      elif number / fps < time - EARLY:
        pixels = shown.to_ndarray(format="rgb24", **size)
        while number / fps < time - EARLY:
          yield pixels
          number += 1
      shown, end = frame, time + seconds
    if shown is None:
      raise VideoError(f"{source} holds no frame")
    pixels = shown.to_ndarray(format="rgb24", **size)
    while number == 0 or number / fps < end - EARLY:
      yield pixels
      number += 1


def _timed(container: Any, source: str) -> Iterator[tuple[float, float, Any]]:
  """Seconds after the first frame, length in seconds, frame."""
  av = _import_av()
  stream = container.streams.video[0]
  stream.thread_type = "AUTO"
  usual = float(1 / stream.average_rate) if stream.average_rate else 0.0
  first, time = None, -usual
  try:
    for frame in container.decode(stream):
      if frame.time is not None:
        first = frame.time if first is None else first
        time = max(frame.time - first, time)
      else:
        time += usual
      seconds = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
      yield time, seconds, frame
  except av.error.FFmpegError as error:
    raise VideoError(f"{source} is damaged after {max(time, 0.0):.1f} s: {error.strerror}") from error
