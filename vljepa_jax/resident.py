"""Training batches of the babyai world, made on the devices, whose memory holds the whole data set.

A clip is some hundred bytes of tile codes and a text a row of a table: a small model is trained by an accelerator far
faster than a host can make its input. What is drawn is what `data/pipeline.py` draws, with two differences: clips are
drawn with replacement, and one that has no answer to a view gives another caption in its place.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vljepa_jax import sharding
from vljepa_jax.config import Config
from vljepa_jax.data.augment import Augment
from vljepa_jax.data.babyai import reading, tiles
from vljepa_jax.data.pipeline import Turns
from vljepa_jax.data.sources import AnySource, BabyAISource
from vljepa_jax.data.text import TextInput, target_id
from vljepa_jax.errors import UserError
from vljepa_jax.parts import Parts

NO_QUERY = -1
UNCHANGED = Augment(min_area=1.0, flip=0.0, jitter=0.0, drop_keywords=0.0, shuffle_keywords=0.0, drop_title=0.0)

Tables = dict[str, Any]


class Batches:
  """An endless iterator over batches that lie on the devices; resumes as the iterators of `data/pipeline.py` do.

  Which clips a step sees depends on the seed and the step alone, what else is drawn on its key, not on the devices.
  Batches hold what those of the pipeline hold; `record_id` and `stream`, (b,) int32, are of this process and in NumPy.

  Args:
    config: the recipe, with `data.resident`.
    parts: of the run.
    sources: training split by data set.
    query: how queries are read.
    target: how targets are read.

  Raises:
    UserError: a source is not made of tiles, or the recipe wants frames that were changed.
  """

  def __init__(
      self, config: Config, parts: Parts, sources: Mapping[str, AnySource], query: TextInput, target: TextInput):
    source = _check(config, sources)
    streams = config.data.sources
    self._seed, self._size, self._clips = config.seed, config.train.batch_size, len(source)
    self._rows = parts.rows
    self._step = 0
    self._turns = Turns([stream.weight for stream in streams], 1)
    tables = {"clips": clip_tables(source.clips, source.atlas),
              "texts": [text_tables(source.clips, stream.view, query, target) for stream in streams]}
    with jax.transfer_guard("allow"):
      self._tables = jax.tree.map(lambda x: sharding.put_same(x, parts.whole), tables)
    self._draw = jax.jit(
        functools.partial(_draw, config.data.frames, config.seed), static_argnums=3, out_shardings=parts.rows)

  def __iter__(self) -> "Batches":
    return self

  def __next__(self) -> dict[str, Any]:
    rows = np.random.default_rng((self._seed, self._step)).integers(self._clips, size=self._size, dtype=np.int32)
    stream, _ = self._turns[self._step]
    step = sharding.put_same(np.array(self._step, np.int32), sharding.replicated(self._rows.mesh))
    batch = self._draw(self._tables, sharding.put_same(rows, self._rows), step, stream)
    self._step += 1
    held = {slice_.indices(self._size)[:2] for slice_, in
            self._rows.addressable_devices_indices_map(rows.shape).values()}
    own = np.concatenate([rows[first:last] for first, last in sorted(held)])
    return batch | {"record_id": own, "stream": np.full_like(own, stream)}

  def get_state(self) -> dict[str, int]:
    return {"step": self._step}

  def set_state(self, state: Mapping[str, int]) -> None:
    self._step = int(state["step"])

  def close(self) -> None:
    """There is nothing to close."""


def _check(config: Config, sources: Mapping[str, AnySource]) -> BabyAISource:
  """The one source of a recipe."""
  source, *others = sources.values()
  if others or not isinstance(source, BabyAISource):
    raise UserError("config.data.resident is for the data set babyai alone; set it to False")
  if config.data.feature_views or Augment(**dataclasses.asdict(config.data.augment)) != UNCHANGED:
    raise UserError("config.data.resident changes no frames and caches no tokens: set it to False, or leave these out")
  pixels = tiles.SIZE * source.atlas.shape[1]
  if config.data.image_size != pixels:
    raise UserError(f"config.data.resident needs config.data.image_size={pixels}, the size of the frames")
  return source


def _draw(
    frames: int, seed: int, tables: Tables, rows: jax.Array, step: jax.Array, stream: int) -> dict[str, jax.Array]:
  key = jax.random.fold_in(jax.random.key(seed), step)
  return draw_batch(tables["clips"], tables["texts"][stream], rows, frames, key)


def clip_tables(clips: Sequence[reading.Clip], atlas: np.ndarray) -> Tables:
  """Frames of n clips: codes (n, S, 64) uint8 with S that of the longest; length, start, end (n,) int32; the atlas."""
  codes = np.zeros((len(clips), max(len(clip.codes) for clip in clips), tiles.CELLS), np.uint8)
  for row, clip in zip(codes, clips, strict=True):
    row[: len(clip.codes)] = clip.codes.reshape(-1, tiles.CELLS)
  numbers = {"length": [len(clip.codes) for clip in clips], "start": [clip.start for clip in clips],
             "end": [clip.end for clip in clips]}
  return {"codes": codes, "atlas": atlas} | {name: np.array(values, np.int32) for name, values in numbers.items()}


def text_tables(
    clips: Sequence[reading.Clip], view: str | tuple[str, ...], query: TextInput, target: TextInput) -> Tables:
  """What a stream says and asks of n clips.

  Args:
    clips: n of them.
    view: a field of captions or a kind of question, or K of them, of which the first is a field.
    query: how queries are read.
    target: how targets are read.

  Returns:
    choices: (n, K) int32, how many pairs of query and target a view can give.
    pairs: (n, K, C, 2) int32 with the C of the largest view, rows of the tables below; `NO_QUERY` asks nothing.
    queries: ids (q, Q) and mask; Q is 0 if nothing is asked.
    targets: ids (t, L), as long as the longest, mask, and hash (t,) as of `target_id`.
  """
  views = (view,) if isinstance(view, str) else view
  queries: dict[str, int] = {}
  targets: dict[str, int] = {}
  row = lambda table, text: table.setdefault(text, len(table))

  def pairs_of(clip: reading.Clip, view: str) -> list[tuple[int, int]]:
    if view in clip.captions:
      return [(NO_QUERY, row(targets, text)) for text in clip.captions[view]]
    return [(row(queries, text), row(targets, question.answer))
            for question in clip.questions if question.kind == view for text in question.queries]

  known = {*clips[0].captions, *(question.kind for clip in clips for question in clip.questions)}
  for name in views:
    if name not in known:
      raise UserError(f"config.data.resident has no view {name!r}; it has {', '.join(sorted(known))}")
  found = [[pairs_of(clip, view) or pairs_of(clip, views[0]) for view in views] for clip in clips]
  if not all(of_clip[0] for of_clip in found):
    raise UserError(f"config.data.resident needs a first view that all clips have, such as 'brief', not {views[0]!r}")
  choices = np.array([[len(pairs) for pairs in of_clip] for of_clip in found], np.int32)
  pairs = np.zeros((*choices.shape, choices.max(), 2), np.int32)
  for i, k in np.ndindex(*choices.shape):
    pairs[i, k, : choices[i, k]] = found[i][k]
  return {
      "choices": choices,
      "pairs": pairs,
      "queries": _table(query, list(queries)),
      "targets": _table(target, list(targets)) | {"hash": np.array([target_id(text) for text in targets], np.int32)},
  }


def _table(text_input: TextInput, texts: list[str]) -> dict[str, np.ndarray]:
  """Ids and mask of texts, no longer than the longest of them."""
  if not texts:
    return {"ids": np.zeros((1, 0), np.int32), "mask": np.zeros((1, 0), bool)}
  ids, mask = text_input(texts)
  used = mask.any(axis=0)
  return {"ids": ids[:, used], "mask": mask[:, used]}


def draw_batch(clips: Tables, texts: Tables, rows: jax.Array, frames: int, key: jax.Array) -> dict[str, jax.Array]:
  """A training batch of a stream, as `VLJepa.embed` and the loss read it.

  Args:
    clips: from `clip_tables`.
    texts: from `text_tables`, of the same clips.
    rows: (b,) of the clips.
    frames: T of a clip.
    key: of frames and texts.

  Returns:
    video (b, T, H, W, 3) uint8; query, query_mask (b, K, Q); target, target_mask (b, K, L); target_id (b, K). Without
    the K if the stream has one view.
  """
  of_frames, of_texts = jax.random.split(key)
  choices, pairs = texts["choices"][rows], texts["pairs"][rows]
  chosen = jax.random.randint(of_texts, choices.shape, 0, choices)
  query, target = jnp.moveaxis(jnp.take_along_axis(pairs, chosen[..., None, None], axis=2)[:, :, 0], -1, 0)
  asked = query != NO_QUERY
  queries = {name: table[jnp.where(asked, query, 0)] for name, table in texts["queries"].items()}
  drawn = {
      "query": queries["ids"],
      "query_mask": queries["mask"] & asked[..., None],
      "target": texts["targets"]["ids"][target],
      "target_mask": texts["targets"]["mask"][target],
      "target_id": texts["targets"]["hash"][target],
  }
  if choices.shape[1] == 1:
    drawn = {name: x[:, 0] for name, x in drawn.items()}
  return drawn | {"video": render(clips, rows, draw_frames(clips, rows, frames, of_frames))}


def draw_frames(clips: Tables, rows: jax.Array, frames: int, key: jax.Array) -> jax.Array:
  """Indices of frames of some clips, (b, T) int32: windows or spans, see `window_frames`, `sample_frames` of babyai."""
  keys = jax.random.split(key, 4)
  length, start, end = (clips[name][rows] for name in ("length", "start", "end"))
  draw = lambda key, low, high: jax.random.randint(key, rows.shape, low, high)
  first = end - draw(keys[0], frames // 2, frames)
  window = jnp.clip(first[:, None] + jnp.arange(frames), 0, length[:, None] - 1)
  start = jnp.maximum(start + draw(keys[1], -reading.JITTER_OUT, reading.JITTER_IN + 1), 0)
  end = jnp.minimum(end + draw(keys[2], 0, reading.JITTER_OUT + 1), length - 1)
  shares = jnp.linspace(0, 1, frames) if frames > 1 else jnp.ones(1)  # of one frame, it is the end
  span = jnp.rint(start[:, None] + (end - start)[:, None] * shares).astype(jnp.int32)
  return jnp.where(jax.random.bernoulli(keys[3], reading.WINDOWS, rows.shape)[:, None], window, span)


def render(clips: Tables, rows: jax.Array, frames: jax.Array) -> jax.Array:
  """Pixels of frames (b, T) of the clips in `rows` (b,): (b, T, H, W, 3) uint8."""
  codes = clips["codes"][rows[:, None], frames].reshape(*frames.shape, tiles.SIZE, tiles.SIZE)
  pixels = clips["atlas"].shape[1] * tiles.SIZE
  return jnp.swapaxes(clips["atlas"][codes], -4, -3).reshape(*frames.shape, pixels, pixels, 3)
