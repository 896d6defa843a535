"""Watches over the processes of a run: one that dies, hangs or stands still is named, and the others leave.

Every process tells the others what it is doing through JAX's coordination service, which process 0 runs, and a thread
looks at what they tell. JAX itself would end all of them with a page from C++, some minutes later.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time

import jax
from jax._src import distributed  # the client of the service has no public name

BEATS = "vljepa_jax/beats/"
VERDICT = "vljepa_jax/verdict/"
INPUT, DEVICE, CHECKPOINT = "the input", "the devices", "the checkpoint"  # where a step waits, and never for long
ELSEWHERE = "something between steps"  # a data set, a cache, an evaluation: may take its time
GONE = "nothing any more"  # a process that has done its part


@dataclasses.dataclass(frozen=True)
class Limits:
  """When a process is given up.

  Attributes:
    host_seconds: without a word from it.
    step_seconds: in one of the places where a step waits.
  """

  host_seconds: float
  step_seconds: float


class Here:
  """What this process is waiting for.

  Attributes:
    place: in words.
    step: under way.
    since: when that began, by the monotonic clock.
  """

  def __init__(self):
    self.enter(ELSEWHERE, 0)

  def enter(self, place: str, step: int) -> None:
    self.place, self.step, self.since = place, step, time.monotonic()


_here = Here()


@contextlib.contextmanager
def at(place: str, step: int) -> Iterator[None]:
  """Inside, this process waits for `place`, at this step."""
  before = _here.place
  _here.enter(place, step)
  try:
    yield
  finally:
    _here.enter(before, step)


class Watch:
  """Two threads: one tells and asks, one judges, so that a service that does not answer is noticed, too.

  Args:
    limits: of patience.
    leave: (what to print) -> never; ends this process.
  """

  def __init__(self, limits: Limits, leave: Callable[[str], None]):
    self._host_seconds, self._step_seconds = limits.host_seconds, limits.step_seconds
    self._leave = leave
    self._index, self._count = jax.process_index(), jax.process_count()
    self._client = distributed.global_state.client if self._count > 1 else None
    self._beat = max(0.05, min(5.0, limits.host_seconds / 10))
    self._told = {}  # index -> (what it told last, when that changed)
    self._heard = time.monotonic()  # when the service last answered
    self._verdict = ""
    self._over = threading.Event()

  def start(self) -> None:
    threads = [self._judge] + ([self._exchange] if self._client else [])
    for work in threads:
      threading.Thread(target=work, daemon=True).start()

  def stop(self) -> None:
    """This process has done its part; the others may go on."""
    _here.enter(GONE, _here.step)
    if self._client and not self._over.is_set():
      self._briefly(lambda: self._tell(-1))
    self._over.set()

  def accuse(self, text: str) -> str:
    """Tells all processes what to leave with; returns what they do, if one of them was first."""
    if not self._client:
      return text
    self._over.set()  # what this process leaves with is settled
    self._briefly(lambda: self._client.key_value_set(VERDICT + "text", text))  # an error if there is one
    self._briefly(self._ask)
    if self._index == 0:  # the service ends with process 0: the others have to hear first
      time.sleep(4 * self._beat)
    return self._verdict or text

  def _briefly(self, work: Callable[[], None]) -> None:
    """Calls the service, which may be unable to answer."""

    def call():
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        work()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(self._beat + 2.0)

  def wait(self) -> None:
    """Gives the threads the time to find out who was lost, and then returns."""
    if self._client:
      time.sleep(self._host_seconds + 4 * self._beat)

  def name(self, index: int, host: str) -> str:
    return f"process {index} of {self._count} ({host})" if self._count > 1 else "this process"

  def _exchange(self) -> None:
    number = 0
    while not self._over.wait(self._beat):
      number += 1
      with contextlib.suppress(jax.errors.JaxRuntimeError):  # `_judge` sees that nothing has come
        self._tell(number)
        told = self._client.key_value_dir_get(BEATS)
        self._ask()
        self._heard = now = time.monotonic()
        for key, text in told:
          index = int(key.rpartition("/")[2])
          if text != self._told.get(index, ("", 0))[0]:
            self._told[index] = text, now

  def _ask(self) -> None:
    found = self._client.key_value_dir_get(VERDICT)
    self._verdict = found[0][1] if found else ""

  def _tell(self, number: int) -> None:
    words = {
        "number": number, "host": socket.gethostname(), "place": _here.place, "step": _here.step,
        "seconds": time.monotonic() - _here.since}
    self._client.key_value_set(f"{BEATS}{self._index}", json.dumps(words), allow_overwrite=True)

  def _judge(self) -> None:
    began = looked = time.monotonic()
    while not self._over.wait(self._beat):
      now = time.monotonic()
      problem = self._verdict or self._problem(now, began, now - looked)
      looked = now
      if problem and not self._over.is_set():
        self._leave(self.accuse(problem))

  def _problem(self, now: float, began: float, pause: float) -> str:
    """What is wrong, in words; empty if nothing is."""
    host = socket.gethostname()
    if pause > self._host_seconds and self._client:
      return f"{self.name(self._index, host)} itself stood still for {pause:.0f} s; the others will have left"
    if pause > 4 * self._beat:  # a process that was stopped may go on
      _here.since += pause
    if self._client and now - self._heard > self._host_seconds:
      coordinator = distributed.global_state.coordinator_address.rpartition(":")[0]
      return self._lost(0, json.loads(self._told[0][0]) if 0 in self._told else {"host": coordinator})
    for index in range(self._count if self._client else 0):
      text, changed = self._told.get(index, ('{"host": "not heard of yet"}', began))
      words = json.loads(text)
      if words.get("place") != GONE and now - changed > self._host_seconds:
        return self._lost(index, words)
    waited = now - _here.since
    hangs = waited > self._step_seconds + 2 * self._beat and _here.place in (INPUT, DEVICE, CHECKPOINT)
    return self._hanging(waited) if hangs else ""

  def _lost(self, index: int, words: dict) -> str:
    last = f"; it was at step {words['step']} and waited for {words['place']}" if "step" in words else ""
    return f"{self.name(index, words['host'])} has not answered for {self._host_seconds:g} s{last}"

  def _hanging(self, waited: float) -> str:
    everyone = {index: json.loads(text) for index, (text, _) in self._told.items()}
    everyone[self._index] = {
        "host": socket.gethostname(), "place": _here.place, "step": _here.step, "seconds": waited}
    ones = [i for i, words in sorted(everyone.items()) if words["place"] not in (DEVICE, GONE)] or [self._index]
    named = ", ".join(
        f"{self.name(i, everyone[i]['host'])} waits for {everyone[i]['place']} at step {everyone[i]['step']}"
        for i in ones)
    return f"nothing has moved for {self._step_seconds:g} s: {named}"


def leave(problem: str) -> None:
  """Ends this process with one line; what is saved stays."""
  sys.stdout.flush()
  print(f"error: {problem}; what is saved is intact: put that right and run the same command again", file=sys.stderr,
        flush=True)
  os._exit(1)
