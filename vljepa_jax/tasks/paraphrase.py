"""Does the Y-encoder tell other words for the same thing from a changed word?

A triplet is a held-out caption p1, the same said in other words p2, and p1 with one content word replaced, n. It counts
when sim(p1, p2) > sim(p1, n) and sim(p1, p2) > sim(p2, n), by cosine. The pictures play no part.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any

import numpy as np

REWORDING = "a picture of {}"
SMALL_WORDS = frozenset(
    "a an and are as at be by for from his her in into is it its of off on or out over that the this to up with"
    .split())


@dataclasses.dataclass(frozen=True)
class Triplet:
  """A caption, the same in other words, and the caption with one word replaced."""

  caption: str
  reworded: str
  changed: str


@dataclasses.dataclass(frozen=True)
class Details:
  """Similarities of every triplet, each (n,) float32: p1 to p2, p1 to n, p2 to n; and whether it counts."""

  triplets: tuple[Triplet, ...]
  same: np.ndarray
  caption_changed: np.ndarray
  reworded_changed: np.ndarray
  correct: np.ndarray


def make_triplets(
    captions: Sequence[str], titles: Sequence[str], labels: Sequence[int], seed: int
) -> tuple[Triplet, ...]:
  """One triplet for every distinct caption whose class has another word to offer; the same for the same seed.

  Args:
    captions: each its title followed by its keywords, separated by ", ".
    titles: the first part of every caption.
    labels: class of every caption; the replacing word comes from another record of the class.
    seed: of the draws.
  """
  rng = np.random.default_rng(seed)
  distinct = dict(zip(captions, zip(titles, labels, strict=True), strict=True))
  vocabulary = {}
  for caption, (_, label) in distinct.items():
    vocabulary.setdefault(label, set()).update(_content_words(caption))
  triplets = []
  for caption, (title, label) in distinct.items():
    changed = _change_word(caption, sorted(vocabulary[label]), rng)
    if changed is not None:
      triplets.append(Triplet(caption, _reword(caption, title, rng), changed))
  return tuple(triplets)


def score(embed: np.ndarray, triplets: Sequence[Triplet]) -> tuple[dict[str, Any], Details]:
  """Share of triplets that count.

  Args:
    embed: (3 n, E) unit-length embeddings in the order of `triplet_texts`.
    triplets: n triplets.

  Returns:
    Numbers (accuracy, chance, triplets) and details. Chance is that of three random similarities: the right one is
    the largest in a third of the cases.
  """
  if not triplets:
    raise ValueError("there are no triplets to score: no class has two captions with different words")
  caption, reworded, changed = embed.reshape(3, len(triplets), -1)
  pairs = (caption, reworded), (caption, changed), (reworded, changed)
  same, first, second = ((a * b).sum(axis=-1) for a, b in pairs)
  correct = (same > first) & (same > second)
  numbers = {"accuracy": float(correct.mean()), "chance": 1 / 3, "triplets": len(triplets)}
  return numbers, Details(tuple(triplets), same, first, second, correct)


def triplet_texts(triplets: Sequence[Triplet]) -> list[str]:
  """The 3 n texts to embed: all captions, all rewordings, all changed captions."""
  return [getattr(triplet, name) for name in ("caption", "reworded", "changed") for triplet in triplets]


def _reword(caption: str, title: str, rng: np.random.Generator) -> str:
  keywords = [keyword for keyword in caption.removeprefix(title).split(", ") if keyword]
  order = rng.permutation(len(keywords))
  if (np.diff(order) == 1).all():  # the old order is not other words
    order = np.roll(order, 1)
  return ", ".join([REWORDING.format(title), *(keywords[i] for i in order)])


def _change_word(caption: str, vocabulary: Sequence[str], rng: np.random.Generator) -> str | None:
  """The caption with one content word replaced by one that it lacks; None where there is none."""
  present = {_singular(word) for word in _content_words(caption)}
  places = [m for m in re.finditer(r"[a-z0-9']+", caption.lower()) if _is_content(m[0])]
  others = [word for word in vocabulary if _singular(word) not in present]
  if not places or not others:
    return None
  place = places[rng.integers(len(places))]
  return caption[:place.start()] + others[rng.integers(len(others))] + caption[place.end():]


def _content_words(text: str) -> list[str]:
  return [word for word in re.findall(r"[a-z0-9']+", text.lower()) if _is_content(word)]


def _is_content(word: str) -> bool:
  return len(word) > 2 and word not in SMALL_WORDS and not word.isdigit()


def _singular(word: str) -> str:
  return word[:-1] if len(word) > 3 and word.endswith("s") else word
