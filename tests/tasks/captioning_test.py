import collections
import sys

import numpy as np
from pycocoevalcap.cider.cider import Cider
import pytest
import sacrebleu

from vljepa_jax.tasks import captioning

HYPOTHESES = (
    "A dog runs over the green grass.",
    "two people ride a bike down the street",
    "",
    "the the the the the the",
    "Un café noir, s'il vous plaît!",
)
REFERENCES = (
    ("a dog runs over the grass", "The brown dog is running on green grass"),
    ("Two people riding bikes down a street.",),
    ("a bowl of fruit on the table", "fruit in a bowl", "there is a bowl with fruit"),
    ("the cat sat on the mat",),
    ("un CAFE\u0301 noir, s\u2019il vous plaît",),
)
CORPUS = (*REFERENCES, ("a red car on the street",), ("a dog and a cat", "the dog chases a cat"))


def grams(text, n):
  w = captioning.words(text)
  return [tuple(w[i:i + n]) for i in range(len(w) - n + 1)]


def cider_by_hand(hypotheses, references, corpus):
  """CIDEr-D from its definition: clipped tf-idf cosines, a Gaussian of the difference in length, n = 1..4."""
  scores = []
  for hypothesis, refs in zip(hypotheses, references, strict=True):
    total = 0.0
    for ref in refs:
      for n in range(1, 5):
        idf = lambda gram: np.log(len(corpus)) - np.log(max(1, sum(
            any(gram in grams(text, n) for text in texts) for texts in corpus)))
        a, b = collections.Counter(grams(hypothesis, n)), collections.Counter(grams(ref, n))
        names = sorted(a | b)
        x, y = (np.array([counts[name] * idf(name) for name in names]) for counts in (a, b))
        norms = np.linalg.norm(x) * np.linalg.norm(y)
        # the authors' code measures length in bigrams
        delta = max(0, len(captioning.words(hypothesis)) - 1) - max(0, len(captioning.words(ref)) - 1)
        total += (np.minimum(x, y) @ y / norms if norms else 0) * np.exp(-delta**2 / (2 * 6.0**2)) / 4
    scores.append(10 * 100 * total / len(refs))
  return np.array(scores)


def test_words():
  assert captioning.words("  The cat's Mat -- it isn't 'RED', 2nd_one!") == [
      "the", "cat's", "mat", "it", "isn't", "red", "2nd", "one"]
  assert captioning.words("CAFE\u0301 \ufb01n don\u2019t") == ["café", "fin", "don't"]
  assert captioning.words("किताब पढ़ो") == "किताब पढ़ो".split()  # vowel signs are part of a word
  assert captioning.words(" ... '' ") == []


@pytest.mark.parametrize("corpus", [None, CORPUS])
def test_cider_is_that_of_its_definition(corpus):
  mean, scores = captioning.cider(HYPOTHESES, REFERENCES, corpus)
  np.testing.assert_allclose(scores, cider_by_hand(HYPOTHESES, REFERENCES, corpus or REFERENCES), rtol=1e-12)
  assert mean == pytest.approx(scores.mean())
  assert scores[2] == 0 and scores[4] == pytest.approx(1000) and 0 < scores[1] < 1000


def test_cider_is_that_of_pycocoevalcap():
  split = lambda text: " ".join(captioning.words(text))
  gts = {i: [split(text) for text in texts] for i, texts in enumerate(REFERENCES)}
  res = {i: [split(text)] for i, text in enumerate(HYPOTHESES)}
  mean, scores = Cider().compute_score(gts, res)
  ours = captioning.cider(HYPOTHESES, REFERENCES)
  assert ours[0] == pytest.approx(100 * mean, rel=1e-12)
  np.testing.assert_allclose(ours[1], 100 * scores, rtol=1e-12)


def test_with_a_fixed_corpus_the_score_of_an_item_does_not_depend_on_the_others():
  together = captioning.cider(HYPOTHESES, REFERENCES, CORPUS)[1]
  alone = [captioning.cider([h], [r], CORPUS)[0] for h, r in zip(HYPOTHESES, REFERENCES, strict=True)]
  np.testing.assert_allclose(alone, together, rtol=1e-12)
  # more items than documents
  np.testing.assert_allclose(captioning.cider(HYPOTHESES * 3, REFERENCES * 3, CORPUS)[1], np.tile(together, 3))
  assert not np.allclose(captioning.cider(HYPOTHESES, REFERENCES)[1], together)


def test_one_item_is_a_corpus_without_information():
  assert captioning.cider(["a cat"], [["a cat"]])[0] == 0


def test_bleu_is_that_of_sacrebleu():
  streams = [[refs[i] if i < len(refs) else None for refs in REFERENCES] for i in range(3)]
  expected = sacrebleu.metrics.BLEU(lowercase=True).corpus_score(list(HYPOTHESES), streams)
  assert captioning.bleu4(HYPOTHESES, REFERENCES) == pytest.approx(expected.score) and 0 < expected.score < 100
  assert captioning.bleu4(["The cat sat on a mat"], [["the cat sat on a mat"]]) == pytest.approx(100)
  # by hand: 5, 3, 2 and 1 of 6, 5, 4 and 3 n-grams, equal lengths
  expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
  assert captioning.bleu4(["the cat sat on dark mats"], [["the cat sat on red mats"]]) == pytest.approx(expected)
  assert captioning.bleu4([""], [["a cat"]]) == 0


def test_exact_match():
  np.testing.assert_array_equal(
      captioning.exact_match(["A cat.", "cat", "", "two"], [["dog", "a CAT"], ["a cat"], ["x"], ["Two!"]]),
      [True, False, False, True])


def test_round_trip_is_a_cosine():
  a, b = np.random.default_rng(0).normal(size=(2, 4, 7))
  expected = [x @ y / np.sqrt(x @ x * (y @ y)) for x, y in zip(a, b)]
  np.testing.assert_allclose(captioning.round_trip(a, b), expected)
  with pytest.raises(ValueError, match="embedding 1 has no direction"):
    captioning.round_trip(np.array([[1.0, 0], [0, 0]]), np.ones((2, 2)))
  with pytest.raises(ValueError, match="one .n, E. shape"):
    captioning.round_trip(a, b[:2])


def test_score():
  cosines = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
  assert captioning.score(HYPOTHESES, REFERENCES, cosines, CORPUS) == {
      "cider": captioning.cider(HYPOTHESES, REFERENCES, CORPUS)[0],
      "bleu4": captioning.bleu4(HYPOTHESES, REFERENCES),
      "exact_match": 0.2, "round_trip": pytest.approx(0.3), "count": 5}
  assert captioning.score(HYPOTHESES, REFERENCES)["round_trip"] is None
  with pytest.raises(ValueError, match="one cosine a hypothesis"):
    captioning.score(HYPOTHESES, REFERENCES, cosines[:2])


def test_answers_by_kind():
  hypotheses, references = ["red", "a dog", "two", "blue"], [["red"], ["dog"], ["Two"], ["green", "Blue."]]
  kinds = ["colour", "what", "count", "colour"]
  found = captioning.score_answers(hypotheses, references, kinds, np.array([1, 0, 0.5, 0.5]))
  assert found["accuracy"] == found["exact_match"] == 0.75 and found["count"] == 4
  assert list(found["kinds"]) == ["colour", "what", "count"]
  colour, what = found["kinds"]["colour"], found["kinds"]["what"]
  assert (colour["accuracy"], what["accuracy"]) == (1, 0)
  assert (colour["round_trip"], colour["count"]) == (0.75, 2)
  # the documents are those of all kinds: alone, "what" would be a corpus of one
  scores = captioning.cider(hypotheses, references)[1]
  assert what["cider"] == pytest.approx(scores[1]) and scores[1] > 0
  assert colour["cider"] == pytest.approx(scores[[0, 3]].mean())
  with pytest.raises(ValueError, match="3 kinds for 4 answers"):
    captioning.score_answers(hypotheses, references, kinds[:3])


def test_nearest_baseline():
  bank = np.array([[2.0, 0], [0, 0.1], [-1, 0], [1, 0]])
  texts = ["right", "up", "left", "right again"]
  assert captioning.nearest_baseline(np.array([[0.1, 0.9], [-3, 1], [5, 0]]), bank, texts) == ["up", "left", "right"]
  with pytest.raises(ValueError, match="an embedding for every text, not 4 for 3"):
    captioning.nearest_baseline(bank, bank, texts[:3])


@pytest.mark.parametrize("hypotheses, references, message", [
    ([], [], "references is empty"),
    ("a cat", [["a cat"]], "give a list of hypotheses, not the single text"),
    (["a"], [["a"], ["b"]], "1 hypotheses for 2 lists"),
    (["a"], ["a"], r"references\[0\] must be a list of texts, not the single text 'a'"),
    (["a", "b"], [["a"], []], r"references\[1\] must be one or more texts with words"),
    (["a"], [["a", " ..."]], r"references\[0\] must be one or more texts with words, not \['a', ' ...'\]"),
])
def test_what_cannot_be_scored_is_named(hypotheses, references, message):
  for measure in (captioning.cider, captioning.bleu4, captioning.exact_match, captioning.score):
    with pytest.raises(ValueError, match=message):
      measure(hypotheses, references)


def test_a_corpus_is_checked():
  with pytest.raises(ValueError, match="corpus is empty"):
    captioning.cider(["a"], [["a"]], [])


@pytest.mark.parametrize("package, measure", [("pycocoevalcap", captioning.cider), ("sacrebleu", captioning.bleu4)])
def test_a_missing_package_is_named(monkeypatch, package, measure):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ImportError, match=f"run: pip install {package}"):
    measure(["a"], [["a"]])
