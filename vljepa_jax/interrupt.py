"""Stopping between two steps when asked to."""

from collections.abc import Iterator
import contextlib
import dataclasses
import signal
import threading

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
