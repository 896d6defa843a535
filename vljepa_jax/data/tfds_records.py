"""Records of TFDS sets in ArrayRecord, whose library takes a file that has lost its end for an empty one."""

from collections.abc import Sequence
import itertools
import pathlib
from typing import Any

from vljepa_jax.errors import MediaError, one_line


class Records(Sequence):
  """A split of a TFDS set, as `builder.as_data_source` gives it.

  Args:
    builder: of TFDS.
    split: one of its splits.
    options: of `as_data_source`.

  Raises:
    ValueError: the set is not stored as ArrayRecord, or a file is not there, or not whole.
  """

  def __init__(self, builder: Any, split: str, **options: Any):
    kind = builder.info.file_format.value
    if kind != "array_record":
      raise ValueError(
          f"{builder.data_path} is stored as {kind}, which has no random access; generate it with "
          "file_format='array_record'")
    self._files = [
        (pathlib.Path(part.filename), part.examples_in_shard) for part in builder.info.splits[split].file_instructions]
    for path, count in self._files:
      _check_whole(path, count)
    self._data = builder.as_data_source(split, **options)

  def __len__(self) -> int:
    return len(self._data)

  def __getitem__(self, index: int) -> Any:
    """A record; MediaError if its file is damaged there."""
    if not 0 <= index < len(self):
      raise IndexError(index)
    try:
      return self._data[index]
    except RuntimeError as error:  # the library knows no other
      raise MediaError(
          f"record {index} of {self._file_of(index)} is damaged ({one_line(error).partition(';')[0]}); get the file "
          "anew") from error

  def _file_of(self, index: int) -> pathlib.Path:
    ends = itertools.accumulate(count for _, count in self._files)
    return next(path for (path, _), end in zip(self._files, ends) if index < end)


def _check_whole(path: pathlib.Path, count: int) -> None:
  from array_record.python.array_record_module import ArrayRecordReader  # only those who read data pay for it

  if not path.exists():
    raise FileNotFoundError(f"{path} is not there; get the data set anew, or generate it again")
  found = ArrayRecordReader(str(path)).num_records()
  if found != count:
    raise ValueError(
        f"{path} is not whole: {found:,} of its {count:,} records can be found; get the file anew, or generate the "
        "data set again")
