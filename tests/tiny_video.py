"""Small videos for tests."""

from fractions import Fraction

import av
import numpy as np


def write_video(path, levels, times=None, rate=10, size=(64, 48)):
  """A video of plain frames, each of one grey level or (R, G, B), at these seconds or `rate` a second; its path."""
  frames = [np.broadcast_to(np.uint8(level), (size[1], size[0], 3)) for level in levels]
  return encode_video(path, frames, times, rate)


def encode_video(
    path, frames, times=None, rate=10, codec="mpeg4", pixel="yuv420p", sound=False, rotation=None, format=None,
    clock=1000, container=None, **options,
):
  """A video of (H, W, 3) frames at these seconds or `rate` a second; its path. Options are the codec's."""
  with av.open(str(path), "w", format=format, options=container or {}) as file:
    stream = file.add_stream(codec, rate=rate, options={key: str(value) for key, value in options.items()})
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = pixel
    stream.time_base = stream.codec_context.time_base = Fraction(1, clock)
    if rotation is not None:
      stream.set_display_rotation(rotation)
    if sound:
      _add_sound(file)
    for i, pixels in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
      frame.pts = round(clock * (i / rate if times is None else times[i]))
      frame.time_base = Fraction(1, clock)
      file.mux(stream.encode(frame))
    file.mux(stream.encode())
  return str(path)


def _add_sound(file):
  """Three seconds, which come before all pictures in the file."""
  stream = file.add_stream("aac", rate=8000, layout="mono")
  frame = av.AudioFrame.from_ndarray(np.zeros((1, 24000), np.float32), format="fltp", layout="mono")
  frame.sample_rate = 8000
  file.mux(stream.encode(frame))
  file.mux(stream.encode())


def numbered_frames(count, size=(64, 48)):
  """Frames no two of which are alike: a grey level, and a bar that moves."""
  frames = []
  for i in range(count):
    frame = np.full((size[1], size[0], 3), 40 + 13 * i % 160, np.uint8)
    frame[:, i * 5 % (size[0] - 8):][:, :8] = (250, 20 * i % 250, 0)
    frames.append(frame)
  return frames
