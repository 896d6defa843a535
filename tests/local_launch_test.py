"""launch/local.sh with a stand-in for the entry point; tests/multihost_test.py runs the real one."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
STAND_IN = """#!{python}
import os, signal, sys, time
if sys.argv[1] == "-c":  # the search for a free port
  print(12345)
  sys.exit()
me = os.environ["JAX_PROCESS_ID"]
print(me, *sys.argv[1:], *(os.environ["JAX_" + name] for name in (
    "PLATFORMS", "COORDINATOR_ADDRESS", "NUM_PROCESSES", "NUM_CPU_DEVICES")), flush=True)
{rest}
"""
LONG = """
def stop(number, frame):
  print(me, "saved after", signal.Signals(number).name, flush=True)
  sys.exit(code)
for number in (signal.SIGINT, signal.SIGTERM):
  signal.signal(number, stop)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def launch(tmp_path):
  """(code of the stand-in, arguments, environment) -> the launcher, started."""

  def start(rest, *arguments, **environ):
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable, rest=rest))
    python.chmod(0o755)
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)} | environ
    process = subprocess.Popen(
        ["launch/local.sh", *arguments], cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell in the background ignores it
    started.append(process)
    return process

  started = []
  yield start
  for process in started:
    process.kill()
    process.communicate()


def logs(folder):
  return {path.name: path.read_text() for path in folder.glob("vljepa_jax.*/*.log")}


def test_processes_get_their_places(launch, tmp_path):
  process = launch("", "3", "--config=c", "--x=a b", DEVICES="4", PORT="77")
  out, err = process.communicate(timeout=120)
  said = "-m vljepa_jax.main --config=c --x=a b cpu localhost:77 3 4\n"
  assert (process.returncode, out) == (0, "0 " + said)
  assert logs(tmp_path) == {"process_1.log": "1 " + said, "process_2.log": "2 " + said}
  (folder,) = tmp_path.glob("vljepa_jax.*")
  assert err == f"output of the other processes: {folder}/process_*.log\n"


def test_defaults(launch):
  out, err = launch("", "1").communicate(timeout=120)
  assert out == "0 -m vljepa_jax.main --config=configs/base.py cpu localhost:12345 1 1\n"
  assert err == ""


@pytest.mark.parametrize("arguments", [[], ["--config=c"], ["0"]])
def test_the_number_comes_first(launch, arguments):
  process = launch("", *arguments)
  assert "error: the number of processes comes first" in process.communicate(timeout=120)[1]
  assert process.returncode == 2


def test_a_failure_ends_the_others_and_is_shown(launch):
  process = launch("if me == '1': sys.exit('it broke')\ntime.sleep(60)", "3", GRACE="1")
  _, err = process.communicate(timeout=120)
  assert process.returncode == 1
  assert "error: process 1 has ended with code 1; the end of " in err and err.endswith("\nit broke\n")


def test_an_error_of_all_is_shown_once(launch):
  process = launch("print('wrong', file=sys.stderr); sys.exit(2)", "3")
  assert process.communicate(timeout=120)[1].count("wrong") == 1
  assert process.returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [0, 130])
def test_a_signal_reaches_every_process_once(launch, tmp_path, number, code):
  process = launch(f"code = {code}{LONG}", "2")
  while process.stdout.readline() != "ready\n":
    pass
  while "ready" not in logs(tmp_path).get("process_1.log", ""):
    pass
  os.killpg(process.pid, number)  # as a terminal does
  out, _ = process.communicate(timeout=120)
  assert process.returncode == code
  assert out == f"0 saved after {number.name}\n"
  assert logs(tmp_path)["process_1.log"].endswith(f"ready\n1 saved after {number.name}\n")
