"""Retrieval between held-out pictures and the distinct captions among them, by query-free predictions.

Protocol: the pool of texts is every distinct caption once. Picture to text looks for the picture's own caption in that
pool; text to picture looks for any picture that carries the caption among all pictures. No re-ranking.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from vljepa_jax import metrics

RECALLS = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class Details:
  """Similarities and ranks.

  Attributes:
    texts: the M distinct captions.
    own: (n,) int, index into texts of every picture's caption.
    scores: (n, M) float32, cosine similarity.
    image_ranks: (n,) int, rank of the own caption, 1 = first.
    text_ranks: (M,) int, rank of the best picture of the caption.
  """

  texts: tuple[str, ...]
  own: np.ndarray
  scores: np.ndarray
  image_ranks: np.ndarray
  text_ranks: np.ndarray


def distinct_texts(captions: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
  """The distinct captions in order of appearance, and for every caption its index among them, (n,) int."""
  index = {text: i for i, text in enumerate(dict.fromkeys(captions))}
  return tuple(index), np.array([index[text] for text in captions], np.int64)


def score(
    pred_embed: np.ndarray, text_embed: np.ndarray, texts: Sequence[str], own: np.ndarray
) -> tuple[dict[str, dict[str, Any]], Details]:
  """Recall both ways.

  Args:
    pred_embed: (n, E) unit-length query-free predictions of the pictures.
    text_embed: (M, E) unit-length embeddings of the distinct captions.
    texts: the M captions.
    own: (n,) int, index of every picture's caption.

  Returns:
    {"image_to_text": numbers, "text_to_image": numbers} with r1, r5, r10, median_rank, pool, chance (that of r1),
    chance_r5, chance_r10; and details.
  """
  scores = pred_embed @ text_embed.T
  hits = own[:, None] == np.arange(len(texts))
  image_ranks = metrics.hit_ranks(scores, hits)
  text_ranks = metrics.hit_ranks(scores.T, hits.T)
  numbers = {
      "image_to_text": _numbers(image_ranks, hits.sum(axis=1), len(texts)),
      "text_to_image": _numbers(text_ranks, hits.sum(axis=0), len(own)),
  }
  return numbers, Details(tuple(texts), own, scores, image_ranks, text_ranks)


def _numbers(ranks: np.ndarray, hit_counts: np.ndarray, pool: int) -> dict[str, Any]:
  chance = {k: metrics.recall_chance(hit_counts, pool, k) for k in RECALLS}
  return {
      **{f"r{k}": metrics.recall_at_k(ranks, k) for k in RECALLS},
      "median_rank": float(np.median(ranks)),
      "pool": pool,
      "chance": chance[1],
      "chance_r5": chance[5],
      "chance_r10": chance[10],
  }
