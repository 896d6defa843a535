"""Texts by view: those of clips. Those of pictures are tested through the pipeline."""

import numpy as np
import pytest

from vljepa_jax.data.augment import Augment
from vljepa_jax.data.clips import ClipQuestion, ClipRecord, ClipSource
from vljepa_jax.data.dataset import with_queries
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
  assert texts.views == ("caption", "brief", "detailed", "answer", "colour", "door")
  assert {view: list(texts.usable(view)) for view in texts.views} == {
      "caption": [0, 1], "brief": [0, 1], "detailed": [0], "answer": [0, 1], "colour": [0, 1], "door": [1]}


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


def test_fields_by_weight(source):
  texts = open_texts(source, STILL, frozenset())
  view = "brief:0.8, detailed:0.2"
  texts.check(view)
  rng = np.random.default_rng(0)
  long = np.mean([texts.draw(0, view, rng) == (None, "someone takes it") for _ in range(1000)])
  assert abs(long - 0.2) < 0.04
  assert abs(np.mean([texts.draw(0, "detailed,brief", rng)[1] == "someone takes it" for _ in range(1000)]) - 0.5) < 0.05
  assert list(texts.usable(view)) == [0, 1] and list(texts.usable("detailed:3")) == [0]
  assert texts.draw(1, view, rng) == texts.first(1, "detailed,brief", rng) == (None, "drop it")
  assert texts.first(0, "detailed,brief", rng) == (None, "someone takes it")


@pytest.mark.parametrize("view, message", [
    ("short", "has caption, brief, detailed, answer, colour, door"),
    ("brief:0.5,short:0.5", "has brief, detailed"),
    ("brief:0.5,colour:0.5", "has brief, detailed"),  # a batch is of one kind
    ("brief:0", "names with weights above 0"),
    ("brief:x", "names with weights above 0"),
    ("brief:inf", "names with weights above 0"),
    ("brief,brief", "names with weights above 0"),
    ("brief,", "names with weights above 0"),
])
def test_views_that_are_none(source, view, message):
  with pytest.raises(ValueError, match=message):
    open_texts(source, STILL, frozenset()).check(view)


def test_any_question_may_be_answered(source):
  assert drawn(source, 0, "answer") == {("what colour?", "red"), ("which colour?", "red")}
  assert drawn(source, 1, "answer") == {("what colour?", "red"), ("which colour?", "red"), ("is it open?", "open")}


def test_several_questions_of_a_kind():
  asked = tuple(ClipQuestion("question", (f"{i}?",), f"{i}", ("0", "1")) for i in range(2))
  twice = ClipSource("clips", "test", (), [ClipRecord("a", {"caption": ("a",)}, asked, -1)], None, None)
  assert drawn(twice, 0, "question") == {("0?", "0"), ("1?", "1")}
  assert [q.query for q in questions_of(twice, twice, 0)] == ["0?", "1?"]
  assert open_texts(twice, STILL, frozenset()).views == ("caption", "answer", "question")


def test_other_wordings_of_a_kind(source):
  other = with_queries(source, (("colour", ("tell the colour", "name the colour")),))
  assert drawn(other, 0, "colour") == {("tell the colour", "red"), ("name the colour", "red")}
  assert drawn(other, 1, "door") == {("is it open?", "open")}
  assert [q.query for q in questions_of(other, other, 0)][:2] == ["tell the colour"] * 2
  with pytest.raises(ValueError, match="for the kind 'size', but clips has colour, door"):
    with_queries(source, (("size", ("how big?",)),))
  with pytest.raises(ValueError, match="for the kind 'door' of clips are empty"):
    with_queries(source, (("door", ()),))
