"""What a run leaves to read: `metrics.jsonl`, TensorBoard events, the versions it ran with."""

from collections.abc import Mapping
import importlib.metadata
import json
import pathlib
import platform
from typing import Any

import jax
import tensorboardX

METRICS = "metrics.jsonl"
VERSIONS = "versions.json"
TENSORBOARD = "tensorboard"
BY_STREAM = ("loss", "batch_recall")  # numbers that depend on what a batch is of, logged as "loss/<stream>", too
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "pillow")


class RunLog:
  """Numbers by step: one line of JSON for every step that has any, and the same for TensorBoard.

  Args:
    workdir: of the run.
    step: steps done so far; lines of later steps, which a killed run left, are dropped.

  Attributes:
    workdir: as given.
    records: all lines so far, in order.
  """

  def __init__(self, workdir: pathlib.Path, step: int):
    self.workdir = workdir
    self._path = workdir / METRICS
    self.records = [record for record in read_metrics(workdir) if record["step"] <= step]
    self._events = None
    if jax.process_index() == 0:  # one host writes for all
      self._rewrite()
      self._events = tensorboardX.SummaryWriter(str(workdir / TENSORBOARD), purge_step=step + 1)

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """Adds numbers to the line of a step, which is the last one or a new one."""
    extends = bool(self.records) and self.records[-1]["step"] == step
    if extends:
      self.records[-1] |= numbers
    else:
      self.records.append({"step": step, **numbers})
    if self._events is None:
      return
    for name, value in numbers.items():
      self._events.add_scalar(name, value, step)
    if extends:
      self._rewrite()
    else:
      with self._path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(self.records[-1]) + "\n")

  def close(self) -> None:
    if self._events is not None:
      self._events.close()

  def _rewrite(self) -> None:
    partial = self._path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")
    partial.replace(self._path)


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
  """The lines of `metrics.jsonl`; none if there is no such file. A last line that was cut off is left out."""
  path = workdir / METRICS
  if not path.exists():
    return []
  lines = path.read_text(encoding="utf-8").split("\n")
  return [json.loads(line) for line in lines[:-1] if line]


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
