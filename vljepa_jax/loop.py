"""The loop of a training run, of a model or of a decoder: step, look at the numbers, save, evaluate."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
from typing import Any, Protocol

import grain
import jax
import numpy as np

from vljepa_jax import batch_ids, dump, hosts, sharding, watch
from vljepa_jax.checkpoint import Checkpoints
from vljepa_jax.errors import SharedError
from vljepa_jax.interrupt import Stopped, StopRequest, Vote, how_to_go_on, stop_on_signals
from vljepa_jax.parts import Parts
from vljepa_jax.profiling import Profiler
from vljepa_jax.progress import Clock, say
from vljepa_jax.run_log import RunLog
from vljepa_jax.step import TrainState

Metrics = dict[str, jax.Array]
FINITE = ("loss", "grad_norm")  # numbers of a step without which it must not be saved


class Writer(Protocol):
  """What a run makes of the numbers of its steps."""

  def count(self, batch: Mapping[str, np.ndarray]) -> None:
    """A step on this batch, of which every process holds its rows, is under way."""

  def is_due(self, step: int, stream: str) -> bool:
    """Whether the numbers of this step are wanted."""

  def take(self) -> Any:
    """What `write` has to know of the steps since the last call."""

  def write(self, step: int, stream: str, numbers: dict[str, float], taken: Any) -> None:
    """Logs and prints them."""


class Evaluator(Protocol):
  """What a run measures in between."""

  def is_due(self, step: int) -> bool:
    """Whether there is anything to measure after this step."""

  def measure(self, step: int, state: TrainState) -> dict[str, float]:
    """Numbers for the log; may be broken off anywhere."""


@dataclasses.dataclass(frozen=True)
class Job:
  """A run that is under way.

  Attributes:
    recipe: of it, with `train`.
    parts: of it.
    step: (state, batch) -> (state, metrics), jitted.
    streams: names by number.
    checkpoints: of it.
    log: of it.
    clock: of it, at the steps done so far.
    stop: whether to.
    vote: of the processes.
    writer: of the numbers.
    evaluator: between steps.
    profiler: of some steps.
  """

  recipe: Any
  parts: Parts
  step: Callable[[TrainState, Any], tuple[TrainState, Metrics]]
  streams: tuple[str, ...]
  checkpoints: Checkpoints
  log: RunLog
  clock: Clock
  stop: StopRequest
  vote: Vote
  writer: Writer
  evaluator: Evaluator
  profiler: Profiler


@contextlib.contextmanager
def stoppable() -> Iterator[StopRequest]:
  """Inside, signals ask the run to stop; one that is broken off says how to go on."""
  with stop_on_signals() as stop:
    try:
      yield stop
    except Stopped:
      say(f"stopped; {how_to_go_on()}")


def train(job: Job, state: TrainState, iterator: grain.experimental.ElasticIterator) -> TrainState:
  """Steps until the end; or returns early, with a checkpoint, when a signal asks one of the processes to.

  Raises:
    SharedError: the loss or a gradient of a step is not finite. The step is not saved, and a dump of it is left.
  """
  every, clock = job.recipe.train, job.clock
  fingerprint = batch_ids.Fingerprint(job.parts.rows)
  late = Late(job)
  if not evaluate(job, clock.steps, state):
    raise Stopped
  clock.resume()
  with job.profiler, jax.transfer_guard("disallow"):  # only explicit copies between host and device
    for done in range(clock.steps + 1, every.steps + 1):
      with watch.at(watch.INPUT, done):
        batch = next(iterator)
      rows = batch_ids.Rows.take(batch)
      with watch.at(watch.DEVICE, done):
        with job.profiler.step(done):
          state, metrics = job.step(state, sharding.put_batch(batch, job.parts.rows))
        metrics[batch_ids.NAME] = fingerprint(rows)
        late.look()  # at the step before, now that this one is under way
        job.writer.count(batch)
        job.profiler.after(done, metrics)
        late.wait_with(done, rows, metrics)
        ending = job.vote.is_to_stop(job.stop.requested) or done == every.steps
        saves = ending or done % every.checkpoint_every == 0
        if saves or job.evaluator.is_due(done):
          late.look()
      clock.tick(done)
      if saves:
        save(job, done, state, iterator)
      if ending:
        break
      if not evaluate(job, done, state):
        if not saves:
          save(job, done, state, iterator)
        break
  jax.block_until_ready(state)
  clock.tick(clock.steps)
  return state


def save(job: Job, done: int, state: TrainState, iterator: grain.experimental.ElasticIterator) -> None:
  """Starts to save a step whose numbers have been looked at."""
  # The iterator has just given the batch of this step: its position belongs to this state.
  with watch.at(watch.CHECKPOINT, done):
    job.checkpoints.save(done, state, iterator.get_state())


def evaluate(job: Job, done: int, state: TrainState) -> bool:
  """Measures what is due after a step and not in the log yet; False if a signal has broken it off.

  A run that goes on from a step does what was broken off there. Of several processes none breaks off: they gather
  the parameters together, and vote after the next step.
  """
  if not job.evaluator.is_due(done) or any(
      record["step"] == done and any(name.startswith("eval/") for name in record) for record in job.log.records[-1:]):
    return True
  with contextlib.suppress(Stopped), job.stop.at_once(jax.process_count() == 1), jax.transfer_guard("allow"):
    numbers = job.evaluator.measure(done, state)
    job.log.write(done, numbers | {"seconds": job.clock.seconds})
    job.clock.resume()
    return True
  return False


class Late:
  """Looks at the numbers of a step after the next one is dispatched, so that the device never waits for the host."""

  def __init__(self, job: Job):
    self._job = job
    self._waiting = None

  def wait_with(self, done: int, rows: batch_ids.Rows, metrics: Metrics) -> None:
    """The numbers of a step that is under way."""
    self._waiting = done, rows, metrics

  def look(self) -> None:
    """Waits for the step, if there is one; SharedError if its numbers are not finite."""
    if self._waiting is None:
      return
    (done, rows, metrics), self._waiting = self._waiting, None
    ids = int(jax.device_get(metrics.pop(batch_ids.NAME)))
    numbers = {name: float(value) for name, value in jax.device_get(metrics).items()} | {batch_ids.NAME: ids}
    bad = [name for name in FINITE if not np.isfinite(numbers[name])]
    if bad:
      self._fail(done, rows, numbers, bad[0])
    job = self._job
    stream = job.streams[rows.stream[0]]
    if job.writer.is_due(done, stream):
      job.clock.tick(done)
      job.writer.write(done, stream, numbers, job.writer.take())

  def _fail(self, done: int, rows: batch_ids.Rows, numbers: dict[str, float], bad: str) -> None:
    """All processes come here together: the numbers are those of the global batch."""
    job = self._job
    with jax.transfer_guard("allow"):
      job.checkpoints.wait()
      whole = batch_ids.gather(rows, job.parts.rows)
      found = dump.Dump.of(job.recipe, done, job.checkpoints.agreed_step(), job.streams, whole, numbers)
      with hosts.together():
        path = found.write(job.log.workdir)
    what = "the loss" if bad == "loss" else "the norm of the gradients"
    raise SharedError(
        f"{what} is {numbers[bad]} at step {done}; lower config.optim.learning_rate, and see metrics.jsonl; the same "
        f"command with --replay={path} looks for where it began")
