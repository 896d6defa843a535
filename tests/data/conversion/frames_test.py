"""Which frames of a clip are kept, how large, and how they are stored."""

import io

import av
import numpy as np
from PIL import Image
import pytest

from tests.tiny_video import encode_video, write_video
from vljepa_jax.data.conversion.frames import GOP, Encoding, encode
from vljepa_jax.data.conversion.items import Item
from vljepa_jax.errors import MediaError

LEVELS = [20 * (i + 1) for i in range(10)]  # at 10 frames a second


def item(path, start=0.0, end=None):
  return Item("row 1", str(path), None, 0, 0, start, end, {})


def encoding(size=256, fps=8.0, max_frames=0, max_seconds=0.0, codec="jpeg", quality=90):
  return Encoding(size, fps, max_frames, max_seconds, codec, quality)


def shades(stored):
  return [round(np.asarray(Image.open(io.BytesIO(frame))).mean() / 20) for frame in stored.frames]


@pytest.mark.parametrize("name, duration", [("a.mp4", 1_000_000), ("a.avi", 901_000)])  # AVI tells no last frame's
def test_frames_at_a_rate(tmp_path, name, duration):
  stored = encode(item(write_video(tmp_path / name, LEVELS)), encoding(fps=5.0))
  assert shades(stored) == [1, 3, 5, 7, 9] and stored.duration == duration and stored.video == b""
  assert list(stored.times) == [0, 200_000, 400_000, 600_000, 800_000]


def test_frames_of_a_slow_video_come_once(tmp_path):
  stored = encode(item(write_video(tmp_path / "a.mp4", LEVELS)), encoding(fps=100.0))
  assert shades(stored) == list(range(1, 11)) and list(stored.times) == [100_000 * i for i in range(10)]


def test_most_frames(tmp_path):
  path = write_video(tmp_path / "a.mp4", LEVELS)
  stored = encode(item(path), encoding(fps=10.0, max_frames=4))
  assert shades(stored) == [1, 3, 6, 8] and list(stored.times) == [0, 250_000, 500_000, 750_000]


def test_segments(tmp_path):
  path = write_video(tmp_path / "a.mp4", LEVELS)
  stored = encode(item(path, 0.3, 0.7), encoding(fps=10.0))
  assert shades(stored) == [4, 5, 6, 7] and stored.duration == 400_000 and stored.times[0] == 0
  with pytest.raises(MediaError, match="ends after 1.00 s"):
    encode(item(path, 3.0), encoding())


def test_too_long(tmp_path):
  path = write_video(tmp_path / "a.mp4", LEVELS)
  with pytest.raises(MediaError, match="lasts 1.0 s; the limit is --max_seconds=0.5"):
    encode(item(path), encoding(max_seconds=0.5))
  assert len(encode(item(path, 0.0, 0.5), encoding(max_seconds=0.5)).frames) == 4


@pytest.mark.parametrize("size, stored_size", [((640, 360), (114, 64)), ((36, 50), (36, 50)), ((64, 640), (64, 640))])
def test_short_side(tmp_path, size, stored_size):
  Image.new("RGB", size, (200, 0, 0)).save(tmp_path / "a.png")
  path = encode_video(tmp_path / "a.mp4", [np.full((size[1], size[0], 3), 90, np.uint8)] * 3)
  for name in (tmp_path / "a.png", path):
    stored = encode(item(name), encoding(size=64))
    assert Image.open(io.BytesIO(stored.frames[0])).size == stored_size


def test_pictures_and_animations(tmp_path):
  Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(tmp_path / "a.png")
  stored = encode(item(tmp_path / "a.png"), encoding(codec="h264"))
  assert np.asarray(Image.open(io.BytesIO(stored.frames[0]))).min() > 250, "transparent is white"
  assert stored.duration == 0 and stored.video == b""
  frames = [Image.new("RGB", (30, 20), (level,) * 3) for level in LEVELS[:4]]
  frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
  stored = encode(item(tmp_path / "a.gif"), encoding(fps=10.0))
  assert shades(stored) == [1, 2, 3, 4] and stored.duration == 400_000


def test_h264(tmp_path):
  rng = np.random.default_rng(0)
  frames = [np.repeat(np.repeat(rng.integers(0, 255, (9, 16, 3), np.uint8), 40, 0), 40, 1) for _ in range(40)]
  path = encode_video(tmp_path / "a.mp4", frames, rate=10, codec="libx264", crf=10)
  stored = encode(item(path), encoding(fps=10.0, size=90, codec="h264"))
  assert not stored.frames and stored.duration == 4_000_000
  with av.open(io.BytesIO(stored.video)) as container:
    packets = [packet for packet in container.demux(video=0) if packet.size]
    times = [float(packet.pts * packet.time_base) for packet in packets]
    assert times == pytest.approx(np.arange(40) / 10) and packets[-1].duration * packets[-1].time_base * 10 == 1
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    assert keys[0] == 0 and max(np.diff([*keys, 40])) <= GOP
    assert (container.streams.video[0].width, container.streams.video[0].height) == (160, 90)


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_the_same_bytes_every_time(tmp_path, codec):
  frames = list(np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), np.uint8))
  path = encode_video(tmp_path / "a.mp4", frames)
  assert encode(item(path), encoding(codec=codec)) == encode(item(path), encoding(codec=codec))


@pytest.mark.parametrize("name, data", [
    ("a.mp4", b""), ("a.mp4", b"no video"), ("a.jpg", b""), ("a.jpg", b"no picture"), ("b.mp4", None), ("b.jpg", None)])
def test_what_cannot_be_read(tmp_path, name, data):
  if data is not None:
    (tmp_path / name).write_bytes(data)
  with pytest.raises((ValueError, OSError), match=name):
    encode(item(tmp_path / name), encoding())


def test_too_many_pixels(tmp_path):
  Image.new("1", (10_000, 5_001)).save(tmp_path / "a.png")
  with pytest.raises(MediaError, match="has 10000 x 5001 pixels; the limit is 50,000,000"):
    encode(item(tmp_path / "a.png"), encoding())
  with pytest.raises(MediaError, match="too many to a side"):
    encoding().scale(66_000, 200)
