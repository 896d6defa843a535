import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from vljepa_jax import features
from vljepa_jax.data import openclipart
from vljepa_jax.data.augment import Augment
from vljepa_jax.data.media import cached_view
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.sources import Source

VIEWS = features.Views(
    count=3, preprocess=Preprocess("pad_square", 8), frames=2, augment=Augment(0.5, 0.5, 0.2, 0, 0, 0), seed=4)
PARAMS = {"stem": {"kernel": np.ones(3, np.float32)}}


@pytest.fixture(scope="module")
def source():
  data = openclipart.data_source("test")
  return Source("openclipart", "test", [data[i] for i in range(5)], openclipart.CLASSES)


def encode(video):
  """Two tokens of three numbers: the mean colour of either frame."""
  return jnp.asarray(video.mean(axis=(2, 3)), jnp.float32)


def make(folder, source, views=VIEWS, params=PARAMS, encoder="nano", encode=encode, report=lambda done, total: None):
  return features.cached_features(folder, {"data": source}, views, params, encoder, encode, 4, report)["data"]


def test_every_view_of_every_picture_in_its_place(tmp_path, source):
  shapes, reports = [], []

  def seen(video):
    shapes.append(video.shape)
    return encode(video)

  tokens = make(tmp_path, source, encode=seen, report=lambda *counts: reports.append(counts))
  assert tokens.shape == (5, 3, 2, 3) and tokens.dtype == np.float16
  for record in range(5):
    for number in range(3):
      frames = cached_view(source, record, number, 2, VIEWS.preprocess, VIEWS.augment, VIEWS.seed)
      np.testing.assert_array_equal(frames[0], frames[1])
      np.testing.assert_allclose(tokens[record, number], frames.mean(axis=(1, 2)), rtol=1e-3)
  assert set(shapes) == {(4, 2, 8, 8, 3)}  # the last batch too: one compiled shape
  assert reports[-1] == (15, 15)


def test_cache_is_used_only_for_what_it_was_made_of(tmp_path, source):
  calls = []

  def counted(video):
    calls.append(None)
    return encode(video)

  def calls_of(**changes):
    calls.clear()
    make(tmp_path, source, encode=counted, **changes)
    return len(calls)

  assert calls_of() == 4
  assert calls_of() == 0
  for changes in (
      {"params": {"stem": {"kernel": np.float32([1, 1, 1.0000001])}}},
      {"encoder": "tiny"},
      {"views": dataclasses.replace(VIEWS, seed=5)},
      {"views": dataclasses.replace(VIEWS, preprocess=Preprocess("vjepa2", 8))},
      {"views": dataclasses.replace(VIEWS, augment=dataclasses.replace(VIEWS.augment, flip=0.25))},
  ):
    assert calls_of(**changes) == 4
  assert len(list(tmp_path.iterdir())) == 1, "caches that do not fit any more are deleted"


def test_an_interrupted_cache_leaves_nothing(tmp_path, source):
  def fail(video):
    raise OSError("No space left on device")

  with pytest.raises(OSError):
    make(tmp_path, source, encode=fail)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", [0, 5])
def test_a_cache_that_was_broken_off_goes_on(tmp_path, source, torn):
  whole, starts = make(tmp_path / "whole", source), []

  def stop(done, total):
    starts.append(done)
    if done == 12:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    make(tmp_path, source, report=stop)
  (partial,) = tmp_path.glob("*.partial")
  with partial.open("r+b") as file:
    file.truncate(partial.stat().st_size - torn)
  starts.clear()
  tokens = make(tmp_path, source, report=lambda done, total: starts.append(done))
  assert starts[0] == (8 if torn else 12)
  np.testing.assert_array_equal(tokens, whole)
  assert [path.suffix for path in tmp_path.glob("*.*")] == [".npy"]


def test_what_is_left_of_another_cache_goes(tmp_path, source):
  (tmp_path / "other.partial").write_bytes(b"x")
  make(tmp_path, source)
  assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


@pytest.mark.parametrize("value", [1e6, np.nan])
def test_tokens_beyond_float16_are_refused(tmp_path, source, value):
  with pytest.raises(ValueError, match="float16"):
    make(tmp_path, source, encode=lambda video: encode(video) * 0 + value)
  assert list(tmp_path.iterdir()) == []
