"""Squares are those of the reference implementations, to the pixel, and right for pictures of any shape."""

import pathlib

import numpy as np
from PIL import Image
import pytest

from vljepa_jax.data import preprocess as preprocess_lib
from vljepa_jax.data.preprocess import CENTRE_CROPS, KINDS, LONGEST, Preprocess, fit_square, pad_square

RED, BLUE = (255, 0, 0), (0, 0, 255)
SHAPES = [(1, 500), (500, 1), (1, 1), (7, 5), (16, 16), (33, 32)]


@pytest.fixture(scope="module")
def recorded():
  with np.load(pathlib.Path(__file__).parents[1] / "fixtures/preprocess.npz") as file:
    return {key: file[key] for key in file}


def noise(height: int, width: int) -> np.ndarray:
  """The pictures of make_preprocess_fixtures.py."""
  return np.random.default_rng((height, width)).integers(0, 256, (height, width, 3), np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
  """The first channel grows to the right, the second one downwards."""
  down, across = np.indices((height, width))
  return np.stack([across * 255 // width, down * 255 // height, 0 * down], axis=2).astype(np.uint8)


def halves(size: int = 16) -> np.ndarray:
  return np.repeat(np.uint8([[RED] * size + [BLUE] * size]), size, axis=0)


@pytest.mark.parametrize("kind, tolerance", [("vjepa2", 1), ("imagenet", 0)])
def test_equals_transformers_and_torchvision(recorded, kind, tolerance):
  shapes = [key.partition("_")[2] for key in recorded if key.startswith(kind)]
  assert len(shapes) == 12
  for shape in shapes:
    ours = Preprocess(kind, 48)(noise(*map(int, shape.split("x"))))
    np.testing.assert_allclose(ours.astype(int), recorded[f"{kind}_{shape}"], rtol=0, atol=tolerance, err_msg=shape)


def test_short_sides_are_those_of_the_references():
  short = lambda kind: [CENTRE_CROPS[kind].short_side(size) for size in (256, 224, 384)]
  assert short("vjepa2") == [292, 256, 438] and short("imagenet") == [293, 256, 439]


@pytest.mark.parametrize("kind", CENTRE_CROPS)
@pytest.mark.parametrize("shape", [(3, 90), (200, 2), (30, 40)])
def test_long_pictures_are_cut_alike(monkeypatch, kind, shape):
  """The way without the whole resized picture, which is kept for long ones, is the same but for two roundings."""
  whole = Preprocess(kind, 32)(noise(*shape)).astype(int)
  monkeypatch.setattr(preprocess_lib, "LONGEST", 0)
  np.testing.assert_allclose(Preprocess(kind, 32)(noise(*shape)), whole, rtol=0, atol=2)


def test_a_very_long_picture_shows_its_middle():
  picture = np.zeros((20, 200_000, 3), np.uint8)
  picture[:, 100_000:] = 255
  square = Preprocess("vjepa2", 32)(picture)
  assert (square[:, :15] == 0).all() and (square[:, 17:] == 255).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape_becomes_a_square_of_its_own(kind, shape):
  picture = noise(*shape)
  before = picture.copy()
  square = Preprocess(kind, 24)(picture)
  assert square.shape == (24, 24, 3) and square.dtype == np.uint8
  np.testing.assert_array_equal(picture, before)
  plain = Preprocess(kind, 24)(np.full((*shape, 3), 77, np.uint8))
  assert (plain == 77).all() if kind in CENTRE_CROPS else (plain == 77).any()


def test_a_fitting_picture_is_cut_too():
  """As the references do it: 32 pixels become 36, of which the middle 32 remain, 28.4 of the picture."""
  square = Preprocess("vjepa2", 32)(ramp(32, 32))
  assert square[0, 0, 0] > 5 and square[-1, -1, 0] < 240


def test_fit_square_keeps_the_whole_picture():
  fitted = fit_square(halves(), 16)
  assert fitted.shape == (16, 16, 3)
  np.testing.assert_array_equal(fitted[:4], 255)
  np.testing.assert_array_equal(fitted[12:], 255)
  np.testing.assert_array_equal(fitted[6:10, :6], np.broadcast_to(RED, (4, 6, 3)))
  np.testing.assert_array_equal(fitted[6:10, 10:], np.broadcast_to(BLUE, (4, 6, 3)))
  np.testing.assert_array_equal(Preprocess("pad_square", 16)(halves()), fitted)


def test_fit_square_of_a_fitting_picture_changes_nothing():
  np.testing.assert_array_equal(fit_square(noise(16, 16), 16), noise(16, 16))


@pytest.mark.parametrize("shape", SHAPES)
def test_white_margins(shape):
  pixels = np.zeros((*shape, 3), np.uint8)
  assert fit_square(pixels, 32).min() < 128
  assert pad_square(pixels).shape == (max(shape), max(shape), 3)
  assert (pad_square(pixels) == 0).all(axis=2).sum() == shape[0] * shape[1]


def test_the_canvas_of_crops():
  picture = noise(10, 30)
  assert Preprocess("pad_square", 8).canvas(picture).shape == (30, 30, 3)
  for kind in CENTRE_CROPS:
    assert Preprocess(kind, 8).canvas(picture) is picture


def test_an_unknown_kind_is_named():
  with pytest.raises(ValueError, match="no preprocessing 'squash'; there are pad_square, vjepa2, imagenet"):
    Preprocess("squash", 8)


@pytest.mark.parametrize("kind", list(CENTRE_CROPS))
def test_the_centre_is_that_of_the_whole(kind):
  """To the bit, whatever is left out of the resizing."""
  rng = np.random.default_rng(0)
  for size in rng.integers(1, 700, (40, 2)):
    image, crop = rng.integers(0, 256, (*size, 3), np.uint8), CENTRE_CROPS[kind]
    height, width = resized = [int(crop.short_side(64) * side / min(size)) for side in size]
    top, left = (crop.half((side - 64) / 2) for side in resized)
    whole = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if max(resized) <= LONGEST:
      np.testing.assert_array_equal(Preprocess(kind, 64)(image), whole[top:top + 64, left:left + 64], str(size))
