"""WebDataset tar files: members with one key are one clip and what is said about it."""

from collections.abc import Iterator
import glob
import json
import os
import re
import tarfile
from typing import Any

from vljepa_jax.data import tables
from vljepa_jax.data.image import ENDINGS as PICTURES
from vljepa_jax.data.list_folder import VIDEOS
from vljepa_jax.data.manifest import COLUMNS, Row, make_row
from vljepa_jax.errors import UserError

TEXTS = (".txt", ".json")
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")

Place = tuple[str, int, int]  # member, offset and size of a clip in its tar file
Found = tuple[str, str, Row | Exception, Place | None]


def expand(pattern: str) -> list[str]:
  """The tar files of a pattern with `{000..009}` or wildcards; UserError if none is there."""
  span = RANGE.search(pattern)
  if span:
    first, last = span.groups()
    numbers = range(int(first), int(last) + 1)
    paths = [path for number in numbers
             for path in expand_one(f"{pattern[:span.start()]}{number:0{len(first)}d}{pattern[span.end():]}")]
  else:
    paths = expand_one(pattern)
  if not any(map(os.path.isfile, paths)):
    raise UserError(f"there is no tar file {pattern}")
  return paths


def expand_one(pattern: str) -> list[str]:
  """The files of wildcards in order, or the name itself."""
  return sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]


def fixed_folder(pattern: str) -> str:
  """The folder of a pattern up to where it varies; "" is the current one."""
  return os.path.dirname(re.split(r"[{*?[]", pattern, maxsplit=1)[0])


def read_rows(pattern: str, split: str) -> Iterator[Found]:
  """The clips of tar files: place for messages, tar file, row or what is wrong, place in the file.

  A caption is what `.txt` says, or the keys of a manifest in `.json` (docs/data.md); other keys are left alone. A tar
  file that breaks off gives what comes before.
  """
  base = fixed_folder(pattern)
  for path in expand(pattern):
    groups = {}
    try:
      with tarfile.open(path, "r:") as file:
        for member in file:
          if member.isfile():
            key, ending = _split_name(member.name)
            groups.setdefault(key, {})[ending] = (member, _text(file, member, ending))
    except (tarfile.TarError, OSError) as error:
      yield path, path, ValueError(f"the tar file cannot be read to its end: {error}"), None
    for key, members in groups.items():
      yield _found(path, os.path.relpath(path, base or "."), key, members, split)


def _split_name(name: str) -> tuple[str, str]:
  """The key of a member and its ending: a folder's dots are no endings."""
  folder, slash, base = name.rpartition("/")
  stem, dot, ending = base.partition(".")
  return folder + slash + stem, (dot + ending).lower()


def _text(file: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> bytes:
  return file.extractfile(member).read() if ending in TEXTS else b""


def _found(path: str, name: str, key: str, members: dict[str, tuple[tarfile.TarInfo, bytes]], split: str) -> Found:
  record = f"{path}/{key}"
  media = [ending for ending in members if ending.endswith(PICTURES + VIDEOS)]
  try:
    if len(media) != 1:
      raise ValueError(f"a picture or a video must be beside its texts, and one only; there are "
                       f"{', '.join(members)}")
    cells = _cells({ending: text for ending, (_, text) in members.items() if ending in TEXTS})
    row = make_row("", {"id": f"{name}/{key}", "split": split, **cells, "path": path})
  except ValueError as error:
    return record, path, error, None
  member = members[media[0]][0]
  return record, path, row, (member.name, member.offset_data, member.size)


def _cells(texts: dict[str, bytes]) -> tables.Row:
  """The columns of a manifest that the texts beside a clip have."""
  cells = {}
  if ".json" in texts:
    told = _json(_decode(texts[".json"], "json"))
    cells = {name: value for name, value in told.items() if _is_column(name) and value is not None}
  if ".txt" in texts and not any(name.startswith("caption") for name in cells):
    cells["caption"] = _decode(texts[".txt"], "txt").strip()
  return cells


def _is_column(name: str) -> bool:
  return name in COLUMNS or name.startswith("caption.")


def _json(text: str) -> dict[str, Any]:
  try:
    told = json.loads(text)
  except ValueError as error:
    raise ValueError(f"its json is no JSON ({error})") from error
  if not isinstance(told, dict):
    raise ValueError("its json must be an object, such as {\"caption\": ...}")
  return told


def _decode(text: bytes, what: str) -> str:
  try:
    return text.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"its {what} is not UTF-8 text") from error
