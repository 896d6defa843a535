"""Rows of a table file: JSON lines, CSV or Parquet."""

from collections.abc import Iterator, Mapping
import csv
import json
import pathlib
from typing import Any

ENDINGS = (".jsonl", ".csv", ".parquet")

NOT_UTF8 = "this is not UTF-8 text; save the file as UTF-8"

Row = Mapping[str, Any]  # cells without a value are left out


def read_rows(path: pathlib.Path) -> Iterator[tuple[str, Row]]:
  """Rows in order, each with its place for messages, such as "clips.jsonl, line 3".

  Raises:
    ValueError: a line is not UTF-8, or no row; the message names its place.
    ImportError: Parquet needs pyarrow.
  """
  for place, row in try_rows(path):
    if isinstance(row, ValueError):
      raise ValueError(f"{place}: {row}") from row
    yield place, row


def try_rows(path: pathlib.Path) -> Iterator[tuple[str, Row | ValueError]]:
  """The same, with what is wrong in place of a row that cannot be read; those after it follow."""
  readers = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
  return readers[path.suffix.lower()](path)


def _json_lines(path: pathlib.Path) -> Iterator[tuple[str, Row | ValueError]]:
  for number, line in enumerate(_lines(path), 1):
    if line.strip():
      yield f"{path}, line {number}", _json_row(line)


def _json_row(line: str) -> Row | ValueError:
  if not _is_utf8(line):
    return ValueError(NOT_UTF8)
  try:
    row = json.loads(line)
  except ValueError as error:
    return ValueError(f"this is no JSON ({error})")
  if not isinstance(row, dict):
    return ValueError("a line must be a JSON object, such as {\"path\": ..., \"caption\": ...}")
  return {name: value for name, value in row.items() if value is not None}


def _csv(path: pathlib.Path) -> Iterator[tuple[str, Row | ValueError]]:
  reader = csv.DictReader(_lines(path), strict=True)
  while True:
    try:
      row = next(reader, None)
    except csv.Error as error:
      yield f"{path}, line {reader.reader.line_num}", ValueError(f"this is no CSV ({error})")
      continue
    if row is None:
      return
    yield f"{path}, line {reader.line_num}", _csv_row(row)


def _csv_row(row: dict[str | None, Any]) -> Row | ValueError:
  if None in row:
    return ValueError("there are more cells than columns")
  if not all(_is_utf8(text) for text in (*row, *filter(None, row.values()))):
    return ValueError(NOT_UTF8)
  return {name.strip(): value for name, value in row.items() if value}


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


def _lines(path: pathlib.Path) -> Iterator[str]:
  """Lines without the byte order mark; bytes that are not UTF-8 become halves of characters, which no file spells."""
  with path.open("rb") as file:
    for number, line in enumerate(file):
      text = line.decode("utf-8", "surrogateescape")
      yield text if number else text.removeprefix("\ufeff")


def _is_utf8(text: str) -> bool:
  try:
    text.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True
