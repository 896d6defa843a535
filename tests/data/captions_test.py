"""Caption variants keep to their settings and never show a held-out caption."""

import dataclasses

import numpy as np
import pytest

from vljepa_jax.data.augment import Augment
from vljepa_jax.data.captions import caption_variant, held_out_captions
from vljepa_jax.data.sources import Record, open_source
from vljepa_jax.data.text import normalise

STILL = Augment(min_area=1.0, flip=0.0, jitter=0.0, drop_keywords=0.0, shuffle_keywords=0.0, drop_title=0.0)
CAT = Record("c", "tabby cat", ("animal", "pet", "fur"), "tabby cat, animal, pet, fur", 0)


def draw(record, augment, held_out=frozenset(), count=400):
  rng = np.random.default_rng(0)
  return [caption_variant(record, augment, held_out, rng) for _ in range(count)]


def test_without_changes_it_is_the_canonical_caption():
  assert set(draw(CAT, STILL)) == {CAT.caption}
  bare = dataclasses.replace(CAT, keywords=(), caption="tabby cat by the sea")
  assert set(draw(bare, dataclasses.replace(STILL, drop_title=1.0, drop_keywords=1.0))) == {bare.caption}


def test_shuffle_keeps_title_and_keywords():
  variants = set(draw(CAT, dataclasses.replace(STILL, shuffle_keywords=1.0)))
  assert len(variants) == 6
  for variant in variants:
    title, *keywords = variant.split(", ")
    assert title == CAT.title and sorted(keywords) == sorted(CAT.keywords)


def test_drop_keeps_a_subset_in_order():
  variants = set(draw(CAT, dataclasses.replace(STILL, drop_keywords=1.0)))
  assert len(variants) == 8 and "tabby cat" in variants and "tabby cat, animal, fur" in variants


def test_drop_title_keeps_a_keyword():
  variants = set(draw(CAT, dataclasses.replace(STILL, drop_title=1.0, drop_keywords=1.0)))
  assert len(variants) == 7
  assert all(variant and set(variant.split(", ")) <= set(CAT.keywords) for variant in variants)


def test_settings_are_probabilities():
  variants = draw(CAT, dataclasses.replace(STILL, drop_title=0.25), count=1000)
  assert 190 < sum(not variant.startswith(CAT.title) for variant in variants) < 310


def test_held_out_variants_become_the_canonical_caption():
  free = draw(CAT, dataclasses.replace(STILL, drop_keywords=1.0))
  held_out = held_out_captions(["Tabby  Cat", "tabby cat, pet"])
  guarded = draw(CAT, dataclasses.replace(STILL, drop_keywords=1.0), held_out)
  assert "tabby cat" in free and not {"tabby cat", "tabby cat, pet"} & set(guarded)
  assert [a if a not in ("tabby cat", "tabby cat, pet") else CAT.caption for a in free] == guarded


@pytest.mark.parametrize("drop_title", [0.0, 0.5])
def test_no_training_caption_is_a_test_caption(drop_title):
  train, test = open_source("openclipart", "train"), open_source("openclipart", "test")
  held_out = held_out_captions(test.captions())
  augment = dataclasses.replace(STILL, drop_keywords=0.7, shuffle_keywords=0.5, drop_title=drop_title)
  shown = {normalise(caption) for record in train.records for caption in draw(record, augment, held_out, count=20)}
  assert len(shown) > 2 * len(train) and not shown & held_out
