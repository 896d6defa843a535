"""Weights of other projects as subtrees of our parameters, and back: every tensor accounted for, or an error."""

import pathlib
import re
from types import ModuleType
from typing import Any

from flax import traverse_util
import numpy as np

from vljepa_jax.model import presets
from vljepa_jax.weights import bert, mobilenet_v2
from vljepa_jax.weights.maps import Entry
from vljepa_jax.weights.sources import resolve
from vljepa_jax.weights.start import copy_token_table, init_y_head
from vljepa_jax.weights.tensors import read_tensors, weight_file

__all__ = ["copy_token_table", "export_tower", "init_y_head", "load_tower", "resolve"]

FAMILIES: dict[type, ModuleType] = {
    presets.BertConfig: bert,
    presets.MobileNetV2Config: mobilenet_v2,
}


def load_tower(spec: str, config: Any, shapes: dict[str, Any]) -> dict[str, Any]:
  """The part of one tower's parameters that a weight file provides.

  Leaves that no file of the family holds (its `FRESH`, such as the projection head) are absent from the result and
  keep what the caller initialised:
    flat = flatten_dict(params) | flatten_dict(load_tower(...))

  Args:
    spec: see `sources.resolve`.
    config: dataclass of the tower, which picks the family.
    shapes: the tower's whole parameter tree, unboxed, as arrays or ShapeDtypeStructs; unrolled or scanned.

  Returns:
    Nested dict of numpy arrays in the types of `shapes`.

  Raises:
    FileNotFoundError: there is no such file, folder or package.
    ValueError: a damaged file, or one tensor missing, unexpected, mis-shaped or not of a float type; the message
      names the file, the tensor, what was expected and what was found.
  """
  family = _family(config)
  path = weight_file(resolve(spec))
  found, rows = read_tensors(path), family.name_map(config)
  leaves = traverse_util.flatten_dict(shapes, sep="/")
  _check_names(path, found, rows, family.IGNORED)
  _check_covers(leaves, rows, family)
  loaded: dict[str, np.ndarray] = {}
  for row in rows:
    name, layer = _place(row.ours, leaves)
    leaf = leaves[name]
    shape = tuple(leaf.shape if layer is None else leaf.shape[1:])
    value = _checked(path, row, found[row.theirs], shape)
    if layer is None:
      loaded[name] = np.array(value, leaf.dtype, order="C")
    else:
      loaded.setdefault(name, np.empty(leaf.shape, leaf.dtype))[layer] = value
  return traverse_util.unflatten_dict(loaded, sep="/")


def export_tower(config: Any, params: dict[str, Any]) -> dict[str, np.ndarray]:
  """One tower's parameters under the names and layouts of its family; what files of the family lack is left out."""
  leaves = traverse_util.flatten_dict(params, sep="/")
  tensors = {}
  for row in _family(config).name_map(config):
    name, layer = _place(row.ours, leaves)
    value = np.asarray(leaves[name] if layer is None else leaves[name][layer])
    tensors[row.theirs] = np.ascontiguousarray(row.to_theirs(value))
  return tensors


def _family(config: Any) -> ModuleType:
  if type(config) not in FAMILIES:
    known = ", ".join(kind.__name__ for kind in FAMILIES)
    raise ValueError(f"weights of a {type(config).__name__} cannot be loaded; there are maps for {known}")
  return FAMILIES[type(config)]


def _place(ours: str, leaves: dict[str, Any]) -> tuple[str, int | None]:
  """The leaf that holds `ours`, and the row in it when the tower is scanned."""
  if ours in leaves:
    return ours, None
  stacked = re.sub(r"\blayers_\d+\b", "layers", ours)
  if stacked == ours or stacked not in leaves:
    raise ValueError(f"the table of weights names {ours}, which this model does not have")
  return stacked, int(re.search(r"\blayers_(\d+)\b", ours)[1])


def _check_names(path: pathlib.Path, found: Any, rows: list[Entry], ignored: tuple[str, ...]) -> None:
  wanted = {row.theirs for row in rows}
  missing = sorted(wanted - set(found))
  if missing:
    raise ValueError(f"{path}: tensor {missing[0]} is missing ({len(missing)} of {len(wanted)} expected ones are)")
  known = lambda name: name in wanted or any(re.fullmatch(pattern, name) for pattern in ignored)
  extra = sorted(name for name in found if not known(name))
  if extra:
    raise ValueError(f"{path}: tensor {extra[0]} is unexpected ({len(extra)} are); does the preset fit this file?")


def _check_covers(leaves: dict[str, Any], rows: list[Entry], family: ModuleType) -> None:
  """Every leaf of the tower is in the table or declared fresh."""
  covered = {_place(row.ours, leaves)[0] for row in rows}
  for name in leaves:
    if name not in covered and not any(re.fullmatch(pattern, name) for pattern in family.FRESH):
      raise ValueError(f"{family.__name__} has no row for the parameter {name}")


def _checked(path: pathlib.Path, row: Entry, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The tensor in our layout, once its shape and type are what `shape` asks for."""
  expected = row.to_theirs(np.broadcast_to(np.float32(0), shape)).shape
  if value.shape != expected:
    raise ValueError(f"{path}: tensor {row.theirs} has shape {value.shape}, expected {expected}")
  if value.dtype.name not in ("float16", "bfloat16", "float32"):
    raise ValueError(f"{path}: tensor {row.theirs} is {value.dtype.name}, expected float32, bfloat16 or float16")
  return row.to_ours(value)
