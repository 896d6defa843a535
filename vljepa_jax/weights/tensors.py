"""Reads the tensors of a weight file or folder, one at a time."""

from collections.abc import Iterator, Mapping
import json
import pathlib

import numpy as np
import safetensors

from vljepa_jax.weights import torch_file

# What a folder may hold, in the order of preference.
FOLDER_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def weight_file(path: pathlib.Path) -> pathlib.Path:
  """The weight file of a folder, or `path` itself when it is a file; FileNotFoundError when there is none."""
  if path.is_dir():
    for name in FOLDER_FILES:
      if (path / name).is_file():
        return path / name
    raise FileNotFoundError(f"{path} holds no weights; it needs one of {', '.join(FOLDER_FILES)}")
  if not path.is_file():
    raise FileNotFoundError(f"there is no weight file {path}")
  return path


def read_tensors(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  """Name -> array of a `weight_file`.

  safetensors are memory-mapped, and a tensor is copied when it is looked up; a `.index.json` joins the files
  that it lists. `.pth`, `.pt` and `.bin` are read whole by `torch_file`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged, or of a kind that is not known.
  """
  if path.name.endswith(".index.json"):
    return ShardedTensors(path)
  if path.suffix == ".safetensors":
    return SafeTensors(path)
  if path.suffix in (".pth", ".pt", ".bin"):
    return torch_file.read_torch_file(path)
  raise ValueError(f"{path} is not a weight file; it must end in .safetensors, .index.json, .pth, .pt or .bin")


class SafeTensors(Mapping):
  """One memory-mapped safetensors file."""

  def __init__(self, path: pathlib.Path):
    if not path.is_file():
      raise FileNotFoundError(f"there is no weight file {path}")
    try:
      self._file = safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
      raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    self._names = frozenset(self._file.keys())

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._names:
      raise KeyError(name)
    return self._file.get_tensor(name)

  def __contains__(self, name: object) -> bool:
    return name in self._names

  def __iter__(self) -> Iterator[str]:
    return iter(sorted(self._names))

  def __len__(self) -> int:
    return len(self._names)


class ShardedTensors(Mapping):
  """The safetensors files that an index joins."""

  def __init__(self, index: pathlib.Path):
    try:
      self._shard_of = dict(json.loads(index.read_text())["weight_map"])
      shards = sorted(set(self._shard_of.values()))
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f"{index} is not an index of safetensors files: it needs a JSON object weight_map") from error
    self._shards = {name: SafeTensors(index.parent / name) for name in shards}
    for name, shard in self._shard_of.items():
      if name not in self._shards[shard]:
        raise ValueError(f"{index.parent / shard} lacks the tensor {name} that {index.name} places there")

  def __getitem__(self, name: str) -> np.ndarray:
    return self._shards[self._shard_of[name]][name]

  def __contains__(self, name: object) -> bool:
    return name in self._shard_of

  def __iter__(self) -> Iterator[str]:
    return iter(sorted(self._shard_of))

  def __len__(self) -> int:
    return len(self._shard_of)
