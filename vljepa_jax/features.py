"""Tokens of a frozen X-encoder, computed once for some fixed views of every picture or clip and kept in files."""

import collections
from collections.abc import Callable, Collection, Iterator, Mapping
import dataclasses
import functools
import hashlib
import itertools
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from vljepa_jax import hosts
from vljepa_jax.data import token_files
from vljepa_jax.data.augment import Augment
from vljepa_jax.data.media import cached_view
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.sources import AnySource
from vljepa_jax.data.token_files import Layout, Tokens
from vljepa_jax.errors import MediaError, UserError
from vljepa_jax.sharding import to_host

FOLDER = "features"
FOREIGN = (f"*{token_files.SUFFIX}", f"*{token_files.PARTIAL}", "*.npy")  # of other keys; .npy is of earlier versions


@dataclasses.dataclass(frozen=True)
class Views:
  """The views of a picture or clip that are encoded.

  Attributes:
    count: views of each.
    preprocess: what the model sees of a frame.
    frames: of a clip; a picture is repeated so often.
    augment: how far a view may stray.
    seed: of the views.
    dtype: of the tokens that are kept.
  """

  count: int
  preprocess: Preprocess
  frames: int
  augment: Augment
  seed: int
  dtype: str


def cached_features(
    folder: pathlib.Path,
    sources: Mapping[str, AnySource],
    views: Views,
    params: Any,
    encoder: Any,
    encode: Callable[[np.ndarray], jax.Array],
    batch_size: int,
    report: Callable[[int, int], None],
) -> dict[str, Tokens]:
  """The tokens of all views of all records of some sources, from the files that hold just these, or made anew.

  What was broken off goes on after the last file that is whole; a file that has lost its end is made again.

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
    By name of the source, tokens indexed by [record, view].

  Raises:
    UserError: a file cannot be written; nothing is left of it.
    ValueError: tokens do not fit the dtype.
  """
  weights = hash_params(params)
  layouts = {
      name: Layout(folder, cache_key(source, views, weights, encoder), len(source), views.count)
      for name, source in sources.items()}
  paths = [path for layout in layouts.values() for path in layout.paths]
  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    _remove_others(folder, paths)
  for name, layout in layouts.items():
    _fill(layout, functools.partial(_encoded, sources[name], views, encode, batch_size, report))
  with hosts.together():
    check_seen_by_all(paths)
    return {name: Tokens(layout) for name, layout in layouts.items()}


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
  for path in itertools.chain.from_iterable(map(folder.glob, FOREIGN)):
    if path not in keep:
      path.unlink()


def _fill(layout: Layout, encoded: Callable[[int, int], Iterator[np.ndarray]]) -> None:
  """Writes the files that are not there, or not whole.

  Every host runs through `encoded`, whose encoder is one program of all hosts; the first one writes.
  """
  first = jax.process_index() == 0
  missing = hosts.array_from_first(layout.missing() if first else np.zeros(len(layout.paths), bool))
  for numbers in token_files.runs(missing):
    rows = encoded(layout.ranges[numbers[0]].start, layout.ranges[numbers[-1]].stop)
    for i in numbers:
      mine = itertools.islice(rows, len(layout.ranges[i]))
      if first:
        _write(layout.paths[i], mine)
      else:
        collections.deque(mine, maxlen=0)


def _write(path: pathlib.Path, rows: Iterator[np.ndarray]) -> None:
  if path.exists():
    print(f"warning: {path} is not whole; its tokens are computed again", file=sys.stderr, flush=True)
  token_files.write(path, rows)


def _encoded(source, views, encode, batch_size, report, first, last) -> Iterator[np.ndarray]:
  """The tokens (N, D) of the views first..last-1; batches begin where they would in a run that was never broken off."""
  total = len(source) * views.count
  begin = first // batch_size * batch_size
  clips = _clips(source, views, begin, last)
  waiting = None
  for start in range(begin, last, batch_size):
    rows = np.stack(list(itertools.islice(clips, batch_size)))
    pads = np.repeat(rows[-1:], batch_size - len(rows), axis=0)  # one compiled shape
    tokens = encode(np.concatenate([rows, pads]))
    if waiting is not None:  # the device works on this batch while the next one is decoded
      yield from _stored(*waiting, views.dtype)
    waiting = tokens, slice(max(first - start, 0), len(rows))
    report(start, total)
  report(last, total)
  yield from _stored(*waiting, views.dtype)


def _stored(tokens: jax.Array, rows: slice, dtype: str) -> np.ndarray:
  tokens = np.asarray(jax.device_get(tokens))[rows]
  if not np.abs(tokens).max() <= np.finfo(dtype).max:
    remedy = "config.data.feature_dtype to float32" if dtype == "float16" else "config.data.feature_views to 0"
    raise ValueError(f"the X-encoder's tokens do not fit {dtype}; set {remedy}")
  return tokens.astype(dtype)


def _clips(source: AnySource, views: Views, first: int, last: int) -> Iterator[np.ndarray]:
  for i in range(first, last):
    record, number = divmod(i, views.count)
    try:
      view = cached_view(source, record, number, views.frames, views.preprocess, views.augment, views.seed)
    except MediaError as error:
      raise MediaError(
          f"{error}; take it out of the data set, or set config.data.feature_views and config.data.feature_tokens to 0: "
          "training without a cache replaces what cannot be read") from error
    yield view
