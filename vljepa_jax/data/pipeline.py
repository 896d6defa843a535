"""The training input: streams of examples, shuffled, repeated, and batched for one host; batches of streams take turns.

A batch holds examples of one stream alone. What competes in the loss is then of one kind: the words that answer
questions do not stand against the captions of the same pictures. And batches of captions need no room for queries.

Everything random is drawn from the generator that grain gives each element, so what a global step trains on depends
on the seed and the step alone: not on hosts, workers or restarts. The state of the iterator is one number.
"""

from collections.abc import Collection, Sequence
import dataclasses
import functools
import sys

import grain
import numpy as np

from vljepa_jax.data import augment as augment_lib
from vljepa_jax.data import failures
from vljepa_jax.data import orphans
from vljepa_jax.data.directions import names_direction
from vljepa_jax.data.media import training_frames
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.sources import AnySource
from vljepa_jax.data.text import TextInput, target_id
from vljepa_jax.data.token_files import Tokens
from vljepa_jax.data.views import Texts, open_texts
from vljepa_jax.errors import MediaError, UserError

CHECKED_TEXTS = 2000  # texts of a stream that are tokenized at the start, to warn of truncation with counts


@dataclasses.dataclass(frozen=True)
class Stream:
  """One part of the mixture.

  Attributes:
    name: for messages.
    source: the pictures or clips and their texts.
    view: one of the source's (`data/views.py`): "caption" (no query; the target is a caption), a field of captions or
      fields with weights, or a kind of question (the target is its answer). Or several of them: every example then has
      a text of each, which share its picture.
    weight: share of the examples, relative to the other streams.
    features: tokens of a frozen X-encoder, indexed by [record, view], for every record of the source; training draws
      one of the views. None decodes and augments the pictures instead.
    tokens: how many of the N tokens an example keeps, drawn anew each time and left in their order; 0 keeps all. The
      predictor counts positions among those kept.
      Cheaper steps, and the predictor never sees the same picture twice (FLIP, arXiv 2212.00794).
  """

  name: str
  source: AnySource
  view: str | tuple[str, ...]
  weight: float
  features: Tokens | np.ndarray | None = None
  tokens: int = 0

  @property
  def views(self) -> tuple[str, ...]:
    """The views of an example."""
    return (self.view,) if isinstance(self.view, str) else self.view


def make_train_iterator(
    streams: Sequence[Stream],
    *,
    global_batch: int,
    seed: int,
    query: TextInput,
    target: TextInput,
    augment: augment_lib.Augment,
    preprocess: Preprocess,
    frames: int = 1,
    held_out: Collection[str] = (),
    shard_index: int = 0,
    shard_count: int = 1,
    workers: int = 0,
    max_failures: float = 0.05,
) -> grain.experimental.ElasticIterator:
  """An endless iterator over the batches of one host.

  A record whose file cannot be read is replaced by the next usable one, by index, whatever the hosts and workers.

  A batch is a dict of arrays, b = global_batch / shard_count:
    visual (b, N, D), as stored in `features`, or (b, tokens, D); or video (b, frames, size, size, 3) uint8
    query (b, Q) int32, query_mask (b, Q) bool; Q is 0 in batches of captions
    target (b, L) int32, target_mask (b, L) bool, target_id (b,) int32
    record_id (b,) int32, the index of the record in its source; stream (b,) int32, which stream all of them are of
  A stream of K views has query and target as (b, K, Q), (b, K, L) and so on; captions have no real token of a query.

  Args:
    streams: all of them with features, or none.
    global_batch: examples of all hosts together.
    seed: of order, augmentation, captions and questions.
    query: tokenizer and length Q of queries.
    target: tokenizer and length L of targets.
    augment: of pictures and clips (unless there are features) and of captions.
    preprocess: what the model sees of a frame.
    frames: of a clip; a picture is repeated so often.
    held_out: captions that training on pictures never shows, in no variant.
    shard_index: this host.
    shard_count: number of hosts.
    workers: processes that decode; 0 decodes in threads. With features there is nothing to decode and none start.
    max_failures: largest share of examples that may have to be replaced; beyond it the next batch is a UserError.

  Raises:
    ValueError: the arguments do not fit together.
  """
  _check(streams, global_batch, shard_count)
  texts = {id(stream.source): open_texts(stream.source, augment, held_out) for stream in streams}
  turns = _turns(streams, global_batch, shard_count)
  parts = []
  for number, stream in enumerate(streams):
    own = texts[id(stream.source)]
    usable = _usable_records(stream, own)
    _warn_of_truncation(stream, own, usable, query, target)
    order = np.random.SeedSequence((seed, number)).generate_state(1)[0]
    examples = _Examples(number, stream, own, usable, query, target, augment, preprocess, frames)
    parts.append(grain.MapDataset.source(usable).seed(int(order)).shuffle().repeat(None).random_map(examples))
  mixture = grain.MapDataset.select_from_datasets(parts, turns)
  cached = streams[0].features is not None
  return failures.CountingIterator(
      mixture,
      global_batch,
      grain.sharding.ShardOptions(shard_index=shard_index, shard_count=shard_count),
      # Counted in batches. Threads help where Pillow decodes; slicing a cache in more than one only fights for the GIL.
      read_options=grain.ReadOptions(num_threads=1 if cached else 4, prefetch_buffer_size=2 if cached else 4),
      multiprocessing_options=grain.MultiprocessingOptions(num_workers=workers) if workers and not cached else None,
      failures=failures.Failures(max_failures),
  )


class Turns:
  """Which stream an element of the mixture is of: whole batches take turns, in shares that follow the weights.

  Grain's selection map: index in the mixture -> (number of the stream, index in the stream).

  Host i of n gets the elements i, i + n, ... of the mixture. They are numbered such that these are the i-th of n pieces
  of the batch: rows then come in one order, and meet the same dropout, on any number of hosts.

  Attributes:
    batches: of each stream in a period.
  """

  PERIOD = 1000  # batches, after which the turns repeat

  def __init__(self, weights: Sequence[float], batch_size: int, hosts: int = 1):
    self._size, self._hosts = batch_size, hosts
    share, credit = np.array(weights) / np.sum(weights), np.zeros(len(weights))
    self._stream, self._before, self.batches = [], [], [0] * len(weights)
    for _ in range(self.PERIOD):
      credit += share
      stream = int(np.argmax(credit))  # the one that is furthest behind its share
      credit[stream] -= 1
      self._stream.append(stream)
      self._before.append(self.batches[stream])
      self.batches[stream] += 1

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> tuple[int, int]:
    batch, element = divmod(index, self._size)
    row = element % self._hosts * (self._size // self._hosts) + element // self._hosts
    period, turn = divmod(batch, self.PERIOD)
    stream = self._stream[turn]
    return stream, (period * self.batches[stream] + self._before[turn]) * self._size + row


def _turns(streams: Sequence[Stream], global_batch: int, shard_count: int) -> Turns:
  """Turns in which every stream has one."""
  turns = Turns([stream.weight for stream in streams], global_batch, shard_count)
  for stream, batches in zip(streams, turns.batches, strict=True):
    if not batches:
      raise ValueError(
          f"the weight {stream.weight} of stream {stream.name!r} is too small for one in {Turns.PERIOD} batches")
  return turns


class _Examples(grain.transforms.RandomMap):
  """Record index -> one training example of a stream."""

  def __init__(self, number, stream, texts, usable, query, target, augment, preprocess, frames):
    self._number = np.int32(number)
    self._stream = stream
    self._texts = texts
    self._usable = usable
    self._query = query
    self._target = target
    self._augment = augment
    self._unmirrored = dataclasses.replace(augment, flip=0.0)
    self._preprocess = preprocess
    self._frames = frames

  def __setstate__(self, state):
    """In a decoding worker, where this arrives pickled."""
    self.__dict__.update(state)
    orphans.end_with_parent()

  def random_map(self, element: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    reasons = []
    place = int(np.searchsorted(self._usable, element))
    for step in range(failures.TRIES):
      try:
        example = self._example(int(self._usable[(place + step) % len(self._usable)]), rng)
      except MediaError as error:
        reasons.append(" ".join(str(error).split()))
      else:
        return example | {failures.KEY: np.array("\n".join(reasons))}
    raise UserError(f"{failures.TRIES} records of {self._stream.source.name} in a row cannot be read: {reasons[0]}")

  def _example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One try; MediaError if its file cannot be read."""
    drawn = [self._texts.draw(index, view, rng) for view in self._stream.views]
    queries, answers = [query for query, _ in drawn], [answer for _, answer in drawn]
    texts = dict(zip(("query", "query_mask"), self._queries(queries)))
    texts |= dict(zip(("target", "target_mask"), self._target(answers)))
    texts["target_id"] = np.array([target_id(answer) for answer in answers], np.int32)
    if isinstance(self._stream.view, str):
      texts = {name: rows[0] for name, rows in texts.items()}
    directed = bool(self._augment.flip) and any(names_direction(text) for pair in drawn for text in pair if text)
    return self._media(index, directed, rng) | texts | {"record_id": np.int32(index), "stream": self._number}

  def _queries(self, queries: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask, of length 0 where nothing at all is asked."""
    asked = np.array([query is not None for query in queries])
    if not asked.any():
      return np.zeros((len(queries), 0), np.int32), np.zeros((len(queries), 0), bool)
    ids, mask = self._query([query or "" for query in queries])
    return ids, mask & asked[:, None]

  def _media(self, index: int, directed: bool, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Tokens or frames; not mirrored where a text names a direction."""
    features = self._stream.features
    if features is not None:
      view = rng.integers(features.shape[1])
      if directed:
        view = 0  # the only view that is surely not mirrored
      tokens = features[index, view]
      if self._stream.tokens:
        tokens = tokens[np.sort(rng.permutation(len(tokens))[: self._stream.tokens])]
      return {"visual": tokens}
    augment = self._unmirrored if directed else self._augment
    return {"video": training_frames(
        self._stream.source, index, self._frames, self._preprocess, augment, rng)}


def _check(streams: Sequence[Stream], global_batch: int, shard_count: int) -> None:
  if not streams:
    raise ValueError("there is no stream to train on")
  if global_batch % shard_count:
    raise ValueError(f"a global batch of {global_batch} cannot be shared by {shard_count} hosts")
  if len({stream.features is None for stream in streams}) > 1:
    raise ValueError("either all streams have cached features or none")
  for stream in streams:
    if stream.weight <= 0:
      raise ValueError(f"stream {stream.name!r} has the weight {stream.weight}; leave it out or make it positive")
    if not len(stream.source):
      raise ValueError(f"stream {stream.name!r} has no records")
    if stream.features is None and stream.tokens:
      raise ValueError(f"stream {stream.name!r} keeps {stream.tokens} tokens of a picture, but has no features")
    if stream.features is not None and stream.tokens > stream.features.shape[2]:
      raise ValueError(
          f"stream {stream.name!r} keeps {stream.tokens} tokens of a picture, which has {stream.features.shape[2]}")
    if stream.features is not None and len(stream.features) != len(stream.source):
      raise ValueError(
          f"stream {stream.name!r} has features of {len(stream.features)} pictures, but {len(stream.source)} records")


def _usable_records(stream: Stream, texts: Texts) -> np.ndarray:
  """Indices of the records that the stream trains on. An index, since grain cannot filter and resume exactly."""
  for view in stream.views:
    try:
      texts.check(view)
    except ValueError as error:
      raise ValueError(
          f"stream {stream.name!r} has the view {view!r}; {stream.source.name} {error}") from error
  usable = functools.reduce(np.intersect1d, map(texts.usable, stream.views))
  if not len(usable):
    raise ValueError(
        f"stream {stream.name!r}: no record of {stream.source.name} has the view {stream.view!r} and may be trained "
        "on; captions of the evaluation split are left out")
  return usable


def _warn_of_truncation(
    stream: Stream, texts: Texts, usable: np.ndarray, query: TextInput, target: TextInput) -> None:
  """Tokenizes the first texts of a stream at once, so that the tokenizer warns once, with counts that say something."""
  rng = np.random.default_rng(0)
  drawn = [texts.draw(int(i), view, rng) for i in usable[:CHECKED_TEXTS] for view in stream.views]
  query([asked for asked, _ in drawn if asked is not None])
  target([answer for _, answer in drawn])
