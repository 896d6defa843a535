"""The processes of one run: how they find each other, and how they act as one.

Several hosts run one process each, or one machine runs several (`launch/local.sh`). The environment says so:

* `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, all three, on machines of any kind.
* On hosts of TPUs JAX makes everything out by itself, from the same places that are looked at here: more than one name
  in `TPU_WORKER_HOSTNAMES` or `TPU_PROCESS_ADDRESSES` (GKE), `MEGASCALE_COORDINATOR_ADDRESS` (several slices), and on
  TPU VMs the metadata server, which has the same under `worker-network-endpoints` and `tpu-env`.

Otherwise the process is alone, and `jax.distributed.initialize`, which would look for a cluster, is not called.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request

import jax
from jax.experimental import multihost_utils
import numpy as np

from vljepa_jax import fatal, watch
from vljepa_jax.errors import SharedError, UserError, one_line

JOIN_SECONDS = 300  # after which a process that has not found the others gives up
BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
PATIENCE = 30  # seconds that a network file system may take to show what another host has written
METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"
MESSAGE_BYTES = 2048  # room for an error that the processes share


@dataclasses.dataclass(frozen=True)
class Group:
  """The processes of a run.

  Attributes:
    coordinator: host:port of process 0, or its host alone where JAX picks the port.
    count: of processes; None where JAX finds it out.
    index: of this process; None where JAX finds it out.
  """

  coordinator: str
  count: int | None = None
  index: int | None = None


@contextlib.contextmanager
def joined(limits: watch.Limits | None = None) -> Iterator[None]:
  """Joins the other processes of the run if there are any; to be entered before anything else asks JAX for devices.

  An error that is not shared by all ends this process at once, with code 2 for a UserError and 1 for others: an
  orderly exit waits for the other processes, and they may be waiting for this one.

  Args:
    limits: of a watch over the processes, this one among them; None for no watch.

  Raises:
    UserError: what the environment says about the processes is half set or wrong.
  """
  group = find_group(os.environ)
  if group is not None:
    try:
      _join(group, limits)
    except UserError as error:
      _leave(error)  # JAX is set up by half: an orderly exit may crash
  watching = watch.Watch(limits, watch.leave) if limits else None
  if watching:
    watching.start()
  try:
    yield
  except SharedError:
    raise
  except Exception as error:
    if group is None:
      raise
    if watching:
      _tell_others(watching, error)
    _leave(error)
  finally:
    if watching:
      watching.stop()


def find_group(environ: Mapping[str, str]) -> Group | None:
  """The processes that this one belongs to, None if it is alone; UserError if the environment is half set."""
  given = [name for name in BY_HAND if environ.get(name)]
  if len(given) == len(BY_HAND):
    return _group_by_hand(*(environ[name] for name in BY_HAND))
  if given:
    missing = [name for name in BY_HAND if name not in given]
    raise UserError(
        f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} set, but not {' and '.join(missing)}; "
        "set all three, or none for a process alone")
  hosts = _tpu_hosts(environ)
  return Group(hosts[0]) if len(hosts) > 1 else None


def _group_by_hand(coordinator: str, count: str, index: str) -> Group:
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit():
    raise UserError(f"JAX_COORDINATOR_ADDRESS must be host:port of process 0, not {coordinator!r}")
  if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
    raise UserError(
        f"JAX_PROCESS_ID must be a number below JAX_NUM_PROCESSES, from 0 on; they are {index!r} and {count!r}")
  return Group(coordinator, int(count), int(index))


def _tpu_hosts(environ: Mapping[str, str]) -> list[str]:
  """The hosts of TPUs that belong to this one, the coordinator first and only some of the others; empty if no TPU."""
  slices = environ.get("MEGASCALE_COORDINATOR_ADDRESS")
  if slices:
    return [slices, "and those of other slices"]
  for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
    if environ.get(name):
      return environ[name].split(",")
  # On import JAX sets this variable where it finds no TPU chip.
  if environ.get("TPU_SKIP_MDS_QUERY") or "tpu" not in environ.get("JAX_PLATFORMS", "tpu"):
    return []
  server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
  found = re.search(r"^MEGASCALE_COORDINATOR_ADDRESS\s*:\s*'?([^'\s]+)", _metadata(server, "tpu-env"), re.MULTILINE)
  if found:
    return [found[1], "and those of other slices"]
  # A list of addresses, or of name:number:address.
  return [entry.split(":")[-1] for entry in _metadata(server, "worker-network-endpoints").split(",") if entry]


def _metadata(server: str, key: str) -> str:
  """What a TPU VM is told about itself; empty if it has no such entry."""
  request = urllib.request.Request(METADATA.format(server, key), headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(request, timeout=30) as answer:
      return answer.read().decode()
  except urllib.error.HTTPError as error:
    if error.code == 404:
      return ""
    reason = str(error)
  except OSError as error:
    reason = str(error)
  raise UserError(
      f"this machine has a TPU, but {server} does not say which others belong to it ({reason}); "
      "for a single host set TPU_WORKER_HOSTNAMES=localhost")


def _join(group: Group, limits: watch.Limits | None) -> None:
  # JAX ends the process from C++ when it times out: this says before that what is wrong.
  watchdog = threading.Timer(JOIN_SECONDS, _give_up, [group])
  watchdog.daemon = True
  watchdog.start()
  # JAX's own handler would swallow SIGTERM before and after the training loop; see `interrupt`.
  jax.config.update("jax_enable_preemption_service", False)
  fatal.filter_stderr(f"error: process 0 ({group.coordinator}) has ended, and with it this one; its output says why")
  patience = dict(
      initialization_timeout=JOIN_SECONDS + 60,
      # Later than the watch, which says what has happened.
      heartbeat_timeout_seconds=int(3 * limits.host_seconds) + 100 if limits else 100)
  with _explained(group):
    if group.count is None:
      jax.distributed.initialize(**patience)
    else:
      if group.index == 0:
        _check_port(group)
      jax.config.update("jax_cpu_collectives_implementation", "gloo")  # concerns CPUs only
      _silence_gloo()
      jax.distributed.initialize(
          group.coordinator, group.count, group.index, cluster_detection_method="deactivate", **patience)
  watchdog.cancel()
  if jax.process_index() != 0:
    logging.getLogger("vljepa_jax").setLevel(logging.ERROR)  # warnings about the data are the same everywhere


def _check_port(group: Group) -> None:
  """OSError if the port of the coordinator is taken: jaxlib 0.10.2 may then crash."""
  port = int(group.coordinator.rpartition(":")[2])
  if socket.has_dualstack_ipv6():
    socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True).close()
  else:
    socket.create_server(("", port)).close()


@contextlib.contextmanager
def _explained(group: Group) -> Iterator[None]:
  try:
    yield
  except (RuntimeError, OSError) as error:
    raise UserError(
        f"the processes of this run cannot meet at {group.coordinator}: {one_line(error)}; is the port free there?"
    ) from error


def _silence_gloo() -> None:
  """Gloo greets every peer on the standard output of C++. That goes nowhere; what Python prints goes where it did."""
  if jax.config.jax_platforms != "cpu":
    return
  sys.stdout.flush()
  terminal = os.dup(1)
  with open(os.devnull, "w", encoding="utf-8") as nowhere:
    os.dup2(nowhere.fileno(), 1)
  sys.stdout = open(terminal, "w", encoding=sys.stdout.encoding)


def _give_up(group: Group) -> None:
  who = "this process" if group.index is None else f"process {group.index} of {group.count}"
  print(
      f"error: {who} has not met the others within {JOIN_SECONDS:g} s; the coordinator, process 0, is "
      f"{group.coordinator}: is it running, can its port be reached, and have all processes been started?",
      file=sys.stderr, flush=True)
  os._exit(2)


def _tell_others(watching: watch.Watch, error: Exception) -> None:
  if isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error):  # which comes as a ValueError
    watching.wait()  # is another process lost? Then the watch says so and does not come back
  watching.accuse(f"{watching.name(jax.process_index(), socket.gethostname())} has ended: {one_line(error)[:300]}")


def _leave(error: Exception) -> None:
  sys.stdout.flush()
  if isinstance(error, UserError):
    print("error:", one_line(error), file=sys.stderr, flush=True)
    os._exit(2)
  traceback.print_exception(error)
  print("error: this process ends; if another one did first, its output says why", file=sys.stderr)
  sys.stderr.flush()
  os._exit(1)


@contextlib.contextmanager
def together() -> Iterator[None]:
  """All processes get through the block, or all of them raise the UserError of the first that does not.

  They wait for each other at the end, so in the block they must not.

  Raises:
    SharedError: the block raised a UserError in some process.
  """
  message = ""
  try:
    yield
  except UserError as error:
    if jax.process_count() == 1:
      raise
    message = one_line(error)
  message = first_message(message)
  if message:
    raise SharedError(message)


def first_message(message: str) -> str:
  """The first message that is not empty, of any process, in all of them; it names the process if it is not of all."""
  if jax.process_count() == 1:
    return message
  encoded = np.zeros(MESSAGE_BYTES, np.uint8)
  content = np.frombuffer(message.encode()[:MESSAGE_BYTES], np.uint8)
  encoded[:len(content)] = content
  gathered = multihost_utils.process_allgather(encoded)
  messages = [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in gathered]
  for index, text in enumerate(messages):
    if text:
      # What process 0 says is true of the run; what another one says alone may concern its machine.
      return text if index == 0 or all(messages) else f"process {index} of {len(messages)}: {text}"
  return ""


def comes_true(condition: Callable[[], bool]) -> bool:
  """Whether something is so, or becomes so in a while: what another host has written may be seen late."""
  last = time.monotonic() + PATIENCE
  while not condition():
    if time.monotonic() > last:
      return False
    time.sleep(0.2)
  return True


def from_first(number: int) -> int:
  """The number that process 0 has, in all processes: folders on a network may look different for a while."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def array_from_first(value: np.ndarray) -> np.ndarray:
  """The array that process 0 has, in all processes, whose own must be of its shape and type."""
  return np.asarray(multihost_utils.broadcast_one_to_all(value))
