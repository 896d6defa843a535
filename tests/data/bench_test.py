"""What is compared gives the same pictures."""

import re

import numpy as np
import pytest

from vljepa_jax.data import bench


@pytest.fixture
def small(monkeypatch):
  for name, value in dict(WIDTH=320, HEIGHT=180, SECONDS=2, RATE=8, PICTURE=(120, 90)).items():
    monkeypatch.setattr(bench, name, value)


def test_all_ways_see_the_same(small, tmp_path):
  clips = {name: read(0).astype(int) for name, read in bench._clip_ways(tmp_path, 1).items()}
  plain = clips.pop("the videos, by a plain PyAV loop")
  assert plain.shape == (bench.FRAMES, bench.SIZE, bench.SIZE, 3) and len(clips) == 3
  for name, frames in clips.items():
    assert frames.shape == plain.shape and np.abs(frames - plain).mean() < 12, name
  pictures = {name: read(0) for name, read in bench._picture_ways(tmp_path, 2).items()}
  np.testing.assert_array_equal(pictures["a plain Pillow loop"], pictures["ours, as in evaluation"])


def test_what_is_printed(small, capsys):
  bench.main(["--rounds=1", "--clips=1", "--pictures=2"])
  row = r"^  (.{42}) +([\d.]+) (clips|pictures) a second per core +([\d.]+)$"
  rows = re.findall(row, capsys.readouterr().out, re.M)
  assert len(rows) == 7 and [row[3] for row in rows if "plain" in row[0]] == ["1.00", "1.00"]
