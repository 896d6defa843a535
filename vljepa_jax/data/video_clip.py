"""Some frames of a video, decoded with as little as exactness allows.

A video is decoded forward from the key frame before a wanted frame, and left and entered again at a later key frame
where that skips some. Every time is a frame's own timestamp, so that the outcome is that of decoding everything.
"""

from collections.abc import Callable, Iterator
import os
from typing import Any

import numpy as np

from vljepa_jax.data.moments import EARLY, cut_segment, on_show, sample_moments
from vljepa_jax.data.video import (
    VideoError, damaged, frame_seconds, import_av, open_video, pixels, timed_frames, usual_seconds)

Choose = Callable[[float, float], np.ndarray]
Scale = Callable[[int, int], tuple[int, int]]

SAVED = 8  # frames that a jump must save
FAR = 5.0  # seconds to a wanted frame from where on a jump is tried in files that do not list their key frames
INDEXED = ("mov", "matroska")  # FFmpeg's names of formats that list them
UNTIMED = ("avi",)  # of formats that do not tell when a frame is on show
BEYOND = 2.0**33  # seconds; the end of any video
REORDERED = 32  # frames; more than any codec puts out of order


def read_clip(
    source: str | os.PathLike | bytes, count: int, start: float = 0.0, end: float | None = None,
    rng: np.random.Generator | None = None, name: str | None = None,
) -> np.ndarray:
  """Frames of a video, evenly spread over it or over a segment of it; sound is ignored, rotation tags are applied.

  Args:
    source: a file of any kind that FFmpeg reads, or what such a file holds.
    count: frames wanted, T.
    start: of the segment, in seconds after the first frame.
    end: of the segment; None, or what lies beyond it, is the end of the video.
    rng: as of `sample_moments`.
    name: what error messages call it; its path by default.

  Returns:
    (T, H, W, 3) uint8; a frame comes several times where there are fewer.

  Raises:
    VideoError: there is no such video, or it is damaged.
    MediaError: the segment begins after its end.
    ImportError: PyAV is missing.
  """
  return np.stack(list(clip_pictures(
      source, lambda first, last: sample_moments(first, last, count, rng), start, end, name)))


def clip_pictures(
    source: str | os.PathLike | bytes, choose: Choose, start: float = 0.0, end: float | None = None,
    name: str | None = None, scale: Scale = lambda width, height: (width, height),
) -> Iterator[np.ndarray]:
  """Pictures of a video, or of a segment of it, one at a time, with as little decoding as `read_clip`.

  Args:
    choose: the start and the end of what is shown, in seconds after the first frame -> ascending moments, (T,).
    scale: width and height as stored -> those of what is given.

  Returns:
    The T pictures on show at these moments, (H, W, 3) uint8; the same object where a frame is still on show.
  """
  name = name or ("video" if isinstance(source, bytes) else os.fspath(source))
  with _Track(source, name) as track:
    total = track.seconds()
    if total is not None:
      yield from track.pictures_at(choose(*cut_segment(name, start, end, total)), scale)
      return
  times, total = _all_times(source, name)
  yield from _by_number(source, name, on_show(times, choose(*cut_segment(name, start, end, total))), scale)


class _Track:
  """The pictures of a file that tells their times, entered wherever it has to be."""

  def __init__(self, source: str | os.PathLike | bytes, name: str):
    self._source, self._name = source, name
    self._error = import_av().error.FFmpegError
    self._reach, self._first, self._delay = FAR, 0.0, 0
    self._open()

  def __enter__(self) -> "_Track":
    return self

  def __exit__(self, *_) -> None:
    # The generator knows this object: in a cycle the decoder's memory would wait for Python's collector, which counts
    # objects, not bytes.
    self._frames = self._next = self._shown = None
    self._container.close()

  def _open(self) -> None:
    """Goes to the beginning."""
    self._container = open_video(self._source, self._name)
    self._stream = self._container.streams.video[0]
    self._stream.codec_context.thread_count = 1  # clips are decoded side by side
    self._restart(from_key=False)

  def _restart(self, from_key: bool) -> None:
    self._frames, self._shown = self._decode(from_key), None
    self._next = next(self._frames, None)

  def seconds(self) -> float | None:
    """From the first frame to the end of the last; None of a file that does not tell.

    Nothing but the first frame is decoded, and the packets of the last seconds are read.
    """
    if self._next is None:
      raise VideoError(f"{self._name} holds no frame")
    if self._next.pts is None or self._format in UNTIMED:
      return None
    self._first, self._size = self._next.time, (self._next.width, self._next.height)
    end = self._end()
    return None if end is None else max(end - self._first, 0.0)

  @property
  def _format(self) -> str:
    return self._container.format.name.partition(",")[0]

  def _end(self) -> float | None:
    """The end of the last frame; None if the packets do not tell or the file cannot be entered at its end."""
    usual, end, back = usual_seconds(self._stream), BEYOND, 0.0
    while True:
      try:
        self._seek(end - back)
        packets = [packet for packet in self._container.demux(self._stream) if packet.size and not packet.is_discard]
      except self._error:
        return None
      if not packets or any(packet.pts is None for packet in packets):
        return None
      last = max(packets, key=lambda packet: packet.pts)
      end = float(last.pts * last.time_base) + frame_seconds(last, usual)
      # What is stored last need not be shown last: the packets must reach back to an entrance.
      if packets[0].is_keyframe or len(packets) > REORDERED or end - back <= self._first:
        return end
      back = max(1.0, 2 * back)

  def _seek(self, time: float) -> None:
    """Enters the file at or before a time of its own clock."""
    self._container.seek(int(time / self._stream.time_base), stream=self._stream, backward=True)

  def pictures_at(self, moments: np.ndarray, scale: Scale) -> Iterator[np.ndarray]:
    """The pictures on show at ascending moments (T,) in seconds after the first frame, each (H, W, 3) uint8."""
    size = scale(*self._size)
    self._go(self._first + moments[0])
    picture = None
    for moment in moments:
      before = self._shown
      self._forward(self._first + moment)
      if picture is None or self._shown is not before:
        picture = self._picture(size)
      yield picture

  def _picture(self, size: tuple[int, int]) -> np.ndarray:
    if self._shown.is_corrupt:
      raise damaged(self._name, self._shown.time - self._first, "a frame cannot be made out")
    return pixels(self._shown, *size)

  def _forward(self, time: float) -> None:
    """Until the frame that is on show at a time."""
    if self._is_far(time):
      position = self._next.time
      self._go(time)
      if self._position() <= position:
        self._reach *= 2  # there was no key frame on the way
    while self._next is not None and (self._shown is None or self._next.time <= time + EARLY):
      self._shown, self._next = self._next, next(self._frames, None)
      if self._next is not None and self._next.pts is None:
        raise damaged(self._name, self._shown.time - self._first, "a frame has no time")

  def _position(self) -> float:
    return self._next.time if self._shown is None else self._shown.time

  def _is_far(self, time: float) -> bool:
    """Whether a jump would skip frames, so far as is known."""
    if self._next is None or self._next.time > time:
      return False
    index, clock = self._stream.index_entries, self._stream.time_base
    # Some list when a key frame is decoded rather than shown, which is earlier.
    key = index.search_timestamp(int(time / clock) - self._delay, backward=True) if len(index) else -1
    if key >= 0 and index[key].timestamp * clock > self._next.time + SAVED * usual_seconds(self._stream):
      return True
    return not (len(index) and self._format in INDEXED) and time - self._next.time > self._reach

  def _go(self, time: float) -> None:
    """Enters the file so that the next frame is at or before a time, or the first."""
    back = 0.0
    while time - back > self._first:
      try:
        self._seek(time - back)
      except self._error:
        break
      self._restart(from_key=True)
      if self._next is not None and self._next.time <= time + EARLY:
        return
      back = max(1.0, 2 * back)  # the file's own idea of where to enter was too late
    self._container.close()
    self._open()

  def _decode(self, from_key: bool) -> Iterator[Any]:
    """Frames from here on; those stored after a key frame but shown before it lack what they are made from."""
    key, time = None, 0.0
    try:
      for packet in self._container.demux(self._stream):
        if from_key and key is None:
          if not packet.is_keyframe or packet.pts is None:
            continue
          key = packet.pts
          self._delay = key - (key if packet.dts is None else packet.dts)
        for frame in packet.decode():
          if key is None or frame.pts is None or frame.pts >= key:
            yield frame
            time = frame.time or 0.0
    except self._error as error:
      raise damaged(self._name, time - self._first, error.strerror) from error


def _all_times(source: str | os.PathLike | bytes, name: str) -> tuple[list[float], float]:
  """When every frame begins, and when the last one ends, by decoding all."""
  with open_video(source, name) as container:
    rows = [(time, seconds) for time, seconds, _ in timed_frames(container, name)]
  if not rows:
    raise VideoError(f"{name} holds no frame")
  return [time for time, _ in rows], sum(rows[-1])


def _by_number(
    source: str | os.PathLike | bytes, name: str, numbers: np.ndarray, scale: Scale) -> Iterator[np.ndarray]:
  """Pictures by their numbers, ascending, by decoding all up to the last."""
  size = ()
  with open_video(source, name) as container:
    for number, (_, _, frame) in enumerate(timed_frames(container, name)):
      size = size or scale(frame.width, frame.height)
      repeats = int(np.sum(numbers == number))
      if repeats:
        yield from [pixels(frame, *size)] * repeats
      if number >= numbers[-1]:
        return
