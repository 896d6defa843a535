"""One run of an arm: training from wherever its folder stands, measured on the way, and what it gave as one file."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vljepa_jax import config as config_lib
from vljepa_jax import loop, progress, run_log, train
from vljepa_jax.batch_ids import NAME as BATCH_IDS
from vljepa_jax.checkpoint import FOLDER, Checkpoints
from vljepa_jax.compare.sides import Side, Speller, make_side
from vljepa_jax.compare.task import Held, Task
from vljepa_jax.config import Config
from vljepa_jax.errors import INPUT_ERRORS, SharedError, UserError, as_user_error
from vljepa_jax.evaluation import write_json
from vljepa_jax.interrupt import Stopped, StopRequest, Vote
from vljepa_jax.profiling import Profiler
from vljepa_jax.progress import say
from vljepa_jax.step import TrainState

RESULT = "run.json"
MEASURED = "eval/"


@dataclasses.dataclass(frozen=True)
class Run:
  """What is run.

  Attributes:
    side: "embeddings" or "tokens".
    config: its recipe, seed and learning rate among it.
    workdir: of it alone.
    points: steps after which it is measured; the last is its end.
    held: records that it is measured on.
    keep: whether its last checkpoint stays when it is finished.
    may_diverge: whether a loss that is not finite is a result, the worst, as in a sweep of learning rates.
  """

  side: str
  config: Config
  workdir: pathlib.Path
  points: tuple[int, ...]
  held: Held
  keep: bool
  may_diverge: bool


def finished(workdir: pathlib.Path) -> dict[str, Any] | None:
  """What a finished run gave; None if it is not finished. UserError for a damaged file."""
  path = workdir / RESULT
  if not path.is_file():
    return None
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}); remove it, and the run is made again") from error


def execute(run: Run, task: Task, speller: Speller | None, stop: StopRequest) -> dict[str, Any]:
  """Runs to the end and returns what it gave; one that is finished already is only read.

  Raises:
    Stopped: a signal has come; a checkpoint is left, and the next call goes on from there.
    UserError: the folder is of another run, or cannot be written.
  """
  given = finished(run.workdir)
  if given is not None:
    config_lib.check_same_run(config_lib.read(run.workdir), run.config, run.workdir)
    steps = tuple(point["step"] for point in given["points"])
    if steps != run.points:
      raise UserError(
          f"{run.workdir} holds a run measured after steps {steps}, not {run.points}; choose another --workdir")
    return given
  with as_user_error(*INPUT_ERRORS):
    train.prepare_workdir(run.config, run.workdir)
  side = make_side(run.side, run.config, task, speller)
  with (
      jax.set_mesh(side.parts.mesh),
      nn.logical_axis_rules(run.config.mesh.rules),
      as_user_error(OSError),
      Checkpoints(run.workdir / FOLDER, 1) as checkpoints,
  ):
    position = None
    if checkpoints.agreed_step() is None:
      state = side.first_state()
    else:
      state, position = checkpoints.restore(side.parts.state)
    iterator = side.batches(task.iterator(run.config), state)
    if position is not None:
      iterator.set_state(position)
    log, clock = train.open_log(run.workdir, state)
    evaluator = Evaluator(side, run.held, run.points)
    job = loop.Job(
        recipe=run.config, parts=side.parts, step=side.step,
        streams=tuple(source.name for source in run.config.data.sources),
        checkpoints=checkpoints, log=log, clock=clock, stop=stop, vote=Vote(side.parts.mesh),
        writer=Writer(log, clock), evaluator=evaluator, profiler=Profiler((), run.workdir))
    try:
      state = loop.train(job, state, iterator)
    except SharedError as error:
      if not run.may_diverge:
        raise
      return _write(run, _diverged(run, side, str(error)))
    finally:
      iterator.close()
    checkpoints.wait()
    if clock.steps < run.config.train.steps:
      raise Stopped
    with stop.at_once():
      log.write(clock.steps, evaluator.measure(clock.steps, state) | {"seconds": clock.seconds})
    log.close()
  return _write(run, _result(run, side, log.records))


def _write(run: Run, result: dict[str, Any]) -> dict[str, Any]:
  with as_user_error(OSError):
    write_json(run.workdir / RESULT, result)
  if not run.keep:
    drop_checkpoints(run.workdir)
  return result


def drop_checkpoints(workdir: pathlib.Path) -> None:
  """Deletes the checkpoints of a finished run."""
  shutil.rmtree(workdir / FOLDER, ignore_errors=True)
  shutil.rmtree(workdir / run_log.TENSORBOARD, ignore_errors=True)


class Writer:
  """Keeps the numbers of every step; see `loop.Writer`."""

  def __init__(self, log: run_log.RunLog, clock: progress.Clock):
    self._log, self._clock = log, clock

  def count(self, batch: Mapping[str, np.ndarray]) -> None:
    pass

  def take(self) -> None:
    return None

  def is_due(self, step: int, stream: str) -> bool:
    return True

  def write(self, step: int, stream: str, numbers: dict[str, float], taken: None) -> None:
    kept = {name: numbers[name] for name in ("loss", "grad_norm", BATCH_IDS)}
    self._log.write(step, kept | {"seconds": self._clock.seconds})


class Evaluator:
  """Measures at the points of a run but its last; see `loop.Evaluator`."""

  def __init__(self, side: Side, held: Held, points: tuple[int, ...]):
    self._side, self._held, self._points = side, held, points

  def is_due(self, step: int) -> bool:
    return step in self._points[:-1]

  def measure(self, step: int, state: TrainState) -> dict[str, float]:
    numbers = self._side.measure(state, self._held)
    say(f"    step {step}: " + "  ".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    return {MEASURED + name: value for name, value in numbers.items()}


def _diverged(run: Run, side: Side, why: str) -> dict[str, Any]:
  """In place of `_result`: nothing was learnt."""
  say(f"    diverged: {why}")
  point = {"step": run.points[-1], "samples": run.points[-1] * run.config.train.batch_size, "seconds": 0.0}
  return {
      "seed": run.config.seed, "learning_rate": run.config.optim.learning_rate,
      "params": progress.trained_and_frozen(side.parts.shapes, side.parts.labels), "seconds": 0.0, "diverged": why,
      "data": "", "points": [{**point, "top1": 0.0, "top5": 0.0, "cider": 0.0}]}


def _result(run: Run, side: Side, records: list[dict[str, float]]) -> dict[str, Any]:
  batch = run.config.train.batch_size
  points = [
      {"step": record["step"], "samples": record["step"] * batch, "seconds": record["seconds"],
       **{name.removeprefix(MEASURED): value for name, value in record.items() if name.startswith(MEASURED)}}
      for record in records if record["step"] in run.points and any(name.startswith(MEASURED) for name in record)]
  steps = [record for record in records if BATCH_IDS in record]
  seen = hashlib.sha256(json.dumps([record[BATCH_IDS] for record in steps]).encode()).hexdigest()[:12]
  return {
      "seed": run.config.seed,
      "learning_rate": run.config.optim.learning_rate,
      "params": progress.trained_and_frozen(side.parts.shapes, side.parts.labels),
      "seconds": points[-1]["seconds"],
      "loss": float(np.mean([record["loss"] for record in steps[-10:]])),
      "data": seen,  # of what every step was trained on, in order
      "points": points,
  }
