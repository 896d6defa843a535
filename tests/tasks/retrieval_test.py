import numpy as np
import pytest

from vljepa_jax.tasks import retrieval


def test_captions_shared_by_pictures_are_one_text_and_any_picture_of_it_is_a_hit():
  texts, own = retrieval.distinct_texts(["cat", "dog", "cat"])
  assert texts == ("cat", "dog")
  np.testing.assert_array_equal(own, [0, 1, 0])
  # Picture 0 looks like a cat, 1 more like a cat than a dog, 2 like a dog.
  pred = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
  numbers, details = retrieval.score(pred, np.eye(2, dtype=np.float32), texts, own)
  np.testing.assert_array_equal(details.image_ranks, [1, 2, 2])
  np.testing.assert_array_equal(details.text_ranks, [1, 2])  # of "dog": picture 2 first, which is a cat
  assert numbers["image_to_text"]["r1"] == pytest.approx(1 / 3)
  assert numbers["image_to_text"]["pool"] == 2 and numbers["text_to_image"]["pool"] == 3
  assert numbers["image_to_text"]["chance"] == pytest.approx(1 / 2)
  assert numbers["text_to_image"]["chance"] == pytest.approx((2 / 3 + 1 / 3) / 2)
  assert numbers["text_to_image"]["r1"] == 0.5 and numbers["text_to_image"]["r5"] == 1


def test_guessing_scores_what_chance_says():
  rng = np.random.default_rng(0)
  own = np.concatenate([np.arange(60), np.arange(40)])
  runs = []
  for _ in range(30):
    embeds = rng.normal(size=(160, 16)).astype(np.float32)
    numbers, _ = retrieval.score(embeds[:100], embeds[100:], [str(i) for i in range(60)], own)
    runs.append([numbers[way][key] - numbers[way][chance] for way in numbers
                 for key, chance in (("r1", "chance"), ("r5", "chance_r5"), ("r10", "chance_r10"))])
  np.testing.assert_allclose(np.mean(runs, axis=0), 0, atol=0.02)
