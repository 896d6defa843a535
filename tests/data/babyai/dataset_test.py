"""The data set: splits, held-out pairs, reading without minigrid, generation when it is not there."""

import collections
import subprocess
import sys

import numpy as np
import pytest

from vljepa_jax.data import babyai
from vljepa_jax.data.babyai import build, builder, reading, tiles
from vljepa_jax.data.babyai.scene import read_scene
from vljepa_jax.errors import UserError

HELD_OUT = [" ".join(pair) for pair in babyai.HELD_OUT_PAIRS]


@pytest.fixture(scope="module")
def clips(data_dir):
  """Split -> decoded clips."""
  sources = {split: babyai.data_source(split, data_dir) for split in babyai.SPLITS}
  return {split: [babyai.decode(source[i]) for i in range(len(source))] for split, source in sources.items()}


def texts(clip):
  """Everything that is said about a clip."""
  said = [text for wordings in clip.captions.values() for text in wordings]
  for question in clip.questions:
    said += [*question.queries, question.answer, *question.candidates]
  return said


def things(codes):
  return {" ".join(thing) for frame in codes for scene in [read_scene(frame)]
          for thing in [*scene.things(), *([scene.carrying] if scene.carrying else [])]}


def test_splits_have_their_sizes_and_all_actions_evenly(clips):
  assert {split: len(found) for split, found in clips.items()} == \
      {"train": 240, "validation": 10, "test": 10, "test_pairs": 10}
  for found in clips.values():
    counts = collections.Counter(clip.label for clip in found)
    assert len(counts) == 8 and max(counts.values()) - min(counts.values()) <= 1


def test_default_sizes():
  assert (builder.CLIPS, builder.CLIPS // builder.EVALUATION_SHARE) == (12_000, 500)


def test_ids_are_unique_and_name_the_split(clips):
  ids = [clip.id for found in clips.values() for clip in found]
  assert len(set(ids)) == len(ids)
  assert all(clip.id.rpartition("-")[0] == split for split, found in clips.items() for clip in found)


def test_held_out_pairs_are_in_their_split_alone(clips):
  for split, found in clips.items():
    for clip in found:
      spoken = any(pair in text for text in texts(clip) for pair in HELD_OUT)
      if split == "test_pairs":
        assert any(pair in clip.captions["brief"][0] for pair in HELD_OUT)
      else:
        assert not spoken and not things(clip.codes) & {*HELD_OUT}


def test_no_clip_is_in_two_splits(clips):
  own = [clip.codes[clip.start : clip.end + 1].tobytes() for found in clips.values() for clip in found]
  assert len(set(own)) == len(own)


def test_clips_agree_with_their_frames(clips):
  """Start and end lie inside with at most 4 frames around, and the last frame shows what the caption says."""
  for clip in (clip for found in clips.values() for clip in found):
    assert 0 <= clip.start <= 4 and clip.start + 3 <= clip.end < len(clip.codes) <= clip.end + 5
    before, after = read_scene(clip.codes[clip.end - 1]), read_scene(clip.codes[clip.end])
    match babyai.ACTIONS[clip.label].split()[0]:
      case "go":
        assert after.cell(clip.subject) == after.front != before.front
      case "pick":
        assert before.carrying is None and after.carrying == clip.subject
      case "drop" | "put":
        assert before.carrying == clip.subject and after.carrying is None
      case "close":
        assert (before.doors[clip.subject[0]][1], after.doors[clip.subject[0]][1]) == ("open", "closed")
      case "unlock":
        assert (before.doors[clip.subject[0]][1], after.doors[clip.subject[0]][1]) == ("locked", "open")
      case "open" if clip.subject[1] == "door":
        assert (before.doors[clip.subject[0]][1], after.doors[clip.subject[0]][1]) == ("closed", "open")
      case "open":
        assert clip.subject in before.objects and clip.subject not in after.objects
    assert (clip.other is not None) == (babyai.ACTIONS[clip.label] == "put an object next to another")
    assert clip.captions["brief"][0].split()[-1] == (clip.other or clip.subject)[1]


def test_clips_come_from_chains(clips):
  """Something may be carried at the start of any kind of clip that allows it."""
  carrying = {clip.label for clip in clips["train"] if read_scene(clip.codes[clip.start]).carrying}
  assert carrying == {label for label, text in enumerate(babyai.ACTIONS) if text != "pick up an object"}


def test_two_builds_have_the_same_records_in_the_same_order(tmp_path):
  """Their files may differ: TFDS leaves the order of the fields within a record open."""
  for name in ("a", "b"):
    build.build(str(tmp_path / name), 16, seed=1)
  for split in babyai.SPLITS:
    one, two = (babyai.data_source(split, tmp_path / name) for name in ("a", "b"))
    assert [one[i] for i in range(len(one))] == [two[i] for i in range(len(two))]


def test_workers_change_nothing(monkeypatch):
  alone = list(builder.make_records("test_pairs", 24, seed=3))
  monkeypatch.setattr(builder, "BATCH", 8)
  monkeypatch.setattr(builder, "cores", lambda: 2)
  assert list(builder.make_records("test_pairs", 24, seed=3)) == alone
  assert list(builder.make_records("test_pairs", 24, seed=4)) != alone


def test_reading_needs_no_minigrid(data_dir):
  code = f"""
import sys
sys.modules["minigrid"] = None  # as if it were not installed
from vljepa_jax.data import babyai
source = babyai.data_source("test", {str(data_dir)!r})
clip = babyai.decode(source[0])
print(babyai.render(babyai.load_atlas({str(data_dir)!r}), clip.codes[babyai.sample_frames(clip, 8)]).shape)
print("jax" in sys.modules)
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.split("\n")[:2] == ["(8, 64, 64, 3)", "False"]


def test_a_set_that_is_not_there_is_generated(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(reading, "BUILD", (*reading.BUILD, "--clips=16"))
  assert len(babyai.data_source("train", tmp_path)) == 16
  assert len(babyai.data_source("validation", tmp_path)) == 8
  said = capfd.readouterr()
  assert not said.out and said.err.count("\n") == 1
  assert f"babyai: there is no data set in {tmp_path}/babyai/1.0.0; generating it" in said.err


def test_the_data_folder_of_tfds_is_the_default(data_dir, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
  assert len(babyai.data_source("test")) == 10


def test_errors_name_the_fix(data_dir, tmp_path, monkeypatch):
  with pytest.raises(UserError, match="babyai has no split 'dev'; it has train, validation, test, test_pairs"):
    babyai.data_source("dev", data_dir)
  with pytest.raises(UserError, match="exists; delete it"):
    build.build(str(data_dir), 16, seed=0)
  with pytest.raises(UserError, match="--clips=7 is too few: give at least 8"):
    build.build(str(tmp_path), 7, seed=0)
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="babyai cannot be generated: .*file"):
    babyai.data_source("test", tmp_path / "file")
  monkeypatch.setattr(tiles.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install minigrid"):
    babyai.load_atlas(tmp_path)
  with pytest.raises(UserError, match="pip install minigrid"):
    babyai.make_stream(0, 0, 1)


def test_the_command_tells_its_errors_in_one_line(data_dir, capsys):
  with pytest.raises(SystemExit, match="exists; delete it to generate the data set again"):
    build.main([f"--out={data_dir}", "--clips=16"])


def test_frames_for_evaluation_are_even(clips):
  for clip in clips["test"]:
    for frames in (1, 2, 3, 8, 40):
      index = babyai.sample_frames(clip, frames)
      want = [clip.end] if frames == 1 else [
          clip.start + (clip.end - clip.start) * i / (frames - 1) for i in range(frames)]
      assert index.shape == (frames,) and np.abs(index - want).max() <= 0.5
  with pytest.raises(ValueError, match="one frame or more, not 0"):
    babyai.sample_frames(clips["test"][0], 0)


def test_frames_for_training_jitter_into_the_margins(clips):
  clip = next(clip for clip in clips["train"] if clip.start == 4 and len(clip.codes) - clip.end == 5)
  rng = np.random.default_rng(0)
  drawn = [babyai.sample_frames(clip, 8, rng) for _ in range(300)]
  assert {index[0] - clip.start for index in drawn} == {-2, -1, 0, 1}
  assert {index[-1] - clip.end for index in drawn} == {0, 1, 2}
  assert all((np.diff(index) >= 0).all() for index in drawn)
  edge = next(clip for clip in clips["train"] if clip.start == 0)
  drawn = np.stack([babyai.sample_frames(edge, 8, rng) for _ in range(100)])
  assert drawn.min() == 0 and drawn.max() < len(edge.codes)


def test_windows_are_consecutive_and_show_the_end_in_their_second_half(clips):
  clip, rng = clips["test"][0], np.random.default_rng(0)
  drawn = np.stack([babyai.window_frames(clip, 8, rng) for _ in range(100)])
  inside = (drawn > 0) & (drawn < len(clip.codes) - 1)
  assert (np.diff(drawn, axis=1)[inside[:, 1:] & inside[:, :-1]] == 1).all()
  assert {int(np.flatnonzero(row == clip.end)[0]) for row in drawn} == {4, 5, 6, 7}
