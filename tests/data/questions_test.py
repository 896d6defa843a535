"""Questions: right answers, wrong words that are wrong, exact balance, and no hint in the question itself."""

import collections
import re

import numpy as np
import pytest

from vljepa_jax.data.questions import (
    CHOICES, KINDS, MAX_CLASS_SHARE, MIN_PICTURES, TEMPLATES, QuestionMaker, Vocabulary, evaluation_questions)
from vljepa_jax.data.sources import Record, open_source


def record(title, keywords, label=0):
  return Record(title, title, tuple(keywords.split()), title, label)


# Of class 0 every picture is an animal; cats, dogs and birds share words. Class 1 has words of its own.
PETS = [
    *[record(f"cat {i}", "animal cat whiskers") for i in range(3)],
    *[record(f"dog {i}", "animal dog lead") for i in range(3)],
    *[record(f"wren {i}", "animal wren wings") for i in range(3)],
    record("unicorn", "animal horn"),
]
CARS = [
    *[record(f"car {i}", "car wheel", 1) for i in range(3)],
    *[record(f"boat {i}", "boat oar", 1) for i in range(4)],
    *[record(f"bus {i}", "bus wheels boats", 1) for i in range(3)],
]
CLASSES = ("pet", "vehicle")


@pytest.fixture
def maker():
  records = PETS + CARS
  return QuestionMaker(records, CLASSES, Vocabulary(records, 2))


@pytest.fixture(scope="module")
def openclipart():
  train, test = open_source("openclipart", "train"), open_source("openclipart", "test")
  vocabulary = Vocabulary(train.records, len(train.classes))
  return {source.split: QuestionMaker(source.records, source.classes, vocabulary) for source in (train, test)}


def test_vocabulary():
  vocabulary = Vocabulary(PETS + CARS, 2)
  assert vocabulary.words == {"cat", "whiskers", "dog", "lead", "wren", "wings", "car", "wheel", "bus", "wheels"}, "not: animal, boat, unicorn"
  assert not {"unicorn", "horn"} & vocabulary.words, f"fewer than {MIN_PICTURES} pictures"
  assert vocabulary.words_of(PETS[0]) == ["cat", "whiskers"], "animal follows from the class"
  assert vocabulary.words_of(PETS[-1]) == []
  assert collections.Counter(vocabulary.class_words[0]) == {w: 3 for w in "cat whiskers dog lead wren wings".split()}
  assert "boat" not in vocabulary.class_words[1], f"4 of 10 pictures are more than {MAX_CLASS_SHARE}"
  assert vocabulary.things == {"cat", "dog", "wren", "car", "bus"}, "titles end in them"
  assert collections.Counter(vocabulary.class_things[0]) == {"cat": 3, "dog": 3, "wren": 3}


def test_a_held_out_caption_is_no_word():
  assert "cat" not in Vocabulary(PETS + CARS, 2, held_out={"cat"}).words


def test_stop_words_and_short_words_are_not_asked_for():
  records = [record("the cat in black and white", "of a9 12 tail") for _ in range(4)] + PETS
  assert not {"the", "in", "black", "white", "of", "12"} & Vocabulary(records, 1 + 1).words


def test_kinds(maker):
  assert maker.kinds(0) == KINDS
  assert maker.kinds(9) == ("what",), "the unicorn has no word that others share"
  with pytest.raises(ValueError, match="'unicorn' has no question of kind 'is_there'"):
    maker.make(9, "is_there", np.random.default_rng(0))


def test_what(maker):
  question = maker.make(12, "what", np.random.default_rng(0))
  assert question.answer == "vehicle" and question.candidates == CLASSES and question.record == 12


def word_of(question):
  for template in TEMPLATES["is_there"]:
    match = re.fullmatch(re.escape(template).replace(r"\{a\}", "an?").replace(r"\{word\}", "(.+)"), question.query)
    if match:
      return match[1]
  raise AssertionError(question.query)


def test_is_there(maker):
  rng = np.random.default_rng(0)
  for index in range(9):
    thing = maker.records[index].title.split()[0]
    questions = [maker.make(index, "is_there", rng) for _ in range(60)]
    asked = {(word_of(q), q.answer) for q in questions}
    assert {word for word, answer in asked if answer.startswith("yes")} == {thing}, "things alone, and not the class"
    wrong = {word for word, answer in asked if answer.startswith("no")}
    assert wrong == {"cat", "dog", "wren"} - {thing}, "hard: of the same class"
    assert 15 < sum(q.answer.startswith("no") for q in questions) < 45
    assert {q.answer for q in questions} == {f"yes, a {thing}", f"no, a {thing}"}, "a no says what there is"
    for question in questions:
      yes, no = question.candidates
      assert yes == f"yes, a {word_of(question)}" and no.startswith("no, a ") and yes[5:] != no[4:]


def test_plurals_are_no_wrong_answers(maker):
  rng = np.random.default_rng(0)
  car, bus = len(PETS), len(PETS) + 7
  assert {word_of(q) for q in (maker.make(car, "is_there", rng) for _ in range(80)) if q.answer.startswith("no")} == {"bus"}
  assert {word_of(q) for q in (maker.make(bus, "is_there", rng) for _ in range(80)) if q.answer.startswith("no")} == {"car"}


def test_which_word(maker):
  rng = np.random.default_rng(0)
  places = collections.Counter()
  for _ in range(200):
    question = maker.make(0, "which_word", rng)
    assert len(set(question.candidates)) == CHOICES and question.answer in ("cat", "whiskers")
    wrong = set(question.candidates) - {question.answer}
    assert not wrong & {"cat", "whiskers", "animal"}
    assert len(wrong & {"dog", "lead", "wren", "wings"}) >= 1, "at least one of the same class"
    assert all(word in question.query for word in question.candidates)
    places[question.candidates.index(question.answer)] += 1
  assert min(places.values()) > 25


def test_training_uses_every_template_and_evaluation_the_first(maker):
  rng = np.random.default_rng(0)
  assert {maker.make(0, "what", rng).query for _ in range(100)} == set(TEMPLATES["what"])
  assert {q.query for q in evaluation_questions(maker, 0) if q.kind == "what"} == {TEMPLATES["what"][0]}


def test_evaluation_questions_of_openclipart(openclipart):
  maker = openclipart["test"]
  questions = evaluation_questions(maker, 3)
  assert questions == evaluation_questions(maker, 3) != evaluation_questions(maker, 4)
  asked = [(q.record, q.kind) for q in questions]
  assert len(set(asked)) == len(asked)
  answers = {kind: [q.answer for q in questions if q.kind == kind] for kind in KINDS}
  assert len(answers["what"]) == len(maker.records)
  assert sum(answer.startswith("no") for answer in answers["is_there"]) == len(answers["is_there"]) / 2 > 60
  assert len(answers["which_word"]) > 150
  for question in questions:
    assert question.answer in question.candidates
    text = " ".join((maker.records[question.record].title, *maker.records[question.record].keywords)).lower()
    if question.kind == "is_there":
      assert (word_of(question) in text) or question.answer.startswith("no")
    if question.kind == "which_word":
      assert question.answer in text


def test_the_word_alone_does_not_tell_yes_from_no(openclipart):
  """A guesser that has seen every training question but no picture stays near chance."""
  rng = np.random.default_rng(0)
  maker = openclipart["train"]
  seen = collections.defaultdict(int)
  for _ in range(10):
    for index in range(len(maker.records)):
      if "is_there" in maker.kinds(index):
        question = maker.make(index, "is_there", rng)
        seen[word_of(question)] += -1 if question.answer.startswith("no") else 1
  test = [q for q in evaluation_questions(openclipart["test"], 0) if q.kind == "is_there"]
  right = sum((seen[word_of(q)] > 0) == q.answer.startswith("yes") for q in test)
  assert 0.4 < right / len(test) < 0.6
