import signal
import subprocess
import sys

import pytest

BUSY = """
import os, signal, sys
from vljepa_jax.interrupt import stop_on_signals
with stop_on_signals() as stop:
  os.kill(os.getpid(), signal.{})
  assert stop.requested
  print("asked", flush=True)
  sys.stdin.read()  # in C, as a compiler would be
"""


@pytest.mark.parametrize("first, second", [("SIGINT", "SIGTERM"), ("SIGTERM", "SIGINT"), ("SIGTERM", "SIGTERM")])
def test_a_second_signal_ends_the_process_whatever_it_is_doing(first, second):
  process = subprocess.Popen(
      [sys.executable, "-c", BUSY.format(first)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == "asked\n"
  process.send_signal(getattr(signal, second))
  assert process.wait(60) == -getattr(signal, second)
