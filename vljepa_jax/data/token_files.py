"""Tokens of a frozen X-encoder in ArrayRecord files: a record for each view of each picture or clip, as an .npy array.

Files of a cache have the same number of records, but for the last one, and are written one after another; each gets its
name once it is whole. What a killed run has finished stays, and any number of processes may read.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import io
import itertools
import pathlib

from array_record.python import array_record_data_source
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
import numpy as np

from vljepa_jax.errors import UserError, one_line

SUFFIX = ".array_record"
PARTIAL = ".partial"  # suffix of a file that is not whole
OPTIONS = "group_size:1,uncompressed"  # for random access; tokens would shrink by a twelfth
SMALLEST = 256  # records of a file
MOST = 128  # files


@dataclasses.dataclass(frozen=True)
class Layout:
  """How the tokens of a data set lie in files; it depends on their number alone.

  Attributes:
    folder: of the files.
    key: what their names begin with.
    records: pictures or clips.
    views: of each.
  """

  folder: pathlib.Path
  key: str
  records: int
  views: int

  @property
  def size(self) -> int:
    """Views in a file, of which the last one may have fewer."""
    return max(SMALLEST, -(-self.records * self.views // MOST))

  @property
  def ranges(self) -> list[range]:
    """The views of each file. View v of record r has the number r * views + v."""
    total = self.records * self.views
    return [range(first, min(first + self.size, total)) for first in range(0, total, self.size)]

  @property
  def paths(self) -> list[pathlib.Path]:
    """The files."""
    count = len(self.ranges)
    return [self.folder / f"{self.key}-{i:05}-of-{count:05}{SUFFIX}" for i in range(count)]

  def missing(self) -> np.ndarray:
    """Which files are not there, or not whole, (files,) bool."""
    return np.array([_count(path) != len(views) for path, views in zip(self.paths, self.ranges)], bool)


def _count(path: pathlib.Path) -> int:
  """Records of a file. The library counts 0 where there is no file, or one that has lost its end."""
  return ArrayRecordReader(str(path)).num_records()


def write(path: pathlib.Path, rows: Iterable[np.ndarray]) -> None:
  """Writes a file, row by row; UserError if that cannot be done, and nothing is left of it."""
  partial = path.with_suffix(PARTIAL)
  try:
    writer = ArrayRecordWriter(str(partial), OPTIONS)
    for row in rows:
      with io.BytesIO() as record:
        np.save(record, row)
        _put(writer.write, path, record.getvalue())
    _put(writer.close, path)
    partial.replace(path)
  except (OSError, UserError):
    partial.unlink(missing_ok=True)
    raise


def _put(action, path: pathlib.Path, *data: bytes) -> None:
  try:
    action(*data)
  except RuntimeError as error:  # the library knows no other
    reason = one_line(error).partition(";")[0]
    raise UserError(
        f"{path} cannot be written: {reason}; what was finished before it stays, and the same command goes on from "
        "there") from error


class Tokens:
  """The tokens of a data set, indexed like an array (records, views, N, D) by [record, view].

  Args:
    layout: of files that are whole.

  Attributes:
    shape: of all tokens.
    dtype: of them.
  """

  def __init__(self, layout: Layout):
    self._layout = layout
    self._data = array_record_data_source.ArrayRecordDataSource(list(map(str, layout.paths)))
    first = self._read(0)
    row = np.load(io.BytesIO(first), allow_pickle=False)
    self.dtype = row.dtype
    self.shape = (layout.records, layout.views, *row.shape)
    self._header = first[:len(first) - row.nbytes]

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, key: tuple[int, int]) -> np.ndarray:
    """The tokens of a view, (N, D), read-only; UserError if they cannot be read."""
    record, view = key
    number = int(record) * self.shape[1] + int(view)
    data = self._read(number)
    if not data.startswith(self._header):
      raise self._damaged(number, "a record is of another shape")
    return np.frombuffer(data, self.dtype, offset=len(self._header)).reshape(self.shape[2:])

  def _read(self, number: int) -> bytes:
    try:
      return self._data[number]
    except RuntimeError as error:  # checksums are part of the format
      raise self._damaged(number, one_line(error).partition(";")[0]) from error

  def _damaged(self, number: int, reason: str) -> UserError:
    path = self._layout.paths[number // self._layout.size]
    return UserError(f"{path} is damaged ({reason}); delete it, and the same command makes its tokens anew")


def runs(missing: Sequence[bool]) -> list[list[int]]:
  """Numbers of missing files, in runs of neighbours."""
  groups = itertools.groupby(range(len(missing)), lambda i: bool(missing[i]))
  return [list(group) for absent, group in groups if absent]
