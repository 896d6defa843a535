import numpy as np
import pytest

from vljepa_jax.tasks import classification


def test_accuracy_chance_and_majority():
  class_embed = np.eye(6, dtype=np.float32)
  pred = np.eye(6, dtype=np.float32)[[0, 1, 2, 2]]
  pred[3, 3] = 0.5  # nearest 2, then 3
  numbers, details = classification.score(pred, class_embed, np.array([0, 1, 1, 3]), list("abcdef"))
  assert numbers["top1"] == 0.5
  assert numbers["top5"] == 0.75  # the third ties with everything but class 2 and so comes last
  assert numbers["chance"] == pytest.approx(1 / 6) and numbers["chance_top5"] == pytest.approx(5 / 6)
  assert numbers["majority"] == 0.5 and numbers["classes"] == 6 and numbers["pictures"] == 4
  np.testing.assert_array_equal(details.predicted, [0, 1, 2, 2])
  np.testing.assert_array_equal(details.ranks, [1, 1, 6, 2])


def test_templates_are_averaged_per_class_in_embedding_space():
  texts = classification.fill_templates(("{}", "a picture of {}"), ("cat", "dog"))
  assert texts == ["cat", "dog", "a picture of cat", "a picture of dog"]
  embed = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
  half = 0.5**0.5
  np.testing.assert_allclose(classification.average_templates(embed, 2), [[half, half], [0, 1]], atol=1e-6)


def test_a_template_needs_a_place_for_the_name():
  with pytest.raises(ValueError, match="'a picture' has no {}"):
    classification.fill_templates(("a picture",), ("cat",))
  with pytest.raises(ValueError, match="no class templates"):
    classification.fill_templates((), ("cat",))
