"""What `resume` and `watch` of launch/tpu_vm.sh do in each state that gcloud and the hosts can tell."""

import pytest

from tests.launch.machine import NOT_FOUND, TPUS, ZONE, done, kinds, launch, started
from tests.launch.stand_ins import Checkout, refused

AGAIN = ["tpu-vm scp", "unpack", "worker setup", "worker start"]
LOOK = ["tpu-vm describe"]


@pytest.fixture
def checkout(tmp_path):
  return Checkout(tmp_path, "gcloud")


@pytest.mark.parametrize("machine, hosts, then", [
    (NOT_FOUND, "", ["tpu-vm create", "worker state", *AGAIN]),
    ("PREEMPTED\n", "", ["tpu-vm delete", "tpu-vm create", "worker state", *AGAIN]),
    ("TERMINATED\n", "", ["tpu-vm delete", "tpu-vm create", "worker state", *AGAIN]),
    ("CREATING\n", "", []),
    ("READY\n", "state=running\n" * 4, ["worker state"]),
    ("READY\n", "state=finished\n" * 4, ["worker state"]),
    ("READY\n", "state=running\nstate=failed, code 1\n", ["worker state", "worker stop", "worker start"]),
    ("READY\n", "state=finished\nstate=failed, code 143\n", ["worker state", "worker stop", "worker start"]),
    ("READY\n", "state=failed, killed\n", ["worker state", "worker stop", "worker start"]),
    ("READY\n", "state=running\nstate=absent\n", ["worker state", *AGAIN]),
])
def test_resume_in_each_state(checkout, machine, hosts, then):
  started(checkout, TYPE="v6e-16", BUCKET="b", SPOT="1")
  run = checkout.calls("ssh")[-1]
  checkout.answer("tpu-vm describe", machine)
  checkout.answer("worker.sh state", hosts or "state=absent\n")
  calls = done(checkout, "resume")
  assert calls[0] == [*TPUS, "tpu-vm", "describe", "jepa", ZONE, "--format=value(state)"]
  assert kinds(calls) == LOOK + then
  for call in checkout.calls("create"):
    assert call == [*TPUS, "tpu-vm", "create", "jepa", ZONE, "--version=v2-alpha-tpuv6e", "--accelerator-type=v6e-16",
                    "--spot"]
  if then and then[-1] == "worker start":
    assert calls[-1] == run


@pytest.mark.parametrize("queued, machine, then", [
    (NOT_FOUND, NOT_FOUND, ["queued-resources create"]),
    ("WAITING_FOR_RESOURCES\n", NOT_FOUND, []),
    ("SUSPENDING\n", NOT_FOUND, []),
    ("SUSPENDED\n", NOT_FOUND, ["queued-resources delete", "queued-resources create"]),
    ("FAILED\n", NOT_FOUND, ["queued-resources delete", "queued-resources create"]),
    ("ACTIVE\n", NOT_FOUND, [*LOOK, "queued-resources delete", "queued-resources create"]),
    ("ACTIVE\n", "PREEMPTED\n", [*LOOK, "queued-resources delete", "queued-resources create"]),
    ("ACTIVE\n", "READY\n", [*LOOK, "worker state", *AGAIN]),
])
def test_resume_of_what_was_queued(checkout, queued, machine, then):
  started(checkout, WAY="queue", VALID_UNTIL="6h")
  checkout.answer("tpu-vm describe", machine)
  checkout.answer("queued-resources describe", queued)
  checkout.answer("worker.sh state", "state=absent\n")
  assert kinds(done(checkout, "resume")) == ["queued-resources describe", *then]
  for call in checkout.calls("delete"):
    assert call == [*TPUS, "queued-resources", "delete", "jepa", ZONE, "--force", "--quiet"]
  for call in checkout.calls("create"):
    assert "--valid-until-duration=6h" in call


def test_resume_installs_the_code_of_the_run(checkout):
  started(checkout)
  before = (checkout.root / "runs/launch/jepa.tar.gz").read_bytes()
  (checkout.root / "later").write_text("x")
  checkout.commit()
  checkout.answer("tpu-vm describe", "READY\n")
  checkout.answer("worker.sh state", "state=absent\n")
  done(checkout, "resume")
  assert (checkout.root / "runs/launch/jepa.tar.gz").read_bytes() == before


@pytest.mark.parametrize("answers, message", [
    ({"tpu-vm describe": "STOPPED\n"}, "jepa is STOPPED: start it with gcloud"),
    ({"tpu-vm describe": "READY\n", "worker.sh state": "state=running\nstate=failed, code 2\n"},
     "a mistake in its arguments"),
    ({"tpu-vm describe": "READY\n", "worker.sh state": "hello\n"}, "the hosts of jepa tell no state: hello"),
])
def test_what_resume_leaves_to_you(checkout, answers, message):
  started(checkout)
  for words, answer in answers.items():
    checkout.answer(words, answer)
  checkout.forget()
  assert refused(launch(checkout, "resume"), message)
  assert not checkout.calls("delete") and not checkout.calls("create")


def test_another_failure_of_gcloud_is_not_taken_for_absence(checkout):
  started(checkout)
  checkout.answer("tpu-vm describe", ("", "ERROR: PERMISSION_DENIED\n", 1))
  checkout.forget()
  result = launch(checkout, "resume")
  assert (result.returncode, result.stderr) == (1, "ERROR: PERMISSION_DENIED\n")
  assert kinds(checkout.calls()) == LOOK


def test_watch_ends_with_the_run(checkout):
  started(checkout)
  checkout.answer("tpu-vm describe", "READY\n", "PREEMPTED\n", ("", "network\n", 1), "READY\n")
  checkout.answer("worker.sh state", "state=running\n", "state=absent\n", "state=running\n", "state=finished\n")
  calls = kinds(done(checkout, "watch", INTERVAL="0"))
  look = [*LOOK, "worker state"]
  assert calls == [*look, *LOOK, "tpu-vm delete", "tpu-vm create", "worker state", *AGAIN, *LOOK, *look, *look]


def test_watch_gives_up_on_a_run_that_fails_and_fails(checkout):
  started(checkout)
  checkout.answer("tpu-vm describe", "READY\n")
  checkout.answer("worker.sh state", "state=failed, code 1\n")
  checkout.forget()
  result = launch(checkout, "watch", INTERVAL="0", RESTARTS="2")
  assert result.returncode == 2 and "error: the run failed again after 2 new starts" in result.stderr
  assert kinds(checkout.calls()).count("worker start") == 2
