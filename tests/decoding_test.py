import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljepa_jax import decoding
from vljepa_jax.data.vocabulary import BOS, EOS, FIRST, PAD, UNK
from vljepa_jax.model import presets
from vljepa_jax.model.decoder import Decoder

BATCH, EMBED, LENGTH = 4, 8, 6


def make(vocab, scan=False):
  """A decoder with parameters that are far from uniform, and (B, E) unit vectors."""
  rng = np.random.default_rng(vocab)
  decoder = Decoder(presets.y_decoder("decoder_nano", scan=scan), EMBED, vocab)
  embed = rng.normal(size=(BATCH, EMBED)).astype(np.float32)
  embed /= np.linalg.norm(embed, axis=1, keepdims=True)
  shapes = jax.eval_shape(decoder.init, jax.random.key(0), embed, np.zeros((BATCH, 1), np.int32))["params"]
  size = {"kernel": 0.3, "embedding": 1.0, "scale": 1.0}
  draw = lambda path, x: (size.get(path[-1].key, 0.3) * rng.normal(size=x.shape)).astype(np.float32)
  params = jax.tree_util.tree_map_with_path(draw, nn.unbox(shapes))
  return decoder, params, embed


@pytest.fixture(scope="module")
def wide():
  return make(30)


@pytest.fixture(scope="module")
def tiny():
  return make(FIRST + 3)


class Whole:
  """Log-probabilities of the next token from all tokens so far, without a cache; pads behind them are not seen."""

  def __init__(self, decoder, params):
    self._params = params
    self._run = run_whole(decoder)

  def __call__(self, embed, texts):
    """(n, E), (n, S) -> (n, V), of at most B rows."""
    tokens = np.full((BATCH, LENGTH + 1), PAD, np.int32)
    tokens[:, 0] = BOS
    tokens[:len(texts), 1:texts.shape[1] + 1] = texts
    rows = np.concatenate([embed, np.zeros((BATCH - len(embed), EMBED), np.float32)])
    return np.asarray(self._run(self._params, rows, tokens))[:len(embed), texts.shape[1]]


@functools.cache
def run_whole(decoder):
  return jax.jit(lambda params, embed, tokens: decoding.writable(decoder.apply({"params": params}, embed, tokens)))


def whole_greedy(next_log_probs, embed, length, stop):
  """Greedy search that runs everything again for every token."""
  texts, done = np.zeros((len(embed), 0), np.int32), np.zeros(len(embed), bool)
  scores, tables = np.zeros(len(embed)), []
  for _ in range(length):
    log_probs = next_log_probs(embed, texts)
    tables.append(log_probs)
    best = np.where(done, PAD, log_probs.argmax(axis=1))
    scores += np.where(done, 0, log_probs.max(axis=1))
    done |= np.isin(best, stop)
    texts = np.concatenate([texts, best[:, None]], axis=1)
  return texts, scores, tables


def all_texts(next_log_probs, embed, vocab, length, stop):
  """Every text of one embedding that a search can give, and its log-probability."""
  words = [t for t in range(vocab) if t not in decoding.NEVER]
  found = {}

  def grow(text, log_prob):
    if len(text) == length or (text and text[-1] in stop):
      found[text] = log_prob
      return
    table = next_log_probs(embed[None], np.array([text], np.int32).reshape(1, -1))[0]
    for word in words:
      grow((*text, word), log_prob + table[word])

  grow((), 0.0)
  return found


@pytest.mark.parametrize("stop", [(EOS,), (EOS, 9, 17), (12, 14, 15, 20)])
def test_greedy_is_the_search_without_a_cache(wide, stop):
  decoder, params, embed = wide
  texts, scores, _ = whole_greedy(Whole(decoder, params), embed, LENGTH, stop)
  decoded = decoding.greedy(decoder, params, embed, length=LENGTH, stop=stop)
  np.testing.assert_array_equal(decoded.tokens, texts)
  np.testing.assert_allclose(decoded.scores, scores, atol=1e-4)
  assert len({tuple(text) for text in texts}) > 1  # the embedding matters


def test_cached_log_probabilities_are_those_without_a_cache(wide):
  decoder, params, embed = wide
  texts, _, tables = whole_greedy(Whole(decoder, params), embed, LENGTH, ())
  cache, prefix = decoding._start(decoder, params, embed, LENGTH), decoder.prefix_length(embed)
  last = jnp.full(BATCH, BOS, jnp.int32)
  for step in range(LENGTH):
    log_probs, cache = decoding._next(decoder, params, cache, last, jnp.int32(prefix + step), prefix + LENGTH)
    can = np.isfinite(tables[step])
    expected = tables[step][can]
    np.testing.assert_allclose(np.asarray(log_probs)[can], expected, atol=1e-5 * np.abs(expected).max())
    last = jnp.asarray(texts[:, step], jnp.int32)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(wide, penalty):
  decoder, params, embed = wide
  greedy = decoding.greedy(decoder, params, embed, length=LENGTH, stop=(12, 14, 20))
  beam = decoding.beam(decoder, params, embed, width=1, length=LENGTH, length_penalty=penalty, stop=(12, 14, 20))
  np.testing.assert_array_equal(beam.tokens[:, 0], greedy.tokens)
  sizes = (np.asarray(greedy.tokens) != PAD).sum(axis=1)
  np.testing.assert_allclose(beam.scores[:, 0], greedy.scores / sizes**penalty, atol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("stop", [(EOS,), (EOS, FIRST)])
def test_a_beam_wide_enough_finds_the_best_of_all_texts(tiny, penalty, stop):
  decoder, params, embed = tiny
  length, width = 3, 64  # 3 words and a stop give 4 ** 3 texts at most
  beam = decoding.beam(decoder, params, embed, width=width, length=length, length_penalty=penalty, stop=stop)
  for row in range(BATCH):
    texts = all_texts(Whole(decoder, params), embed[row], decoder.vocab_size, length, stop)
    ranks = {text: log_prob / len(text) ** penalty for text, log_prob in texts.items()}
    best = sorted(ranks, key=ranks.get, reverse=True)
    got = [tuple(t for t in text if t != PAD) for text in np.asarray(beam.tokens[row]).tolist()]
    scores = np.asarray(beam.scores[row])
    assert got[:5] == best[:5]
    np.testing.assert_allclose(scores[:len(best)], [ranks[text] for text in best], atol=1e-4)
    assert set(got[:len(best)]) == set(best) and not np.isfinite(scores[len(best):]).any()


def test_a_wider_beam_finds_what_greedy_misses(tiny):
  decoder, params, embed = tiny
  greedy = decoding.greedy(decoder, params, embed, length=5)
  beam = decoding.beam(decoder, params, embed, width=16, length=5, length_penalty=0.0)
  gain = np.asarray(beam.scores[:, 0] - greedy.scores)
  assert (gain > -1e-5).all() and gain.max() > 1e-3


def test_beam_with_stacked_layers_reorders_the_right_axis():
  decoder, params, embed = make(12, scan=True)
  best = decoding.beam(decoder, params, embed, width=5, length=LENGTH, length_penalty=0.0)
  for row in range(BATCH):
    tokens = np.asarray(best.tokens[row, 0])
    size = int((tokens != PAD).sum())
    total = sum(
        Whole(decoder, params)(embed[row:row + 1], tokens[None, :i])[0, tokens[i]] for i in range(size))
    np.testing.assert_allclose(best.scores[row, 0], total, atol=1e-4)


def test_nothing_follows_a_stop_and_marks_are_never_told(wide):
  decoder, params, embed = wide
  for tokens in (
      decoding.greedy(decoder, params, embed, length=LENGTH, stop=(12, 14, 20)).tokens,
      decoding.beam(decoder, params, embed, width=3, length=LENGTH, stop=(12, 14, 20)).tokens.reshape(-1, LENGTH)):
    for row in np.asarray(tokens).tolist():
      size = next((i + 1 for i, t in enumerate(row) if t in (12, 14, 20)), LENGTH)
      assert row[size:] == [PAD] * (LENGTH - size)
      assert not set(row[:size]) & {PAD, BOS, UNK}


def test_rows_do_not_meet(wide):
  decoder, params, embed = wide
  alone = decoding.greedy(decoder, params, embed[:1], length=LENGTH)
  together = decoding.greedy(decoder, params, embed, length=LENGTH)
  np.testing.assert_array_equal(alone.tokens[0], together.tokens[0])


def test_the_search_ends_once_all_have_stopped(wide, monkeypatch):
  """Counted on the host: the loop body runs as often as the longest text needs."""
  decoder, params, embed = wide
  steps = []
  plain = decoding._next

  def counted(*args):
    jax.debug.callback(lambda step: steps.append(int(step)), args[4])
    return plain(*args)

  monkeypatch.setattr(decoding, "_next", counted)
  every = tuple(range(FIRST, 30))
  tokens = decoding.greedy(decoder, params, embed, length=LENGTH + 1, stop=(EOS, *every)).tokens
  jax.effects_barrier()
  assert (np.asarray(tokens)[:, 1:] == PAD).all() and steps == [decoder.prefix_length(embed)]
