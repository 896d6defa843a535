"""The commands that launch/tpu_vm.sh issues, argument by argument, against a stand-in for gcloud."""

import pytest

from tests.launch.machine import NOT_FOUND, TPUS, ZONE, done, launch, remote, started
from tests.launch.stand_ins import Checkout, refused


@pytest.fixture
def checkout(tmp_path):
  return Checkout(tmp_path, "gcloud")


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
      r"cd vljepa_jax_checkout && env GENERATION=v6e BUCKET=b NFS= MOUNT=/mnt/b PYTHON=3.12 launch/worker.sh setup "
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
    ({"TYPE": "v6e-16"}, ["--config=c"], "v6e-16 has 4 hosts, each with a WORKDIR '' of its own"),
    ({"TYPE": "v5litepod-256", "WORKDIR": "runs/x"}, ["--config=c"], "has 64 hosts, each with a WORKDIR 'runs/x'"),
    ({"TYPE": "v5p-256", "BUCKET": "b", "WORKDIR": "/tmp/x"}, ["--config=c"], "v5p-256 has 32 hosts"),
    ({"WORKDIR": "gs://b/x", "BUCKET": "b"}, ["--config=c"], "WORKDIR is a folder, not gs://b/x: give BUCKET"),
    ({}, ["--config=c", "--workdir=x"], "give WORKDIR, not --workdir"),
    ({}, [], "give the arguments of vljepa_jax.main"),
])
def test_what_cannot_run_is_refused(checkout, knobs, args, message):
  assert refused(launch(checkout, "run", *args, ZONE="z", **knobs), message)
  assert checkout.calls() == []


@pytest.mark.parametrize("knobs, where", [
    ({"TYPE": "v6e-256", "BUCKET": "b"}, "/mnt/b/jepa"), ({"TYPE": "v6e-16", "MOUNT": "/own"}, "/own/jepa"),
    ({"TYPE": "v6e-16", "NFS": "10.0.0.2:/share"}, "/mnt/nfs/jepa"),
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
    ("create", {"ZONE": "z", "BUCKET": "b", "NFS": "h:/s"}, "give BUCKET or NFS, not both"),
    ("resume", {"ZONE": "z"}, "nothing to resume: no run of jepa is known"),
])
def test_mistakes_get_one_line(checkout, action, knobs, message):
  assert refused(checkout.run("tpu_vm.sh", action, **{"NAME": "jepa", **knobs}), message)
  assert checkout.calls() == []


def test_without_gcloud(tmp_path):
  assert refused(launch(Checkout(tmp_path), "create", ZONE="z"), "gcloud is not installed: see https://cloud.g")


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
