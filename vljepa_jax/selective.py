"""When to decode a stream of embeddings: every so often, by clusters, or when the meaning has changed.

A policy takes samples one by one and gives segments, each of which is decoded once. Segments follow each other without
a gap.

  Uniform   one decode every 1 / rate seconds, the baseline of the paper (section 4.6).
  Ward      agglomerative clustering with Ward linkage in which only neighbours in time merge, down to as many segments
            as the rate allows (section 4.6). It needs the whole stream: all segments come at the end.
  Online    decides with what it has seen, in bounded memory (section 2 asks for such a one and leaves it open).
"""

from collections.abc import Sequence
import collections
import dataclasses
import math
from typing import Generic, Protocol, TypeVar

import numpy as np

POOLINGS = ("point", "mean")
KEPT = 32  # samples of an open segment among which its key is looked for

# Of `Online`, chosen on openclipart slide-shows of other seeds than those of the benchmark.
THRESHOLD = 1.7
WINDOW = 8
SHORTEST = 3
# Of a threshold that follows a rate: what a decode adds to its logarithm, and how far it may go.
FOLLOW, SPAN = 0.1, 30.0

T = TypeVar("T")


class Thinned(Generic[T]):
  """Items at equal distances of a sequence of any length: when there are more than the limit, every other one goes.

  Args:
    limit: how many are kept at most; at least half as many once that many came.
  """

  def __init__(self, limit: int):
    self.items: list[T] = []
    self._limit, self._stride, self._seen = limit, 1, 0

  def append(self, item: T) -> None:
    if self._seen % self._stride == 0:
      self.items.append(item)
      if len(self.items) > self._limit:
        self.items = self.items[::2]
        self._stride *= 2
    self._seen += 1


@dataclasses.dataclass(frozen=True)
class Sample:
  """One embedding of a stream.

  Attributes:
    time: seconds, the middle of its window.
    embed: (E,) of unit length.
    picture: an encoded small picture of that moment; None where nobody will look.
  """

  time: float
  embed: np.ndarray
  picture: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
  """A stretch of a stream that is decoded once.

  Attributes:
    start, end: seconds.
    key: the sample in its middle; of an open segment of more than `KEPT` samples, one within 1 / KEPT of it.
    mean: (E,) of unit length, of all its embeddings.
  """

  start: float
  end: float
  key: Sample
  mean: np.ndarray

  def embed(self, pooling: str) -> np.ndarray:
    """What to decode, (E,): "point" is the exact embedding of the key sample, "mean" the segment's mean."""
    _check_pooling(pooling)
    return self.key.embed if pooling == "point" else self.mean

  def decode_time(self, pooling: str) -> float:
    """When that is, in seconds: the time of the key sample, or the segment's middle."""
    _check_pooling(pooling)
    return self.key.time if pooling == "point" else (self.start + self.end) / 2


class Policy(Protocol):
  """Cuts a stream, which starts at zero seconds, into segments."""

  def push(self, sample: Sample) -> list[Segment]:
    """Takes the next sample; gives the segments that it closes."""

  def close(self, end: float) -> list[Segment]:
    """Ends the stream at so many seconds; gives what is left."""

  def mean(self) -> np.ndarray | None:
    """(E,) of unit length: mean of the segment that is open, None where there is none."""


def run(policy: Policy, samples: Sequence[Sample], end: float) -> list[Segment]:
  """Segments of a whole stream that ends at so many seconds."""
  return [segment for sample in samples for segment in policy.push(sample)] + policy.close(end)


class _Open:
  """The segment that is open: sums and a few samples, however long it becomes."""

  def __init__(self, start: float):
    self.start, self.last = start, start
    self.count, self.sum = 0, 0.0
    self._kept: Thinned[Sample] = Thinned(KEPT)

  def add(self, sample: Sample) -> None:
    self.count, self.sum, self.last = self.count + 1, self.sum + sample.embed.astype(np.float64), sample.time
    self._kept.append(sample)

  def close(self, end: float) -> Segment:
    middle = (self.start + end) / 2
    key = min(self._kept.items, key=lambda sample: abs(sample.time - middle))
    return Segment(self.start, end, key, _unit(self.sum))


class Uniform:
  """One decode every 1 / rate seconds, but no more than one for each sample.

  Args:
    rate: decodes a second.
  """

  def __init__(self, rate: float):
    self._seconds = 1 / _positive("rate", rate)
    self._open, self._number = _Open(0.0), 1

  def push(self, sample: Sample) -> list[Segment]:
    closed = []
    border = (self._open.last + sample.time) / 2
    if self._open.count and border >= self._number * self._seconds - 1e-9:
      closed = [self._open.close(border)]
      self._open = _Open(border)
      self._number = math.floor(border / self._seconds + 1e-9) + 1
    self._open.add(sample)
    return closed

  def close(self, end: float) -> list[Segment]:
    return [self._open.close(end)] if self._open.count else []

  def mean(self) -> np.ndarray | None:
    return _unit(self._open.sum) if self._open.count else None


class Ward:
  """Ward clustering in time. It keeps every sample, so its memory grows with the stream.

  Args:
    rate: segments a second.
  """

  def __init__(self, rate: float):
    self._rate = _positive("rate", rate)
    self._samples: list[Sample] = []

  def push(self, sample: Sample) -> list[Segment]:
    self._samples.append(sample)
    return []

  def close(self, end: float) -> list[Segment]:
    if not self._samples:
      return []
    order = ward_order(np.stack([sample.embed for sample in self._samples]))
    return ward_segments(self._samples, order, round(self._rate * end), end)

  def mean(self) -> np.ndarray | None:
    return None


def ward_order(embeds: np.ndarray) -> np.ndarray:
  """Borders between samples in the order in which Ward linkage takes them away, by scikit-learn.

  Args:
    embeds: (S, E).

  Returns:
    (S - 1,) int; border i lies before sample i. The last n - 1 are the borders of n segments.
  """
  import scipy.sparse  # a second together; only those who cluster pay for it
  from sklearn.cluster import AgglomerativeClustering

  count = len(embeds)
  if count == 1:
    return np.zeros(0, np.int64)
  ones = np.ones(count - 1)
  in_time = scipy.sparse.diags([ones, ones], [-1, 1]).tocsr()
  merges = AgglomerativeClustering(n_clusters=1, linkage="ward", connectivity=in_time).fit(embeds).children_
  first = np.concatenate([np.arange(count), np.zeros(count - 1, np.int64)])  # sample of every node of the tree
  order = np.zeros(count - 1, np.int64)
  for i, merged in enumerate(merges):
    first[count + i], order[i] = np.sort(first[merged])
  return order


def ward_segments(samples: Sequence[Sample], order: np.ndarray, count: int, end: float) -> list[Segment]:
  """The `count` segments of a stream, at least one and no more than samples; order: from `ward_order`."""
  count = min(max(count, 1), len(samples))
  inner = sorted(order[len(order) - (count - 1):])
  firsts = [0, *inner, len(samples)]
  times = [0.0, *((samples[i - 1].time + samples[i].time) / 2 for i in inner), end]
  segments = []
  for first, last, start, stop in zip(firsts, firsts[1:], times, times[1:]):
    part = samples[first:last]
    key = min(part, key=lambda sample: abs(sample.time - (start + stop) / 2))
    segments.append(Segment(start, stop, key, _unit(np.sum([s.embed for s in part], axis=0, dtype=np.float64))))
  return segments


class Online:
  """Closes a segment when the newest samples have left its mean.

  The newest `window` samples wait. For every way to split them, all before the split, back to the start of the segment,
  are compared with all behind it: n m / (n + m) times the squared distance of the two means, which is what Ward linkage
  pays for merging them. Where the best split is worth more than the threshold, and was the best one a sample ago too,
  the segment ends there. So a change is told two to `window` samples after it or never, and what is kept is those,
  a sum and `KEPT` samples.

  What is over before it has `shortest` samples is a passage, such as a cross-fade: it is not decoded. The next segment
  begins with it, but its embeddings do not count.

  With a rate the threshold follows it: every decode raises it by a factor, the time between lets it sink, so that in
  the long run there are so many decodes a second. It stays within `SPAN` times what it was, so that it comes back from
  a night in which nothing happens.

  Args:
    threshold: worth of a split, of unit vectors; with a rate, the one to start from.
    rate: decodes a second; 0 keeps the threshold as it is.
    window: samples that wait.
    shortest: samples of a segment, at least.
  """

  def __init__(
      self, threshold: float = THRESHOLD, rate: float = 0.0, window: int = WINDOW, shortest: int = SHORTEST):
    if window < 2 or shortest < 1:
      raise ValueError(f"a window needs two samples and a segment one, not {window} and {shortest}")
    self.threshold = _positive("threshold", threshold)
    self._bounds = threshold / SPAN, threshold * SPAN
    self._rate = _positive("rate", rate) if rate else 0.0
    self._window, self._shortest = window, shortest
    self._open, self._last = _Open(0.0), 0.0
    self._waiting: collections.deque[Sample] = collections.deque()
    self._place: float | None = None  # time of the first sample behind the best split

  def push(self, sample: Sample) -> list[Segment]:
    if len(self._waiting) == self._window:
      self._open.add(self._waiting.popleft())
    self._waiting.append(sample)
    self._scale_threshold(-self._rate * (sample.time - self._last))
    self._last = sample.time
    split, worth = self._best_split()
    before, self._place = self._place, self._waiting[split].time
    return self._cut(split) if worth > self.threshold and self._place == before else []

  def close(self, end: float) -> list[Segment]:
    while self._waiting:
      self._open.add(self._waiting.popleft())
    return [self._open.close(end)] if self._open.count else []

  def mean(self) -> np.ndarray | None:
    if not (self._open.count or self._waiting):
      return None
    return _unit(self._open.sum + np.sum([sample.embed for sample in self._waiting], axis=0))

  def _best_split(self) -> tuple[int, float]:
    """How many of the waiting samples still belong to the segment, and what that split is worth."""
    waiting = np.stack([sample.embed for sample in self._waiting]).astype(np.float64)
    behind = np.cumsum(waiting[::-1], axis=0)[::-1]  # row k: the sum from sample k on
    before = self._open.sum + behind[0] - behind
    m = np.arange(len(waiting), 0, -1)
    n = self._open.count + len(waiting) - m
    distance = np.square(before / np.maximum(n, 1)[:, None] - behind / m[:, None]).sum(axis=1)
    worth = np.where(n > 0, n * m / (n + m) * distance, -math.inf)
    best = int(np.argmax(worth))
    return best, float(worth[best])

  def _cut(self, split: int) -> list[Segment]:
    for _ in range(split):
      self._open.add(self._waiting.popleft())
    before, self._place = self._open, None
    if before.count < self._shortest:
      self._open = _Open(before.start)
      return []
    border = (before.last + self._waiting[0].time) / 2
    self._open = _Open(border)
    self._scale_threshold(1.0 if self._rate else 0.0)
    return [before.close(border)]

  def _scale_threshold(self, decodes: float) -> None:
    """To what it is after so many decodes too many."""
    self.threshold = float(np.clip(self.threshold * math.exp(FOLLOW * decodes), *self._bounds))


def _check_pooling(pooling: str) -> None:
  if pooling not in POOLINGS:
    raise ValueError(f"there is no pooling {pooling!r}; there are {', '.join(POOLINGS)}")


def _unit(x: np.ndarray) -> np.ndarray:
  """(E,) of unit length, float32; embeddings that cancel out stay at zero."""
  return (x / max(float(np.linalg.norm(x)), 1e-12)).astype(np.float32)


def _positive(name: str, value: float) -> float:
  if not value > 0:
    raise ValueError(f"{name} must be positive, not {value}")
  return value
