"""What a run leaves of a step whose loss or gradients were not finite, so that it can be run again."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax

from vljepa_jax import config as config_lib
from vljepa_jax.batch_ids import Rows
from vljepa_jax.errors import UserError

FILE = "dump.json"


@dataclasses.dataclass(frozen=True)
class Dump:
  """A bad step.

  Attributes:
    step: its number, from 1 on.
    checkpoint: step of the last good checkpoint; None if there was none yet.
    metrics: its numbers, as they would have been logged.
    record_ids: of the rows of its global batch.
    streams: of these rows, by name.
    config: the recipe, in plain form.
  """

  step: int
  checkpoint: int | None
  metrics: dict[str, float]
  record_ids: list[int]
  streams: list[str]
  config: dict[str, Any]

  @classmethod
  def of(
      cls, recipe: Any, step: int, checkpoint: int | None, names: tuple[str, ...], rows: Rows,
      metrics: dict[str, float],
  ) -> "Dump":
    """The dump of a step on these rows."""
    return cls(
        step, checkpoint, metrics, rows.record_id.tolist(), [names[i] for i in rows.stream], config_lib.to_dict(recipe))

  def write(self, workdir: pathlib.Path) -> pathlib.Path:
    """Process 0 writes it; returns its folder. UserError if that cannot be written."""
    folder = workdir / f"dump-{self.step}"
    if jax.process_index() == 0:
      try:
        folder.mkdir(exist_ok=True)
        partial = folder / f"{FILE}.partial"
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")
        partial.replace(folder / FILE)
      except OSError as error:
        raise UserError(
            f"the numbers of step {self.step} are not finite, and {folder} cannot be written: "
            f"{os.strerror(error.errno)}") from error
    return folder


def read(folder: pathlib.Path) -> Dump:
  """A dump of a run; UserError if the folder holds none."""
  path = pathlib.Path(folder) / FILE
  try:
    return Dump(**json.loads(path.read_text(encoding="utf-8")))
  except OSError as error:
    raise UserError(f"--replay={folder} is not the dump of a step: {path} cannot be read: {error.strerror}") from error
  except (TypeError, ValueError) as error:
    raise UserError(f"{path} is damaged: {error}") from error
