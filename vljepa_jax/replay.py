"""Runs a step again whose loss or gradients were not finite, and says where that began; writes nothing into the run."""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from flax import traverse_util
import flax.linen as nn
import grain
import jax
import numpy as np

from vljepa_jax import batch_ids, checkpoint, config as config_lib, config_parsing, dump as dump_lib, hosts, sharding
from vljepa_jax.dump import Dump
from vljepa_jax.errors import INPUT_ERRORS, SharedError, UserError, as_user_error
from vljepa_jax.inspection import Findings
from vljepa_jax.optim import FROZEN
from vljepa_jax.parts import Parts
from vljepa_jax.progress import say
from vljepa_jax.step import TrainState

NAMED = 8  # rows and parameters that are named at most


@dataclasses.dataclass(frozen=True)
class Stage:
  """A run, set up without its checkpoints.

  Attributes:
    parts: of it.
    step: its jitted step.
    inspect: see `inspection.make_inspection`.
    first_state: () -> where it begins.
    make_iterator: parameters -> its input, at the beginning.
    streams: names by number.
  """

  parts: Parts
  step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
  inspect: Callable[..., Findings]
  first_state: Callable[[], TrainState]
  make_iterator: Callable[[Any], grain.experimental.ElasticIterator]
  streams: tuple[str, ...]


def run(recipe: Any, workdir: pathlib.Path, folder: pathlib.Path, set_stage: Callable[..., Stage]) -> Findings:
  """Restores the last checkpoint before a bad step, runs to it on the same batches, and prints what is not finite.

  Args:
    recipe: of the run.
    workdir: of the run.
    folder: of the dump.
    set_stage: (recipe, workdir) -> the stage.

  Returns:
    The findings on the host, with "step".

  Raises:
    UserError: there is no such dump, it is another run's, or its batch is another one now.
  """
  with hosts.together(), as_user_error(*INPUT_ERRORS):
    dump = dump_lib.read(folder)
    plain = config_lib.to_dict(recipe)
    for key, value in config_parsing.flat(dump.config).items():
      _check_same(key, value, config_parsing.flat(plain).get(key), folder)
    stage = set_stage(recipe, workdir)
  with jax.set_mesh(stage.parts.mesh), nn.logical_axis_rules(recipe.mesh.rules):
    findings, metrics, rows = _again(stage, workdir, dump, dump.step)
  for line in report(dump, findings, metrics, rows, stage):
    say(line)
  return findings


def _check_same(key: str, before: Any, now: Any, folder: pathlib.Path) -> None:
  as_json = lambda value: list(map(as_json, value)) if isinstance(value, (tuple, list)) else value
  if as_json(before) != as_json(now) and not config_lib.may_change(key):
    raise UserError(f"{folder} is of a run with config.{key} {before!r}, not {now!r}; give the --config of that run")


def _again(
    stage: Stage, workdir: pathlib.Path, dump: Dump, last: int
) -> tuple[Findings, dict[str, float], batch_ids.Rows]:
  """Findings at a step or at an earlier one that is bad already, the numbers of that step, and its rows."""
  state, iterator, first = _restored(stage, workdir, last)
  say(f"from step {first} to step {last}, on the batches of the run")
  for done in range(first + 1, last + 1):
    batch = next(iterator)
    rows = batch_ids.gather(batch_ids.Rows.take(batch), stage.parts.rows)
    if done == dump.step and (rows.record_id.tolist(), [stage.streams[i] for i in rows.stream]) != (
        dump.record_ids, dump.streams):
      raise SharedError(f"the batch of step {done} holds other records than the dump says: the data have changed")
    placed = sharding.put_batch(batch, stage.parts.rows)
    findings = jax.device_get(stage.inspect(state, placed)) if done == last else None
    state, metrics = stage.step(state, placed)
    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if done < last and not np.isfinite([metrics["loss"], metrics["grad_norm"]]).all():
      say(f"step {done} is not finite here already")
      iterator.close()
      return _again(stage, workdir, dump, done)
  iterator.close()
  return findings | {"step": last}, metrics, rows


def _restored(
    stage: Stage, workdir: pathlib.Path, before: int
) -> tuple[TrainState, grain.experimental.ElasticIterator, int]:
  """State, input and number of the newest step before another one, of a checkpoint or of the beginning."""
  folder = workdir / checkpoint.FOLDER
  first = hosts.from_first(max((step for step in checkpoint.saved_steps(folder) if step < before), default=0))
  if first:
    try:
      state, position = checkpoint.load((folder / str(first)).absolute(), stage.parts.state)
    except checkpoint.Damaged as error:
      raise SharedError(str(error)) from error
  else:
    state, position = stage.first_state(), None
  with as_user_error(*INPUT_ERRORS):
    iterator = stage.make_iterator(state.params)
  if position is not None:
    iterator.set_state(position)
  return state, iterator, first


def report(
    dump: Dump, findings: Findings, metrics: dict[str, float], rows: batch_ids.Rows, stage: Stage
) -> list[str]:
  """What was found, in lines, the first thing that is not finite first."""
  was = dump.metrics if findings["step"] == dump.step else {}
  lines = [f"step {findings['step']}"] + [
      f"  {name:<12} {metrics[name]}" + (f"   ({was[name]} in the run)" if was else "")
      for name in ("loss", "grad_norm")]
  lines += [
      f"  gradient of {name:<12} {norm:.6g}{_groups(stage.parts.labels[name])}"
      for name, norm in findings["grad_norm"].items()]
  found = _not_finite(findings, rows, stage)
  if not found:
    return [*lines, "everything is finite here: the step went wrong in a way that does not repeat"]
  return [*lines, f"first not finite: {found[0]}", *(f"  then: {text}" for text in found[1:])]


def _groups(labels: Any) -> str:
  names = sorted(set(jax.tree.leaves(labels)))
  return f"   {', '.join(name if name == FROZEN else f'learning rate {name}' for name in names)}"


def _not_finite(findings: Findings, rows: batch_ids.Rows, stage: Stage) -> list[str]:
  """In the order in which a step computes them."""
  bad = {name: np.flatnonzero(~finite) for name, finite in findings["rows"].items()}
  texts = {name: _row_words(name, bad[name], rows, stage.streams) for name in bad if len(bad[name])}
  found = [texts["input"]] if "input" in texts else []
  found += _leaf_words("parameters", findings["params"], stage.parts.labels)
  found += [text for name, text in texts.items() if name not in ("input", "gradient")]
  if not np.isfinite(findings["loss"]):
    found.append("the loss")
  found += [texts["gradient"]] if "gradient" in texts else []
  return found + _leaf_words("gradients", findings["grads"], stage.parts.labels)


def _row_words(name: str, bad: np.ndarray, rows: batch_ids.Rows, streams: tuple[str, ...]) -> str:
  named = ", ".join(f"{i} (record {rows.record_id[i]} of {streams[rows.stream[i]]})" for i in bad[:NAMED])
  more = ", ..." if len(bad) > NAMED else ""
  return f"the {name} of {len(bad)} of {len(rows.record_id)} rows: {named}{more}"


def _leaf_words(what: str, finite: Any, labels: Any) -> list[str]:
  """One text for each top-level name that has a leaf that is not finite."""
  label = traverse_util.flatten_dict(labels)
  bad = [path for path, value in traverse_util.flatten_dict(finite).items() if not value]
  texts = []
  for tower in dict.fromkeys(path[0] for path in bad):
    paths = [path for path in bad if path[0] == tower]
    groups = ", ".join(sorted({label[path] for path in paths}))
    more = ", ..." if len(paths) > NAMED else ""
    texts.append(
        f"{what} of {tower}, group {groups}: {', '.join('/'.join(path) for path in paths[:NAMED])}{more} "
        f"({len(paths)} arrays)")
  return texts
