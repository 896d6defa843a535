"""Triplets differ in exactly the one fact that they name."""

import collections
import re

import pytest

from vljepa_jax.data import babyai
from vljepa_jax.data.babyai.captions import BRIEF
from vljepa_jax.data.babyai.triplets import CHANGES

SLOTS = {
    "x": r"the (?P<c1>\w+) (?P<t1>\w+)", "p": r"the (?P<t1>\w+) that is (?P<c1>\w+)",
    "y": r"the (?P<c2>\w+) (?P<t2>\w+)", "q": r"the (?P<t2>\w+) that is (?P<c2>\w+)"}
PATTERNS = [(verb, re.compile(text.format(**SLOTS))) for verb, texts in BRIEF.items() for text in texts]


def parse(text):
  """Every (verb, subject, other) that a brief caption can mean: boxes and doors are both opened."""
  found = set()
  for verb, pattern in PATTERNS:
    match = pattern.fullmatch(text)
    if match:
      words = match.groupdict()
      found.add((verb, (words["c1"], words["t1"]), ("c2" in words) and (words["c2"], words["t2"])))
  kinds = {"open": "door", "open a box": "box"}
  return {meaning for meaning in found if kinds.get(meaning[0], meaning[1][1]) == meaning[1][1]}


@pytest.fixture(scope="module")
def drawn(data_dir):
  return babyai.triplets(400, 0, data_dir)


def test_the_two_wordings_mean_the_same_and_the_negative_does_not(drawn):
  for first, second, negative, _ in drawn:
    assert len({first, second, negative}) == 3
    assert len(parse(first)) == 1 and parse(first) == parse(second)
    assert len(parse(negative)) == 1 and parse(negative) != parse(first)


def test_one_fact_is_changed(drawn):
  for first, _, negative, kind in drawn:
    (verb, subject, other), = parse(first)
    (verb2, subject2, other2), = parse(negative)
    if kind == "action":
      assert verb != verb2 and (subject, other) == (subject2, other2)
    elif kind == "swap":
      assert verb == verb2 and (subject, other) == (other2, subject2)
    else:
      differ = [(a, b) for a, b in ((subject, subject2), (other, other2)) if a != b]
      (a, b), = differ
      same = 1 if kind == "colour" else 0
      assert verb == verb2 and a[same] == b[same] and a[1 - same] != b[1 - same]


def test_kinds_come_equally_often(drawn):
  assert collections.Counter(kind for *_, kind in drawn) == dict.fromkeys(CHANGES, 100)


def test_negatives_follow_either_wording(drawn):
  """Else the odd one out of three wordings would be told by its form."""
  def form(text):
    return re.sub(r"red|green|blue|purple|yellow|grey|ball|key|box|door", "_", text)

  like_first = [form(negative) == form(first) for first, _, negative, kind in drawn if kind in ("colour", "type")]
  assert 0.3 < sum(like_first) / len(like_first) < 0.7


def test_triplets_are_of_held_out_clips_and_repeat(drawn, data_dir):
  source = babyai.data_source("test", data_dir)
  said = {text for i in range(len(source)) for text in babyai.decode(source[i]).captions["brief"]}
  held_out = [" ".join(pair) for pair in babyai.HELD_OUT_PAIRS]
  for first, second, negative, _ in drawn:
    assert {first, second} <= said
    assert not any(pair in text for text in (first, second, negative) for pair in held_out)
  assert babyai.triplets(400, 0, data_dir) == drawn != babyai.triplets(400, 1, data_dir)
