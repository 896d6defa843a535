"""Views are reproducible, stay inside their limits, and view 0 is the evaluation picture."""

import dataclasses

import numpy as np
import pytest

from vljepa_jax.data import augment as augment_lib
from vljepa_jax.data.image import fit_square

AUGMENT = augment_lib.Augment(
    min_area=0.5, flip=0.5, jitter=0.2, drop_keywords=0.5, shuffle_keywords=0.5, drop_title=0.0)
STILL = dataclasses.replace(AUGMENT, min_area=1.0, flip=0.0, jitter=0.0)


@pytest.fixture
def picture():
  return np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)


def test_first_views_are_the_picture_and_its_mirror(picture):
  plain = fit_square(picture, 24)
  np.testing.assert_array_equal(augment_lib.view(picture, 24, AUGMENT, 1, 2, 0), plain)
  np.testing.assert_array_equal(augment_lib.view(picture, 24, AUGMENT, 1, 2, 1), plain[:, ::-1])
  unmirrored = dataclasses.replace(STILL, jitter=0.2)
  assert np.abs(augment_lib.view(picture, 24, unmirrored, 1, 2, 1) - plain[:, ::-1].astype(int)).mean() > 20


def test_views_depend_on_seed_record_and_number_alone(picture):
  first = augment_lib.view(picture, 24, AUGMENT, 1, 2, 3)
  np.testing.assert_array_equal(first, augment_lib.view(picture, 24, AUGMENT, 1, 2, 3))
  for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4)]:
    assert (first != augment_lib.view(picture, 24, AUGMENT, *other)).mean() > 0.5


def test_no_augmentation_is_the_evaluation_picture(picture):
  rng = np.random.default_rng(0)
  np.testing.assert_array_equal(augment_lib.random_view(picture, 24, STILL, rng), fit_square(picture, 24))


def test_flip_share(picture):
  always = dataclasses.replace(STILL, flip=1.0)
  rng = np.random.default_rng(0)
  np.testing.assert_array_equal(augment_lib.random_view(picture, 24, always, rng), fit_square(picture, 24)[:, ::-1])
  half = dataclasses.replace(STILL, flip=0.5)
  plain = fit_square(picture, 24)
  flips = sum((augment_lib.random_view(picture, 24, half, rng) != plain).any() for _ in range(200))
  assert 70 < flips < 130


def test_crops_keep_at_least_the_least_area():
  """On a ramp of coordinates the corner values of a crop tell its box."""
  ramp = np.zeros((200, 200, 3), np.uint8)
  ramp[..., 0] = np.arange(200)[None]
  ramp[..., 1] = np.arange(200)[:, None]
  rng = np.random.default_rng(0)
  areas = []
  for _ in range(200):
    crop = augment_lib.random_crop(ramp, 100, 0.5, rng).astype(float)
    width, height = crop[50, -1, 0] - crop[50, 0, 0], crop[-1, 50, 1] - crop[0, 50, 1]
    assert 0.7 < width / height < 1.43
    areas.append(width * height / 200**2)
  assert min(areas) > 0.47 and min(areas) < 0.56 and max(areas) > 0.9


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
