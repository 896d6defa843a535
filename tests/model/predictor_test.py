import dataclasses
import functools

import chex
from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljepa_jax.model import presets
from vljepa_jax.model.layers import run_layers
from vljepa_jax.model.predictor import Predictor

# The sizes of tests/fixtures/llama.npz.
RECORDED = presets.PredictorConfig(
    width=32, layers=(0, 2), num_heads=4, num_kv_heads=2, head_width=16, mlp_width=48, vocab_size=30, token_width=24,
    rope_theta=100.0, rope_scaling=(8.0, 1.0, 4.0, 128), scan=False,
)
NANO = presets.predictor("nano")


def make_batch(visual_tokens=5, lengths=(4, 2, 0), total=4):
  rng = np.random.default_rng(0)
  visual = rng.normal(size=(len(lengths), visual_tokens, 12)).astype(np.float32)
  query = rng.integers(0, NANO.vocab_size, (len(lengths), total)).astype(np.int32)
  return visual, query, np.arange(total) < np.array(lengths)[:, None]


@pytest.fixture
def init(random_params):
  return lambda config: random_params(Predictor(config, 16), *make_batch())


@functools.partial(jax.jit, static_argnames=("config", "deterministic"))
def forward(config, params, *batch, deterministic=True, rngs=None):
  return Predictor(config, 16).apply({"params": params}, *batch, deterministic=deterministic, rngs=rngs)


@functools.partial(jax.jit, static_argnames="config")
def hidden_states(config, params, *batch):
  """What the final norm gives, (B, S, D)."""
  _, state = Predictor(config, 16).apply(
      {"params": params}, *batch, capture_intermediates=lambda module, _: module.name == "norm")
  return state["intermediates"]["norm"]["__call__"][0]


@pytest.mark.parametrize("scan, remat", [(False, None), (True, None), (False, "dots"), (True, "full")])
def test_equals_hugging_face_llama(recorded, stacked, assert_like_recording, scan, remat):
  arrays, params = recorded("llama")
  model = Predictor(dataclasses.replace(RECORDED, scan=scan, remat=remat), 20)

  def run(p):
    p = stacked(p) if scan else p
    return model.apply({"params": p}, arrays["visual"], arrays["query"], arrays["query_mask"])

  assert_like_recording(run, params, arrays)


@pytest.mark.parametrize("causal", [False, True])
def test_the_side_of_pads_does_not_matter(init, causal):
  config = dataclasses.replace(NANO, causal=causal)
  visual, query, mask = make_batch()
  left = [np.stack([np.roll(row, -m.sum()) for row, m in zip(x, mask)]) for x in (query, mask)]
  assert left[1][1, -2:].all() and not left[1][1, :-2].any()
  params = init(config)
  np.testing.assert_array_equal(forward(config, params, visual, *left), forward(config, params, visual, query, mask))


def test_the_recording_needs_the_rope_scaling(recorded):
  arrays, params = recorded("llama")
  plain = Predictor(dataclasses.replace(RECORDED, rope_scaling=None), 20)
  out = jax.jit(plain.apply)({"params": params}, arrays["visual"], arrays["query"], arrays["query_mask"])
  assert np.abs(out - arrays["output"]).max() > 1e-3 * np.abs(arrays["output"]).max()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scan", [False, True])
def test_a_changed_pad_changes_nothing_and_a_changed_token_does(init, causal, scan):
  config = dataclasses.replace(NANO, causal=causal, scan=scan)
  visual, query, mask = make_batch()
  params = init(config)
  before = forward(config, params, visual, query, mask)
  pads = np.where(mask, query, (query + 7) % NANO.vocab_size)
  np.testing.assert_array_equal(before, forward(config, params, visual, pads, mask))
  token = query.copy()
  token[:, 1] = (token[:, 1] + 7) % NANO.vocab_size
  after = forward(config, params, visual, token, mask)
  changed = np.any(np.asarray(before != after), axis=1)
  np.testing.assert_array_equal(changed, [True, True, False])  # the third row has no real query token


def test_every_token_sees_every_other_unless_causal(init):
  visual, query, mask = make_batch(lengths=(4, 4))
  token = query.copy()
  token[:, -1] = (token[:, -1] + 7) % NANO.vocab_size
  for causal in (False, True):
    config = dataclasses.replace(NANO, causal=causal)
    params = init(config)
    before, after = (hidden_states(config, params, visual, q, mask) for q in (query, token))
    changed = np.any(np.asarray(before != after), axis=-1)
    np.testing.assert_array_equal(changed[:, :-1], np.full((2, 8), not causal))
    assert changed[:, -1].all()


def test_a_row_without_query_is_the_query_free_prediction(init):
  visual, query, mask = make_batch(lengths=(0, 0, 0))
  params = init(NANO)
  free = forward(NANO, params, visual, query[:, :0], mask[:, :0])
  np.testing.assert_allclose(forward(NANO, params, visual, query, mask), free, atol=1e-6)
  with_query = forward(NANO, params, visual, query, np.ones_like(mask))
  assert np.abs(with_query - free).max() > 1e-3


def test_query_free_initialisation_makes_every_parameter():
  visual, query, mask = make_batch()
  shapes = lambda *batch: jax.eval_shape(Predictor(NANO, 16).init, jax.random.key(0), *batch)
  chex.assert_trees_all_equal_shapes(shapes(visual, query, mask), shapes(visual, query[:, :0], mask[:, :0]))


def test_order_of_query_tokens_matters(init):
  visual, query, mask = make_batch(lengths=(4,))
  params = init(NANO)
  a, b = (forward(NANO, params, visual, q, mask) for q in (query, query[:, ::-1]))
  assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize("scan", [False, True])
def test_dropout_only_in_training(init, scan):
  config = dataclasses.replace(NANO, dropout=0.5, scan=scan)
  batch, params = make_batch(), init(config)
  run = lambda seed: forward(config, params, *batch, deterministic=False, rngs={"dropout": jax.random.key(seed)})
  assert np.abs(run(0) - run(1)).max() > 1e-3
  np.testing.assert_array_equal(run(0), run(0))
  plain = dataclasses.replace(config, dropout=0.0)
  np.testing.assert_array_equal(forward(config, params, *batch), forward(plain, params, *batch, deterministic=False))


class Noise(nn.Module):
  """Adds 0 or 2 to every entry."""

  @nn.compact
  def __call__(self, x):
    self.param("scale", nn.initializers.ones, ())
    return x + nn.Dropout(0.5, deterministic=False)(jnp.ones_like(x))


@pytest.mark.parametrize("scan", [False, True])
def test_layers_draw_different_dropout(scan):
  class Tower(nn.Module):
    @nn.compact
    def __call__(self, x):
      return run_layers(Noise, {}, 2, x, scan=scan, remat=None)

  out, _ = jax.jit(Tower().init_with_output)({"params": jax.random.key(0), "dropout": jax.random.key(1)},
                                             jnp.zeros((1, 8, 8)))
  assert np.any(out == 2)  # never happens when both layers drop the same entries


def test_bfloat16_is_finite_and_near(init):
  config = dataclasses.replace(NANO, dtype="bfloat16", layers=(0, 1))
  batch, params = make_batch(), init(config)
  out = forward(config, params, *batch)
  exact = forward(dataclasses.replace(config, dtype="float32"), params, *batch)
  chex.assert_type([out, *jax.tree.leaves(params)], jnp.float32)
  assert 0 < np.abs(out - exact).max() < 0.05 * np.abs(exact).max()
  grads = jax.jit(jax.grad(lambda p: jnp.sum(forward(config, p, *batch) ** 2)))(params)
  chex.assert_tree_all_finite(grads)


def test_float16_features_are_computed_in_the_config_type(init):
  visual, query, mask = make_batch()
  params, half = init(NANO), visual.astype(np.float16)
  np.testing.assert_array_equal(
      forward(NANO, params, half, query, mask), forward(NANO, params, half.astype(np.float32), query, mask))


def test_paper_preset_has_the_exact_counts():
  abstract = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype)
  model = Predictor(presets.predictor("llama3_1b_l8"), 1536)
  params = nn.unbox(jax.eval_shape(
      model.init, jax.random.key(0), abstract((2, 256, 1024), jnp.float32), abstract((2, 512), jnp.int32),
      abstract((2, 512), jnp.bool_)))["params"]
  assert {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()} == {
      "token_embed": 262_668_288,
      "visual_proj": 2_099_200,
      "query_proj": 4_196_352,
      "layers": 486_572_032,
      "norm": 2_048,
      "head": 3_147_264,
  }
  assert {key.rsplit("/", 1)[-1] for key in traverse_util.flatten_dict(params, sep="/")} == {
      "kernel", "bias", "scale", "embedding"}
