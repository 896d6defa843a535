"""Every launcher is sound shell."""

import shutil
import subprocess

import pytest

from tests.launch.stand_ins import LAUNCH

SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def test_there_are_scripts():
  assert {"local.sh", "tpu_vm.sh", "gke_jobset.sh", "worker.sh"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_it(path):
  subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
  done = subprocess.run(["shellcheck", "-x", *(path.relative_to(LAUNCH.parent) for path in SCRIPTS)], cwd=LAUNCH.parent,
                        capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_what_is_started_can_be_started(path):
  """Those with a first line for the system are executable, those that are sourced are not."""
  assert path.read_text().startswith("#!") == bool(path.stat().st_mode & 0o111)
