"""How well a stream is told by few decodes: the paper's measure of selective decoding (section 4.6).

Protocol: every annotation, at its middle, is matched to the decode nearest in time; the score of a setting is the mean
over all pairs of all streams. Rates are decodes a second over all streams together. Intervals are percentile bootstrap
over streams: whole streams are drawn again.

The paper reads off its figure that 0.35 decodes a second after clustering equal one a second without: 2.85 times fewer.
Here the ratio is given at several scores. Curves are first made to rise with the rate (isotonic regression), so that a
lucky setting does not count as having arrived. `LEVELS` are shares of the plateau, the mean of uniform decoding at its
`PLATEAU` highest rates; the one to quote is `HEADLINE`. `PAPER_RATE` is where the paper reads: one decode a second is
2.5 for each of its annotations, and the score is what uniform decoding has there.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np

from vljepa_jax.data.slideshow import Annotation

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
HEADLINE = 0.95
PLATEAU = 3
PAPER_RATE = 2.5  # decodes for every annotation
DRAWS = 2000
INTERVAL = (2.5, 97.5)  # per cent

# (hypotheses, one list of references for each) -> their mean, and the score of each.
Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], tuple[float, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Decodes:
  """What was decoded of one stream: n texts and their times in seconds, in any order."""

  times: np.ndarray
  texts: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Curve:
  """One way to decode, at K settings, on S streams.

  Attributes:
    decodes: (K, S) how many.
    quality: (K, S) sum of the scores of the annotations.
    seconds: (S,) length of the streams.
    annotations: (S,) how many.
  """

  decodes: np.ndarray
  quality: np.ndarray
  seconds: np.ndarray
  annotations: np.ndarray

  def points(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rate, in decodes a second, and mean score of every setting.

    Args:
      weights: (..., S), how often every stream counts.

    Returns:
      2 x (..., K).
    """
    return (weights @ self.decodes.T / (weights @ self.seconds)[..., None],
            weights @ self.quality.T / (weights @ self.annotations)[..., None])


def nearest_decodes(annotations: Sequence[Annotation], times: np.ndarray) -> np.ndarray:
  """For every annotation the decode nearest to its middle, the earlier one of two. times: (n,) -> (A,) int."""
  middles = np.array([(a.start + a.end) / 2 for a in annotations])
  order = np.argsort(times, kind="stable")
  return order[np.argmin(np.abs(np.asarray(times)[order] - middles[:, None]), axis=1)]


def score(
    annotations: Sequence[Sequence[Annotation]], settings: Sequence[Sequence[Decodes]], seconds: Sequence[float],
    scorer: Scorer,
) -> Curve:
  """Scores K settings of one way to decode.

  Args:
    annotations: of each of the S streams.
    settings: K times the decodes of the S streams; every stream has at least one.
    seconds: length of the streams.
    scorer: `captioning.cider` or another. It sees the annotations of all streams at once, in the same order for every
      setting, so document frequencies are the same for all.

  Raises:
    ValueError: a stream has no annotation or no decode.
  """
  counts = [len(part) for part in annotations]
  if not all(counts) or not all(len(decodes.texts) for setting in settings for decodes in setting):
    raise ValueError("every stream needs an annotation and a decode")
  references = [[a.caption] for part in annotations for a in part]
  starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
  quality = []
  for setting in settings:
    texts = [decodes.texts[i] for part, decodes in zip(annotations, setting, strict=True)
             for i in nearest_decodes(part, decodes.times)]
    quality.append(np.add.reduceat(np.asarray(scorer(texts, references)[1], np.float64), starts))
  decodes = np.array([[len(decodes.texts) for decodes in setting] for setting in settings], np.float64)
  return Curve(decodes, np.array(quality), np.asarray(seconds, np.float64), np.array(counts, np.float64))


def draw_streams(count: int, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
  """Bootstrap weights: how often each of `count` streams is drawn, (draws, count), each row adding up to `count`."""
  return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)


def summarise(curve: Curve, weights: np.ndarray) -> list[dict[str, Any]]:
  """Every setting from the lowest rate to the highest: decodes a second, for every annotation, score, its interval."""
  rates, means = curve.points(np.ones(len(curve.seconds)))
  low, high = np.percentile(curve.points(weights)[1], INTERVAL, axis=0)
  per_annotation = curve.decodes.sum(axis=1) / curve.annotations.sum()
  return [
      {"rate": float(rates[k]), "per_annotation": float(per_annotation[k]), "score": float(means[k]),
       "interval": [float(low[k]), float(high[k])]}
      for k in np.argsort(rates, kind="stable")]


def rising(values: np.ndarray) -> np.ndarray:
  """The nearest values, in least squares, that never fall. (..., K) -> (..., K)."""
  count = values.shape[-1]
  sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
  first, last = np.arange(count)[:, None], np.arange(count)
  # means[j, k]: of the values j..k. The fit at i is the largest over j <= i of the smallest over k >= i.
  means = (sums[..., None, 1:] - sums[..., :-1, None]) / np.maximum(last - first + 1, 1)
  smallest = np.minimum.accumulate(np.where(last >= first, means, np.inf)[..., ::-1], axis=-1)[..., ::-1]
  return np.max(np.where(first <= last, smallest, -np.inf), axis=-2)


def rate_needed(rates: np.ndarray, means: np.ndarray, level: float) -> float:
  """The rate at which a curve reaches a score, between two settings by the logarithm of the rate.

  Args:
    rates, means: (K,), neither falling.
    level: the score.

  Returns:
    Decodes a second: the lowest of all where even that is good enough, infinity where none is.
  """
  k = int(np.searchsorted(means, level))
  if k == len(means):
    return float("inf")
  if k == 0:
    return float(rates[0])
  share = (level - means[k - 1]) / (means[k] - means[k - 1])
  return float(np.exp(np.log(rates[k - 1]) + share * (np.log(rates[k]) - np.log(rates[k - 1]))))


def decodes_saved(curve: Curve, uniform: Curve, weights: np.ndarray) -> list[dict[str, Any]]:
  """How many times fewer decodes a policy needs than uniform decoding for the same score.

  Args:
    curve, uniform: of the same streams.
    weights: from `draw_streams`; plateau and levels move with every draw.

  Returns:
    For every one of `LEVELS`, and at last for `PAPER_RATE`: at (in words), score, uniform_rate, rate (None where the
    policy never scores as much), ratio (then 0) and its interval.
  """
  (whole,) = _needed(curve, uniform, np.ones((1, len(curve.seconds))))
  drawn = _needed(curve, uniform, weights)
  low, high = np.percentile(drawn[..., 1] / drawn[..., 2], INTERVAL, axis=0)
  names = [f"{share:.0%} of the plateau" for share in LEVELS] + [f"uniform at {PAPER_RATE} per annotation"]
  return [
      {"at": name, "score": float(level), "uniform_rate": float(uniform_rate),
       "rate": float(rate) if np.isfinite(rate) else None, "ratio": float(uniform_rate / rate),
       "interval": [float(low[i]), float(high[i])]}
      for i, (name, (level, uniform_rate, rate)) in enumerate(zip(names, whole, strict=True))]


def _needed(curve: Curve, uniform: Curve, weights: np.ndarray) -> np.ndarray:
  """Score of every level, and the rates that uniform decoding and the policy need for it. (draws, levels, 3)."""
  rates, means = _rising_points(curve, weights)
  uniform_rates, uniform_means = _rising_points(uniform, weights)
  per_second = weights @ curve.annotations / (weights @ curve.seconds)
  rows = []
  for i in range(len(weights)):
    plateau = uniform_means[i, -PLATEAU:].mean()
    paper = np.interp(np.log(PAPER_RATE * per_second[i]), np.log(uniform_rates[i]), uniform_means[i])
    rows.append([
        (level, rate_needed(uniform_rates[i], uniform_means[i], level), rate_needed(rates[i], means[i], level))
        for level in [*(share * plateau for share in LEVELS), paper]])
  return np.array(rows)


def _rising_points(curve: Curve, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Rates in order, and scores that rise with them. weights: (draws, S) -> 2 x (draws, K)."""
  rates, means = curve.points(weights)
  order = np.argsort(rates, axis=-1, kind="stable")
  return np.take_along_axis(rates, order, axis=-1), rising(np.take_along_axis(means, order, axis=-1))
