"""Keeps the page that JAX's C++ prints, when the process that runs its coordination service dies, to one line.

C++ ends the process then, before Python can say anything. So what goes to stderr passes through a small process of its
own, which runs this file: it hands everything on, and stops at that page.
"""

import os
import pathlib
import subprocess
import sys

HELD_BACK = b"Polled an error from coordination service"
THE_END = b"Terminating process because the JAX distributed service detected fatal errors"


def filter_stderr(message: str) -> None:
  """From now on, what this process and its children write to stderr goes through the filter.

  Args:
    message: what to print in place of the page.
  """
  inside, outside = os.pipe()
  process = subprocess.Popen(
      [sys.executable, "-I", "-S", str(pathlib.Path(__file__).resolve()), message], stdin=inside,
      start_new_session=True)  # Ctrl-C is for this process; the filter ends when its input does
  process.returncode = 0  # nobody waits for it
  os.close(inside)
  sys.stderr.flush()
  os.dup2(outside, 2)
  os.close(outside)


def main(message: str) -> None:
  """Copies stdin to stderr line by line."""
  for line in sys.stdin.buffer:
    if THE_END in line:
      print(message, file=sys.stderr, flush=True)
      sys.stdin.buffer.read()
      return
    if HELD_BACK not in line:
      sys.stderr.buffer.write(line)
      sys.stderr.buffer.flush()


if __name__ == "__main__":
  main(sys.argv[1])
