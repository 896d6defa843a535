import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(*args):
  return subprocess.run(
      [sys.executable, "-m", "vljepa_jax.main", *args], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("args, message", [
    ([], "error: give a recipe: --config=configs/base.py"),
    (["--config=configs/base.py:debug", "--config.modl=1"], "the config has no key 'modl' Did you mean \"model\""),
    (["--config=configs/base.py:huge"], "error: configs/base.py has no variant 'huge'; there are base, debug"),
    (["--config=configs/none.py"], "No such file or directory: 'configs/none.py'"),
    (["--confg=x"], "error: Unknown command line flag 'confg'"),
    (["--config=configs/base.py:debug", "more"], "error: unknown argument 'more'"),
    (["--config=configs/base.py:debug", "--config.train.steps=-1"], "config.train.steps must be above 0, not -1"),
])
def test_mistakes_get_one_line_and_code_2(args, message):
  done = run(*args)
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: ") and message in line
  assert done.stdout == ""


def test_package_and_command_stay_light():
  check = (
      "import sys, vljepa_jax, vljepa_jax.main; "
      "print(sorted({'jax', 'flax', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules)))")
  done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "[]"
