"""Questions about pictures: the answer is the candidate nearest to the prediction for picture and query."""

from collections.abc import Sequence
import dataclasses
from typing import Any, Protocol

import numpy as np

from vljepa_jax import metrics


class Question(Protocol):
  """A question about the picture number `record` with its candidates, the answer among them."""

  query: str
  answer: str
  candidates: tuple[str, ...]
  kind: str
  record: int


@dataclasses.dataclass(frozen=True)
class Answer:
  """What the model said to one question.

  Attributes:
    question: the question.
    scores: (candidates,) float32, cosine similarity.
    correct: the true answer has the highest score, alone.
  """

  question: Question
  scores: np.ndarray
  correct: bool

  @property
  def given(self) -> str:
    """The candidate with the highest score."""
    return self.question.candidates[int(self.scores.argmax())]


def score(
    pred_embed: np.ndarray,
    text_embed: np.ndarray,
    texts: Sequence[str],
    questions: Sequence[Question],
) -> tuple[dict[str, Any], list[Answer]]:
  """Accuracy over all questions and by kind.

  Args:
    pred_embed: (n, E) unit-length predictions, one a question.
    text_embed: (m, E) unit-length embeddings of every text that is a candidate somewhere.
    texts: the m texts.
    questions: n questions.

  Returns:
    Numbers: accuracy, majority, chance, questions, and the same four under the name of every kind. `majority` always
    gives the most frequent answer of the kind, or always the candidate in the same place, whichever is right more
    often. And one Answer a question.
  """
  if not questions:
    raise ValueError("there are no questions to score")
  index = {text: i for i, text in enumerate(texts)}
  answers = []
  for pred, question in zip(pred_embed, questions, strict=True):
    scores = text_embed[[index[text] for text in question.candidates]] @ pred
    hits = np.array([text == question.answer for text in question.candidates])
    correct = bool(metrics.hit_ranks(scores[None], hits[None])[0] == 1)
    answers.append(Answer(question, scores, correct))
  kinds = {kind: _numbers([a for a in answers if a.question.kind == kind])
           for kind in dict.fromkeys(question.kind for question in questions)}
  overall = {key: sum(kind[key] * kind["questions"] for kind in kinds.values()) / len(answers)
             for key in ("accuracy", "majority", "chance")}
  return {**overall, "questions": len(answers), **kinds}, answers


def _numbers(answers: Sequence[Answer]) -> dict[str, Any]:
  return {
      "accuracy": float(np.mean([a.correct for a in answers])),
      "majority": max(
          metrics.majority_share([a.question.answer for a in answers]),
          metrics.majority_share([a.question.candidates.index(a.question.answer) for a in answers])),
      "chance": float(np.mean([1 / len(a.question.candidates) for a in answers])),
      "questions": len(answers),
  }
