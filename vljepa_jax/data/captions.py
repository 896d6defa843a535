"""Captions of a picture: the canonical one, and the variants of it that training draws."""

from collections.abc import Collection
import re

import numpy as np

from vljepa_jax.data import openclipart
from vljepa_jax.data.augment import Augment
from vljepa_jax.data.sources import Record
from vljepa_jax.data.text import normalise


def held_out_captions(captions: Collection[str]) -> frozenset[str]:
  """The captions that training must never show, in the form that `is_held_out` compares."""
  return frozenset(_words(caption) for caption in captions)


def is_held_out(caption: str, held_out: frozenset[str]) -> bool:
  """Whether a caption is held out, in whatever order its words stand: training shuffles keywords."""
  return _words(caption) in held_out


def _words(caption: str) -> str:
  return " ".join(sorted(set(re.findall(r"\w+", normalise(caption)))))


def caption_variant(record: Record, augment: Augment, held_out: frozenset[str], rng: np.random.Generator) -> str:
  """A random caption of a training picture.

  The title stays at the front unless it is dropped; keywords may be shuffled and thinned out. With none of these the
  canonical caption is given, and so it is in place of a variant that happens to be the caption of a held-out picture.
  A record without keywords has its canonical caption only.

  Args:
    held_out: from `held_out_captions`; the record's own caption is not in it.
  """
  shuffle, drop, title = rng.random(3) < (augment.shuffle_keywords, augment.drop_keywords, augment.drop_title)
  if not record.keywords or not (shuffle or drop or title):
    return record.caption
  chosen = np.arange(len(record.keywords))
  if shuffle:
    rng.shuffle(chosen)
  if drop:
    chosen = chosen[np.sort(rng.permutation(len(chosen))[: rng.integers(int(title), len(chosen) + 1)])]
  keywords = [record.keywords[i] for i in chosen]
  variant = openclipart.caption(keywords[0], keywords[1:]) if title else openclipart.caption(record.title, keywords)
  return record.caption if is_held_out(variant, held_out) else variant
