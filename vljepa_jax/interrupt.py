"""Stopping where nothing is lost by it when asked to; processes agree on when."""

from collections.abc import Iterator
import contextlib
import shlex
import signal
import sys
import threading

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from vljepa_jax import sharding

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
  """A signal has asked the run to stop at a point where nothing is lost by it."""


class StopRequest:
  """Whether a signal has asked the run to stop.

  Attributes:
    requested: it has.
  """

  def __init__(self):
    self.requested = False
    self._at_once = False

  @contextlib.contextmanager
  def at_once(self, if_so: bool = True) -> Iterator[None]:
    """What is inside may be broken off: a signal raises Stopped there, and so does one that has come before.

    Args:
      if_so: False changes nothing.
    """
    self._at_once = if_so
    try:
      if if_so and self.requested:
        raise Stopped
      yield
    finally:
      self._at_once = False

  def ask(self) -> None:
    """A signal has come."""
    self.requested = True
    if self._at_once:
      self._at_once = False
      raise Stopped


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """While inside, Ctrl-C or SIGTERM only asks; a second one ends the process at once, whatever it is doing."""
  request = StopRequest()
  if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
    yield request
    return
  before = {number: signal.getsignal(number) for number in SIGNALS}

  def handle(number, frame):
    del number, frame
    for each in SIGNALS:  # not Python's own: it would wait for a compiler to come back
      signal.signal(each, signal.SIG_DFL)
    request.ask()

  for number in SIGNALS:
    signal.signal(number, handle)
  try:
    yield request
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def how_to_go_on() -> str:
  """What to type to go on with a run: the command line as it was given."""
  everywhere = f", on all {jax.process_count()} processes," if jax.process_count() > 1 else ""
  return f"run the same command again{everywhere} to go on from there: {shlex.join(sys.orig_argv)}"


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
    before, self._waiting = self._waiting, self._count(requested)
    return before is not None and bool(jax.device_get(before))

  def now(self, requested: bool) -> bool:
    """The same, but all wait for all; to be asked where the devices have nothing to do anyway."""
    return requested if self._alone else bool(jax.device_get(self._count(requested)))

  def _count(self, requested: bool) -> jax.Array:
    mine = sharding.put_batch({"asked": np.full(jax.local_device_count(), requested, np.int32)}, self._rows)
    return self._sum(mine["asked"])
