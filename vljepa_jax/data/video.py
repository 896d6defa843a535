"""Videos by PyAV: opened, their frames with times, upright pixels. What sampling and streaming share."""

from collections.abc import Iterator
import io
import os
from typing import Any

import numpy as np

from vljepa_jax.errors import MediaError

CAMERA = "/dev/video{}"  # Video4Linux


class VideoError(MediaError):
  """A video that cannot be read."""


def is_camera(source: str) -> bool:
  """Whether a source is the index of a camera rather than a file."""
  return source.isdecimal()


def open_video(source: str | os.PathLike | bytes, name: str | None = None) -> Any:
  """A PyAV container with at least one stream of pictures.

  Args:
    source: a file of any kind that FFmpeg reads, or what such a file holds, or the index of a camera, such as "0".
    name: what error messages call it; its path by default.

  Raises:
    VideoError: there is no such source, or it is no video.
    ImportError: PyAV is missing.
  """
  av = import_av()
  name = name or ("video" if isinstance(source, bytes) else os.fspath(source))
  try:
    container = _open(av, source)
  except (av.error.FFmpegError, OSError) as error:
    raise VideoError(_why_not(source, name, error)) from error
  if not container.streams.video:
    container.close()
    raise VideoError(f"{name} holds no video")
  return container


def _open(av: Any, source: str | os.PathLike | bytes) -> Any:
  if isinstance(source, bytes):
    return av.open(io.BytesIO(source))
  path = os.fspath(source)
  return av.open(CAMERA.format(path), format="v4l2") if is_camera(path) else av.open(path)


def import_av() -> Any:
  """The module `av`; ImportError says how to get it."""
  try:
    import av
  except ImportError as error:
    raise ImportError("reading videos needs PyAV: pip install av") from error
  return av


def _why_not(source: str | os.PathLike | bytes, name: str, error: Exception) -> str:
  if isinstance(source, bytes):
    return f"{name} cannot be read as a video: {error.strerror}"
  if is_camera(os.fspath(source)):
    return f"camera {source} ({CAMERA.format(source)}) cannot be opened: {error.strerror}"
  if isinstance(error, FileNotFoundError):
    return f"there is no video {name}"
  if os.path.isfile(source) and not os.path.getsize(source):
    return f"{name} is empty (0 bytes)"
  return f"{name} cannot be read as a video: {error.strerror}"


def usual_seconds(stream: Any) -> float:
  """What a frame lasts that does not tell; 0 where the stream has no rate."""
  return float(1 / stream.average_rate) if stream.average_rate else 0.0


def timed_frames(container: Any, name: str) -> Iterator[tuple[float, float, Any]]:
  """All frames of an open video: seconds after the first frame, length in seconds, frame.

  A frame without a timestamp follows the one before at the stream's rate; time never goes back.
  """
  av = import_av()
  stream = container.streams.video[0]
  usual = usual_seconds(stream)
  first, time = None, -usual
  try:
    for frame in container.decode(stream):
      if frame.time is not None:
        first = frame.time if first is None else first
        time = max(frame.time - first, time)
      else:
        time += usual
      yield time, frame_seconds(frame, usual), frame
  except av.error.FFmpegError as error:
    raise damaged(name, time, error.strerror) from error


def frame_seconds(frame: Any, usual: float) -> float:
  """What a frame, or a packet of one, lasts."""
  return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual


def damaged(name: str, time: float, reason: str) -> VideoError:
  """The error of a video that breaks off; `time` in seconds after its first frame."""
  return VideoError(f"{name} is damaged after {max(time, 0.0):.1f} s: {reason}")


def pixels(frame: Any, width: int, height: int) -> np.ndarray:
  """The frame as it is meant to be seen: scaled to width x height as stored, then turned as its rotation tag says.

  Returns:
    (H, W, 3) uint8; H is the width where the tag lays the picture on its side.
  """
  stored = frame.to_ndarray(format="rgb24", width=width, height=height)
  # Not frame.side_data: it stays with its frame in a cycle, in which the picture would wait for Python's collector.
  matrix = import_av().sidedata.sidedata.SideDataContainer(frame).get("DISPLAYMATRIX")
  return stored if matrix is None else upright(stored, np.frombuffer(matrix, np.int32))


def upright(stored: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  """A picture turned and mirrored as a display matrix says, to the nearest quarter turn.

  Args:
    stored: (H, W, 3).
    matrix: (9,) int, FFmpeg's AV_PKT_DATA_DISPLAYMATRIX a b u c d v x y w: a point (x, y), y downwards, is shown at
      (a x + c y, b x + d y).
  """
  a, b, _, c, d = matrix[:5].astype(np.int64)
  lying = abs(b) + abs(c) > abs(a) + abs(d)
  across, down = (c, b) if lying else (a, d)
  shown = stored.swapaxes(0, 1) if lying else stored
  return np.ascontiguousarray(shown[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])
