"""Processes that die, stand still or hang, each in a group of two that add up numbers together, step by step."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIMITS = (3.0, 60.0)  # seconds without a word, seconds in one place
STEPS = """
import sys, threading, time
from vljepa_jax import hosts, watch
import jax
from jax.experimental import multihost_utils
import numpy as np
blocked = threading.Event()
with hosts.joined(watch.Limits({limits[0]}, {limits[1]})):
  for step in range(1, 2000):
    with watch.at(watch.INPUT, step):
      {input}
    with watch.at(watch.DEVICE, step):
      {work}
    if step == 5:
      print("ready", flush=True)
    time.sleep(0.05)
"""
TOGETHER = "multihost_utils.process_allgather(np.ones(3))"


def start(index, port, code):
  environ = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")} | {
      "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
  if port:
    environ |= {
        "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index), "JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
  return subprocess.Popen(
      [sys.executable, "-c", code], cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def group():
  """(limits, input of either process) -> two processes that have done some steps."""
  started = []

  def begin(limits=LIMITS, inputs=("pass", "pass"), wait=True):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    started.extend(
        start(i, port, STEPS.format(limits=limits, input=inputs[i], work=TOGETHER)) for i in range(2))
    for process in started if wait else []:
      assert process.stdout.readline() == "ready\n", process.stderr.read()
    return started

  yield begin
  for process in started:
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.communicate()


def last_words(process):
  """Exit code and what it printed on stderr."""
  _, err = process.communicate(timeout=120)
  return process.returncode, err.strip().splitlines()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_lost_is_named(group, number):
  first, second = group()
  time.sleep(2.0)  # each has to have heard of the other
  began = time.monotonic()
  second.send_signal(number)
  code, (line,) = last_words(first)
  assert code == 1
  assert line.startswith(f"error: process 1 of 2 ({socket.gethostname()}) has not answered for 3 s; it was at step ")
  assert line.endswith("what is saved is intact: put that right and run the same command again")
  assert time.monotonic() - began < 60


def test_the_end_of_the_process_that_all_ask_is_one_line(group):
  first, second = group()
  first.kill()
  code, (line,) = last_words(second)
  assert code != 0
  assert line.startswith("error: process 0 (localhost:") and line.endswith(
      "has ended, and with it this one; its output says why")


@pytest.mark.slow
def test_the_process_that_all_ask_stands_still(group):
  first, second = group()
  first.send_signal(signal.SIGSTOP)
  code, (line,) = last_words(second)
  assert code == 1 and "error: process 0 of 2" in line and "has not answered for 3 s" in line
  first.send_signal(signal.SIGCONT)
  code, (line,) = last_words(first)
  assert code == 1 and re.search("process 0 of 2 .* (has not answered|itself stood still) for", line)


def test_the_process_whose_input_hangs_is_named_by_both(group):
  hanging = "step < 7 or blocked.wait()"
  processes = group((10.0, 3.0), ("pass", hanging))
  said = [last_words(process) for process in processes]
  (_, (line,)), _ = said
  assert said == [(1, [line])] * 2
  assert line == (
      f"error: nothing has moved for 3 s: process 1 of 2 ({socket.gethostname()}) waits for the input at step 7; what "
      "is saved is intact: put that right and run the same command again")


def test_an_error_of_one_process_reaches_the_other(group):
  failing = "assert step < 7, 'it broke'"
  first, second = group(inputs=("pass", failing))
  code, lines = last_words(second)
  assert code == 1 and "AssertionError: it broke" in lines
  code, (line,) = last_words(first)
  assert code == 1
  assert line.startswith(f"error: process 1 of 2 ({socket.gethostname()}) has ended: it broke; what is saved is intact")


def test_a_process_alone_that_hangs_says_where():
  code = STEPS.format(limits=(3.0, 0.5), input="step < 3 or blocked.wait()", work="pass")
  with start(0, None, code) as process:
    code, (line,) = last_words(process)
  assert code == 1
  assert line.startswith("error: nothing has moved for 0.5 s: this process waits for the input at step 3; what is ")
