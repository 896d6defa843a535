"""Checkpoints of a run: train state and input position in one save (Orbax v1)."""

from collections.abc import Callable, Iterator
import contextlib
import errno
import itertools
import logging
import os
import pathlib
import re
import shutil
import sys
from typing import Any
import warnings

import jax
from orbax.checkpoint import v1 as ocp

from vljepa_jax import hosts
from vljepa_jax.errors import SharedError, UserError, one_line
from vljepa_jax.step import TrainState, averaged_params

FOLDER = "checkpoints"
PIECE_BYTES = 64 * 2**20
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a checkpoint until Orbax has written all of it
DAMAGED = ".damaged"  # behind the name of a checkpoint that could not be read


class Damaged(Exception):
  """A checkpoint is there and cannot be read."""


class Checkpoints:
  """The checkpoints in one folder; use as a context manager.

  Saving runs in the background: a failed save shows at the next save, or at `wait`.

  Args:
    folder: made if absent.
    keep: how many of the latest stay; older ones go only after a newer one is complete.
  """

  def __init__(self, folder: pathlib.Path, keep: int):
    self._folder = pathlib.Path(folder).absolute()
    _silence_orbax()
    if jax.process_index() == 0:
      clear_unfinished(self._folder)
    self._checkpointer = ocp.training.Checkpointer(
        self._folder,
        # The train loop decides when to save: every step that it hands over is wanted.
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
    )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind, error, trace) -> None:
    # After an error, a save that fails too must not take its place.
    with self._saving() if kind is None else contextlib.suppress(Exception):
      self._checkpointer.close()

  @property
  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint."""
    return latest_step(self._folder)

  def agreed_step(self) -> int | None:
    """`latest_step` as process 0 sees it; all processes have to ask together."""
    step = hosts.from_first(-1 if self.latest_step is None else self.latest_step)
    return None if step < 0 else step

  def save(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
    """Starts to save; returns once the arrays are copied, so that `state` may be donated afterwards.

    Args:
      step: steps done.
      data: state of the input iterator after the last batch that went into `state`.
    """
    with self._saving():
      if not self._folder.is_dir():  # Orbax would make it anew, without the config beside it
        raise FileNotFoundError(errno.ENOENT, "the folder has gone")
      self._checkpointer.save_checkpointables_async(step, {"state": state, "data": data})

  def wait(self) -> None:
    """Returns when all is on disk; UserError if it could not be written."""
    with self._saving():
      self._checkpointer.wait()

  def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The newest checkpoint that can be read; newer ones, which are damaged, are renamed to `<step>.damaged`.

    Args:
      state: ShapeDtypeStructs with the shardings to restore into, which may differ from those saved.

    Returns:
      The state, and the state of the input iterator.

    Raises:
      UserError: the newest is of another model, or none can be read.
    """
    problems = {}
    while (step := self._agreed_below(min(problems, default=None))) is not None:
      try:
        loaded = load(self._folder / str(step), state)
      except Damaged as error:
        problems[step] = str(error)
      else:
        self._set_aside(problems, step)
        return loaded
    first = problems[max(problems)]
    more = f"; {len(problems) - 1} older cannot be read either" if len(problems) > 1 else ""
    raise SharedError(f"{first}{more}; choose another --workdir, or remove {self._folder} to begin anew")

  def _agreed_below(self, step: int | None) -> int | None:
    """The newest step before this one, as process 0 sees it."""
    found = hosts.from_first(max((s for s in saved_steps(self._folder) if step is None or s < step), default=-1))
    return None if found < 0 else found

  def _set_aside(self, problems: dict[int, str], good: int) -> None:
    """Process 0 renames damaged checkpoints, so that the run can write their steps again."""
    if jax.process_index() == 0:
      for step, problem in problems.items():
        path = self._folder / str(step)
        aside = next(p for i in itertools.count(1) if not (p := _aside(path, i)).exists())
        path.rename(aside)
        _warn(f"{problem}; it is now {aside.name}, and the run goes on from step {good}")
    if problems:
      with hosts.together():
        if not hosts.comes_true(lambda: not any((self._folder / str(step)).exists() for step in problems)):
          raise UserError(f"{self._folder}: a checkpoint that process 0 has renamed is still seen under its old name")
      self._checkpointer.reload()

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # Orbax and TensorStore wrap a full disk or a lost mount in errors of many types
      last = self.latest_step
      kept = "there is no complete checkpoint yet" if last is None else f"the last complete checkpoint is step {last}"
      raise UserError(
          f"a checkpoint could not be written to {self._folder}: {_reason(error)}; {kept}. "
          "Put that right and run the same command again to go on from there") from error


def clear_unfinished(folder: pathlib.Path) -> None:
  """Removes what a run that was killed while saving has left, and says so; what is complete has a number for a name."""
  for path in folder.glob(f"*{UNFINISHED}*"):
    shutil.rmtree(path)
    _warn(f"the checkpoint of step {path.name.partition('.')[0]} was not written to its end, and is removed")


def saved_steps(folder: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints in a folder, in order; unfinished and damaged ones carry a suffix."""
  return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def latest_step(folder: pathlib.Path) -> int | None:
  """Step of the newest complete checkpoint in a folder, None if there is none."""
  return max(saved_steps(folder), default=None)


def load(path: pathlib.Path, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
  """One checkpoint: the state and the state of the input iterator. Changes nothing; all processes have to ask together.

  Args:
    path: of the checkpoint.
    state: see `Checkpoints.restore`.

  Raises:
    Damaged: some process cannot read what it needs of it.
    UserError: it is of another model.
  """
  me = {jax.process_index()}  # no waiting for others inside, who may have failed
  alone = ocp.options.MultiprocessingOptions(primary_host=None, active_processes=me, barrier_sync_key_prefix="load")
  with ocp.Context(multiprocessing_options=alone):
    saved = _agreed(path, lambda: _saved_state(path))
    _check_same_leaves(path, _leaves(saved), _leaves(state))
    loaded = _agreed(path, lambda: ocp.load_checkpointables(path, {"state": state, "data": None}))
  return loaded["state"], loaded["data"]


def _agreed(path: pathlib.Path, read: Callable[[], Any]) -> Any:
  """What `read` gives, or Damaged in all processes if it fails in one."""
  message = ""
  try:
    result = read()
  except Exception as error:  # Orbax and TensorStore tell of damage in many ways
    message = one_line(error) if isinstance(error, UserError) else _unreadable(path, error)
  message = hosts.first_message(message)
  if message:
    raise Damaged(message)
  return result


def load_params(path: pathlib.Path, shapes: Any) -> Any:
  """Parameters alone, for evaluation, export, or to start another run; the averaged ones if the run keeps them.

  Args:
    path: a workdir, its `checkpoints` folder, or one checkpoint in it.
    shapes: unboxed parameter tree of ShapeDtypeStructs; without shardings all goes to this process's first device.

  Raises:
    UserError: there is no checkpoint, or its parameters differ in a name, shape or type, which the message names.
  """
  path = find_checkpoint(path)
  whole = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  shapes = jax.tree.map(
      lambda x: x if getattr(x, "sharding", None) else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes)
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  with _explained(path), context:
    saved = _saved_state(path)
    _check_same_leaves(path, _leaves(saved["params"]), _leaves(shapes))
    wanted = {"params": shapes}
    if saved["ema"] is not None:
      wanted["ema"] = jax.tree.map(
          lambda mean, x: None if mean is None else x, saved["ema"], shapes, is_leaf=lambda x: x is None)
    loaded = ocp.load_checkpointables(path, {"state": wanted})["state"]
  return averaged_params(loaded["params"], loaded["ema"] if "ema" in wanted else None)


def save_params(folder: pathlib.Path, params: Any) -> pathlib.Path:
  """Writes parameters as the checkpoint of step 0 in a new folder, for `load_params`; memory stays flat.

  Args:
    folder: the `checkpoints` folder of a workdir that has none yet.
    params: unboxed.

  Raises:
    UserError: it could not be written; what is left of it is no checkpoint, and the next attempt clears it.
  """
  path = pathlib.Path(folder).absolute() / "0"
  _silence_orbax()  # it warns of what `use_ocdbt` below turns off
  context = ocp.Context()
  # Arrays one after another, in pieces: the default holds a compressed copy of everything before it writes.
  context.memory.deepcopy_host_arrays = False
  context.memory.write_concurrent_bytes = max(leaf.nbytes for leaf in jax.tree.leaves(params)) + PIECE_BYTES
  context.array.saving.use_ocdbt = False
  context.array.saving.storage_options.chunk_byte_size = PIECE_BYTES
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_unfinished(path.parent)
    with context:
      ocp.save_checkpointables(path, {"state": {"step": 0, "params": params, "ema": None}})
  except Exception as error:  # see `Checkpoints._saving`
    raise UserError(f"the parameters could not be written to {path}: {_reason(error)}") from error
  return path


def find_checkpoint(path: pathlib.Path) -> pathlib.Path:
  """The folder of one complete checkpoint: the newest of a workdir or of its `checkpoints` folder, or `path` itself."""
  path = pathlib.Path(path).absolute()
  if path.name.isdigit() and (path / "state").is_dir():
    return path
  for folder in (path / FOLDER, path):
    step = latest_step(folder)
    if step is not None:
      return folder / str(step)
  there = "holds no checkpoint" if path.is_dir() else "does not exist"
  raise UserError(f"{path} {there}; give the workdir of a run that has saved one")


def _saved_state(path: pathlib.Path) -> Any:
  """Tree of the shapes and types that a checkpoint holds."""
  saved = ocp.checkpointables_metadata(path).metadata["state"]
  if saved is None:  # Orbax only warns
    raise UserError(f"the checkpoint {path} cannot be read: it is damaged or not one of a training run")
  return saved


def _leaves(tree: Any) -> dict[str, Any]:
  """Leaves by path; Orbax gives dataclasses and tuples back as dicts and lists, so keys of all kinds look alike."""
  name = lambda key: str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", None))))
  return {"/".join(map(name, path)): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _check_same_leaves(path: pathlib.Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
  """UserError at the first difference: Orbax casts types silently and leaves out what it does not find."""
  advice = "; use the config it was trained with, or another --workdir"
  for name in sorted(saved.keys() ^ wanted.keys()):
    holder, other = ("checkpoint", "config") if name in saved else ("config", "checkpoint")
    raise UserError(f"{path}: the {holder} has {name!r}, the {other} does not{advice}")
  for name, leaf in wanted.items():
    found, expected = (tuple(saved[name].shape), saved[name].dtype), (tuple(leaf.shape), leaf.dtype)
    if found != expected:
      raise UserError(
          f"{path}: {name!r} is {found[1]}{list(found[0])} in the checkpoint, "
          f"{expected[1]}{list(expected[0])} in the config{advice}")


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
  """Gives the cause of a failed load: Orbax's own message only says that no handler took it."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    raise UserError(_unreadable(path, error)) from error


def _unreadable(path: pathlib.Path, error: BaseException) -> str:
  missing = [name for name in ("state", "data") if not (path / name).is_dir()]
  reason = f"{path.name}/{missing[0]} is missing" if missing else _reason(error)
  return f"the checkpoint {path} cannot be read: {reason}"


def _aside(path: pathlib.Path, number: int) -> pathlib.Path:
  return path.with_name(f"{path.name}{DAMAGED}{number if number > 1 else ''}")


def _warn(text: str) -> None:
  print("warning:", text, file=sys.stderr, flush=True)


def _reason(error: BaseException) -> str:
  """The innermost thing that went wrong, in words."""
  while error.__cause__ is not None:
    error = error.__cause__
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's text for errors of the system
  return os.strerror(int(code[1])) if code else one_line(error)[:300]


def _silence_orbax() -> None:
  """Each thread of a failed save or load prints a page of trace before the same error is raised to us."""
  for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(_without_orbax)
  warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
  sys.unraisablehook = _without_failed_reads


def _without_orbax(record: logging.LogRecord) -> bool:
  return "orbax" not in record.pathname and "tensorstore" not in record.getMessage()


def _without_failed_reads(unraisable: Any) -> None:
  # Of many reads at a time the first that fails is raised; the others end here.
  code = getattr(unraisable.object, "cr_code", None)
  if str(unraisable.exc_value) != "Event loop is closed" and "orbax" not in getattr(code, "co_filename", ""):
    sys.__unraisablehook__(unraisable)
