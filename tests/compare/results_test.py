import math

import numpy as np
import pytest

from vljepa_jax.compare import results
from vljepa_jax.compare.sides import top_k


def test_an_interval_is_that_of_students_t():
  mean, half = results.interval([1.0, 2.0, 6.0])
  assert mean == 3.0
  assert half == pytest.approx(4.302653 * math.sqrt(7) / math.sqrt(3), rel=1e-6)  # t of two degrees of freedom


def test_one_value_has_no_interval():
  mean, half = results.interval([5.0])
  assert mean == 5.0 and math.isnan(half)


def test_a_rate_is_chosen_by_the_end_of_its_run_and_the_smallest_of_equal_ones():
  run = lambda *ends: {"points": [{"top1": end, "top5": end, "cider": 1000 * end} for end in ends]}
  assert results.best_rate({1e-2: run(0.9, 0.1), 1e-3: run(0.1, 0.3), 3e-3: run(0.2, 0.3)}) == 1e-3


def test_a_score_is_the_geometric_mean_of_top_5_and_cider():
  assert results.score({"top1": 0.9, "top5": 0.5, "cider": 200.0}) == pytest.approx(100.0)  # of 50% and 200


def test_top_k_leaves_out_records_without_a_class_and_ties_do_not_help():
  scores = np.array([[3, 2, 1, 0, 0, 0, 0], [3, 2, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [9, 0, 0, 0, 0, 0, 0]])
  assert top_k(scores, np.array([0, 2, 0, -1])) == {"top1": pytest.approx(1 / 3), "top5": pytest.approx(2 / 3)}
