"""Stopping between two steps when asked to; processes agree on which."""

from collections.abc import Iterator
import contextlib
import dataclasses
import signal
import threading

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from vljepa_jax import sharding

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass
class StopRequest:
  """Whether a signal has asked the run to stop."""

  requested: bool = False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """While inside, Ctrl-C or SIGTERM only sets a flag; a second one acts at once, as usual."""
  request = StopRequest()
  if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
    yield request
    return
  before = {number: signal.getsignal(number) for number in SIGNALS}

  def restore():
    for number, handler in before.items():
      signal.signal(number, handler)

  def handle(number, frame):
    del number, frame
    request.requested = True
    restore()

  for number in SIGNALS:
    signal.signal(number, handle)
  try:
    yield request
  finally:
    restore()


class Vote:
  """Whether to stop: all processes get the same answer after the same step, whichever of them was asked.

  A process alone answers at once. Several add up a number each behind every step, and the sum of the step before is
  read: by then it is known, and no device waits for a host. JAX's own service (`reached_preemption_sync_point`) knows
  of SIGTERM alone, which it takes over for the life of the process.

  Args:
    mesh: of the run.
  """

  def __init__(self, mesh: jax.sharding.Mesh):
    self._alone = jax.process_count() == 1
    self._rows = NamedSharding(mesh, P(mesh.axis_names))
    self._sum = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, P()))
    self._waiting = None

  def is_to_stop(self, requested: bool) -> bool:
    """To be asked once after every step; `requested` says whether this process was asked to stop."""
    if self._alone:
      return requested
    mine = sharding.put_batch({"asked": np.full(jax.local_device_count(), requested, np.int32)}, self._rows)
    before, self._waiting = self._waiting, self._sum(mine["asked"])
    return before is not None and bool(jax.device_get(before))
