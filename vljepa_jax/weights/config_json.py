"""The config.json of a folder, compared with the preset of the tower that is to be loaded from it."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """The JSON object in a file; ValueError when there is something else."""
  try:
    found = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is not a JSON file: {error}") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path} must hold a JSON object, not a {type(found).__name__}")
  return found


def check_config(
    path: pathlib.Path, found: dict[str, Any], wanted: dict[str, Any], config: Any, fields: Mapping[str, str]
) -> None:
  """Compares what both dicts name.

  Args:
    path: the file that messages name.
    found: what the file states.
    wanted: what it should state.
    config: dataclass of the tower.
    fields: name in the dicts -> field of `config`.

  Raises:
    ValueError: a value differs.
  """
  for name, value in wanted.items():
    if name in found and found[name] != value:
      ours = fields.get(name)
      has = f"the preset has {ours} {getattr(config, ours)}" if ours else f"this tower needs {value!r}"
      raise ValueError(f"{path}: {name} is {found[name]!r}, but {has}")


def rope(
    parameters: dict[str, Any] | None, hf: dict[str, Any], default_theta: float
) -> tuple[float, tuple[float, float, float, int] | dict[str, Any] | None]:
  """Theta and scaling of rotary positions as `presets.PredictorConfig` has them.

  Args:
    parameters: what transformers 5 writes as `rope_parameters`; None in files of transformers 4.
    hf: config.json, whose `rope_theta` and `rope_scaling` count in that case.
    default_theta: of files that name none.

  Returns:
    A scaling other than Llama 3's as it stands in the file: nothing here is equal to that.
  """
  scaling = dict(parameters if parameters is not None else hf.get("rope_scaling") or {})
  theta = scaling.pop("rope_theta", None) or hf.get("rope_theta") or default_theta
  kind = scaling.get("rope_type", scaling.get("type", "default"))
  if kind == "default":
    return theta, None
  names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
  if kind == "llama3" and all(name in scaling for name in names):
    return theta, tuple(scaling[name] for name in names)
  return theta, scaling
