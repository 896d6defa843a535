"""Reads the tensors of a PyTorch `.pth` / `.pt` / `.bin` file without PyTorch, and without running what is in it.

Such a file is a pickle, which can name any Python function and have it called. Here the unpickler knows the
globals below and refuses every other one by name. What it hands out for them cannot be altered by the pickle
either: OrderedDict, strings, and objects without a dictionary.

Both layouts are read: the zip archive of PyTorch 1.6 and later (memory-mapped; the pages of one tensor at a time stay
in memory), and the stream of pickles before it.
"""

import collections
from collections.abc import Iterator, Mapping
import io
import mmap
import pathlib
import pickle
from typing import Any, BinaryIO
import zipfile
import zlib

import ml_dtypes
import numpy as np

_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ZIP_MAGIC = b"PK\x03\x04"


class RefusedGlobalError(ValueError):
  """The file asks for a Python object that is neither a tensor nor a container."""


class TorchTensors(Mapping):
  """Name -> read-only array."""

  def __init__(self, arrays: dict[str, np.ndarray], mapped: mmap.mmap | None):
    self._arrays = arrays
    self._mapped = mapped

  def __getitem__(self, name: str) -> np.ndarray:
    if self._mapped is not None:
      _release(self._mapped)  # of the tensor before
    return self._arrays[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._arrays)

  def __len__(self) -> int:
    return len(self._arrays)


def read_torch_file(path: pathlib.Path) -> Mapping[str, np.ndarray]:
  """Every tensor of the file under its name; the names of nested containers are joined by dots.

  Args:
    path: what `torch.save` wrote: a state dict, or a checkpoint that holds some. Numbers and texts beside the
      tensors are left out. The arrays are read-only; those of a zip archive are memory-mapped.

  Raises:
    FileNotFoundError: there is no such file.
    RefusedGlobalError: the pickle names anything but tensors and containers; nothing of it has been run.
    ValueError: the file is truncated, damaged, or not of this kind.
  """
  if not path.is_file():
    raise FileNotFoundError(f"there is no weight file {path}")
  with path.open("rb") as file:
    try:
      is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
      file.seek(0)
      root, mapped = _read_zip(file) if is_zip else (_read_legacy(file), None)
      return TorchTensors(dict(_tensors(root)), mapped)
    except RefusedGlobalError as error:
      raise RefusedGlobalError(f"{path} is refused: {error}") from None
    except Exception as error:  # damaged bytes can make an unpickler raise anything
      reason = str(error) or type(error).__name__
      raise ValueError(f"{path} is damaged or not a PyTorch weight file: {reason}") from error


def _tensors(root: Any) -> Iterator[tuple[str, np.ndarray]]:
  """(dotted name, array) of all tensors below `root`; each container is entered once, so that loops end."""
  stack, seen = [("", root)], set()
  while stack:
    name, value = stack.pop()
    if isinstance(value, np.ndarray):
      yield name, value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
      seen.add(id(value))
      items = list(value.items() if isinstance(value, dict) else enumerate(value))
      stack += [(f"{name}.{key}" if name else str(key), item) for key, item in reversed(items)]


class _RebuildTensor:
  """Stands for `torch._utils._rebuild_tensor_v2`: a strided view of a storage. NumPy checks its bounds."""

  __slots__ = ()

  def __call__(self, storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any):
    itemsize = storage.dtype.itemsize
    strides = tuple(step * itemsize for step in stride)
    view = np.ndarray(size, storage.dtype, buffer=storage.view(np.uint8), offset=offset * itemsize, strides=strides)
    view.flags.writeable = False
    return view


class _RebuildParameter:
  """Stands for `torch._utils._rebuild_parameter`: the tensor itself."""

  __slots__ = ()

  def __call__(self, data: np.ndarray, *_: Any) -> np.ndarray:
    return data


_GLOBALS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    **{("torch", name): name for name in _DTYPES},
}


class _Unpickler(pickle.Unpickler):
  """Knows tensors and containers only."""

  def __init__(self, file: BinaryIO, read_storage: Any):
    """read_storage: (key, dtype, number of elements) -> 1-D array."""
    super().__init__(file, encoding="utf-8")
    self._read_storage = read_storage

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _GLOBALS:
      raise RefusedGlobalError(
          f"it holds the Python object `{module}.{name}`; only files of plain tensors, as saved by"
          " torch.save(model.state_dict(), ...), are read"
      )
    return _GLOBALS[module, name]

  def persistent_load(self, pid: tuple) -> np.ndarray:
    kind, storage_type, key, _, count, *view = pid
    if kind != "storage" or any(part is not None for part in view):
      raise ValueError(f"unknown reference {pid!r}")
    return self._read_storage(key, _DTYPES[storage_type], count)


def _read_zip(file: BinaryIO) -> tuple[Any, mmap.mmap]:
  """The object in a zip archive, `data.pkl` and one uncompressed member per storage; and the map its arrays view."""
  with zipfile.ZipFile(file) as archive:
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "data.pkl" not in members:
      raise ValueError("the archive has no data.pkl")
    if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
      raise ValueError("its numbers are big-endian")
    data = archive.read(members["data.pkl"])
  mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  storages = {}

  def read_storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
    if f"data/{key}" not in members:
      raise ValueError(f"the archive has no data/{key}")
    if key not in storages:
      storages[key] = np.frombuffer(_member(memoryview(mapped), members[f"data/{key}"]), np.uint8)
      _release(mapped)  # of the checksum
    return storages[key][: count * dtype.itemsize].view(dtype)

  return _Unpickler(io.BytesIO(data), read_storage).load(), mapped


def _release(mapped: mmap.mmap) -> None:
  """Pages of a file that have been looked at count as memory of the process until they are given back."""
  mapped.madvise(mmap.MADV_DONTNEED)


def _member(mapped: memoryview, info: zipfile.ZipInfo) -> memoryview:
  """The bytes of a stored zip member, checked against their checksum."""
  if info.compress_type != zipfile.ZIP_STORED:
    raise ValueError(f"{info.filename} is compressed, which torch.save never does")
  header = mapped[info.header_offset : info.header_offset + 30]
  names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
  start = info.header_offset + len(header) + names
  content = mapped[start : start + info.file_size]
  if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
    raise ValueError(f"the bytes of {info.filename} do not match their checksum")
  return content


def _read_legacy(file: BinaryIO) -> Any:
  """The object in a stream: magic number, protocol, platform, object, storage keys; then the storages' bytes."""
  file_size = file.seek(0, io.SEEK_END)
  file.seek(0)
  storages = {}

  def read_storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
    if key not in storages:
      claimed = sum(storage.nbytes for storage in storages.values()) + count * dtype.itemsize
      if claimed > file_size:
        raise ValueError("it is shorter than its tensors")
      storages[key] = np.empty(count, dtype)
    return storages[key]

  load = lambda: _Unpickler(file, read_storage).load()
  if load() != _LEGACY_MAGIC or load() != _LEGACY_PROTOCOL:
    raise ValueError("it does not begin as torch.save writes it")
  if load()["little_endian"] is not True:
    raise ValueError("its numbers are big-endian")
  root, keys = load(), load()
  if sorted(keys) != sorted(storages):
    raise ValueError("its list of storages does not match its tensors")
  for key in keys:  # the views made above look at these buffers
    count = int.from_bytes(file.read(8), "little")
    buffer = storages[key].view(np.uint8)
    if count != storages[key].size or file.readinto(buffer) != buffer.nbytes:
      raise ValueError(f"it ends in the middle of storage {key}")
  return root
