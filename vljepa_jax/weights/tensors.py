"""The tensors of a weight file or folder under their names, read one at a time."""

from collections.abc import Iterator, Mapping
import json
import pathlib
import re

import numpy as np

from vljepa_jax.weights.safetensors_file import SafeTensorsFile
from vljepa_jax.weights.torch_file import read_torch_file

# What a folder may hold, in the order of preference.
FOLDER_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
# Layers that sentence-transformers keeps beside the model, each in a folder of its own.
DENSE_FOLDERS = "[0-9]_Dense"

Rules = list[tuple[str, ...]]


class Tensors(Mapping):
  """Name -> array, and where each is from.

  Attributes:
    path: the file that messages name.
  """

  def __init__(self, path: pathlib.Path | str, arrays: Mapping[str, np.ndarray]):
    self.path = path
    self._arrays = arrays

  def where(self, name: str) -> str:
    """How messages call a tensor, which may be a missing one."""
    return f"{self.path}: tensor {name}"

  def __getitem__(self, name: str) -> np.ndarray:
    return self._arrays[name]

  def __contains__(self, name: object) -> bool:
    return name in self._arrays

  def __iter__(self) -> Iterator[str]:
    return iter(self._arrays)

  def __len__(self) -> int:
    return len(self._arrays)


class Joined(Tensors):
  """Several files as one; `place` tells the file of each tensor, and its name there."""

  def __init__(self, path: pathlib.Path, place: dict[str, tuple[Mapping[str, np.ndarray], str]]):
    super().__init__(path, place)

  def where(self, name: str) -> str:
    if name not in self._arrays:
      return super().where(name)
    file, inside = self._arrays[name]
    return file.where(inside)

  def __getitem__(self, name: str) -> np.ndarray:
    file, inside = self._arrays[name]
    return file[inside]


class Renamed(Tensors):
  """Tensors under other names; see `rename`. `source` tells the old name, the part of it and the number of parts."""

  def __init__(self, tensors: Tensors, source: dict[str, tuple[str, int, int]]):
    super().__init__(tensors.path, source)
    self._tensors = tensors

  def where(self, name: str) -> str:
    old, part, parts = self._arrays.get(name, (name, 0, 1))
    return self._tensors.where(old) + (f" (part {part + 1} of {parts})" if parts > 1 else "")

  def __getitem__(self, name: str) -> np.ndarray:
    old, part, parts = self._arrays[name]
    value = self._tensors[old]
    return value if parts == 1 else np.array_split(value, parts)[part]


def rename(tensors: Tensors, rules: Rules) -> Tensors:
  """The same tensors under other names, still read only when they are looked up.

  Args:
    tensors: what a file holds.
    rules: (regex of whole names, new name); the first that fits counts, and names that none fits stay. Several new
      names split the tensor into equal parts of its first axis; no new name leaves the tensor out.

  Raises:
    ValueError: two tensors get the same name.
  """
  compiled = [(re.compile(pattern), names) for pattern, *names in rules]
  source: dict[str, tuple[str, int, int]] = {}
  for old in tensors:
    match, names = next(((m, n) for p, n in compiled if (m := p.fullmatch(old))), (None, [old]))
    for part, name in enumerate(names):
      name = match.expand(name) if match else name
      if name in source:
        raise ValueError(f"{tensors.where(old)} and {source[name][0]} have the same meaning")
      source[name] = (old, part, len(names))
  return Renamed(tensors, source)


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


def read_weights(path: pathlib.Path) -> Tensors:
  """The tensors of a file or folder; those of a folder's `2_Dense/` and so on are called `2_Dense/linear.weight`."""
  main = read_tensors(weight_file(path))
  folders = sorted(path.glob(DENSE_FOLDERS)) if path.is_dir() else []
  if not folders:
    return main
  place = {name: (main, name) for name in main}
  for folder in folders:
    dense = read_tensors(weight_file(folder))
    place |= {f"{folder.name}/{name}": (dense, name) for name in dense}
  return Joined(main.path, place)


def read_tensors(path: pathlib.Path) -> Tensors:
  """The tensors of a `weight_file`; a `.index.json` joins the files that it lists.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged, or of a kind that is not known.
  """
  if path.name.endswith(".index.json"):
    return _read_shards(path)
  if path.suffix == ".safetensors":
    return Tensors(path, SafeTensorsFile(path))
  if path.suffix in (".pth", ".pt", ".bin"):
    return Tensors(path, read_torch_file(path))
  raise ValueError(f"{path} is not a weight file; it must end in .safetensors, .index.json, .pth, .pt or .bin")


def _read_shards(index: pathlib.Path) -> Tensors:
  try:
    shard_of = dict(json.loads(index.read_text())["weight_map"])
    names = sorted(set(shard_of.values()))
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{index} is not an index of safetensors files: it needs a JSON object weight_map") from error
  shards = {name: read_tensors(index.parent / name) for name in names}
  for name, shard in shard_of.items():
    if name not in shards[shard]:
      raise ValueError(f"{index.parent / shard} lacks the tensor {name} that {index.name} places there")
  return Joined(index, {name: (shards[shard], name) for name, shard in sorted(shard_of.items())})
