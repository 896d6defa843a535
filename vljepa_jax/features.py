"""Tokens of a frozen X-encoder, computed once for some fixed views of every picture or clip and kept in a file."""

import collections
from collections.abc import Callable, Collection, Iterator, Mapping
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
from typing import Any

import jax
import numpy as np

from vljepa_jax import hosts
from vljepa_jax.data.augment import Augment
from vljepa_jax.data.media import cached_view
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.sources import AnySource
from vljepa_jax.errors import UserError
from vljepa_jax.sharding import to_host

FOLDER = "features"
PARTIAL = ".partial"  # suffix of a file that is not whole


@dataclasses.dataclass(frozen=True)
class Views:
  """The views of a picture or clip that are encoded.

  Attributes:
    count: views of each.
    preprocess: what the model sees of a frame.
    frames: of a clip; a picture is repeated so often.
    augment: how far a view may stray.
    seed: of the views.
  """

  count: int
  preprocess: Preprocess
  frames: int
  augment: Augment
  seed: int


def cached_features(
    folder: pathlib.Path,
    sources: Mapping[str, AnySource],
    views: Views,
    params: Any,
    encoder: Any,
    encode: Callable[[np.ndarray], jax.Array],
    batch_size: int,
    report: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
  """The tokens of all views of all records of some sources, from the files that hold just these, or made anew.

  What was broken off goes on where it was.

  Args:
    folder: of the cache; files that do not fit this run any more are deleted.
    sources: pictures or clips, by name.
    views: of each.
    params: of the X-encoder.
    encoder: its config, and how its tokens are pooled.
    encode: (batch_size, T, H, W, 3) uint8 -> (batch_size, N, D).
    batch_size: views at a time.
    report: called with the number of views done and to do.

  Returns:
    By name of the source, (records, views, N, D) float16, memory-mapped.

  Raises:
    OSError: a file cannot be written; nothing is left of it.
    ValueError: tokens do not fit float16.
  """
  weights = hash_params(params)
  paths = {name: folder / f"{cache_key(source, views, weights, encoder)}.npy" for name, source in sources.items()}
  if jax.process_index() == 0:
    _remove_others(folder, paths.values())
  for name, path in paths.items():
    if not hosts.from_first(path.exists()):
      encoded = functools.partial(_encoded, sources[name], views, encode, batch_size, report)
      _write(path, encoded, (len(sources[name]), views.count), batch_size)
  with hosts.together():
    check_seen_by_all(paths.values())
  return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def check_seen_by_all(paths: Collection[pathlib.Path]) -> None:
  """UserError on a process that does not see a file that process 0 has written."""
  for path in paths:
    if not hosts.comes_true(path.exists):
      raise UserError(f"{path} of process 0 is not seen: the workdir must be on a file system that all hosts share")


def hash_params(params: Any) -> str:
  """A hash of names and values of parameters."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(to_host(leaf)).tobytes())
  return digest.hexdigest()


def cache_key(source: AnySource, views: Views, weights: str, encoder: Any) -> str:
  """A hash of all that the tokens depend on."""
  parts = (source.name, source.split, source.hash_media(), views, weights, encoder)
  return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()[:20]


def _remove_others(folder: pathlib.Path, keep: Collection[pathlib.Path]) -> None:
  keep = {*keep, *map(_partial, keep)}
  for path in (*folder.glob("*.npy"), *folder.glob(f"*{PARTIAL}")):
    if path not in keep:
      path.unlink()


def _partial(path: pathlib.Path) -> pathlib.Path:
  return path.with_suffix(PARTIAL)


def _encoded(source, views, encode, batch_size, report, first) -> Iterator[np.ndarray]:
  """Tokens (<= batch_size, N, D) float16 of view 0, 1, ... of record 0, then of record 1, ..., from the `first` on."""
  total = len(source) * views.count
  clips = _clips(source, views, first)
  waiting = None
  for start in range(first, total, batch_size):
    rows = np.stack(list(itertools.islice(clips, batch_size)))
    pads = np.repeat(rows[-1:], batch_size - len(rows), axis=0)  # one compiled shape
    tokens = encode(np.concatenate([rows, pads]))
    if waiting is not None:  # the device works on this batch while the next one is decoded
      yield _to_float16(*waiting)
    waiting = tokens, len(rows)
    report(start, total)
  yield _to_float16(*waiting)
  report(total, total)


def _to_float16(tokens: jax.Array, count: int) -> np.ndarray:
  tokens = np.asarray(jax.device_get(tokens)[:count])
  if not np.abs(tokens).max() <= np.finfo(np.float16).max:
    raise ValueError("the X-encoder's tokens do not fit float16; set config.data.feature_views to 0")
  return tokens.astype(np.float16)


def _clips(source: AnySource, views: Views, first: int) -> Iterator[np.ndarray]:
  for i in range(first, len(source) * views.count):
    record, number = divmod(i, views.count)
    yield cached_view(source, record, number, views.frames, views.preprocess, views.augment, views.seed)


def _write(
    path: pathlib.Path, encoded: Callable[[int], Iterator[np.ndarray]], shape: tuple[int, int], batch_size: int
) -> None:
  """Writes an .npy file piece by piece: through a memory map, a full disk would kill the process.

  Every host runs through `encoded(first)`, whose encoder is one program of all hosts; the first one writes. What a
  stopped or killed run has written, in whole batches, stays.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = _partial(path)
  end, views = _written(partial, batch_size) if jax.process_index() == 0 else (0, 0)
  pieces = encoded(hosts.from_first(views))
  if jax.process_index() != 0:
    collections.deque(pieces, maxlen=0)
    return
  try:
    with partial.open("r+b" if end else "wb") as file:
      file.truncate(end)
      file.seek(end)
      for piece in pieces:
        if file.tell() == 0:
          header = {"descr": "<f2", "fortran_order": False, "shape": (*shape, *piece.shape[1:])}
          np.lib.format.write_array_header_1_0(file, header)
        file.write(piece.tobytes())
    partial.replace(path)
  except (OSError, ValueError):
    partial.unlink(missing_ok=True)
    raise


def _written(partial: pathlib.Path, batch_size: int) -> tuple[int, int]:
  """Up to which byte a file that was broken off is of use, and how many views that are; a multiple of the batch."""
  try:
    with partial.open("rb") as file:
      np.lib.format.read_magic(file)
      shape, _, kind = np.lib.format.read_array_header_1_0(file)
      begin, size = file.tell(), int(np.prod(shape[2:])) * kind.itemsize
      views = (file.seek(0, os.SEEK_END) - begin) // size
  except (FileNotFoundError, ValueError):
    return 0, 0
  views = min(views, shape[0] * shape[1] - 1) // batch_size * batch_size
  return begin + views * size, views
