"""Random changes stay inside their limits."""

import dataclasses

import numpy as np
import pytest

from vljepa_jax.data import augment as augment_lib
from vljepa_jax.data.preprocess import KINDS, Preprocess

FIT = Preprocess("pad_square", 24)
AUGMENT = augment_lib.Augment(
    min_area=0.5, flip=0.5, jitter=0.2, drop_keywords=0.5, shuffle_keywords=0.5, drop_title=0.0)
STILL = dataclasses.replace(AUGMENT, min_area=1.0, flip=0.0, jitter=0.0)


@pytest.fixture
def picture():
  return np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_no_augmentation_is_the_evaluation_picture(picture, kind):
  fit, rng = Preprocess(kind, 24), np.random.default_rng(0)
  np.testing.assert_array_equal(augment_lib.random_view(picture, fit, STILL, rng), fit(picture))


def test_flip_share(picture):
  always = dataclasses.replace(STILL, flip=1.0)
  rng = np.random.default_rng(0)
  np.testing.assert_array_equal(augment_lib.random_view(picture, FIT, always, rng), FIT(picture)[:, ::-1])
  half = dataclasses.replace(STILL, flip=0.5)
  plain = FIT(picture)
  flips = sum((augment_lib.random_view(picture, FIT, half, rng) != plain).any() for _ in range(200))
  assert 70 < flips < 130


def boxes(kind, height, width, count=200):
  """Widths, heights, left and top ends of random crops: on a ramp of coordinates the corner values tell them."""
  ramp = np.zeros((height, width, 3), np.uint8)
  ramp[..., 0] = np.arange(width)[None]
  ramp[..., 1] = np.arange(height)[:, None]
  rng = np.random.default_rng(0)
  crops = np.stack([augment_lib.random_crop(ramp, Preprocess(kind, 100), 0.5, rng) for _ in range(count)]).astype(float)
  left, right, top, bottom = crops[:, 50, 0, 0], crops[:, 50, -1, 0], crops[:, 0, 50, 1], crops[:, -1, 50, 1]
  return right - left, bottom - top, left, top


@pytest.mark.parametrize("kind", KINDS)
def test_crops_keep_at_least_the_least_area(kind):
  width, height, _, _ = boxes(kind, 200, 200)
  areas = width * height / 200**2
  assert np.all(0.7 < width / height) and np.all(width / height < 1.43)
  assert 0.47 < areas.min() < 0.56 and areas.max() > 0.9


@pytest.mark.parametrize("height, width", [(180, 220), (50, 250), (250, 50)])
def test_crops_of_a_picture_are_near_square_and_reach_all_of_it(height, width):
  across, down, left, top = boxes("vjepa2", height, width)
  assert np.all(0.7 < across / down) and np.all(across / down < 1.43)
  assert np.all(across * down > 0.45 * min(height * width, 4 / 3 * min(height, width)**2))
  assert left.min() < 0.1 * width and (left + across).max() > 0.9 * width
  assert top.min() < 0.1 * height and (top + down).max() > 0.9 * height


def test_crops_of_a_picture_show_no_white_margin():
  black = np.zeros((20, 60, 3), np.uint8)
  rng = np.random.default_rng(0)
  crops = lambda kind: [augment_lib.random_crop(black, Preprocess(kind, 24), 0.3, rng) for _ in range(50)]
  assert not np.any(crops("vjepa2")) and not np.any(crops("imagenet")) and np.any(crops("pad_square"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 4), (4, 3)])
def test_crops_of_any_shape(kind, shape):
  rng = np.random.default_rng(0)
  for _ in range(20):
    crop = augment_lib.random_crop(np.zeros((*shape, 3), np.uint8), Preprocess(kind, 8), 0.3, rng)
    assert crop.shape == (8, 8, 3)


def test_jitter_stays_in_its_range():
  grey = np.full((8, 8, 3), 100, np.uint8)
  rng = np.random.default_rng(0)
  values = [augment_lib.jitter_colours(grey, 0.2, rng)[0, 0, 0] for _ in range(200)]
  assert 80 <= min(values) < 85 and 115 < max(values) <= 120


def test_bad_shares_are_refused():
  with pytest.raises(ValueError, match="augment.flip must lie in 0..1, not 1.5"):
    dataclasses.replace(AUGMENT, flip=1.5)
  with pytest.raises(ValueError, match="augment.min_area must be above 0"):
    dataclasses.replace(AUGMENT, min_area=0.0)
