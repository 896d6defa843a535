import itertools

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from vljepa_jax.data.slideshow import Annotation
from vljepa_jax.tasks import streams
from vljepa_jax.tasks.streams import Curve, Decodes


def same(hypotheses, references):
  """Scores 1 for the right text."""
  hits = np.array([text in refs for text, refs in zip(hypotheses, references, strict=True)], np.float64)
  return float(hits.mean()), hits


def curve(decodes, quality, seconds=None, annotations=None):
  decodes, quality = np.array(decodes, np.float64), np.array(quality, np.float64)
  ones = np.ones(decodes.shape[1])
  return Curve(decodes, quality, 10 * ones if seconds is None else np.array(seconds),
               4 * ones if annotations is None else np.array(annotations))


def random_curve(seed, count=40, settings=9, lift=0.0):
  """Quality that saturates with the rate, on streams that differ."""
  rng = np.random.default_rng(seed)
  decodes = np.round(np.geomspace(2, 200, settings))[:, None] + np.zeros(count)
  annotations = rng.integers(10, 30, count)
  share = 1 - np.exp(-(decodes / 20) * (1 + lift))
  quality = annotations * np.clip(share * rng.uniform(0.8, 1.0, count) + rng.normal(0, 0.02, share.shape), 0, 1)
  return curve(decodes, quality, np.full(count, 100.0), annotations)


def test_every_annotation_takes_the_nearest_decode():
  rng = np.random.default_rng(0)
  starts = np.sort(rng.uniform(0, 100, 30))
  annotations = [Annotation(a, a + rng.uniform(1, 9), "x") for a in starts]
  times = rng.uniform(0, 110, 17)
  nearest = streams.nearest_decodes(annotations, times)
  for annotation, chosen in zip(annotations, nearest, strict=True):
    distances = [abs(time - (annotation.start + annotation.end) / 2) for time in times]
    assert chosen == int(np.argmin(distances))


def test_of_two_as_near_the_earlier_one():
  assert streams.nearest_decodes([Annotation(0, 10, "x")], np.array([8.0, 2.0, 20.0])).tolist() == [1]


def test_score_by_hand():
  annotations = [[Annotation(0, 2, "a"), Annotation(2, 8, "b")], [Annotation(0, 1, "c")]]
  settings = [
      [Decodes(np.array([5.0]), ["b"]), Decodes(np.array([0.5]), ["c"])],
      [Decodes(np.array([1.0, 5.0, 7.0]), ["a", "x", "b"]), Decodes(np.array([0.2, 3.0]), ["c", "x"])]]
  result = streams.score(annotations, settings, [8.0, 4.0], same)
  np.testing.assert_array_equal(result.decodes, [[1, 1], [3, 2]])
  np.testing.assert_array_equal(result.quality, [[1, 1], [1, 1]])
  rates, means = result.points(np.ones(2))
  np.testing.assert_allclose(rates, [2 / 12, 5 / 12])
  np.testing.assert_allclose(means, [2 / 3, 2 / 3])
  rates, means = result.points(np.array([[0.0, 2.0]]))
  np.testing.assert_allclose(rates, [[1 / 4, 2 / 4]])
  np.testing.assert_allclose(means, [[1, 1]])


def test_the_scorer_sees_all_streams_at_once_and_the_same_references():
  annotations = [[Annotation(0, 2, "a")], [Annotation(0, 1, "c"), Annotation(1, 3, "d")]]
  seen = []

  def scorer(hypotheses, references):
    seen.append((list(hypotheses), references))
    return 0.0, np.zeros(3)

  one = [Decodes(np.array([0.0]), ["x"]), Decodes(np.array([2.0]), ["y"])]
  streams.score(annotations, [one, one], [2.0, 3.0], scorer)
  assert seen == [(["x", "y", "y"], [["a"], ["c"], ["d"]])] * 2


@pytest.mark.parametrize("annotations, decodes", [([[]], ["a"]), ([[Annotation(0, 1, "a")]], [])])
def test_streams_with_nothing_in_them(annotations, decodes):
  with pytest.raises(ValueError, match="every stream needs an annotation and a decode"):
    streams.score(annotations, [[Decodes(np.zeros(len(decodes)), decodes)]], [1.0], same)


@pytest.mark.parametrize("seed", range(5))
def test_rising_is_isotonic_regression(seed):
  values = np.random.default_rng(seed).normal(size=(3, 4, 12)) + np.linspace(0, 1, 12)
  fitted = streams.rising(values)
  for i, j in itertools.product(range(3), range(4)):
    expected = IsotonicRegression().fit_transform(np.arange(12), values[i, j])
    np.testing.assert_allclose(fitted[i, j], expected, atol=1e-9)


def test_rate_needed():
  rates, means = np.array([0.1, 1.0, 10.0, 20.0]), np.array([1.0, 2.0, 2.0, 4.0])
  needed = [streams.rate_needed(rates, means, level) for level in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 4.1)]
  np.testing.assert_allclose(needed, [0.1, 0.1, 10**-0.5, 1.0, np.sqrt(200), 20.0, np.inf])


def test_a_curve_saves_nothing_against_itself():
  one = random_curve(0)
  for row in streams.decodes_saved(one, one, streams.draw_streams(40, draws=50)):
    assert row["ratio"] == 1 and row["interval"] == [1, 1] and row["rate"] == row["uniform_rate"]


def test_decodes_saved_is_how_far_the_curve_is_shifted():
  uniform = random_curve(0)
  third = Curve(uniform.decodes / 3, uniform.quality, uniform.seconds, uniform.annotations)
  rows = streams.decodes_saved(third, uniform, streams.draw_streams(40, draws=50))
  assert [row["at"] for row in rows[-2:]] == ["98% of the plateau", "uniform at 2.5 per annotation"]
  for row in rows:
    assert row["ratio"] == pytest.approx(3) and row["interval"] == pytest.approx([3, 3])
  rates, means = uniform.points(np.ones(40))
  plateau = np.mean(streams.rising(means)[-3:])
  for share, row in zip(streams.LEVELS, rows):
    assert row["score"] == pytest.approx(share * plateau)
  at = np.interp(np.log(2.5 * uniform.annotations.sum() / uniform.seconds.sum()), np.log(rates), streams.rising(means))
  assert rows[-1]["score"] == pytest.approx(at)


def test_a_policy_that_never_gets_there_saves_nothing():
  uniform = random_curve(0)
  poor = Curve(uniform.decodes, uniform.quality / 2, uniform.seconds, uniform.annotations)
  rows = streams.decodes_saved(poor, uniform, streams.draw_streams(40, draws=50))
  row = rows[streams.LEVELS.index(0.95)]
  assert row["rate"] is None and row["ratio"] == 0 and row["interval"] == [0, 0]


def test_intervals_hold_the_truth_about_as_often_as_they_say():
  uniform_true, policy_true = random_curve(0, 20_000), random_curve(0, 20_000, lift=1.0)
  level = streams.LEVELS.index(0.9)
  truth = streams.decodes_saved(policy_true, uniform_true, np.ones((1, 20_000)))[level]["ratio"]
  held = 0
  for i in range(40):
    part = slice(i * 50, (i + 1) * 50)
    cut = lambda c: Curve(c.decodes[:, part], c.quality[:, part], c.seconds[part], c.annotations[part])
    row = streams.decodes_saved(cut(policy_true), cut(uniform_true), streams.draw_streams(50, i, 100))[level]
    held += row["interval"][0] <= truth <= row["interval"][1]
  assert held >= 32


def test_summary_is_in_order_and_intervals_are_of_the_bootstrap():
  one = random_curve(1)
  order = np.random.default_rng(0).permutation(9)
  mixed = Curve(one.decodes[order], one.quality[order], one.seconds, one.annotations)
  weights = streams.draw_streams(40, draws=200)
  rows = streams.summarise(mixed, weights)
  rates, means = one.points(np.ones(40))
  np.testing.assert_allclose([row["rate"] for row in rows], rates)
  np.testing.assert_allclose([row["score"] for row in rows], means)
  np.testing.assert_allclose([row["per_annotation"] for row in rows], one.decodes.sum(axis=1) / one.annotations.sum())
  draws = [sum(w * q for w, q in zip(row, one.quality[3])) / sum(w * a for w, a in zip(row, one.annotations))
           for row in weights]
  np.testing.assert_allclose(rows[3]["interval"], np.percentile(draws, [2.5, 97.5]))


def test_draws_are_of_whole_streams():
  weights = streams.draw_streams(7, seed=1, draws=500)
  assert weights.shape == (500, 7) and (weights.sum(axis=1) == 7).all() and (weights == np.round(weights)).all()
  np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.2)
  np.testing.assert_array_equal(weights, streams.draw_streams(7, seed=1, draws=500))
