import dataclasses
import functools

import jax
import numpy as np
import pytest

from vljepa_jax import decoding
from vljepa_jax.data.vocabulary import BOS, EOS, FIRST, PAD
from vljepa_jax.model import presets
from vljepa_jax.model.token_model import TokenModel

# The sizes of tests/fixtures/token_model.npz.
RECORDED = presets.PredictorConfig(
    width=32, layers=(0, 2), num_heads=4, num_kv_heads=2, head_width=16, mlp_width=48, vocab_size=8, token_width=24,
    rope_theta=100.0, rope_scaling=None, scan=False,
)
NANO, VOCAB = presets.predictor("nano"), 30


def make_prompt(lengths=(4, 2, 0)):
  rng = np.random.default_rng(0)
  visual = rng.normal(size=(len(lengths), 5, 12)).astype(np.float32)
  query = rng.integers(FIRST, VOCAB, (len(lengths), 4)).astype(np.int32)
  return visual, query, np.arange(4) < np.array(lengths)[:, None]


@pytest.fixture
def tokens():
  return np.random.default_rng(1).integers(FIRST, VOCAB, (3, 6)).astype(np.int32)


@pytest.fixture
def make(random_params, tokens):

  def made(scan=False):
    model = TokenModel(dataclasses.replace(NANO, scan=scan), VOCAB)
    return model, random_params(model, make_prompt(), tokens)

  return made


@functools.partial(jax.jit, static_argnames="model")
def forward(model, params, *inputs):
  return model.apply({"params": params}, *inputs)


@pytest.mark.parametrize("scan, remat", [(False, None), (True, "full")])
def test_equals_hugging_face_llama(recorded, stacked, assert_like_recording, scan, remat):
  arrays, params = recorded("token_model")
  model = TokenModel(dataclasses.replace(RECORDED, scan=scan, remat=remat), 30)
  prompt = tuple(arrays[name] for name in ("visual", "query", "query_mask"))
  run = lambda p: model.apply({"params": stacked(p) if scan else p}, prompt, arrays["tokens"])
  assert_like_recording(run, params, arrays)


def test_a_changed_pad_changes_nothing_and_a_changed_query_does(make, tokens):
  model, params = make()
  visual, query, mask = make_prompt()
  before = forward(model, params, (visual, query, mask), tokens)
  pads = np.where(mask, query, query % 7 + FIRST)
  assert (pads != query).any()
  np.testing.assert_array_equal(forward(model, params, (visual, pads, mask), tokens), before)
  asked = np.where(mask, query % 7 + FIRST, query)
  changed = np.abs(forward(model, params, (visual, asked, mask), tokens) - before).max(axis=(1, 2))
  assert (changed[:2] > 1e-3).all() and changed[2] == 0  # the third row asks nothing


def test_a_token_sees_picture_and_what_is_before_it(make, tokens):
  model, params = make()
  prompt = make_prompt()
  before = forward(model, params, prompt, tokens)
  later = tokens.copy()
  later[:, 3] = later[:, 3] % 7 + FIRST + 8
  changed = np.abs(forward(model, params, prompt, later) - before).max(axis=(0, 2))
  assert (changed[:3] == 0).all() and (changed[3:] > 0).all()
  visual = prompt[0] + np.eye(5, 12, dtype=np.float32)
  assert np.abs(forward(model, params, (visual, *prompt[1:]), tokens) - before).max(axis=2).min() > 0


@pytest.mark.parametrize("scan", [False, True])
def test_likelihoods_are_those_without_a_cache(make, scan):
  model, params = make(scan)
  prompt = make_prompt()
  texts = np.array([[7, 9, EOS, PAD], [12, EOS, PAD, PAD], [5, 6, 8, EOS]], np.int32)
  got = decoding.log_likelihood(model, params, prompt, texts)
  for c, text in enumerate(texts):
    before = np.broadcast_to([BOS, *text[:-1]], (3, 4)).astype(np.int32)
    logits = np.asarray(forward(model, params, prompt, before), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = [sum(row[place, token] for place, token in enumerate(text) if token != PAD) for row in log_probs]
    np.testing.assert_allclose(got[:, c], expected, rtol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_greedy_words_are_those_without_a_cache(make, scan):
  model, params = make(scan)
  prompt, length = make_prompt(), 5
  got = decoding.greedy(model, params, prompt, length=length, stop=())
  text = np.zeros((3, 0), np.int32)
  for _ in range(length):
    before = np.concatenate([np.full((3, 1), BOS, np.int32), text], axis=1)
    before = np.pad(before, ((0, 0), (0, length - before.shape[1])), constant_values=PAD)
    log_probs = decoding.writable(forward(model, params, prompt, before)[:, text.shape[1]])
    text = np.concatenate([text, np.argmax(log_probs, axis=-1)[:, None].astype(np.int32)], axis=1)
  np.testing.assert_array_equal(got.tokens, text)
  assert len({tuple(row) for row in text}) > 1  # the prompt matters


@pytest.mark.parametrize("scan", [False, True])
def test_a_beam_of_one_is_greedy(make, scan):
  model, params = make(scan)
  greedy = decoding.greedy(model, params, make_prompt(), length=5)
  beam = decoding.beam(model, params, make_prompt(), width=1, length=5)
  np.testing.assert_array_equal(beam.tokens[:, 0], greedy.tokens)
