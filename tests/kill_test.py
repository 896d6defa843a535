"""The benchmark of kills, small: a mixture of videos, pictures and ArrayRecord, decoded by workers, goes on exactly."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_a_mixture_that_is_killed_goes_on_exactly(tmp_path):
  pytest.importorskip("minigrid")
  options = [f"--folder={tmp_path}", "--kills=1", "--steps=6", "--checkpoint_every=2"]
  command = [sys.executable, "benchmarks/kill.py", *options]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
  assert done.returncode == 0, done.stderr
  rows = {line[:20].strip(): line[20:] for line in done.stdout.splitlines()}
  killed = next(cells for name, cells in rows.items() if name.startswith("killed 1"))
  assert "NOT" not in killed and "6 of 6" in killed and "6 same" in killed and "all same" in killed
  equal, leaves = re.search(r"(\d+) of (\d+) same", killed).groups()
  assert equal == leaves
  for name in ("on 2 processes", "on 4 processes"):
    assert "NOT" not in rows[name] and "within 1e-05" in rows[name]
    done, steps, same = map(int, re.search(r"(\d+) of (\d+) +(\d+) same", rows[name]).groups())
    assert done == steps == same
  assert "0 workers left" in done.stdout
