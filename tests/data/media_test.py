"""What the model sees of pictures and clips: reproducible, and as in evaluation where it should be."""

import dataclasses

import numpy as np
import pytest

from vljepa_jax.data.augment import Augment
from vljepa_jax.data.clips import ClipRecord, ClipSource
from vljepa_jax.data.media import EvaluationFrames, cached_view, training_frames
from vljepa_jax.data.preprocess import KINDS, Preprocess

FIT = Preprocess("pad_square", 24)
AUGMENT = Augment(min_area=0.5, flip=0.5, jitter=0.2, drop_keywords=0.5, shuffle_keywords=0.5, drop_title=0.0)
STILL = dataclasses.replace(AUGMENT, min_area=1.0, flip=0.0, jitter=0.0)
PICTURE = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)


class Pictures:
  """A source of one picture."""

  media = "picture"

  def __len__(self):
    return 1

  def frames(self, index, count, rng=None):
    return PICTURE[None]


def clips(length=9):
  """Two clips whose frames tell their number; training starts at a random one."""

  def read(index, count, rng):
    first = 0 if rng is None else rng.integers(length - count)
    shades = (np.arange(count) + first + 100 * index).astype(np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (count, 24, 24, 3)).copy()

  records = [ClipRecord(f"c{i}", {"brief": ("a clip",)}, (), 0) for i in range(2)]
  return ClipSource("clips", "train", ("any",), records, read, lambda index: bytes([index]))


def view(source=Pictures(), index=0, number=0, count=1, fit=FIT, augment=AUGMENT, seed=1):
  return cached_view(source, index, number, count, fit, augment, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_first_views_are_the_picture_and_its_mirror(kind):
  fit = Preprocess(kind, 24)
  np.testing.assert_array_equal(view(fit=fit, count=2), np.stack([fit(PICTURE)] * 2))
  np.testing.assert_array_equal(view(fit=fit, number=1)[0], fit(PICTURE)[:, ::-1])
  unmirrored = view(number=1, augment=dataclasses.replace(STILL, jitter=0.2))[0]
  assert np.abs(unmirrored - FIT(PICTURE)[:, ::-1].astype(int)).mean() > 20


def test_views_depend_on_seed_record_and_number_alone():
  first = view(number=3)
  np.testing.assert_array_equal(first, view(number=3))
  for other in (dict(seed=2), dict(number=4), dict(index=1)):
    assert (first != view(**{"number": 3, **other})).mean() > 0.5


def test_frames_of_a_clip_are_those_of_evaluation_or_drawn():
  source = clips()
  np.testing.assert_array_equal(view(source, index=1, count=4)[:, 0, 0, 0], 100 + np.arange(4))
  np.testing.assert_array_equal(EvaluationFrames(source, 4, FIT)[:, :, 5, 5, 0], [[0, 1, 2, 3], [100, 101, 102, 103]])
  starts = {int(training_frames(source, 0, 4, FIT, STILL, np.random.default_rng(i))[0, 0, 0, 0]) for i in range(40)}
  assert starts == set(range(5))


def test_frames_of_a_clip_change_alike():
  noise = np.random.default_rng(1).integers(0, 255, (24, 24, 3), np.uint8)
  source = clips()
  source._read = lambda index, count, rng: np.repeat(noise[None], count, axis=0)
  drawn = [training_frames(source, 0, 3, FIT, AUGMENT, np.random.default_rng(i)) for i in range(4)]
  for frames in drawn:
    np.testing.assert_array_equal(frames, frames[:1].repeat(3, axis=0))
    assert (frames[0] != noise).any()
  assert (drawn[0] != drawn[1]).any()


def test_pictures_are_evaluated_as_one_frame():
  assert EvaluationFrames(Pictures(), 8, FIT)[:].shape == (1, 1, 24, 24, 3)


def test_the_hash_follows_what_is_stored():
  other = clips()
  other._encoded = lambda index: b"other"
  assert clips().hash_media() == clips().hash_media() != other.hash_media()
