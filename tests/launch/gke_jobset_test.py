"""The JobSets that launch/gke_jobset.sh renders and the commands it issues, against stand-ins for kubectl and xpk."""

import subprocess

import pytest
import yaml

from tests.launch.stand_ins import Checkout, refused

CLUSTER = {"NAME": "jepa", "CLUSTER": "c", "ZONE": "us-east5", "PROJECT": "p"}
RUN = {**CLUSTER, "IMAGE": "reg/vljepa:1", "BUCKET": "gs://b"}
KUBECTL = ["kubectl", "--context=gke_p_us-east5_c", "--namespace=default"]
CREATE = [*KUBECTL, "create", "--filename=runs/launch/jepa.yaml"]
ARGUMENTS = ["--config=c", "--note=it's \"$(HOME)\" `a` $$b \\ c: #d\n\te @NAME@ # if SPOT", "--empty="]


@pytest.fixture
def checkout(tmp_path):
  checkout = Checkout(tmp_path, "gcloud", "kubectl", "docker")
  checkout.answer("get-contexts", "other\ngke_p_us-east5_c\n")
  return checkout


def launch(checkout, *args, **knobs):
  return checkout.run("gke_jobset.sh", *args, **knobs)


def issued(checkout, *args, **knobs):
  """Commands of one action, without the look at the contexts."""
  checkout.forget()
  done = launch(checkout, *args, **knobs)
  assert done.returncode == 0, done
  return [call for call in checkout.calls() if "get-contexts" not in call]


def render(checkout, *args, **knobs):
  done = launch(checkout, "render", *(args or ["--config=c"]), **{**RUN, **knobs})
  assert done.returncode == 0, done
  assert not [line for line in done.stdout.splitlines()[6:] if "@" in line or "# if" in line] or args
  return yaml.safe_load(done.stdout)


def job(jobset):
  (replicated,) = jobset["spec"]["replicatedJobs"]
  return replicated["template"]["spec"]


def pod(jobset):
  return job(jobset)["template"]["spec"]


@pytest.mark.parametrize("kind, accelerator, topology, hosts, chips", [
    ("v5litepod-256", "tpu-v5-lite-podslice", "16x16", 64, 4),
    ("v6e-256", "tpu-v6e-slice", "16x16", 64, 4),
    ("v6e-8", "tpu-v6e-slice", "2x4", 2, 4),
    ("v6e-1", "tpu-v6e-slice", "1x1", 1, 1),
    ("v5p-8", "tpu-v5p-slice", "2x2x1", 1, 4),
    ("v5p-256", "tpu-v5p-slice", "4x4x8", 32, 4),
    ("v5p-2048", "tpu-v5p-slice", "8x8x16", 256, 4),
    ("v4-64", "tpu-v4-podslice", "2x4x4", 8, 4),
])
@pytest.mark.parametrize("slices", [1, 3])
def test_slices_hosts_and_chips(checkout, kind, accelerator, topology, hosts, chips, slices):
  jobset = render(checkout, TYPE=kind, SLICES=str(slices))
  assert jobset["spec"]["replicatedJobs"][0]["replicas"] == slices
  assert (job(jobset)["parallelism"], job(jobset)["completions"]) == (hosts, hosts)
  assert job(jobset)["completionMode"] == "Indexed" and job(jobset)["backoffLimit"] == 0
  assert pod(jobset)["nodeSelector"] == {
      "cloud.google.com/gke-tpu-accelerator": accelerator, "cloud.google.com/gke-tpu-topology": topology}
  (container,) = pod(jobset)["containers"]
  assert container["resources"] == {"requests": {"google.com/tpu": chips}, "limits": {"google.com/tpu": chips}}


def test_other_topologies_and_hosts(checkout):
  jobset = render(checkout, TYPE="v6e-8", CHIPS_PER_HOST="8")
  assert job(jobset)["completions"] == 1
  assert pod(jobset)["containers"][0]["resources"]["limits"] == {"google.com/tpu": 8}
  jobset = render(checkout, TYPE="v5p-384", TOPOLOGY="4x4x12")
  assert job(jobset)["completions"] == 48
  assert pod(jobset)["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4x12"


def test_restarts(checkout):
  """A preempted Pod fails its Job by the policy, and the JobSet starts again without counting it."""
  jobset = render(checkout, RESTARTS="5", GRACE="120")
  assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and jobset["kind"] == "JobSet"
  assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 5, "rules": [
      {"name": "preemption", "action": "RestartJobSetAndIgnoreMaxRestarts",
       "onJobFailureReasons": ["PodFailurePolicy"]}]}
  assert job(jobset)["podFailurePolicy"]["rules"] == [
      {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
  assert pod(jobset)["restartPolicy"] == "Never" and pod(jobset)["terminationGracePeriodSeconds"] == 120
  assert jobset["spec"]["network"] == {"enableDNSHostnames": True}
  assert jobset["metadata"]["annotations"] == {
      "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}


def test_arguments_reach_the_program_as_they_are(checkout):
  (container,) = pod(render(checkout, *ARGUMENTS, TYPE="v5litepod-16"))["containers"]
  assert container["command"] == ["launch/worker.sh", "main"]
  # Kubernetes makes $ of $$, and would take $(HOME) for a variable.
  assert container["args"] == [*(arg.replace("$", "$$") for arg in ARGUMENTS), "--workdir=/mnt/bucket/jepa"]
  assert container["env"] == [{"name": "GENERATION", "value": "v5e"}]
  assert container["image"] == "reg/vljepa:1"


def test_the_bucket_is_a_volume(checkout):
  jobset = render(checkout, MOUNT="/data", WORKDIR="/data/x/y")
  (container,) = pod(jobset)["containers"]
  assert container["args"][-1] == "--workdir=/data/x/y"
  assert {"name": "bucket", "mountPath": "/data"} in container["volumeMounts"]
  volumes = {volume.pop("name"): volume for volume in pod(jobset)["volumes"]}
  assert volumes["shared-memory"] == {"emptyDir": {"medium": "Memory"}}
  csi = volumes["bucket"]["csi"]
  assert csi["driver"] == "gcsfuse.csi.storage.gke.io"
  assert csi["volumeAttributes"]["bucketName"] == "b" and csi["volumeAttributes"]["hostNetworkPodKSA"] == "true"
  assert csi["volumeAttributes"]["mountOptions"].split(",") == [
      "implicit-dirs", "metadata-cache:ttl-secs:0", "metadata-cache:negative-ttl-secs:0",
      "file-system:rename-dir-limit:200000"]
  assert job(jobset)["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}


def test_what_comes_only_when_asked_for(checkout):
  plain = render(checkout)
  assert "labels" not in plain["metadata"] and plain["metadata"]["namespace"] == "default"
  assert "serviceAccountName" not in pod(plain) and len(pod(plain)["tolerations"]) == 1
  full = render(checkout, QUEUE="q", SERVICE_ACCOUNT="sa", SPOT="1", NAMESPACE="ns")
  assert full["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "q"} and full["metadata"]["namespace"] == "ns"
  assert pod(full)["serviceAccountName"] == "sa"
  assert pod(full)["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
  assert pod(full)["tolerations"][1]["key"] == "cloud.google.com/gke-spot"


@pytest.mark.parametrize("knobs, message", [
    ({"IMAGE": ""}, "give IMAGE; the knobs stand at the top"), ({"BUCKET": ""}, "give BUCKET"),
    ({"NAME": ""}, "give NAME"), ({"SPOT": "0"}, "SPOT is 1 or empty"),
    ({"NAME": "Jepa"}, "NAME 'Jepa' is no name for a JobSet"), ({"TYPE": "v9-1"}, "TYPE 'v9-1' is none of"),
    ({"SLICES": "0"}, "SLICES is a number above 0, not '0'"), ({"RESTARTS": "x"}, "RESTARTS is a number above 0"),
    ({"TYPE": "v5p-384"}, "give TOPOLOGY, such as 4x4: v5p-384 has no usual one"),
    ({"TYPE": "v6e-16", "TOPOLOGY": "4x8"}, "TOPOLOGY 4x8 has 32 chips, and v6e-16 has 16"),
    ({"TYPE": "v6e-16", "CHIPS_PER_HOST": "3"}, "CHIPS_PER_HOST 3 does not divide the 16 chips of v6e-16"),
    ({"WORKDIR": "gs://b/x"}, "WORKDIR 'gs://b/x' is not below MOUNT /mnt/bucket"),
])
def test_what_cannot_run_is_refused(checkout, knobs, message):
  for action in ("render", "apply"):
    assert refused(launch(checkout, action, "--config=c", **{**RUN, **knobs}), message)
  assert checkout.calls() == [] and not (checkout.root / "runs/launch/jepa.yaml").exists()


@pytest.mark.parametrize("args, knobs, message", [
    ([], {}, "no action ''; there are image, render, apply, status"),
    (["aply"], {}, "no action 'aply'"),
    (["render"], RUN, "give the arguments of vljepa_jax.main"),
    (["render", "--workdir=x"], RUN, "give WORKDIR, not --workdir"),
    (["apply", "--config=c"], {**RUN, "CLUSTER": ""}, "give CLUSTER"),
    (["status"], {**CLUSTER, "PROJECT": ""}, "give PROJECT"),
    (["image"], {}, "give IMAGE"),
    (["resume"], CLUSTER, "nothing to resume: no run of jepa is known in runs/launch/jepa.yaml"),
])
def test_mistakes_get_one_line(checkout, args, knobs, message):
  assert refused(launch(checkout, *args, **knobs), message)
  assert checkout.calls() == []


@pytest.mark.parametrize("action, knobs, program", [
    ("status", CLUSTER, "kubectl"), ("image", {"IMAGE": "i"}, "docker")])
def test_missing_programs(tmp_path, action, knobs, program):
  assert refused(launch(Checkout(tmp_path), action, **knobs), f"{program} is not installed: see https://")


def test_apply_creates_what_render_shows(checkout):
  assert issued(checkout, "apply", "--config=c", **RUN) == [CREATE]
  assert yaml.safe_load((checkout.root / "runs/launch/jepa.yaml").read_text()) == render(checkout)


def test_an_unknown_cluster_is_fetched_first(checkout):
  checkout.answer("get-contexts", "gke_p_us-east5_other\n")
  assert issued(checkout, "status", **CLUSTER)[0] == [
      "gcloud", "container", "clusters", "get-credentials", "c", "--location=us-east5", "--project=p"]


def test_status_tail_and_delete(checkout):
  assert issued(checkout, "status", **CLUSTER) == [
      [*KUBECTL, "get", "jobset", "jepa"],
      [*KUBECTL, "get", "pods", "--selector=jobset.sigs.k8s.io/jobset-name=jepa", "--output=wide"]]
  pod_of = "--selector=jobset.sigs.k8s.io/jobset-name=jepa,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/"
  for args, index in ([], "0"), (["5"], "5"):
    assert issued(checkout, "tail", *args, **CLUSTER) == [
        [*KUBECTL, "logs", "--follow", "--tail=50", "--container=train", f"{pod_of}job-completion-index={index}"]]
  issued(checkout, "apply", "--config=c", **RUN)
  assert issued(checkout, "delete", **CLUSTER) == [[*KUBECTL, "delete", "jobset", "jepa"]]
  assert refused(launch(checkout, "resume", **CLUSTER), "nothing to resume")


@pytest.mark.parametrize("state, then", [
    ("", [CREATE]), ("found ", []), ("found Completed", []),
    ("found Failed", [[*KUBECTL, "delete", "jobset", "jepa", "--wait"], CREATE])])
def test_resume_in_each_state(checkout, state, then):
  issued(checkout, "apply", "--config=c", **RUN)
  checkout.answer("get jobset", state)
  look, *rest = issued(checkout, "resume", **CLUSTER)
  assert look == [*KUBECTL, "get", "jobset", "jepa", "--ignore-not-found",
                  "--output=jsonpath=found {.status.terminalState}"]
  assert rest == then


def test_resume_does_nothing_where_the_state_is_not_told(checkout):
  issued(checkout, "apply", "--config=c", **RUN)
  checkout.answer("get jobset", ("", "Unable to connect\n", 1))
  checkout.forget()
  assert launch(checkout, "resume", **CLUSTER).returncode == 1
  assert not checkout.calls("create") and not checkout.calls("delete")


def test_image_is_built_from_the_last_commit_and_pushed(checkout):
  checkout.commit()
  assert issued(checkout, "image", IMAGE="reg/vljepa:1", EXTRAS="a b") == [
      ["docker", "build", "--file=launch/Dockerfile", "--tag=reg/vljepa:1", "--build-arg=EXTRAS=a b", "-"],
      ["docker", "push", "reg/vljepa:1"]]


def test_xpk_gets_the_same_run(checkout):
  """The lines it prints, run by a shell; then what the container gets, with printf in the place of the worker."""
  checkout.install("xpk")
  done = launch(checkout, "xpk", *ARGUMENTS, TYPE="v6e-256", SLICES="2", SPOT="1", RESTARTS="7", **RUN)
  subprocess.run(["bash"], input=done.stdout, text=True, env={"PATH": checkout.path}, check=True)
  attach, create = checkout.calls("xpk")
  where = ["--cluster=c", "--zone=us-east5", "--project=p"]
  assert attach[:8] == ["xpk", "storage", "attach", "jepa-bucket", *where, "--type=gcsfuse"]
  assert {"--bucket=b", "--mount-point=/mnt/bucket", "--readonly=false", "--auto-mount=false"} < set(attach)
  assert create[:-1] == [
      "xpk", "workload", "create", *where, "--workload=jepa", "--tpu-type=v6e-256", "--num-slices=2",
      "--docker-image=reg/vljepa:1", "--storage=jepa-bucket", "--max-restarts=7", "--restart-on-exit-codes=1", "--spot"]
  start, worker = "--command=cd /app && exec env GENERATION=v6e ", "launch/worker.sh main"
  assert create[-1].startswith(start + worker)
  command = create[-1].removeprefix(start + worker)
  words = subprocess.run(["bash", "-c", "printf '%s\\0' " + command], capture_output=True, text=True, check=True).stdout
  assert words.split("\0") == [*ARGUMENTS, "--workdir=/mnt/bucket/jepa", ""]
