"""Does the Y-encoder tell other words for the same thing from a changed fact? Meaning, not wording (paper, 4.7).

A triplet is a text p1, the same said in other words p2, and a text n that differs in one fact. It counts when
sim(p1, p2) > sim(p1, n) and sim(p1, p2) > sim(p2, n), by cosine. The pictures play no part.

Triplets are made of held-out captions (`make_triplets`), or read: SugarCrepe++ (arXiv 2406.11171) and VISLA
(arXiv 2404.16365), whose kinds of change count alike, however many triplets each has.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import pathlib
import re
from typing import Any

import numpy as np

REWORDING = "a picture of {}"
SMALL_WORDS = frozenset(
    "a an and are as at be by for from his her in into is it its of off on or out over that the this to up with"
    .split())

SUGARCREPE = {  # kind -> file; the fields p1, p2, n are the same in all
    kind: f"{kind}.json" for kind in ("replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")}
SUGARCREPE_FIELDS = ("caption", "caption2", "negative_caption")
VISLA = {  # kind -> file and its fields p1, p2, n
    "generic": ("Generic_VISLA.tsv", ("caption", "second positive", "negative_caption")),
    "spatial": ("Spatial_VISLA.tsv", ("sent1", "sent2", "Best reference (Semantically close)")),
}

KindTriplet = tuple[str, str, str, str]  # p1, p2, n, kind of change


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


def score_kinds(embed: np.ndarray, triplets: Sequence[KindTriplet]) -> dict[str, Any]:
  """Share of triplets that count, by kind of change.

  Args:
    embed: (3 n, E) unit-length embeddings in the order of `triplet_texts(without_kinds(triplets))`.
    triplets: n of (p1, p2, n, kind).

  Returns:
    macro (mean over kinds, as the paper's tables have it), micro (over triplets), chance, triplets, and `kinds`:
    accuracy and triplets by the name of every kind. Where some of its negatives are blank, which nothing is near to,
    also how many, and the accuracy without them.
  """
  numbers, details = score(embed, without_kinds(triplets))
  names = np.array([kind for *_, kind in triplets])
  blank = np.array([not negative.strip() for _, _, negative, _ in triplets])
  kinds = {str(kind): _kind_numbers(details.correct[names == kind], blank[names == kind])
           for kind in dict.fromkeys(names)}
  macro = float(np.mean([kind["accuracy"] for kind in kinds.values()]))
  return {"macro": macro, "micro": numbers["accuracy"], "chance": numbers["chance"], "triplets": len(triplets),
          "kinds": kinds}


def _kind_numbers(correct: np.ndarray, blank: np.ndarray) -> dict[str, Any]:
  numbers = {"accuracy": float(correct.mean()), "triplets": len(correct)}
  if blank.any() and not blank.all():
    numbers |= {"blank_negatives": int(blank.sum()), "accuracy_without_blank": float(correct[~blank].mean())}
  return numbers


def without_kinds(triplets: Sequence[KindTriplet]) -> list[Triplet]:
  """The same triplets, of no kind."""
  return [Triplet(p1, p2, negative) for p1, p2, negative, _ in triplets]


def read_sugarcrepe(folder: str | os.PathLike) -> list[KindTriplet]:
  """The triplets of SugarCrepe++, as its five JSON files have them.

  Raises:
    FileNotFoundError: the folder or one of its files is not there.
    ValueError: a file is damaged, or a text is missing or empty; the message names the place.
  """
  triplets = []
  for kind, name in SUGARCREPE.items():
    path = _file(folder, name, "SugarCrepe++")
    try:
      rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
      raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
      raise ValueError(f"{path} must hold a list of objects with the fields {', '.join(SUGARCREPE_FIELDS)}")
    triplets += _read_rows(path, kind, rows, SUGARCREPE_FIELDS)
  return triplets


def read_visla(folder: str | os.PathLike) -> list[KindTriplet]:
  """The triplets of VISLA, as its two tab-separated files have them; raises as `read_sugarcrepe`.

  A blank negative is kept, as published figures count it; 12 of the 652 spatial triplets have one.
  """
  triplets = []
  for kind, (name, fields) in VISLA.items():
    path = _file(folder, name, "VISLA")
    try:
      header, *lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
      raise ValueError(f"{path} is not UTF-8 text ({error.reason})") from error
    rows = [dict(zip(header.split("\t"), line.split("\t"))) for line in lines if line.strip()]
    triplets += _read_rows(path, kind, rows, fields, blank_negatives=True)
  return triplets


def _file(folder: str | os.PathLike, name: str, what: str) -> pathlib.Path:
  path = pathlib.Path(folder) / name
  if not path.is_file():
    raise FileNotFoundError(f"there is no {path}; give the folder of {what}, with the files as they are published")
  return path


def _read_rows(
    path: pathlib.Path, kind: str, rows: Sequence[dict], fields: Sequence[str], blank_negatives: bool = False
) -> list[KindTriplet]:
  if not rows:
    raise ValueError(f"{path} holds no triplets")
  for number, row in enumerate(rows, 1):
    for field in fields:
      text = row.get(field)
      if not isinstance(text, str) or not (text.strip() or blank_negatives and field == fields[-1]):
        raise ValueError(f"{path}, triplet {number}: the text {field!r} is missing or empty")
  return [(*(row[field] for field in fields), kind) for row in rows]


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
