"""Zero-shot classification: the class whose name is nearest to the query-free prediction."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from vljepa_jax import metrics


@dataclasses.dataclass(frozen=True)
class Details:
  """What became of every picture.

  Attributes:
    classes: names.
    labels: (n,) int, the true class.
    scores: (n, classes) float32, cosine similarity.
    ranks: (n,) int, rank of the true class, 1 = first.
  """

  classes: tuple[str, ...]
  labels: np.ndarray
  scores: np.ndarray
  ranks: np.ndarray

  @property
  def predicted(self) -> np.ndarray:
    """(n,) int, the nearest class."""
    return self.scores.argmax(axis=1)


def fill_templates(templates: Sequence[str], names: Sequence[str]) -> list[str]:
  """Every template filled with every name, templates outermost; ValueError names one without a `{}`."""
  if not templates:
    raise ValueError("there are no class templates; one that changes nothing is '{}'")
  for template in templates:
    if "{}" not in template:
      raise ValueError(f"class template {template!r} has no {{}} for the name")
  return [template.replace("{}", name) for template in templates for name in names]


def average_templates(embed: np.ndarray, count: int) -> np.ndarray:
  """Unit-length mean over templates. embed: (templates * count, E) as `fill_templates` orders them -> (count, E)."""
  mean = embed.reshape(-1, count, embed.shape[-1]).mean(axis=0)
  return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)


def score(
    pred_embed: np.ndarray, class_embed: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> tuple[dict[str, Any], Details]:
  """Accuracy of the nearest class.

  Args:
    pred_embed: (n, E) unit-length query-free predictions.
    class_embed: (classes, E) unit-length embeddings of the names.
    labels: (n,) int, the true class.
    classes: names.

  Returns:
    Numbers (top1, top5, classes, chance, chance_top5, majority, pictures) and details.
  """
  scores = pred_embed @ class_embed.T
  ranks = metrics.hit_ranks(scores, np.arange(len(classes)) == labels[:, None])
  numbers = {
      "top1": metrics.recall_at_k(ranks, 1),
      "top5": metrics.recall_at_k(ranks, 5),
      "classes": len(classes),
      "chance": 1 / len(classes),
      "chance_top5": min(5, len(classes)) / len(classes),
      "majority": metrics.majority_share(labels.tolist()),
      "pictures": len(labels),
  }
  return numbers, Details(tuple(classes), labels, scores, ranks)
