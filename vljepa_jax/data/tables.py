"""Rows of a table file: JSON lines, CSV or Parquet."""

from collections.abc import Iterator, Mapping
import csv
import json
import pathlib
from typing import Any

ENDINGS = (".jsonl", ".csv", ".parquet")

Row = Mapping[str, Any]  # cells without a value are left out


def read_rows(path: pathlib.Path) -> Iterator[tuple[str, Row]]:
  """Rows in order, each with its place for messages, such as "clips.jsonl, line 3".

  Raises:
    ValueError: a line is not UTF-8, or no row; the message names its place.
    ImportError: Parquet needs pyarrow.
  """
  readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
  return readers[path.suffix.lower()](path)


def _json_lines(path: pathlib.Path) -> Iterator[tuple[str, Row]]:
  for place, line in _lines(path):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as error:
      raise ValueError(f"{place}: this is no JSON ({error})") from error
    if not isinstance(row, dict):
      raise ValueError(f"{place}: a line must be a JSON object, such as {{\"path\": ..., \"caption\": ...}}")
    yield place, {name: value for name, value in row.items() if value is not None}


def _csv(path: pathlib.Path) -> Iterator[tuple[str, Row]]:
  reader = csv.DictReader((line for _, line in _lines(path)), strict=True)
  while True:
    try:
      row = next(reader, None)
    except csv.Error as error:
      raise ValueError(f"{path}, line {reader.reader.line_num}: this is no CSV ({error})") from error
    if row is None:
      return
    place = f"{path}, line {reader.line_num}"
    if None in row:
      raise ValueError(f"{place}: there are more cells than columns")
    yield place, {name.strip(): value for name, value in row.items() if value}


def _parquet(path: pathlib.Path) -> Iterator[tuple[str, Row]]:
  try:
    import pyarrow
    import pyarrow.parquet as parquet
  except ImportError as error:
    raise ImportError(f"reading {path} needs pyarrow: pip install pyarrow") from error
  try:
    number = 0
    for batch in parquet.ParquetFile(path).iter_batches():
      for row in batch.to_pylist():
        number += 1
        yield f"{path}, row {number}", {name: value for name, value in row.items() if value is not None}
  except pyarrow.ArrowInvalid as error:
    raise ValueError(f"{path}: this is no Parquet file ({error})") from error


def _lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  with path.open("rb") as file:
    for number, line in enumerate(file, 1):
      place = f"{path}, line {number}"
      try:
        text = line.decode("utf-8")
      except UnicodeDecodeError as error:
        raise ValueError(f"{place}: this is not UTF-8 text; save the file as UTF-8") from error
      yield place, text.removeprefix("\ufeff") if number == 1 else text
