"""openclipart: the embedded default data set, public domain pictures with captions.

Each record is one picture of the Open Clip Art Library 0.18 as packaged by Debian: 128 x 128 WebP on white, its title,
its keywords, the caption made of both, and a class taken from its folder. The records are a TFDS data set in
ArrayRecord files beside this module; `build.py` makes them, `NOTICE` says where they come from.
"""

from collections.abc import Iterable, Sequence
import pathlib
import re

from vljepa_jax.data.tfds_records import Records

PATH = pathlib.Path(__file__).parent / "1.0.0"
IMAGE_SIZE = 128
MAX_KEYWORDS = 6
SPLITS = ("train", "test")

# The order is the order of the labels in the records.
CLASSES = (
    "animal", "bird", "watercraft", "body part", "book", "bread", "building", "clock", "clothing", "decoration",
    "dessert", "drink", "electronics", "flag", "flower", "food", "fruit", "holiday", "home", "household", "insect",
    "mammal", "map", "meat", "music", "office", "party", "person", "plant", "playing card", "recreation", "science", "sky",
    "smiley", "sport", "stick figure", "tool", "toy", "vehicle", "weapon")


def data_source(split: str) -> Sequence[dict]:
  """Returns a split as a random-access sequence of records.

  No part of TensorFlow is imported. Records are dicts:
    id: the picture's path in the package, without ending.
    image: WebP, 128 x 128 RGB.
    title, caption: text in lower case.
    keywords: one keyword a line.
    label: int, an index into `CLASSES`.
  All but the label are bytes, text as UTF-8.

  Args:
    split: "train" or "test"; no caption and no title is in both.
  """
  import tensorflow_datasets as tfds  # takes a second; only those who read data pay for it

  return Records(tfds.builder_from_directory(PATH), split)


def caption(title: str, keywords: Iterable[str]) -> str:
  """Returns the title followed by the keywords that add a word to it.

  Args:
    title: cleaned title, such as "tabby cat".
    keywords: cleaned keywords, such as ["cat", "animal", "pet"].

  Returns:
    One line, such as "tabby cat, animal, pet", with at most `MAX_KEYWORDS` keywords.
  """
  seen = _words(title)
  kept = []
  for keyword in keywords:
    if len(kept) < MAX_KEYWORDS and not _words(keyword) <= seen:
      kept.append(keyword)
      seen |= _words(keyword)
  return ", ".join([title, *kept])


def _words(text: str) -> set[str]:
  """Returns the set of words of a text, plurals counted as singulars."""
  return {w[:-1] if len(w) > 3 and w.endswith("s") else w for w in re.findall(r"[a-z0-9']+", text.lower())}
