"""Weights of other projects as subtrees of our parameters, and back: every tensor accounted for, or an error."""

from collections.abc import Iterator, Mapping
import dataclasses
import json
import pathlib
import re
from types import ModuleType
from typing import Any

from flax import traverse_util
import numpy as np

from vljepa_jax.model import presets
from vljepa_jax.weights import bert, gemma, llama, mobilenet_v2, vjepa2
from vljepa_jax.weights.config_json import check_config, read_config
from vljepa_jax.weights.maps import Entry
from vljepa_jax.weights.safetensors_file import aligned_empty, save_safetensors
from vljepa_jax.weights.sources import resolve
from vljepa_jax.weights.start import copy_token_table, init_y_head
from vljepa_jax.weights.tensors import Joined, Tensors, read_weights, rename
from vljepa_jax.weights.whole import load_all, save_all

__all__ = [
    "copy_token_table", "export_folder", "export_tower", "fill_tower", "init_y_head", "load_all", "load_tower",
    "resolve", "save_all",
]

FAMILIES: dict[type, ModuleType] = {
    presets.BertConfig: bert,
    presets.EmbeddingGemmaConfig: gemma,
    presets.MobileNetV2Config: mobilenet_v2,
    presets.PredictorConfig: llama,
    presets.VJepa2Config: vjepa2,
}


def load_tower(spec: str, config: Any, shapes: dict[str, Any]) -> dict[str, Any]:
  """The part of one tower's parameters that a weight file provides.

  Leaves that no file of the family holds (its `FRESH`, such as the projection head) are absent from the result and
  keep what the caller initialised:
    flat = flatten_dict(params) | flatten_dict(load_tower(...))

  Args:
    spec: see `sources.resolve`. The config.json of a folder must fit `config`.
    config: dataclass of the tower, which picks the family.
    shapes: the tower's whole parameter tree, unboxed, as arrays or ShapeDtypeStructs; unrolled or scanned.

  Returns:
    Nested dict of numpy arrays in the types of `shapes`.

  Raises:
    FileNotFoundError: there is no such file, folder or package.
    ValueError: a damaged file, or one tensor missing, unexpected, mis-shaped or not of a float type; the message
      names the file, the tensor, what was expected and what was found.
  """
  family, path = _family(config), resolve(spec)
  if path.is_dir():
    _check_folder(path, family, config)
  return fill_tower(read_weights(path), config, shapes)


def fill_tower(tensors: Tensors, config: Any, shapes: dict[str, Any]) -> dict[str, Any]:
  """What `load_tower` does, from tensors in one of the spellings of the family; arrays may be shared with them."""
  family = _family(config)
  found, rows = rename(tensors, family.rules(tensors, config)), family.name_map(config)
  leaves = traverse_util.flatten_dict(shapes, sep="/")
  _check_names(found, rows)
  _check_covers(leaves, rows, family)
  loaded: dict[str, np.ndarray] = {}
  for row in rows:
    name, layer = _place(row.ours, leaves)
    leaf = leaves[name]
    shape = tuple(leaf.shape if layer is None else leaf.shape[1:])
    value = _checked(found, row, shape)
    if layer is not None:
      if name not in loaded:
        loaded[name] = aligned_empty(leaf.shape, leaf.dtype)
      loaded[name][layer] = value
    elif value.flags.c_contiguous and value.flags.writeable and value.dtype == leaf.dtype:
      loaded[name] = value  # a token table is most of some towers: not twice in memory
    else:
      loaded[name] = aligned_empty(leaf.shape, leaf.dtype)
      loaded[name][...] = value
  return traverse_util.unflatten_dict(loaded, sep="/")


def export_tower(config: Any, params: dict[str, Any]) -> Mapping[str, np.ndarray]:
  """One tower's parameters under the names and layouts of its family; what files of the family lack is left out.

  An array is made when it is looked up.
  """
  config = _alone(config)
  return _Exported(_family(config).name_map(config), traverse_util.flatten_dict(params, sep="/"))


def export_folder(folder: pathlib.Path, config: Any, params: dict[str, Any]) -> None:
  """Writes one tower as the folder that the other libraries of its family load: config.json, model.safetensors.

  Dense heads go to folders of their own, as sentence-transformers has them.

  Raises:
    OSError: the disk is full, or the folder cannot be written to. Each weight file is whole, or as it was.
    ValueError: the family has no such model.
  """
  config = _alone(config)
  files, tensors = _json_files(_family(config), config), export_tower(config, params)
  for part in dict.fromkeys(name.rpartition("/")[0] for name in tensors):
    (folder / part).mkdir(parents=True, exist_ok=True)
    place = {name.rpartition("/")[2]: (tensors, name) for name in tensors if name.rpartition("/")[0] == part}
    save_safetensors(folder / part / "model.safetensors", Joined(folder, place))
  for name, content in files.items():
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content, indent=2) + "\n")


class _Exported(Mapping):
  """Rows of a table over the leaves of a tower."""

  def __init__(self, rows: list[Entry], leaves: dict[str, Any]):
    self._rows = {row.theirs: (row, *_place(row.ours, leaves)) for row in rows}
    self._leaves = leaves

  def __getitem__(self, name: str) -> np.ndarray:
    row, leaf, layer = self._rows[name]
    value = np.asarray(self._leaves[leaf])
    return np.ascontiguousarray(row.to_theirs(value if layer is None else value[layer]))

  def __iter__(self) -> Iterator[str]:
    return iter(self._rows)

  def __len__(self) -> int:
    return len(self._rows)


def _alone(config: Any) -> Any:
  """The config of the tower as a model of its own: layers out of the middle of a Llama are numbered from 0."""
  if isinstance(config, presets.PredictorConfig):
    return dataclasses.replace(config, layers=(0, config.num_layers))
  return config


def _json_files(family: ModuleType, config: Any) -> dict[str, Any]:
  """Path in a folder -> content of each JSON file that belongs to a tower."""
  return {"config.json": family.hf_config(config)} | (gemma.sentence_files(config) if family is gemma else {})


def _check_folder(folder: pathlib.Path, family: ModuleType, config: Any) -> None:
  """Compares the JSON files that a folder has with what they say of such a tower."""
  for name, wanted in _json_files(family, config).items():
    path = folder / name
    if name == "config.json" and path.is_file():
      stated = family.stated(read_config(path), config)
      check_config(path, stated, family.stated(wanted, config), config, family.FIELDS)
    elif isinstance(wanted, dict) and path.is_file():
      check_config(path, read_config(path), wanted, config, {})


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


def _check_names(found: Tensors, rows: list[Entry]) -> None:
  wanted = {row.theirs for row in rows}
  missing = sorted(wanted - set(found))
  if missing:
    raise ValueError(f"{found.where(missing[0])} is missing ({len(missing)} of {len(wanted)} expected ones are)")
  extra = sorted(set(found) - wanted)
  if extra:
    raise ValueError(f"{found.where(extra[0])} is unexpected ({len(extra)} are); does the preset fit this file?")


def _check_covers(leaves: dict[str, Any], rows: list[Entry], family: ModuleType) -> None:
  """Every leaf of the tower is in the table or declared fresh."""
  covered = {_place(row.ours, leaves)[0] for row in rows}
  for name in leaves:
    if name not in covered and not any(re.fullmatch(pattern, name) for pattern in family.FRESH):
      raise ValueError(f"{family.__name__} has no row for the parameter {name}")


def _checked(found: Tensors, row: Entry, shape: tuple[int, ...]) -> np.ndarray:
  """The tensor in our layout, once its shape and type are what `shape` asks for."""
  value, where = found[row.theirs], found.where(row.theirs)
  expected = row.to_theirs(np.broadcast_to(np.float32(0), shape)).shape
  if value.shape != expected:
    raise ValueError(f"{where} has shape {value.shape}, expected {expected}")
  if value.dtype.name not in ("float16", "bfloat16", "float32"):
    raise ValueError(f"{where} is {value.dtype.name}, expected float32, bfloat16 or float16")
  return row.to_ours(value)
