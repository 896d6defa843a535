"""Texts by view: those of clips. Those of pictures are tested through the pipeline."""

import numpy as np
import pytest

from vljepa_jax.data.augment import Augment
from vljepa_jax.data.clips import ClipQuestion, ClipRecord, ClipSource
from vljepa_jax.data.views import open_texts, questions_of

STILL = Augment(min_area=1.0, flip=0.0, jitter=0.0, drop_keywords=0.0, shuffle_keywords=0.0, drop_title=0.0)
COLOUR = ClipQuestion("colour", ("what colour?", "which colour?"), "red", ("red", "blue"))
DOOR = ClipQuestion("door", ("is it open?",), "open", ("open", "closed"))


@pytest.fixture(scope="module")
def source():
  records = [
      ClipRecord("a", {"brief": ("take it", "grab it"), "detailed": ("someone takes it",)}, (COLOUR,), 0),
      ClipRecord("b", {"brief": ("drop it",)}, (COLOUR, DOOR), 1)]
  return ClipSource("clips", "test", ("take", "drop"), records, None, None)


def drawn(source, index, view, count=40):
  texts = open_texts(source, STILL, frozenset())
  return {texts.draw(index, view, np.random.default_rng(i)) for i in range(count)}


def test_views_are_fields_and_kinds(source):
  texts = open_texts(source, STILL, frozenset())
  assert texts.views == ("caption", "brief", "detailed", "colour", "door")
  assert {view: list(texts.usable(view)) for view in texts.views} == {
      "caption": [0, 1], "brief": [0, 1], "detailed": [0], "colour": [0, 1], "door": [1]}


def test_all_wordings_are_drawn(source):
  assert drawn(source, 0, "caption") == {(None, "take it"), (None, "grab it"), (None, "someone takes it")}
  assert drawn(source, 0, "brief") == {(None, "take it"), (None, "grab it")}
  assert drawn(source, 1, "colour") == {("what colour?", "red"), ("which colour?", "red")}


def test_captions_that_recur_are_not_left_out(source):
  assert list(open_texts(source, STILL, {"take it"}).usable("brief")) == [0, 1]


def test_questions_of_evaluation_are_in_their_first_wording(source):
  asked = questions_of(source, source, 0)
  assert [(q.kind, q.record, q.query, q.answer) for q in asked] == [
      ("colour", 0, "what colour?", "red"), ("colour", 1, "what colour?", "red"), ("door", 1, "is it open?", "open")]
  assert source.records[0].caption == "take it"
