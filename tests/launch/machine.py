"""Calls of launch/tpu_vm.sh for a machine named jepa, and the gcloud commands that came of them."""

ZONE = "--zone=us-east5-b"
TPUS = ["gcloud", "compute", "tpus"]
NOT_FOUND = ("", "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'projects/p/…' was not found\n", 1)
ARGUMENTS = ["--config=configs/base.py:debug", "--note=it's \"$HOME\" `a` & b\nc", "--empty="]


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


def kinds(calls):
  """What the calls did, in words: `tpu-vm create`, `worker start`, …"""
  words = []
  for call in calls:
    if "tar -xzf" in call[-1]:
      words.append("unpack")
    elif "ssh" in call:
      words.append("worker " + remote(call).split("worker.sh ")[1].split()[0].strip(";"))
    else:
      words.append(" ".join(call[3:5]))
  return words
