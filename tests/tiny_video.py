"""Small videos for tests."""

from fractions import Fraction

import av
import numpy as np


def write_video(path, levels, times=None, rate=10, size=(64, 48)):
  """A video of plain frames, each of one grey level or (R, G, B), at these seconds or `rate` a second; its path."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=rate)
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
    stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
    for i, level in enumerate(levels):
      pixels = np.broadcast_to(np.uint8(level), (size[1], size[0], 3))
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
      frame.pts = round(1000 * (i / rate if times is None else times[i]))
      frame.time_base = Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return str(path)
