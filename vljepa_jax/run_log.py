"""What a run leaves to read: `metrics.jsonl`, TensorBoard events, the versions it ran with."""

from collections.abc import Iterator, Mapping
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import scalar

from vljepa_jax.batch_ids import NAME as BATCH_IDS
from vljepa_jax.errors import UserError

METRICS = "metrics.jsonl"
VERSIONS = "versions.json"
TENSORBOARD = "tensorboard"
BY_STREAM = ("loss", "batch_recall")  # numbers that depend on what a batch is of, logged as "loss/<stream>", too
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "pillow")


class RunLog:
  """Numbers by step: one line of JSON for every step that has any, and the same for TensorBoard.

  Args:
    workdir: of the run.
    step: steps done so far; lines of later steps, which a killed run left, are dropped, and so are torn ones.

  Attributes:
    workdir: as given.
    records: all lines so far, in order.
  """

  def __init__(self, workdir: pathlib.Path, step: int):
    self.workdir = workdir
    self._path = workdir / METRICS
    lines, torn = _read_lines(self._path)
    self.records = [record for record in lines if record["step"] <= step]
    self._events = None
    if jax.process_index() == 0:  # one host writes for all
      if torn:
        print(f"warning: {self._path}: {torn} torn line(s) left out", file=sys.stderr, flush=True)
      with self._writing(self._path):
        self._rewrite()
      with self._writing(workdir / TENSORBOARD):
        self._events = Events(workdir / TENSORBOARD, step + 1)

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """Adds numbers to the line of a step, which is the last one or a new one; UserError if that cannot be written."""
    extends = bool(self.records) and self.records[-1]["step"] == step
    if extends:
      self.records[-1] |= numbers
    else:
      self.records.append({"step": step, **numbers})
    if self._events is None:
      return
    with self._writing(self._path):
      if extends:
        self._rewrite()
      else:
        with self._path.open("r+", encoding="utf-8") as file:  # not "a": a file that has gone is not made anew
          file.seek(0, os.SEEK_END)
          file.write(json.dumps(self.records[-1]) + "\n")
    with self._writing(self.workdir / TENSORBOARD):
      self._events.write(step, {name: value for name, value in numbers.items() if name != BATCH_IDS})

  def close(self) -> None:
    if self._events is not None:
      with self._writing(self.workdir / TENSORBOARD):
        self._events.close()

  def _rewrite(self) -> None:
    partial = self._path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")
    partial.replace(self._path)

  @contextlib.contextmanager
  def _writing(self, path: pathlib.Path) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      gone = "" if path.exists() else " (it has gone: was the workdir deleted or unmounted?)"
      raise UserError(
          f"{path} cannot be written: {error.strerror or error}{gone}; put that right and run the same command "
          "again to go on from the last checkpoint") from error


class Events:
  """A file of events for TensorBoard, written at once and in this thread.

  A writer with a thread of its own loses that to a full disk, and all who write wait for it for ever.

  Args:
    folder: made if absent.
    first: step to come; events of it and of later ones in older files count no more.
  """

  def __init__(self, folder: pathlib.Path, first: int):
    folder.mkdir(exist_ok=True)
    self._file = EventsWriter(str(folder / "events"))
    self._file.write_event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))
    self._file.flush()

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """Adds the numbers of a step; float32 there."""
    values = [scalar(name, value).value[0] for name, value in numbers.items()]
    self._file.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
  """The lines of `metrics.jsonl`; none if there is no such file. Torn lines, as a crash leaves them, are left out."""
  return _read_lines(workdir / METRICS)[0]


def _read_lines(path: pathlib.Path) -> tuple[list[dict[str, float]], int]:
  """The lines that are whole, and how many are not."""
  if not path.exists():
    return [], 0
  *lines, rest = path.read_bytes().split(b"\n")
  records = [record for line in lines if (record := _record(line)) is not None]
  return records, len(lines) - len(records) + bool(rest)


def _record(line: bytes) -> dict[str, float] | None:
  try:
    record = json.loads(line)
  except ValueError:  # not UTF-8 either
    return None
  return record if isinstance(record, dict) and "step" in record else None


def flat_numbers(results: Mapping[str, Any], prefix: str) -> dict[str, float]:
  """The numbers of nested results by path: {"vqa": {"accuracy": 1}} -> {"<prefix>/vqa/accuracy": 1}."""
  numbers = {}
  for key, value in results.items():
    if isinstance(value, Mapping):
      numbers |= flat_numbers(value, f"{prefix}/{key}")
    elif isinstance(value, (int, float)):
      numbers[f"{prefix}/{key}"] = value
  return numbers


def write_versions(workdir: pathlib.Path) -> None:
  """Stores what the run runs on, as `versions.json`."""
  versions = {"python": platform.python_version(), "platform": platform.platform()}
  versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
  versions["devices"] = sorted({device.device_kind for device in jax.devices()})
  (workdir / VERSIONS).write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
