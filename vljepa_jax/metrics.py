"""Numbers of a ranking, in NumPy: ranks, recall at k, and what guessing would give.

Ties count against the model, and so does a score that is not a number: an encoder that maps everything to one point
scores zero, not one.
"""

import collections
from collections.abc import Hashable, Sequence

import numpy as np


def hit_ranks(scores: np.ndarray, hits: np.ndarray) -> np.ndarray:
  """Rank of the best hit of every row.

  Args:
    scores: (n, m), higher is better.
    hits: (n, m) bool, True where the candidate is right; every row has one at least.

  Returns:
    (n,) int, 1 = first. A wrong candidate with the same score comes first.
  """
  if scores.shape != hits.shape:
    raise ValueError(f"scores {scores.shape} and hits {hits.shape} must have one shape")
  if not hits.any(axis=1).all():
    raise ValueError(f"row {int(np.argmin(hits.any(axis=1)))} has no right candidate")
  best = np.where(hits, scores, -np.inf).max(axis=1, keepdims=True)
  before = ~hits & ~(scores < best)  # not `>=`: it is False for a NaN, which would then rank first
  return 1 + before.sum(axis=1)


def recall_at_k(ranks: np.ndarray, k: int) -> float:
  """Share of ranks (n,) that are at most k."""
  return float(np.mean(ranks <= k))


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
  """Share of rows whose label is among the k highest scores. scores: (n, classes); labels: (n,) int."""
  hits = np.arange(scores.shape[1]) == np.asarray(labels)[:, None]
  return recall_at_k(hit_ranks(scores, hits), k)


def recall_chance(hit_counts: np.ndarray, pool: int, k: int) -> float:
  """Mean recall at k of a random order.

  Args:
    hit_counts: (n,) right candidates of every row.
    pool: candidates of a row.
    k: candidates looked at.
  """
  misses = pool - np.asarray(hit_counts, np.float64)
  drawn = np.arange(min(k, pool))
  # The chance that no draw without return hits: a product of (wrong ones left) / (all left).
  missed = np.prod(np.maximum(misses[:, None] - drawn, 0) / (pool - drawn), axis=1)
  return float(np.mean(1 - missed))


def majority_share(answers: Sequence[Hashable]) -> float:
  """Share of the most frequent answer: what one gets by always saying it."""
  return collections.Counter(answers).most_common(1)[0][1] / len(answers)
