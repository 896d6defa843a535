"""The safetensors format: eight bytes with the length of a JSON header, the header, and the tensors' bytes.

Tensors are read and written one at a time by plain file access. A memory map would be shorter, but its pages count
as memory of the process, which then needs room for a model twice.
"""

from collections.abc import Iterator, Mapping
import json
import math
import os
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

_DTYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16), "I8": np.dtype(np.int8), "U64": np.dtype(np.uint64), "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16), "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # the limit of the safetensors library


class SafeTensorsFile(Mapping):
  """Name -> array of one file; a lookup reads that tensor alone.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is truncated or damaged; at once, or at the lookup when it was cut short in between.
  """

  def __init__(self, path: pathlib.Path):
    if not path.is_file():
      raise FileNotFoundError(f"there is no weight file {path}")
    self._path = path
    try:
      self._entries = _read_header(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error

  def __getitem__(self, name: str) -> np.ndarray:
    dtype, shape, start = self._entries[name]
    value = aligned_empty(shape, dtype)
    with self._path.open("rb") as file:
      file.seek(start)
      if file.readinto(value.reshape(-1).view(np.uint8)) != value.nbytes:
        raise ValueError(f"{self._path} is damaged: it ends in the middle of tensor {name}")
    return value

  def __contains__(self, name: object) -> bool:
    return name in self._entries

  def __iter__(self) -> Iterator[str]:
    return iter(sorted(self._entries))

  def __len__(self) -> int:
    return len(self._entries)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """An array that begins at a multiple of 64 bytes, which JAX on a CPU takes over instead of copying it."""
  size = math.prod(shape) * np.dtype(dtype).itemsize
  memory = np.empty(size + 64, np.uint8)
  start = -memory.ctypes.data % 64
  return memory[start : start + size].view(dtype).reshape(shape)


def _read_header(path: pathlib.Path) -> dict[str, tuple[np.dtype, tuple[int, ...], int]]:
  """Name -> (type, shape, position in the file), once every byte of the file is accounted for."""
  size = path.stat().st_size
  with path.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER):
      raise ValueError(f"its {size} bytes end before its header does")
    header = json.loads(file.read(length), object_pairs_hook=_no_repetition)
  header.pop("__metadata__", None)
  entries, end = {}, 0
  for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
    if entry["dtype"] not in _DTYPES:
      raise ValueError(f"tensor {name} has the type {entry['dtype']}, which is not known")
    dtype, shape, (start, stop) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if min(shape, default=0) < 0 or start != end or stop - start != math.prod(shape) * dtype.itemsize:
      raise ValueError(f"tensor {name} of shape {shape} cannot lie at bytes {start} to {stop}")
    entries[name] = (dtype, shape, 8 + length + start)
    end = stop
  if 8 + length + end != size:
    raise ValueError(f"its tensors need {8 + length + end} bytes, but it has {size}")
  return entries


def _no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) != len(pairs):
    raise ValueError("its header names something twice")
  return found


def save_safetensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes the file whole or, when anything fails, not at all.

  Args:
    path: file to write or replace.
    tensors: each is looked up twice, for the header and for its bytes, so that a lazy mapping has one in memory.

  Raises:
    OSError: the disk is full, or the folder cannot be written to.
  """
  header, end = {"__metadata__": {"format": "pt"}}, 0
  for name, value in tensors.items():
    offsets = [end, end + value.nbytes]
    header[name] = {"dtype": _CODES[value.dtype], "shape": list(value.shape), "data_offsets": offsets}
    end += value.nbytes
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
  partial = path.with_name(path.name + ".partial")
  try:
    with partial.open("wb") as file:
      file.write(len(text).to_bytes(8, "little") + text)
      for value in tensors.values():
        file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
