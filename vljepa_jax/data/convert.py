r"""Converts raw pictures and videos into shards that are read fast. See docs/data.md.

  python -m vljepa_jax.data.convert --manifest=clips.jsonl --out=DIR
  python -m vljepa_jax.data.convert --webdataset='shards-{000..009}.tar' --out=DIR --codec=h264

Apache Beam runs it: on one core, on all (`--direct_num_workers=0 --direct_running_mode=multi_processing`), or elsewhere
(`--runner=DataflowRunner` and Beam's options). The same command goes on where it was broken off. Exit code: 0, or 3 if
something is in quarantine, or 1 for an error.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import signal
import sys
import threading
import time
from typing import Any

from vljepa_jax.data.conversion import tar
from vljepa_jax.data.conversion.finish import finish, verify
from vljepa_jax.data.conversion.frames import CODECS, H264, JPEG, Encoding
from vljepa_jax.data.conversion.items import Inputs, Item, read_inputs
from vljepa_jax.data.conversion.shard import Shard, write_items, write_lines
from vljepa_jax.data.manifest import TRAIN, media_kind
from vljepa_jax.data.shards import CONVERSION, FORMAT, INFO, QUARANTINE
from vljepa_jax.data.video import import_av
from vljepa_jax.errors import INPUT_ERRORS, UserError, as_user_error, one_line

QUARANTINED = 3  # exit code
LOCK = ".lock"
EVERY = 5.0  # seconds between looks at the progress


def main(argv: Sequence[str] | None = None) -> int:
  """The command; gives its exit code, and leaves with one line and code 1 for what the caller can put right."""
  args, beam_arguments = _parser().parse_known_args(argv)
  before = signal.signal(signal.SIGINT, _stop)
  try:
    with as_user_error(*INPUT_ERRORS):
      return _convert(args, beam_arguments)
  except UserError as error:
    print("error:", one_line(error), file=sys.stderr)
    return 1
  finally:
    signal.signal(signal.SIGINT, before)


def _stop(*_) -> None:
  """Leaves at once: runners make errors of their own of a KeyboardInterrupt, and workers end with this process."""
  print("stopped; finished shards are kept, and the same command goes on from there", file=sys.stderr, flush=True)
  os._exit(130)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument("--manifest", help=".jsonl, .csv or .parquet file (docs/data.md)")
  source.add_argument("--webdataset", help="tar files: a pattern with {000..009} or *")
  parser.add_argument("--out", required=True, help="folder of the shards; what it holds of the same conversion is kept")
  parser.add_argument("--split", default=TRAIN, help="of what a tar file does not tell (default: %(default)s)")
  parser.add_argument("--size", type=int, default=256, help="short side in pixels (default: %(default)s)")
  parser.add_argument("--fps", type=float, default=8.0, help="frames a second that are kept (default: %(default)s)")
  parser.add_argument("--max_frames", type=int, default=0, help="most frames of a clip, evenly spread; 0: no limit")
  parser.add_argument(
      "--max_seconds", type=float, default=600.0, help="longer clips are left out; 0: no limit (default: %(default)s)")
  parser.add_argument("--codec", choices=CODECS, default=JPEG, help="how clips are stored (default: %(default)s)")
  parser.add_argument("--quality", type=int, default=90, help="of JPEG, 1..95 (default: %(default)s)")
  parser.add_argument("--clips_per_shard", type=int, default=128, help="rows of a shard (default: %(default)s)")
  parser.add_argument("--runner", default="DirectRunner", help="of Beam (default: %(default)s); its options follow")
  return parser


def _convert(args: argparse.Namespace, beam_arguments: Sequence[str]) -> int:
  _check(args)
  try:
    from vljepa_jax.data.conversion import run
  except ImportError as error:
    raise UserError(
        f"converting needs Apache Beam ({error}): pip install --no-deps -r requirements-convert.txt") from error
  options = run.read_options(args.runner, beam_arguments)
  folder = pathlib.Path(args.out)
  inputs = read_inputs(args.manifest, args.webdataset, args.split)
  encoding = Encoding(args.size, args.fps, args.max_frames, args.max_seconds, args.codec, args.quality)
  plan = _plan(folder, inputs, args.clips_per_shard)
  if args.codec == H264 or not all(item.is_picture for items in plan.values() for item in items):
    import_av()
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / LOCK, "w") as lock:
    _take(lock, folder)
    _claim(folder, _describe(args, inputs, encoding, plan))
    left = [shard for shard in plan if not shard.header()]
    complete = not left and (folder / INFO).is_file() and (folder / QUARANTINE).is_file()
    if complete:
      print(f"{folder} is complete; nothing to do")
    else:
      (folder / INFO).unlink(missing_ok=True)
      finished = len(plan) - len(left)
      print(f"{folder}: {inputs.rows:,} rows in {len(plan):,} shards, {finished:,} of them finished before", flush=True)
      for shard in left:
        write_items(shard, plan[shard])
      if left:
        with _Progress(left):
          run.run(left, encoding, options)
    headers, bad = verify(folder, list(plan), inputs)
    if not complete:
      finish(folder, headers, bad, inputs.classes)
  clips = sum(header["records"] for header in headers.values())
  print(f"{folder}: {clips:,} clips, {len(bad):,} of {inputs.rows:,} rows in quarantine"
        + (f" ({folder / QUARANTINE} tells why)" if bad else ""))
  return QUARANTINED if bad else 0


def _check(args: argparse.Namespace) -> None:
  for name, least in (("size", 2), ("clips_per_shard", 1), ("max_frames", 0), ("max_seconds", 0), ("quality", 1)):
    if not getattr(args, name) >= least:
      raise UserError(f"--{name}={getattr(args, name)} must be {least} or more")
  if not 0 < args.fps < float("inf"):
    raise UserError(f"--fps={args.fps:g} must be positive")
  if args.quality > 95:
    raise UserError(f"--quality={args.quality} must be 95 or less")


def _plan(folder: pathlib.Path, inputs: Inputs, size: int) -> dict[Shard, list[Item]]:
  """Which items each shard is made of: runs of a split, as even as can be."""
  places = {name: number for number, name in enumerate(inputs.classes)}
  plan = {}
  for split, items in inputs.splits.items():
    count = -(-len(items) // size)
    for number in range(count):
      mine = items[number * len(items) // count:(number + 1) * len(items) // count]
      plan[Shard(str(folder), split, number, count)] = [
          dataclasses.replace(item, texts={**item.texts, "label": places.get(item.texts["label"], -1)})
          for item in mine]
  return plan


def _describe(
    args: argparse.Namespace, inputs: Inputs, encoding: Encoding, plan: dict[Shard, list[Item]]) -> dict[str, Any]:
  """What is converted and how, as the folder keeps it."""
  items = [item for mine in plan.values() for item in mine]
  base = os.path.dirname(args.manifest) if args.manifest else tar.fixed_folder(args.webdataset)
  named = args.manifest or args.webdataset
  return dict(
      format=FORMAT, input=_fingerprint(items, inputs.quarantined, base or ".", named), rows=inputs.rows,
      options={**dataclasses.asdict(encoding), "clips_per_shard": args.clips_per_shard},
      shards={shard.split: shard.count for shard in plan}, media=media_kind(item.name for item in items),
      classes=list(inputs.classes))


def _claim(folder: pathlib.Path, now: dict[str, Any]) -> None:
  """Writes down what is converted and how; UserError if the folder holds another conversion."""
  path = folder / CONVERSION
  if not path.is_file():
    others = [entry.name for entry in folder.iterdir() if not entry.name.startswith((LOCK, CONVERSION))]
    if others:
      raise UserError(f"{folder} is no conversion, but holds {min(others)}; give another --out, or empty it")
    write_lines(path, [now])
    return
  before = json.loads(path.read_text(encoding="utf-8"))
  if before == now:
    return
  changed = [f"--{name}={before['options'].get(name)} and not {value}" for name, value in now["options"].items()
             if before.get("format") == FORMAT and before["options"].get(name) != value]
  what = f"with {', '.join(changed)}" if changed else "of other rows, or by another version"
  raise UserError(f"{folder} holds a conversion {what}; give another --out, or delete it")


def _fingerprint(items: Sequence[Item], quarantined: Sequence[dict[str, Any]], base: str, named: str) -> str:
  """A hash of all rows; files count by their paths from the folder `base`, wherever it lies, however it is `named`."""
  digest = hashlib.sha256()
  for item in items:
    row = {**dataclasses.asdict(item), "path": os.path.relpath(item.path, base), "record": None}
    digest.update(json.dumps(row, sort_keys=True).encode())
  for entry in quarantined:
    digest.update(json.dumps(entry["reason"].replace(named, "")).encode())
  return digest.hexdigest()


def _take(lock: Any, folder: pathlib.Path) -> None:
  """Keeps other conversions away from a folder, as long as the file is open."""
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise UserError(f"another conversion writes to {folder}; wait for it or end it") from error


class _Progress:
  """Tells what is finished while shards are made, from the files that appear."""

  def __init__(self, shards: Sequence[Shard]):
    self._left, self._total, self._clips, self._bad = list(shards), len(shards), 0, 0
    self._stop, self._began = threading.Event(), time.monotonic()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self) -> None:
    self._thread.start()

  def __exit__(self, *_) -> None:
    self._stop.set()
    self._thread.join()
    self._look()

  def _watch(self) -> None:
    while not self._stop.wait(EVERY):
      self._look()

  def _look(self) -> None:
    headers = {shard: shard.header() for shard in self._left if shard.index.is_file()}
    finished = {shard: header for shard, header in headers.items() if header}
    if not finished:
      return
    self._left = [shard for shard in self._left if shard not in finished]
    self._clips += sum(header["records"] for header in finished.values())
    self._bad += sum(len(header["quarantined"]) for header in finished.values())
    rate = (self._clips + self._bad) / (time.monotonic() - self._began)
    print(f"  {self._total - len(self._left):,} of {self._total:,} shards: {self._clips:,} clips, "
          f"{self._bad:,} in quarantine, {rate:.1f} a second", flush=True)


if __name__ == "__main__":
  sys.exit(main())
