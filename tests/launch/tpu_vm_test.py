"""The commands that launch/tpu_vm.sh issues, argument by argument, against a stand-in for gcloud."""

import pytest

from tests.launch.stand_ins import Checkout, refused

ZONE = "--zone=us-east5-b"
TPUS = ["gcloud", "compute", "tpus"]
NOT_FOUND = ("", "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'projects/p/…' was not found\n", 1)
ARGUMENTS = ["--config=configs/base.py:debug", "--note=it's \"$HOME\" `a` & b\nc", "--empty="]


@pytest.fixture
def checkout(tmp_path):
  return Checkout(tmp_path, "gcloud")


def launch(checkout, action, *args, **knobs):
  return checkout.run("tpu_vm.sh", action, *args, NAME="jepa", **knobs)


def done(checkout, action, *args, **knobs):
  """Launches and checks that it went well; the commands it issued."""
  checkout.forget()
  result = launch(checkout, action, *args, **knobs)
  assert result.returncode == 0, result
  return checkout.calls()


def started(checkout, **knobs):
  """A machine that was created, set up and given a command to run."""
  way = knobs.pop("WAY", "create")
  checkout.commit()
  done(checkout, way, ZONE="us-east5-b", **knobs)
  done(checkout, "setup")
  done(checkout, "run", *ARGUMENTS)
  return checkout


def remote(call):
  """What a call has the hosts run."""
  (command,) = [word for word in call if word.startswith("--command=")]
  return command.removeprefix("--command=")


@pytest.mark.parametrize("kind, version", [
    ("v4-16", "tpu-ubuntu2204-base"), ("v5litepod-256", "v2-alpha-tpuv5-lite"), ("v5p-256", "v2-alpha-tpuv5"),
    ("v6e-256", "v2-alpha-tpuv6e")])
def test_software_follows_from_the_type(checkout, kind, version):
  assert done(checkout, "create", ZONE="us-east5-b", TYPE=kind) == [
      [*TPUS, "tpu-vm", "create", "jepa", ZONE, f"--version={version}", f"--accelerator-type={kind}"]]


@pytest.mark.parametrize("knobs, options", [
    ({"PROJECT": "p 1"}, ["--project=p 1"]),
    ({"VERSION": "v7"}, ["--version=v7"]),
    ({"SPOT": "1"}, ["--spot"]),
    ({"RESERVED": "1"}, ["--reserved"]),
    ({"NETWORK": "n", "SUBNET": "s"}, ["--network=n", "--subnetwork=s"]),
    ({"SERVICE_ACCOUNT": "me@p.iam"}, ["--service-account=me@p.iam"]),
])
def test_knobs_of_create_and_queue(checkout, knobs, options):
  (created,) = done(checkout, "create", ZONE="us-east5-b", **knobs)
  default = {"--version=v2-alpha-tpuv6e"} if "VERSION" not in knobs else set()
  assert set(created[6:]) == {ZONE, "--accelerator-type=v6e-8", *default, *options}
  (queued,) = done(checkout, "queue", ZONE="us-east5-b", **knobs)
  assert queued[:6] == [*TPUS, "queued-resources", "create", "jepa"]
  same = {option.replace("--version", "--runtime-version") for option in (*default, *options)}
  assert set(queued[6:]) == {ZONE, "--node-id=jepa", "--accelerator-type=v6e-8", *same}


def test_a_queued_resource_may_end_waiting(checkout):
  assert done(checkout, "queue", ZONE="us-east5-b", TYPE="v5p-256", SPOT="1", VALID_UNTIL="6h") == [
      [*TPUS, "queued-resources", "create", "jepa", ZONE, "--node-id=jepa", "--runtime-version=v2-alpha-tpuv5",
       "--valid-until-duration=6h", "--accelerator-type=v5p-256", "--spot"]]


def test_setup_reaches_all_hosts(checkout):
  checkout.commit()
  copy, unpack, setup = done(checkout, "setup", ZONE="us-east5-b", BUCKET="gs://b", EXTRAS="huggingface_hub a[b]>=1")
  assert copy == [*TPUS, "tpu-vm", "scp", "runs/launch/jepa.tar.gz", "jepa:checkout.tar.gz", ZONE, "--worker=all"]
  assert unpack[:-1] == setup[:-1] == [*TPUS, "tpu-vm", "ssh", "jepa", ZONE, "--worker=all"]
  assert remote(unpack) == "mkdir -p vljepa_jax_checkout && tar -xzf checkout.tar.gz -C vljepa_jax_checkout"
  assert remote(setup) == (
      r"cd vljepa_jax_checkout && env GENERATION=v6e BUCKET=b MOUNT=/mnt/b PYTHON=3.12 launch/worker.sh setup "
      r"huggingface_hub a\[b\]\>=1 ")


def test_batches_of_hosts_need_alpha(checkout):
  checkout.commit()
  for call in done(checkout, "setup", ZONE="us-east5-b", BATCH="16"):
    assert call[:5] == ["gcloud", "alpha", "compute", "tpus", "tpu-vm"] and "--batch-size=16" in call


def test_later_calls_need_the_name_alone_and_a_knob_that_is_given_wins(checkout):
  started(checkout, TYPE="v5litepod-8", PROJECT="p", BUCKET="b")
  (call,) = done(checkout, "run", "--config=c")
  assert {ZONE, "--project=p"} < set(call)
  assert "GENERATION=v5e" in remote(call) and "--workdir=/mnt/b/jepa" in remote(call)
  assert "--workdir=/mnt/b/other" in remote(done(checkout, "run", "--config=c", WORKDIR="/mnt/b/other")[0])
  assert "--workdir=/mnt/b/other" in remote(done(checkout, "run", "--config=c")[0])
  assert done(checkout, "tail") == [
      [*TPUS, "tpu-vm", "ssh", "jepa", ZONE, "--project=p", "--worker=0",
       "--command=tail -n 50 -F vljepa_jax_checkout/run.log"]]
  assert "--worker=3" in done(checkout, "tail", "3")[0]
  assert remote(done(checkout, "stop")[0]).endswith("launch/worker.sh stop ")


@pytest.mark.parametrize("knobs, args, message", [
    ({"TYPE": "v6e-16"}, ["--config=c"], "v6e-16 has 4 hosts, of which each sees its own WORKDIR ''"),
    ({"TYPE": "v5litepod-256", "WORKDIR": "runs/x"}, ["--config=c"], "has 64 hosts, of which each sees its own WORKDIR 'r"),
    ({"TYPE": "v5p-256", "BUCKET": "b", "WORKDIR": "/tmp/x"}, ["--config=c"], "v5p-256 has 32 hosts"),
    ({"WORKDIR": "gs://b/x", "BUCKET": "b"}, ["--config=c"], "WORKDIR is a folder, not gs://b/x: give BUCKET"),
    ({}, ["--config=c", "--workdir=x"], "give WORKDIR, not --workdir"),
    ({}, [], "give the arguments of vljepa_jax.main"),
])
def test_what_cannot_run_is_refused(checkout, knobs, args, message):
  assert refused(launch(checkout, "run", *args, ZONE="z", **knobs), message)
  assert checkout.calls() == []


@pytest.mark.parametrize("knobs, where", [
    ({"TYPE": "v6e-256", "BUCKET": "b"}, "/mnt/b/jepa"), ({"TYPE": "v6e-16", "MOUNT": "/nfs"}, "/nfs/jepa"),
    ({"TYPE": "v5p-8", "WORKDIR": "/disk/x"}, "/disk/x")])
def test_hosts_write_where_all_of_them_see_it(checkout, knobs, where):
  (call,) = done(checkout, "run", "--config=c", ZONE="z", **knobs)
  assert remote(call).endswith(f"launch/worker.sh start --config=c --workdir={where} ")


@pytest.mark.parametrize("action, knobs, message", [
    ("", {}, "no action ''; there are create, queue, setup"),
    ("crate", {}, "no action 'crate'; there are create, queue, setup"),
    ("create", {"NAME": ""}, "NAME '' is no name"),
    ("create", {"NAME": "A/b"}, "NAME 'A/b' is no name"),
    ("create", {}, "give ZONE, one that has v6e-8"),
    ("create", {"ZONE": "z", "TYPE": "v9-8"}, "TYPE 'v9-8' is none of"),
    ("create", {"ZONE": "z", "SPOT": "no"}, "SPOT is 1 or empty, not 'no'"),
    ("create", {"ZONE": "z", "SPOT": "1", "RESERVED": "1"}, "give SPOT or RESERVED, not both"),
    ("resume", {"ZONE": "z"}, "nothing to resume: no run of jepa is known"),
])
def test_mistakes_get_one_line(checkout, action, knobs, message):
  assert refused(checkout.run("tpu_vm.sh", action, **{"NAME": "jepa", **knobs}), message)
  assert checkout.calls() == []


def test_without_gcloud(tmp_path):
  assert refused(launch(Checkout(tmp_path), "create", ZONE="z"), "gcloud is not installed: see https://cloud.google.com")


def kinds(calls):
  """What the calls did, in words: `tpu-vm create`, `worker start`, …"""
  words = []
  for call in calls:
    if "ssh" in call:
      command = remote(call)
      words.append("unpack" if "tar -xzf" in command else "worker " + command.split("worker.sh ")[1].split()[0].strip(";"))
    else:
      words.append(" ".join(call[3:5]))
  return words


AGAIN = ["tpu-vm scp", "unpack", "worker setup", "worker start"]
LOOK = ["tpu-vm describe"]


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
    ({"tpu-vm describe": "READY\n", "worker.sh state": "state=running\nstate=failed, code 2\n"}, "a mistake in its arguments"),
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


@pytest.mark.parametrize("way, command", [
    ("create", ["tpu-vm", "delete", "jepa", ZONE, "--quiet"]),
    ("queue", ["queued-resources", "delete", "jepa", ZONE, "--force", "--quiet"])])
def test_delete_forgets_the_run(checkout, way, command):
  started(checkout, WAY=way)
  checkout.answer("describe", "ACTIVE\n")
  assert done(checkout, "delete")[-1] == [*TPUS, *command]
  assert refused(launch(checkout, "resume", ZONE="z"), "nothing to resume")


def test_status(checkout):
  started(checkout)
  checkout.answer("tpu-vm describe", "READY\n")
  checkout.answer("worker.sh state", "state=running\n")
  assert launch(checkout, "status").stdout == "jepa is READY\nstate=running\n"
  checkout.answer("tpu-vm describe", NOT_FOUND)
  assert launch(checkout, "status").stdout == "jepa is ABSENT\n"
