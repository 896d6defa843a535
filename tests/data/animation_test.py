"""Animations by their own times, composed and on white."""

import io

import numpy as np
from PIL import Image
import pytest

from vljepa_jax.data.animation import UNTOLD, read_picture_clip
from vljepa_jax.data.image import ImageError
from vljepa_jax.errors import MediaError

SHADES = (10, 60, 110, 160)
LASTS = (100, 400, 100, 200)  # milliseconds


def write(path, lasts=LASTS, **options):
  images = [Image.new("RGB", (12, 8), (shade,) * 3) for shade in SHADES]
  images[0].save(path, save_all=True, append_images=images[1:], duration=lasts, **options)
  return path


def shades(frames):
  return [SHADES[int(np.abs(np.array(SHADES) - frame.mean()).argmin())] for frame in frames]


@pytest.mark.parametrize("name, options", [
    ("a.gif", {}), ("a.webp", {"lossless": True}), ("a.png", {}), ("a.webp", {"quality": 90})])
def test_frames_by_their_durations(tmp_path, name, options):
  path = write(tmp_path / name, list(LASTS), **options)
  assert read_picture_clip(path, 2).shape == (2, 8, 12, 3)
  assert shades(read_picture_clip(path, 8)) == [10, 60, 60, 60, 60, 110, 160, 160]
  assert shades(read_picture_clip(path, 2, 0.45, 0.7)) == [110, 160]
  assert shades(read_picture_clip(path, 1, 0.1, 99.0)) == [60]
  drawn = {tuple(shades(read_picture_clip(path, 2, rng=np.random.default_rng(i)))) for i in range(30)}
  assert len(drawn) > 3 and all(a <= b for a, b in drawn)


def test_frames_that_tell_no_duration_last_a_tenth_of_a_second(tmp_path):
  path = write(tmp_path / "a.gif", 0)
  assert shades(read_picture_clip(path, 4)) == list(SHADES)
  with pytest.raises(MediaError, match=f"a.gif ends after {4 * UNTOLD:.2f} s, but its segment begins at 0.50 s"):
    read_picture_clip(path, 4, 0.5)


@pytest.mark.parametrize("name, disposal", [("a.png", 1), ("a.gif", 2)])
def test_frames_replace_each_other_and_lie_on_white(tmp_path, name, disposal):
  whole = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
  part = whole.copy()
  whole.paste((200, 0, 0, 255), (0, 0, 4, 8))
  part.paste((0, 0, 200, 255), (4, 0, 8, 8))
  whole.save(tmp_path / name, save_all=True, append_images=[part], duration=100, disposal=disposal)
  first, second = read_picture_clip(tmp_path / name, 2)
  assert (first[:, :4] == (200, 0, 0)).all() and (first[:, 4:] == 255).all()
  assert (second[:, 4:] == (0, 0, 200)).all() and (second[:, :4] == 255).all()


def test_a_picture_is_one_frame(tmp_path):
  Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / "a.png")
  np.testing.assert_array_equal(read_picture_clip(tmp_path / "a.png", 8), np.full((1, 4, 5, 3), (1, 2, 3)))


def test_a_broken_animation(tmp_path):
  data = io.BytesIO()
  noise = np.random.default_rng(0).integers(0, 255, (4, 40, 40, 3), np.uint8)
  images = [Image.fromarray(frame) for frame in noise]
  images[0].save(data, "WEBP", save_all=True, append_images=images[1:], duration=100, lossless=True)
  (tmp_path / "a.webp").write_bytes(data.getvalue()[:len(data.getvalue()) // 2])
  with pytest.raises(ImageError, match="a.webp"):
    read_picture_clip(tmp_path / "a.webp", 4)
  with pytest.raises(FileNotFoundError, match="there is no picture"):
    read_picture_clip(tmp_path / "b.webp", 4)
