import pathlib
import subprocess
import sys

from vljepa_jax import fatal

ROOT = pathlib.Path(__file__).parents[1]


def run(code):
  return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_everything_goes_through_until_the_page_begins():
  page = b"E1 agent.cc] " + fatal.HELD_BACK + b".\nF1 client.h] " + fatal.THE_END + b". More\n  @ 0x1 f()\n"
  done = run(
      "import os, sys\nfrom vljepa_jax import fatal\nfatal.filter_stderr('error: one line')\n"
      f"print('python', file=sys.stderr)\nos.write(2, b'c++\\n')\nos.write(2, {page!r})\nos._exit(3)")
  assert done.returncode == 3
  assert done.stderr == "python\nc++\nerror: one line\n"


def test_a_last_line_without_an_end_is_not_lost():
  done = run("import os\nfrom vljepa_jax import fatal\nfatal.filter_stderr('x')\nos.write(2, b'half')")
  assert done.returncode == 0 and done.stderr == "half"
