import itertools
import os
import signal
import time

import numpy as np
import pytest

from vljepa_jax import progress
from vljepa_jax.interrupt import stop_on_signals


@pytest.mark.parametrize("seconds, text", [(0.4, "0:00"), (59.6, "1:00"), (125, "2:05"), (3661, "1:01:01")])
def test_duration(seconds, text):
  assert progress.duration(seconds) == text


def test_parameters_by_group():
  params = {"a": np.zeros((2, 3)), "b": np.zeros(4), "c": np.zeros(()), "d": np.zeros(5)}
  labels = {"a": "x1.0", "b": "frozen", "c": "x0.05", "d": "x1.0"}
  counts = progress.count_by_label(params, labels)
  assert list(counts.items()) == [("x1.0", 11), ("x0.05", 1), ("frozen", 4)]
  assert progress.trained_and_frozen(params, labels) == {"trained": 12, "frozen": 4}


def test_clock_leaves_pauses_out_and_goes_on_from_earlier_starts(monkeypatch):
  now = itertools.accumulate([100, 2, 50, 3])  # made, 2 s of steps, a pause of 50 s, 3 s of steps
  monkeypatch.setattr(time, "monotonic", lambda: next(now))
  clock = progress.Clock(10.0, 4)
  clock.tick(8)
  assert clock.lap() == 2.0
  clock.resume()
  clock.tick(14)
  assert clock.lap() == 2.0
  assert (clock.seconds, clock.steps) == (15.0, 14)


def test_progress_line(capsys):
  numbers = {"loss": 1.25, "temperature": 0.07, "batch_recall": 0.5, "samples_per_second": 1234.5}
  progress.print_step(10, 200, "captions", numbers, 2.0)
  assert capsys.readouterr().out == (
      "step  10/200  captions    loss 1.2500  temperature 0.0700  batch R@1  50.0%  1,234 samples/s  1:35 left\n")


def test_progress_line_on_a_chip_whose_peak_is_known(capsys):
  numbers = {"loss": 1.25, "temperature": 0.07, "batch_recall": 0.5, "samples_per_second": 1234.5, "mfu": 0.4123}
  progress.print_step(10, 200, "captions", numbers, 2.0)
  assert capsys.readouterr().out.endswith("1,234 samples/s  MFU 41.2%  1:35 left\n")


def test_feature_line_speaks_every_ten_seconds_and_at_the_end(capsys, monkeypatch):
  now = itertools.chain([0, 4, 11, 12, 20])
  monkeypatch.setattr(time, "monotonic", lambda: next(now))
  line = progress.FeatureLine()
  for done in (40, 110, 120, 200):
    line(done, 200)
  first, last = capsys.readouterr().out.splitlines()
  assert "110 of 200 views, 10 a second, 0:09 left" in first
  assert "200 of 200 views, 10 a second, in 0:20" in last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_handlers_come_back(number):
  before = signal.getsignal(number)
  with stop_on_signals() as stop:
    assert not stop.requested
    os.kill(os.getpid(), number)
    time.sleep(0.01)
    assert stop.requested
    assert signal.getsignal(number) is signal.SIG_DFL, "a second signal acts at once"
  assert signal.getsignal(number) is before
