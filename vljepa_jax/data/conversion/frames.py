"""Encodes the frames of a clip, small and few enough to be found and decoded fast."""

from collections.abc import Iterator
import dataclasses
from fractions import Fraction
import io
import itertools
import math

import numpy as np
from PIL import Image

from vljepa_jax.data.animation import picture_clip
from vljepa_jax.data.conversion.items import Item
from vljepa_jax.data.image import MAX_PIXELS, read_file
from vljepa_jax.data.moments import EARLY
from vljepa_jax.data.shards import MICRO, Stored
from vljepa_jax.data.video import import_av
from vljepa_jax.data.video_clip import clip_pictures
from vljepa_jax.errors import MediaError

JPEG, H264 = CODECS = "jpeg", "h264"
GOP = 8  # frames from key frame to key frame
CRF = 20  # quality of H.264, as x264 counts it
LONGEST = 65_000  # pixels; JPEG ends there


@dataclasses.dataclass(frozen=True)
class Encoding:
  """What is kept of a clip.

  Attributes:
    size: of the short side, in pixels; what is smaller stays so.
    fps: frames a second; those of a slower video come once.
    max_frames: of a clip, evenly spread; 0 is no limit.
    max_seconds: of a clip; a longer one is an error. 0 is no limit.
    codec: of videos and animations; pictures are JPEG files in any case.
    quality: of JPEG, 1..95.
  """

  size: int
  fps: float
  max_frames: int
  max_seconds: float
  codec: str
  quality: int

  def scale(self, width: int, height: int) -> tuple[int, int]:
    """The width and height that are kept of these; MediaError if a side is out of bounds."""
    if width * height > MAX_PIXELS:
      raise MediaError(f"it has {width} x {height} pixels; the limit is {MAX_PIXELS:,}, so scale it down")
    factor = min(1.0, self.size / min(width, height))
    kept = [max(1, round(side * factor)) for side in (width, height)]
    if self.codec == H264:
      kept = [max(2, side // 2 * 2) for side in kept]  # colours are stored for squares of four pixels
    if max(kept) > LONGEST:
      raise MediaError(f"it has {width} x {height} pixels, which are too many to a side")
    return kept[0], kept[1]


def encode(item: Item, encoding: Encoding) -> Stored:
  """The frames of a clip, encoded; the same bytes every time.

  Raises:
    MediaError: it cannot be read, or is too large or too long.
    OSError: there is no such file.
    ImportError: PyAV is missing.
  """
  sampling = _Sampling(encoding)
  pictures = _pictures(item, sampling, encoding)
  first = next(pictures, None)
  if first is None:
    raise MediaError(f"{item.name} holds no frame")
  if sampling.moments is None:
    return Stored([_jpeg(first, encoding.quality)], b"", [0], 0)
  frames = _changes(itertools.chain([first], pictures), sampling)
  if encoding.codec == H264:
    return Stored([], _h264(frames, sampling.duration), [], sampling.duration)
  rows = [(time, _jpeg(picture, encoding.quality)) for time, picture in frames]
  return Stored([frame for _, frame in rows], b"", [time for time, _ in rows], sampling.duration)


class _Sampling:
  """Chooses the moments at which a clip is looked at.

  Attributes:
    moments: microseconds after the clip's start; None until it is asked, which a picture that does not move never does.
    duration: of the clip, in microseconds.
  """

  def __init__(self, encoding: Encoding):
    self._encoding = encoding
    self.moments, self.duration = None, 0

  def __call__(self, start: float, end: float) -> np.ndarray:
    seconds, most = end - start, self._encoding.max_seconds
    if most and seconds > most + EARLY:
      raise MediaError(f"it lasts {seconds:.1f} s; the limit is --max_seconds={most:g}")
    count = max(1, math.ceil(seconds * self._encoding.fps - EARLY))
    moments = np.arange(count) / self._encoding.fps
    if 0 < self._encoding.max_frames < count:
      count = self._encoding.max_frames
      moments = np.arange(count) * (seconds / count)
    self.moments, self.duration = np.round(moments * MICRO).astype(np.int64).tolist(), round(seconds * MICRO)
    return start + moments


def _pictures(item: Item, sampling: _Sampling, encoding: Encoding) -> Iterator[np.ndarray]:
  """The pictures on show at the moments, or the one of a picture that does not move, small."""
  if not item.is_picture:
    source = item.path if item.member is None else _member(item)
    return clip_pictures(source, sampling, item.start, item.end, item.name, encoding.scale)
  data = read_file(item.path) if item.member is None else _member(item)
  return _each_shrunk(picture_clip(data, sampling, item.start, item.end, item.name), encoding)


def _member(item: Item) -> bytes:
  """A clip that lies in a tar file."""
  with open(item.path, "rb") as file:
    file.seek(item.offset)
    data = file.read(item.size)
  if len(data) < item.size:
    raise MediaError(f"{item.name} breaks off: the tar file is cut short")
  return data


def _each_shrunk(pictures: Iterator[np.ndarray], encoding: Encoding) -> Iterator[np.ndarray]:
  before, small = None, None
  for picture in pictures:
    if picture is not before:
      height, width = picture.shape[:2]
      size = encoding.scale(width, height)
      image = Image.fromarray(picture)
      small = picture if size == (width, height) else np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    before = picture
    yield small


def _changes(pictures: Iterator[np.ndarray], sampling: _Sampling) -> Iterator[tuple[int, np.ndarray]]:
  """Microseconds and pictures, without those that show the same frame as the one before."""
  before = None
  for time, picture in zip(sampling.moments, pictures, strict=True):
    if picture is not before:
      yield time, picture
    before = picture


def _jpeg(picture: np.ndarray, quality: int) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
  return buffer.getvalue()


def _h264(frames: Iterator[tuple[int, np.ndarray]], duration: int) -> bytes:
  """An MP4 file with a key frame every `GOP` frames; it lasts `duration` microseconds."""
  av, buffer, clock = import_av(), io.BytesIO(), Fraction(1, MICRO)
  times, packets = [], []
  with av.open(buffer, "w", format="mp4") as file:
    stream = file.add_stream("libx264", rate=MICRO, options=dict(
        crf=str(CRF), g=str(GOP), keyint_min=str(GOP), bf="0", threads="1"))
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = clock
    for time, picture in frames:
      if not times:
        stream.height, stream.width = picture.shape[:2]
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
      frame.pts, frame.time_base = time, clock
      times.append(time)
      packets += stream.encode(frame)
    packets += stream.encode()
    for packet, last in zip(packets, np.diff([*times, max(duration, times[-1])]).tolist(), strict=True):
      packet.duration = last  # the encoder does not tell
      file.mux(packet)
  return buffer.getvalue()
