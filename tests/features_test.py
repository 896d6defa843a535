import dataclasses
import re
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from vljepa_jax import features
from vljepa_jax.data import openclipart, token_files
from vljepa_jax.data.augment import Augment
from vljepa_jax.data.media import cached_view
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.sources import Source
from vljepa_jax.errors import UserError

VIEWS = features.Views(
    count=3, preprocess=Preprocess("pad_square", 8), frames=2, augment=Augment(0.5, 0.5, 0.2, 0, 0, 0), seed=4,
    dtype="float16")
PARAMS = {"stem": {"kernel": np.ones(3, np.float32)}}


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
  """Files of six views: 15 views lie in three."""
  monkeypatch.setattr(token_files, "SMALLEST", 6)


@pytest.fixture(scope="module")
def source():
  data = openclipart.data_source("test")
  return Source("openclipart", "test", [data[i] for i in range(5)], openclipart.CLASSES)


def encode(video):
  """Two tokens of three numbers: the mean colour of either frame."""
  return jnp.asarray(video.mean(axis=(2, 3)), jnp.float32)


def make(folder, source, views=VIEWS, params=PARAMS, encoder="nano", encode=encode, report=lambda done, total: None):
  return features.cached_features(folder, {"data": source}, views, params, encoder, encode, 4, report)["data"]


def files(folder):
  return sorted(path for path in folder.iterdir())


def array(tokens):
  return np.array([[tokens[record, view] for view in range(tokens.shape[1])] for record in range(len(tokens))])


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
      {"views": dataclasses.replace(VIEWS, dtype="float32")},
      {"views": dataclasses.replace(VIEWS, preprocess=Preprocess("vjepa2", 8))},
      {"views": dataclasses.replace(VIEWS, augment=dataclasses.replace(VIEWS.augment, flip=0.25))},
  ):
    assert calls_of(**changes) == 4
  assert len(files(tmp_path)) == 3, "caches that do not fit any more are deleted"


def test_an_interrupted_cache_leaves_nothing(tmp_path, source):
  def fail(video):
    raise OSError("No space left on device")

  with pytest.raises(OSError):
    make(tmp_path, source, encode=fail)
  assert files(tmp_path) == []


def test_float32_keeps_every_bit(tmp_path, source):
  views = dataclasses.replace(VIEWS, dtype="float32")
  tokens = make(tmp_path, source, views=views)
  frames = [cached_view(source, 2, view, 2, VIEWS.preprocess, VIEWS.augment, VIEWS.seed) for view in range(3)]
  np.testing.assert_array_equal(array(tokens)[2], encode(np.stack(frames)))


@pytest.mark.parametrize("stopped_at, whole_files, goes_on_at", [(4, 0, 0), (8, 1, 4), (12, 2, 12)])
def test_a_cache_that_was_broken_off_goes_on(tmp_path, source, stopped_at, whole_files, goes_on_at):
  whole, starts = make(tmp_path / "whole", source), []

  def stop(done, total):
    starts.append(done)
    if done == stopped_at:
      raise KeyboardInterrupt

  folder = tmp_path / "broken"
  with pytest.raises(KeyboardInterrupt):
    make(folder, source, report=stop)
  before = {path: path.stat().st_mtime_ns for path in folder.glob("*.array_record")}
  assert len(before) == whole_files
  starts.clear()
  tokens = make(folder, source, report=lambda done, total: starts.append(done))
  assert starts == [*range(goes_on_at, 15, 4), 15]
  assert all(path.stat().st_mtime_ns == made for path, made in before.items())
  np.testing.assert_array_equal(array(tokens), array(whole))
  assert {path.suffix for path in files(folder)} == {".array_record"} and len(files(folder)) == 3


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.unlink()])
def test_a_file_that_is_cut_off_or_gone_is_made_again(tmp_path, source, damage, capsys):
  whole, starts = array(make(tmp_path, source)), []
  path = files(tmp_path)[1]
  damage(path)
  cut_off = path.exists()
  tokens = make(tmp_path, source, report=lambda done, total: starts.append(done))
  assert starts == [4, 8, 12]  # of the views 6 to 11
  assert capsys.readouterr().err == (
      f"warning: {path} is not whole; its tokens are computed again\n" if cut_off else "")
  np.testing.assert_array_equal(array(tokens), whole)


def test_damage_inside_of_a_file_is_told_when_it_is_read(tmp_path, source):
  whole = array(make(tmp_path, source))
  path = files(tmp_path)[1]
  data = bytearray(path.read_bytes())
  data[data.index(whole[3, 1].tobytes())] ^= 1  # view 10, of the second file
  path.write_bytes(data)
  tokens = make(tmp_path, source)
  with pytest.raises(UserError, match=rf"{re.escape(str(path))} is damaged \(.*\); delete it, and the same command"):
    array(tokens)


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 200 kilobytes."""
  mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)], capture_output=True)
  if mounted.returncode:
    pytest.skip("this user may not mount a file system")
  yield tmp_path
  subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_keeps_what_is_whole(small_disk, source):
  wide = lambda video: jnp.tile(encode(video), (1, 1, 4000))  # too many for a file
  small = lambda video: jnp.tile(encode(video), (1, 1, 500))  # 128 kilobytes, the least that a file takes
  for encoder, wanted in ((wide, 0), (small, 1)):
    with pytest.raises(UserError, match=r"-of-00003.array_record cannot be written: .*No space left on device.* stays"):
      make(small_disk, source, encode=encoder, encoder=wanted)
    assert len(files(small_disk)) == wanted and all(path.suffix == ".array_record" for path in files(small_disk))


def test_what_is_left_of_another_cache_goes(tmp_path, source):
  for name in ("other.partial", "other-00000-of-00001.array_record", "of_an_earlier_version.npy"):
    (tmp_path / name).write_bytes(b"x")
  make(tmp_path, source)
  assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("dtype, value", [("float16", 1e6), ("float16", np.nan), ("float32", np.inf)])
def test_tokens_beyond_the_dtype_are_refused(tmp_path, source, dtype, value):
  views = dataclasses.replace(VIEWS, dtype=dtype)
  with pytest.raises(ValueError, match=f"do not fit {dtype}; set config.data.feature_"):
    make(tmp_path, source, views=views, encode=lambda video: encode(video) * 0 + value)
  assert not list(tmp_path.glob("*.array_record"))


def test_a_large_cache_lies_in_few_files(tmp_path):
  layout = token_files.Layout(tmp_path, "key", 1_000_000, 4)
  assert len(layout.ranges) == token_files.MOST and sum(map(len, layout.ranges)) == 4_000_000
