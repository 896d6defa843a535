import pickle

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering

from vljepa_jax import selective
from vljepa_jax.selective import Online, Sample, Segment, Thinned, Uniform, Ward, run

STEP = 0.25  # seconds between samples


def unit(x):
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def to_samples(embeds):
  return [Sample(STEP * (i + 0.5), embed) for i, embed in enumerate(embeds)]


def stream(seed, lengths, noise=0.3, width=24):
  """Embeddings that stand still but for noise and jump after so many samples."""
  rng = np.random.default_rng(seed)
  places = np.repeat(unit(rng.normal(size=(len(lengths), width))), lengths, axis=0)
  return unit(places + noise / np.sqrt(width) * rng.normal(size=places.shape))


def ward_by_hand(embeds, count):
  """Borders of Ward clustering in time: merges the cheapest neighbours until `count` are left."""
  parts = [[i] for i in range(len(embeds))]
  spread = lambda part: np.sum((embeds[part].astype(np.float64) - embeds[part].mean(axis=0, dtype=np.float64))**2)
  while len(parts) > count:
    costs = [spread(a + b) - spread(a) - spread(b) for a, b in zip(parts, parts[1:])]
    i = int(np.argmin(costs))
    parts[i:i + 2] = [parts[i] + parts[i + 1]]
  return [part[0] for part in parts[1:]]


def online_by_hand(embeds, threshold, window, shortest):
  """What `Online` should close: (start, first sample that counts, end, sample at which it is told); all by loops."""
  closed, start, counted, before = [], 0, 0, None
  for now in range(1, len(embeds)):
    best, place = -1.0, None
    for split in range(max(counted + 1, now + 1 - window), now + 1):
      a, b = embeds[counted:split].astype(np.float64), embeds[split:now + 1].astype(np.float64)
      worth = len(a) * len(b) / (len(a) + len(b)) * np.sum((a.mean(axis=0) - b.mean(axis=0))**2)
      if worth > best:
        best, place = worth, split
    if best > threshold and place == before:
      if place - counted >= shortest:
        closed.append((start, counted, place, now))
        start = place
      counted, before = place, None
    else:
      before = place
  return closed


def borders(segments):
  """Index of the first sample of every segment but the first; checks that there is no gap."""
  assert segments[0].start == 0
  for a, b in zip(segments, segments[1:]):
    assert a.end == b.start
  return [round(segment.start / STEP) for segment in segments[1:]]


def check_segments(segments, embeds):
  """Means and keys by hand."""
  firsts = [0, *borders(segments), len(embeds)]
  for segment, first, last in zip(segments, firsts, firsts[1:]):
    check_segment(segment, embeds, first, last)


def check_segment(segment, embeds, first, last):
  """Of these samples it has the mean, and the one nearest to its middle, or nearly."""
  np.testing.assert_allclose(segment.mean, unit(embeds[first:last].mean(axis=0, dtype=np.float64)), atol=1e-6)
  index = round(segment.key.time / STEP - 0.5)
  np.testing.assert_array_equal(segment.key.embed, embeds[index])
  middle = (segment.start + segment.end) / 2
  nearest = min(range(first, last), key=lambda i: abs(STEP * (i + 0.5) - middle))
  assert first <= index < last and abs(index - nearest) <= (last - first) / selective.KEPT


@pytest.mark.parametrize("seed", range(3))
def test_ward_is_greedy_merging_of_neighbours(seed):
  embeds = unit(np.random.default_rng(seed).normal(size=(24, 5)).cumsum(axis=0))
  order = selective.ward_order(embeds)
  samples = to_samples(embeds)
  for count in range(1, 25):
    segments = selective.ward_segments(samples, order, count, 24 * STEP)
    assert borders(segments) == ward_by_hand(embeds, count)
    check_segments(segments, embeds)


def test_ward_is_what_scikit_learn_cuts():
  embeds = stream(0, [7, 12, 5, 9, 20], noise=1.0)
  near = np.abs(np.arange(53)[:, None] - np.arange(53)) == 1
  for count in (2, 5, 11):
    labels = AgglomerativeClustering(n_clusters=count, linkage="ward", connectivity=near).fit_predict(embeds)
    segments = run(Ward(count / (53 * STEP)), to_samples(embeds), 53 * STEP)
    assert borders(segments) == list(np.flatnonzero(np.diff(labels)) + 1)


def test_ward_of_few_samples():
  assert run(Ward(1.0), [], 0.0) == []
  for count in (1, 2, 3):
    segments = run(Ward(100.0), to_samples(stream(0, [count])), count * STEP)
    assert len(segments) == count and segments[-1].end == count * STEP


@pytest.mark.parametrize("rate, expected", [(1.0, 13), (0.5, 7), (0.3, 4), (0.01, 1), (4.0, 50), (100.0, 50)])
def test_uniform_cuts_at_the_rate(rate, expected):
  embeds = stream(0, [20, 30])
  segments = run(Uniform(rate), to_samples(embeds), 50 * STEP)
  assert len(segments) == expected
  check_segments(segments, embeds)
  for k, segment in enumerate(segments[1:], 1):
    assert abs(segment.start - k / min(rate, 4.0)) <= STEP


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold, window, shortest", [(0.6, 8, 1), (1.5, 5, 3), (0.3, 2, 2), (3.0, 12, 1), (0.3, 8, 4)])
def test_online_is_the_split_of_greatest_worth(seed, threshold, window, shortest):
  embeds = stream(seed, [9, 3, 40, 2, 15, 6], noise=0.8)
  policy, found = Online(threshold, window=window, shortest=shortest), []
  for now, sample in enumerate(to_samples(embeds)):
    found += [(segment, now) for segment in policy.push(sample)]
  expected = online_by_hand(embeds, threshold, window, shortest)
  assert [(round(s.start / STEP), round(s.end / STEP), now) for s, now in found] == [
      (start, end, now) for start, _, end, now in expected]
  for (segment, _), (_, first, last, _) in zip(found, expected):
    check_segment(segment, embeds, first, last)


def test_online_finds_changes_within_its_window():
  lengths = [30, 12, 25, 18, 40]
  embeds = stream(1, lengths)
  policy, told = Online(), []
  segments = []
  for i, sample in enumerate(to_samples(embeds)):
    closed = policy.push(sample)
    told += [i] * len(closed)
    segments += closed
  assert borders(segments + policy.close(125 * STEP)) == list(np.cumsum(lengths)[:-1])
  assert all(1 <= i - border < selective.WINDOW for i, border in zip(told, np.cumsum(lengths)))


def test_a_cross_fade_is_no_segment():
  a, b = unit(np.random.default_rng(0).normal(size=(2, 24)))
  shares = np.concatenate([np.zeros(20), [0.5, 0.5], np.ones(20)])[:, None]
  embeds = unit((1 - shares) * a + shares * b)
  (first, second) = run(Online(0.2), to_samples(embeds), 42 * STEP)
  assert first.end == second.start == 20 * STEP
  np.testing.assert_allclose([first.mean, second.mean], [a, b], atol=1e-6)
  assert len(run(Online(0.2, shortest=2), to_samples(embeds), 42 * STEP)) == 3


def test_online_keeps_a_segment_together_that_drifts_a_little():
  rng = np.random.default_rng(0)
  start, end = unit(rng.normal(size=(2, 24)))
  share = np.linspace(0, 0.3, 60)[:, None]
  drifting = unit((1 - share) * start + share * end)
  assert len(run(Online(), to_samples(drifting), 60 * STEP)) == 1
  jumping = unit(np.where(share < 0.15, start, end))
  assert len(run(Online(), to_samples(jumping), 60 * STEP)) == 2


@pytest.mark.parametrize("threshold", [1e-4, 0.01, 0.5, 1.7])
def test_one_clean_change_is_one_border_however_low_the_threshold(threshold):
  embeds = stream(0, [20, 20], noise=0.0)
  assert borders(run(Online(threshold), to_samples(embeds), 40 * STEP)) == [20]


@pytest.mark.parametrize("make", [lambda: Online(), lambda: Online(rate=0.5), lambda: Uniform(0.7)])
def test_what_is_told_does_not_depend_on_the_future(make):
  embeds = stream(2, [20, 9, 30, 14])
  changed = embeds.copy()
  changed[45:] = stream(3, [28])
  one, other = make(), make()
  for i, (a, b) in enumerate(zip(to_samples(embeds), to_samples(changed))):
    first, second = one.push(a), other.push(b)
    if i < 45:
      assert repr(first) == repr(second)
  assert repr(one.close(80.0)) != repr(other.close(80.0))


@pytest.mark.parametrize("make, count", [
    (lambda: Online(0.5, rate=0.1), 100_000), (lambda: Online(1e9), 10_000), (lambda: Uniform(1e-9), 10_000)])
def test_state_does_not_grow(make, count):
  rng = np.random.default_rng(0)
  policy = make()
  one = len(pickle.dumps(Sample(0.0, np.zeros(4, np.float32))))
  for i in range(count):
    policy.push(Sample(i * STEP, rng.normal(size=4).astype(np.float32)))
    if i % 997 == 0 or i == count - 1:
      assert len(pickle.dumps(policy)) < (selective.KEPT + selective.WINDOW + 4) * one


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_the_threshold_follows_a_rate(rate):
  rng = np.random.default_rng(0)
  lengths = rng.integers(4, 40, 900)
  embeds = stream(0, lengths, noise=0.8, width=8)
  segments = run(Online(rate=rate), to_samples(embeds), len(embeds) * STEP)
  late = [s for s in segments if s.start > len(embeds) * STEP / 4]
  assert len(late) / (len(embeds) * STEP * 3 / 4) == pytest.approx(rate, rel=0.1)


def test_a_threshold_comes_back_from_a_night():
  rng = np.random.default_rng(0)
  still, policy = np.repeat(unit(rng.normal(size=(1, 8))), 40_000, axis=0), Online(rate=0.4)
  samples = to_samples(np.concatenate([still, stream(0, [10] * 100, width=8)]))
  for sample in samples[:40_000]:
    assert policy.push(sample) == []
  assert policy.threshold == pytest.approx(selective.THRESHOLD / selective.SPAN)
  day = [len(policy.push(sample)) for sample in samples[40_000:]]  # 100 changes, at the rate asked for
  assert 95 <= sum(day) <= 130 and policy.threshold > 3 * selective.THRESHOLD / selective.SPAN


@pytest.mark.parametrize("policy", [Uniform(0.5), Online()])
def test_the_mean_of_the_open_segment(policy):
  assert policy.mean() is None and policy.close(1.0) == []
  embeds = stream(0, [5], noise=0.1)
  for sample in to_samples(embeds):
    policy.push(sample)
  np.testing.assert_allclose(policy.mean(), unit(embeds.mean(axis=0)), atol=1e-6)


def test_point_and_mean():
  key, mean = Sample(2.5, np.eye(3, dtype=np.float32)[0]), np.eye(3, dtype=np.float32)[1]
  segment = Segment(1.0, 5.0, key, mean)
  assert segment.embed("point") is key.embed and segment.decode_time("point") == 2.5
  assert segment.embed("mean") is mean and segment.decode_time("mean") == 3.0
  for method in (segment.embed, segment.decode_time):
    with pytest.raises(ValueError, match="no pooling 'max'; there are point, mean"):
      method("max")


def test_thinned_keeps_equal_distances():
  thinned = Thinned(10)
  for i in range(1000):
    thinned.append(i)
    assert len(thinned.items) <= 10
    assert thinned.items == list(range(0, i + 1, thinned.items[1] if i else 1))
    assert i < 10 or len(thinned.items) >= 5


@pytest.mark.parametrize("make, message", [
    (lambda: Uniform(0.0), "rate must be positive, not 0"),
    (lambda: Ward(-1.0), "rate must be positive, not -1"),
    (lambda: Online(0.0), "threshold must be positive"),
    (lambda: Online(rate=float("nan")), "rate must be positive, not nan"),
    (lambda: Online(window=1), "a window needs two samples and a segment one, not 1 and 3"),
    (lambda: Online(shortest=0), "a window needs two samples and a segment one, not 8 and 0"),
])
def test_settings_that_make_no_sense(make, message):
  with pytest.raises(ValueError, match=message):
    make()
