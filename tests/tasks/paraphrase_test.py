import re

import numpy as np
import pytest

from vljepa_jax.tasks import paraphrase

CAPTIONS = ("tabby cat, animal, pet, fur", "tabby cat, animal, pet, fur", "a dog", "red car, wheels", "of the")
TITLES = ("tabby cat", "tabby cat", "a dog", "red car", "of the")
LABELS = (0, 0, 0, 1, 0)


def words(text):
  return re.findall(r"\w+", text)


def test_triplets_reword_everything_and_change_one_word():
  triplets = {t.caption: t for t in paraphrase.make_triplets(CAPTIONS, TITLES, LABELS, seed=0)}
  # One each; the car is alone in its class and "of the" has no content word.
  assert set(triplets) == {"tabby cat, animal, pet, fur", "a dog"}
  cat = triplets["tabby cat, animal, pet, fur"]
  assert cat.reworded.startswith("a picture of tabby cat, ")
  assert sorted(words(cat.reworded)) == sorted(words("a picture of " + cat.caption))
  assert cat.reworded != "a picture of " + cat.caption
  different = [(a, b) for a, b in zip(words(cat.caption), words(cat.changed), strict=True) if a != b]
  assert len(different) == 1 and different[0][1] == "dog"
  assert triplets["a dog"].changed.removeprefix("a ") in {"tabby", "cat", "animal", "pet", "fur"}


@pytest.mark.parametrize("seed", range(20))
def test_keyword_order_always_changes(seed):
  triplets = paraphrase.make_triplets(("cat, a1, b1", "dog, pet"), ("cat", "dog"), (0, 0), seed)
  assert triplets[0].reworded == "a picture of cat, b1, a1"


def test_same_seed_same_triplets():
  make = lambda seed: paraphrase.make_triplets(CAPTIONS, TITLES, LABELS, seed)
  assert make(3) == make(3)
  assert len({make(seed) for seed in range(8)}) > 1


def test_a_plural_is_not_another_word():
  assert not paraphrase.make_triplets(("cat", "cats"), ("cat", "cats"), (0, 0), seed=0)


def test_both_comparisons_must_hold():
  triplets = (paraphrase.Triplet("p1", "p2", "n"),) * 3
  assert paraphrase.triplet_texts(triplets) == ["p1"] * 3 + ["p2"] * 3 + ["n"] * 3
  a, b, near_a = [1, 0], [0, 1], [0.8, 0.6]
  embed = np.array([a, a, near_a, near_a, near_a, a, b, a, b], np.float32)
  # sim(p1, p2), sim(p1, n), sim(p2, n): (.8, 0, .6) counts, (.8, 1, .8) and (.8, .6, 0) by hand below
  numbers, details = paraphrase.score(embed, triplets)
  np.testing.assert_allclose(details.same, [0.8, 0.8, 0.8])
  np.testing.assert_allclose(details.caption_changed, [0, 1, 0.6])
  np.testing.assert_allclose(details.reworded_changed, [0.6, 0.8, 0], atol=1e-6)
  np.testing.assert_array_equal(details.correct, [True, False, True])
  assert numbers == {"accuracy": pytest.approx(2 / 3), "chance": pytest.approx(1 / 3), "triplets": 3}


def test_collapsed_encoder_scores_zero():
  numbers, _ = paraphrase.score(np.ones((3, 2)), (paraphrase.Triplet("p1", "p2", "n"),))
  assert numbers["accuracy"] == 0


def test_no_triplets():
  with pytest.raises(ValueError, match="no triplets"):
    paraphrase.score(np.zeros((0, 2)), ())
