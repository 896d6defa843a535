"""What a run leaves to read: `metrics.jsonl`, TensorBoard events, the versions it ran with."""

from collections.abc import Iterator, Mapping
import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from typing import Any

import jax
import tensorboardX

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
      with self._writing():
        self._rewrite()
        self._events = tensorboardX.SummaryWriter(str(workdir / TENSORBOARD), purge_step=step + 1)

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """Adds numbers to the line of a step, which is the last one or a new one; UserError if that cannot be written."""
    extends = bool(self.records) and self.records[-1]["step"] == step
    if extends:
      self.records[-1] |= numbers
    else:
      self.records.append({"step": step, **numbers})
    if self._events is None:
      return
    with self._writing():  # before the events, whose own thread would die of a full disk
      if extends:
        self._rewrite()
      else:
        with self._path.open("r+", encoding="utf-8") as file:  # not "a": a file that has gone is not made anew
          file.seek(0, os.SEEK_END)
          file.write(json.dumps(self.records[-1]) + "\n")
    for name, value in numbers.items():
      if name != BATCH_IDS:  # TensorBoard's float32 would round it
        self._events.add_scalar(name, value, step)

  def flush(self) -> None:
    """Writes out what TensorBoard's writer holds back."""
    if self._events is not None:
      with self._writing():
        self._events.flush()

  def close(self) -> None:
    if self._events is not None:
      self._events.close()

  def _rewrite(self) -> None:
    partial = self._path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")
    partial.replace(self._path)

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      gone = "" if self._path.exists() else " (it has gone: was the workdir deleted or unmounted?)"
      raise UserError(
          f"{self._path} cannot be written: {error.strerror or error}{gone}; put that right and run the same command "
          "again to go on from the last checkpoint") from error


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
