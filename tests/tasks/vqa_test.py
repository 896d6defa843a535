import dataclasses

import numpy as np
import pytest

from vljepa_jax.tasks import vqa


@dataclasses.dataclass(frozen=True)
class Question:
  query: str
  answer: str
  candidates: tuple[str, ...]
  kind: str
  record: int


YES_NO = ("yes", "no")
QUESTIONS = (
    Question("is there a cat?", "yes", YES_NO, "is_there", 7),
    Question("is there a dog?", "no", YES_NO, "is_there", 8),
    Question("is there a cow?", "no", YES_NO, "is_there", 8),
    Question("what is it?", "cat", ("cat", "dog", "yes", "no"), "what", 9),
)


def test_accuracy_majority_and_chance_by_kind():
  texts = ("yes", "no", "cat", "dog")
  pred = np.eye(4, dtype=np.float32)[[0, 0, 1, 3]]  # yes, yes, no, dog
  numbers, answers = vqa.score(pred, np.eye(4, dtype=np.float32), texts, QUESTIONS)
  assert [a.given for a in answers] == ["yes", "yes", "no", "dog"]
  assert [a.correct for a in answers] == [True, False, True, False]
  assert [a.question for a in answers] == list(QUESTIONS)
  assert numbers["is_there"] == dict(
      accuracy=pytest.approx(2 / 3), majority=pytest.approx(2 / 3), chance=0.5, questions=3)
  assert numbers["what"] == dict(accuracy=0, majority=1, chance=0.25, questions=1)
  assert numbers["accuracy"] == 0.5 and numbers["questions"] == 4
  assert numbers["majority"] == pytest.approx(3 / 4) and numbers["chance"] == pytest.approx(1.75 / 4)


def test_a_tie_is_wrong():
  embed = np.ones((4, 4), np.float32) / 2
  numbers, _ = vqa.score(embed, embed, ("yes", "no", "cat", "dog"), QUESTIONS)
  assert numbers["accuracy"] == 0


def test_no_questions():
  with pytest.raises(ValueError, match="no questions"):
    vqa.score(np.zeros((0, 4)), np.zeros((0, 4)), (), ())
