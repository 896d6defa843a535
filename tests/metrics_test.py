import math

import numpy as np
import pytest

from vljepa_jax import metrics


def test_rank_of_the_best_hit():
  scores = np.array([[0.9, 0.5, 0.7], [0.1, 0.2, 0.3]])
  hits = np.array([[False, True, True], [True, False, False]])
  np.testing.assert_array_equal(metrics.hit_ranks(scores, hits), [2, 3])


@pytest.mark.parametrize("value", [0.5, math.nan])
def test_a_collapsed_or_broken_model_ranks_last(value):
  scores = np.full((2, 4), value)
  np.testing.assert_array_equal(metrics.hit_ranks(scores, np.eye(2, 4, dtype=bool)), [4, 4])


def test_a_broken_wrong_candidate_comes_before_the_hit():
  scores = np.array([[0.5, math.nan, 0.1]])
  np.testing.assert_array_equal(metrics.hit_ranks(scores, np.array([[True, False, False]])), [2])


def test_row_without_a_right_candidate_is_named():
  with pytest.raises(ValueError, match="row 1 has no right candidate"):
    metrics.hit_ranks(np.zeros((2, 2)), np.array([[True, False], [False, False]]))


def test_shapes_must_agree():
  with pytest.raises(ValueError, match="one shape"):
    metrics.hit_ranks(np.zeros((2, 2)), np.ones((2, 3), bool))


def test_recall_counts_ranks_up_to_k():
  ranks = np.array([1, 2, 5, 11])
  assert [metrics.recall_at_k(ranks, k) for k in (1, 2, 5, 10)] == [0.25, 0.5, 0.75, 0.75]


def test_top_k_accuracy():
  scores = np.array([[3, 2, 1], [3, 2, 1], [3, 2, 1]])
  labels = np.array([0, 1, 2])
  assert metrics.top_k_accuracy(scores, labels, 1) == pytest.approx(1 / 3)
  assert metrics.top_k_accuracy(scores, labels, 2) == pytest.approx(2 / 3)


def test_recall_chance_is_hypergeometric():
  expected = np.mean([1 - math.comb(8 - hits, 3) / math.comb(8, 3) for hits in (1, 2, 7)])
  assert metrics.recall_chance(np.array([1, 2, 7]), 8, 3) == pytest.approx(expected, abs=1e-12)


def test_recall_chance_of_one_hit_is_k_over_pool():
  assert metrics.recall_chance(np.array([1]), 430, 10) == pytest.approx(10 / 430)
  assert metrics.recall_chance(np.array([1]), 4, 10) == 1


def test_majority_share():
  assert metrics.majority_share(["yes", "no", "yes", "yes"]) == 0.75
