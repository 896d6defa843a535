"""Writes the manifest of a folder of pictures and videos, to train on: python -m vljepa_jax.data.list_folder pictures/

It becomes pictures/manifest.jsonl; look at it, and change what is wrong. The caption of a file is, in this order, what
NAME.txt beside it says, every line a wording; the name of its subfolder, which is its class, too; its own name. Folders
called train, validation and test at the top are the splits; without them a tenth is held out as "test", by a hash of
the path, so that it stays the same when files are added or removed (one file at least). Pictures that are too large or
of no known format are left out and told.
"""

import argparse
from collections.abc import Iterator, Sequence
import hashlib
import json
import os
import pathlib
import sys
from typing import Any

from vljepa_jax.data.image import ENDINGS as PICTURES, opened_image, read_file
from vljepa_jax.errors import MediaError, UserError, one_line

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp")
SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.jsonl"


def main(argv: Sequence[str] | None = None) -> None:
  """The command; exits with one line for what the caller can put right."""
  parser = argparse.ArgumentParser(description="Writes the manifest of a folder of pictures and videos.")
  parser.add_argument("folder")
  parser.add_argument("--held_out", type=float, default=0.1, help="share of files without a folder of a split")
  args = parser.parse_args(argv)
  try:
    path, rows = write(pathlib.Path(args.folder), args.held_out)
  except (UserError, OSError) as error:
    sys.exit(one_line(error))
  counts = {split: sum(row["split"] == split for row in rows) for split in SPLITS}
  print(f"{path}: " + ", ".join(f"{split} {count:,}" for split, count in counts.items() if count))


def write(folder: pathlib.Path, held_out: float) -> tuple[pathlib.Path, list[dict[str, Any]]]:
  """Writes the manifest and returns its path and rows; UserError if it is there already or there is nothing to list."""
  path = folder / MANIFEST
  if not folder.is_dir():
    raise UserError(f"there is no folder {folder}")
  if path.exists():
    raise UserError(f"{path} exists; delete it to list the folder again")
  if not 0 < held_out < 1:
    raise UserError(f"--held_out={held_out:g} must be above 0 and below 1")
  rows = list(list_rows(folder, held_out))
  if not rows:
    raise UserError(f"{folder} holds no pictures ({', '.join(PICTURES)}) and no videos ({', '.join(VIDEOS)})")
  path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
  return path, rows


def list_rows(folder: pathlib.Path, held_out: float) -> Iterator[dict[str, Any]]:
  """Rows of a manifest in the order of their paths."""
  found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in PICTURES + VIDEOS)
  paths = [path for path in found if _can_be_used(folder / path)]
  has_splits = any(path.parts[0] in SPLITS[1:] and len(path.parts) > 1 for path in paths)
  tested = {path for path in paths if _share(path) < held_out} or set(sorted(paths, key=_share)[:1])
  for path in paths:
    inside = path.parts[1:] if has_splits and path.parts[0] in SPLITS else path.parts
    split = path.parts[0] if inside != path.parts else SPLITS[2 if path in tested and not has_splits else 0]
    row = {"path": path.as_posix(), "caption": _caption(folder / path, inside), "split": split}
    yield row | ({"label": _in_words(inside[-2])} if len(inside) > 1 else {})


def _can_be_used(path: pathlib.Path) -> bool:
  """Whether a picture can be opened; that all of it can be decoded shows only later, as does all of a video."""
  if path.suffix.lower() not in PICTURES:
    return True
  try:
    with opened_image(read_file(path), str(path)):
      return True
  except MediaError as error:
    print(f"left out: {one_line(error)}", file=sys.stderr)
    return False


def _caption(path: pathlib.Path, inside: Sequence[str]) -> str | list[str]:
  beside = path.with_suffix(".txt")
  if beside.is_file():
    try:
      lines = [line.strip() for line in beside.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
      raise UserError(f"{beside} is not UTF-8 text") from error
    if not lines:
      raise UserError(f"{beside} is empty; write a caption on each line, or delete it")
    return lines[0] if len(lines) == 1 else lines
  return _in_words(inside[-2] if len(inside) > 1 else os.path.splitext(inside[-1])[0])


def _in_words(name: str) -> str:
  """A name of a file or folder as text: red_car-2 -> red car 2."""
  return " ".join(name.replace("_", " ").replace("-", " ").split()) or name


def _share(path: pathlib.Path) -> float:
  """A number within 0..1 that only the path decides."""
  return int.from_bytes(hashlib.sha256(os.fsencode(path.as_posix())).digest()[:6], "big") / 2**48


if __name__ == "__main__":
  main()
