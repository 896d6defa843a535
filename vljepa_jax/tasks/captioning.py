"""Captions and open-ended answers: how near the words of a model are to those of people.

  CIDEr-D       arXiv 1411.5726, by pycocoevalcap's scorer, on the scale of papers: 100 times what that scorer gives, so
                that the 71 of VL-JEPA's figure 4 is 71 here (0.71 there) and a hypothesis that is its only reference
                1000. Words are those of `words`, not of the Java tokenizer of the COCO captions.
  BLEU-4        by sacrebleu over the whole corpus, 0..100, signature nrefs:var|case:lc|eff:no|tok:13a|smooth:exp. It is
                0 where no hypothesis has four words.
  exact match   share of hypotheses, 0..1, whose words are those of a reference.
  round trip    mean cosine of the embedding that a text was decoded from and the embedding of that text.

CIDEr weighs an n-gram by how few items of a corpus have it in a reference. That corpus is the references scored, as in
pycocoevalcap, unless another is given: scores compare only where it is the same. In a corpus of one item every weight
is log(1) = 0, and so is the score.
"""

from collections.abc import Sequence
import importlib.util
from typing import Any
import unicodedata

import numpy as np

CIDER_SCALE = 100
References = Sequence[Sequence[str]]


def require() -> None:
  """ImportError if what scores captions is not installed; it names the remedy."""
  _need("pycocoevalcap")
  _need("sacrebleu")


def words(text: str) -> list[str]:
  """The lower-case words of a text: runs of letters, marks, digits and apostrophes inside them, after NFKC."""
  lower = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
  kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in lower)
  return [word for word in (run.strip("'") for run in kept.split()) if word]


def cider(
    hypotheses: Sequence[str], references: References, corpus: References | None = None
) -> tuple[float, np.ndarray]:
  """CIDEr-D on the scale of papers (0..1000).

  Args:
    hypotheses: n texts; one without words scores 0.
    references: n lists of one or more texts.
    corpus: references of the items that give the document frequencies, such as all of a training set; None takes
      `references`.

  Returns:
    The mean and (n,) float64, one score an item.

  Raises:
    ImportError: pycocoevalcap is not installed.
    ValueError: nothing to score, unequal lengths, or a reference without words.
  """
  _check(hypotheses, references)
  if corpus is not None:
    _check_references(corpus, "corpus")
  _need("pycocoevalcap")
  from pycocoevalcap.cider.cider_scorer import CiderScorer  # optional

  counted = CiderScorer()
  for texts in references if corpus is None else corpus:
    counted += None, [_joined(text) for text in texts]
  counted.compute_doc_freq()
  size = counted.size()
  scores = []
  for start in range(0, len(hypotheses), size):
    scorer = CiderScorer()
    for text, refs in zip(hypotheses[start:start + size], references[start:start + size], strict=True):
      scorer += _joined(text), [_joined(ref) for ref in refs]
    scorer.document_frequency = counted.document_frequency
    # The scorer takes the number of documents from this list, and scores as many as there are hypotheses.
    scorer.crefs += [[]] * (size - len(scorer.crefs))
    scores += scorer.compute_cider()
  scores = CIDER_SCALE * np.array(scores, np.float64)
  return float(scores.mean()), scores


def bleu4(hypotheses: Sequence[str], references: References) -> float:
  """Corpus BLEU-4 (0..100) of n texts against n lists of references, as sacrebleu tokenizes; its signature is above.

  Raises:
    ImportError: sacrebleu is not installed.
    ValueError: as `cider`.
  """
  _check(hypotheses, references)
  _need("sacrebleu")
  import sacrebleu  # optional

  most = max(map(len, references))
  streams = [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]
  return float(sacrebleu.corpus_bleu(list(hypotheses), streams, lowercase=True).score)


def exact_match(hypotheses: Sequence[str], references: References) -> np.ndarray:
  """(n,) bool: whether the words of a hypothesis are those of one of its references. ValueError as `cider`."""
  _check(hypotheses, references)
  return np.array([words(text) in map(words, refs) for text, refs in zip(hypotheses, references, strict=True)])


def round_trip(embeds: np.ndarray, text_embeds: np.ndarray) -> np.ndarray:
  """How much of an embedding its text keeps: cosine, (n,).

  Args:
    embeds: (n, E) that texts were decoded from, of any length but zero.
    text_embeds: (n, E) of those texts by the Y-encoder.
  """
  if embeds.ndim != 2 or embeds.shape != text_embeds.shape:
    raise ValueError(
        f"embeddings {embeds.shape} and those of their texts {text_embeds.shape} must have one (n, E) shape")
  return (_unit(embeds) * _unit(text_embeds)).sum(axis=-1)


def score(
    hypotheses: Sequence[str], references: References, round_trip: np.ndarray | None = None,
    corpus: References | None = None,
) -> dict[str, Any]:
  """All numbers of captions.

  Args:
    hypotheses: n texts of the model.
    references: n lists of one or more texts.
    round_trip: (n,) from the function of this name.
    corpus: of CIDEr's document frequencies, see `cider`.

  Returns:
    cider (0..1000), bleu4 (0..100), exact_match (0..1), round_trip (mean cosine; None if it was not measured), count.

  Raises:
    ImportError: pycocoevalcap or sacrebleu is not installed.
    ValueError: as `cider`, or not one cosine a hypothesis.
  """
  cosines = _cosines(round_trip, len(hypotheses))
  return _numbers(hypotheses, references, cosines, cider(hypotheses, references, corpus)[1])


def score_answers(
    hypotheses: Sequence[str], references: References, kinds: Sequence[str], round_trip: np.ndarray | None = None,
    corpus: References | None = None,
) -> dict[str, Any]:
  """Open-ended answers: the numbers of `score`, and as the main one `accuracy`, the share of exact matches.

  Args:
    hypotheses: n answers of the model.
    references: n lists of right answers.
    kinds: n kinds of questions.
    round_trip: (n,) from the function of this name.
    corpus: of CIDEr's document frequencies; one for all kinds, by default the references of all.

  Returns:
    accuracy, cider, bleu4, exact_match, round_trip, count, and `kinds`, the same by the name of every kind.
  """
  if len(kinds) != len(hypotheses):
    raise ValueError(f"there are {len(kinds)} kinds for {len(hypotheses)} answers")
  cosines = _cosines(round_trip, len(hypotheses))
  scores = cider(hypotheses, references, corpus)[1]

  def numbers(rows):
    part = _numbers([hypotheses[i] for i in rows], [references[i] for i in rows],
                    None if cosines is None else cosines[rows], scores[rows])
    return {"accuracy": part["exact_match"], **part}

  by_kind = {kind: numbers([i for i, k in enumerate(kinds) if k == kind]) for kind in dict.fromkeys(kinds)}
  return {**numbers(range(len(hypotheses))), "kinds": by_kind}


def nearest_baseline(embeds: np.ndarray, bank_embeds: np.ndarray, bank_texts: Sequence[str]) -> list[str]:
  """What a text decoder must beat: for every embedding the training caption nearest to it, by cosine.

  Args:
    embeds: (n, E) predictions.
    bank_embeds: (m, E) of training captions by the Y-encoder.
    bank_texts: the m captions.

  Returns:
    n texts; of equally near ones the first.
  """
  if not bank_texts or len(bank_embeds) != len(bank_texts):
    raise ValueError(f"a bank must have an embedding for every text, not {len(bank_embeds)} for {len(bank_texts)}")
  bank = _unit(bank_embeds)
  return [bank_texts[int((bank @ embed).argmax())] for embed in _unit(embeds)]


def _numbers(hypotheses, references, cosines, cider_scores):
  return {
      "cider": float(cider_scores.mean()),
      "bleu4": bleu4(hypotheses, references),
      "exact_match": float(exact_match(hypotheses, references).mean()),
      "round_trip": None if cosines is None else float(cosines.mean()),
      "count": len(hypotheses),
  }


def _cosines(cosines: np.ndarray | None, count: int) -> np.ndarray | None:
  if cosines is not None and np.shape(cosines) != (count,):
    raise ValueError(f"round_trip must be one cosine a hypothesis, ({count},), not {np.shape(cosines)}")
  return None if cosines is None else np.asarray(cosines)


def _joined(text: str) -> str:
  return " ".join(words(text))


def _unit(embeds: np.ndarray) -> np.ndarray:
  length = np.linalg.norm(embeds, axis=-1, keepdims=True)
  if not (length > 0).all():
    raise ValueError(f"embedding {int((length[:, 0] > 0).argmin())} has no direction: its length is not above 0")
  return embeds / length


def _check(hypotheses: Sequence[str], references: References) -> None:
  if isinstance(hypotheses, str):
    raise ValueError(f"give a list of hypotheses, not the single text {hypotheses!r}")
  if len(hypotheses) != len(references):
    raise ValueError(f"there are {len(hypotheses)} hypotheses for {len(references)} lists of references")
  _check_references(references, "references")


def _check_references(references: References, what: str) -> None:
  if not len(references):
    raise ValueError(f"{what} is empty: there is nothing to score")
  for i, texts in enumerate(references):
    if isinstance(texts, str):
      raise ValueError(f"{what}[{i}] must be a list of texts, not the single text {texts!r}")
    if not texts or not all(map(words, texts)):
      raise ValueError(f"{what}[{i}] must be one or more texts with words, not {list(texts)!r}")


def _need(package: str) -> None:
  if importlib.util.find_spec(package) is None:
    raise ImportError(f"{package} is not installed, and captions are scored with it; run: pip install {package}")
