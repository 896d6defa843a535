import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljepa_jax.model import presets
from vljepa_jax.model.decoder import CACHE, Decoder

BATCH, LENGTH, EMBED, VOCAB = 3, 7, 16, 23


@pytest.fixture(scope="module")
def embed():
  x = np.random.default_rng(1).normal(size=(BATCH, EMBED)).astype(np.float32)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def tokens():
  return np.random.default_rng(2).integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32)


def make(**changes):
  return Decoder(presets.y_decoder("decoder_nano", **changes), EMBED, VOCAB)


@pytest.fixture
def params(random_params, embed, tokens):
  return random_params(make(), embed, tokens)


def numpy_logits(params, embed, tokens, c):
  """The decoder in NumPy loops, token by token and head by head."""
  norm = lambda x, p: x / np.sqrt(np.mean(x * x) + c.norm_eps) * p["scale"]
  silu = lambda x: x / (1 + np.exp(-x))
  prefix = embed @ params["prefix_proj"]["kernel"] + params["prefix_proj"]["bias"]
  rows = [*prefix.reshape(c.prefix_tokens, c.width), *(params["token_embed"]["embedding"][t] for t in tokens)]
  half = c.head_width // 2

  def rotate(x, place):
    y = np.empty_like(x)
    for i in range(half):
      angle = place * c.rope_theta ** (-2 * i / c.head_width)
      y[i] = x[i] * np.cos(angle) - x[i + half] * np.sin(angle)
      y[i + half] = x[i + half] * np.cos(angle) + x[i] * np.sin(angle)
    return y

  for layer in range(c.num_layers):
    p = params[f"layers_{layer}"]
    normed = [norm(x, p["norm1"]) for x in rows]
    heads = lambda x, name, count: (x @ p[name]["kernel"]).reshape(count, c.head_width)
    q, k, v = ([heads(x, name, count) for x in normed] for name, count in (
        ("query", c.num_heads), ("key", c.num_kv_heads), ("value", c.num_kv_heads)))
    for i in range(len(rows)):
      out = []
      for head in range(c.num_heads):
        group = head // (c.num_heads // c.num_kv_heads)
        scores = np.array([
            rotate(q[i][head], i) @ rotate(k[j][group], j) for j in range(i + 1)]) / np.sqrt(c.head_width)
        weights = np.exp(scores - scores.max())
        out.append(sum(w * v[j][group] for j, w in enumerate(weights / weights.sum())))
      rows[i] = rows[i] + np.concatenate(out) @ p["out"]["kernel"]
    for i, x in enumerate(rows):
      y = norm(x, p["norm2"])
      rows[i] = x + (silu(y @ p["gate"]["kernel"]) * (y @ p["up"]["kernel"])) @ p["down"]["kernel"]
  return np.stack([norm(x, params["norm"]) @ params["head"]["kernel"] for x in rows[c.prefix_tokens:]])


def test_logits_are_those_of_a_loop(params, embed, tokens):
  decoder = make()
  expected = np.stack([numpy_logits(params, e, t, decoder.config) for e, t in zip(embed, tokens)])
  logits = jax.jit(decoder.apply)({"params": params}, embed, tokens)
  assert logits.dtype == jnp.float32 and logits.shape == (BATCH, LENGTH, VOCAB)
  np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_scan_and_remat_change_nothing(params, stacked, embed, tokens):
  loss = lambda decoder: lambda p: jnp.sum(jnp.sin(decoder.apply({"params": p}, embed, tokens)))
  value, grads = jax.jit(jax.value_and_grad(loss(make())))(params)
  for changes in ({"remat": "full"}, {"scan": True, "remat": "dots"}):
    decoder = make(**changes)
    fit = stacked if decoder.config.scan else lambda tree: tree
    other, other_grads = jax.jit(jax.value_and_grad(loss(decoder)))(fit(params))
    np.testing.assert_allclose(other, value, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(other_grads), jax.tree.leaves(fit(grads)), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("changes", [{}, {"scan": True}])
def test_with_a_cache_logits_are_the_same(params, stacked, embed, tokens, changes):
  decoder = make(**changes)
  params = stacked(params) if changes else params
  whole = jax.jit(decoder.apply)({"params": params}, embed, tokens)
  room = decoder.config.prefix_tokens + LENGTH
  run = lambda variables, embed, tokens, place: decoder.apply(
      variables, embed, tokens, place=place, room=room, mutable=[CACHE])
  run = jax.jit(run)
  first, state = run({"params": params}, embed, tokens[:, :2], 0)
  pieces, place = [first], decoder.config.prefix_tokens + 2
  for piece in (tokens[:, 2:5], tokens[:, 5:6], tokens[:, 6:]):
    logits, state = run({"params": params, **state}, None, piece, place)
    pieces.append(logits)
    place += piece.shape[1]
  np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5 * np.abs(whole).max())


def test_no_token_sees_later_ones_and_all_see_the_embedding(params, embed, tokens):
  apply = jax.jit(make().apply)
  before = apply({"params": params}, embed, tokens)
  for place in range(LENGTH):
    changed = tokens.copy()
    changed[:, place] = (changed[:, place] + 1) % VOCAB
    after = apply({"params": params}, embed, changed)
    np.testing.assert_array_equal(after[:, :place], before[:, :place])
    assert (np.abs(after[:, place:] - before[:, place:]).max(axis=(0, 2)) > 1e-4).all()
  other = apply({"params": params}, np.roll(embed, 1, axis=0), tokens)
  assert (np.abs(other - before).max(axis=2) > 1e-4).all()


def test_bfloat16_is_near(params, embed, tokens):
  near = jax.jit(make(dtype="bfloat16").apply)({"params": params}, embed, tokens)
  exact = jax.jit(make().apply)({"params": params}, embed, tokens)
  assert near.dtype == jnp.float32
  assert 0 < np.abs(near - exact).max() < 0.1 * np.abs(exact).max()


def test_dropout_needs_a_key_and_changes_the_logits(params, embed, tokens):
  decoder = make(dropout=0.5)
  dropped = decoder.apply({"params": params}, embed, tokens, False, rngs={"dropout": jax.random.key(0)})
  assert np.abs(dropped - decoder.apply({"params": params}, embed, tokens)).max() > 1e-2


def test_every_weight_has_names_of_the_rules():
  from configs.base import RULES
  boxed = jax.eval_shape(
      make(scan=True).init, jax.random.key(0), jnp.zeros((1, EMBED)), jnp.zeros((1, 2), jnp.int32))["params"]
  specs = nn.get_partition_spec(boxed)
  assert specs["prefix_proj"]["kernel"] == jax.sharding.PartitionSpec("joint", "embed")
  assert specs["layers"]["up"]["kernel"] == jax.sharding.PartitionSpec("layers", "embed", "mlp")
  known = {name for name, _ in RULES}
  leaves = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))
  assert {name for spec in leaves for name in spec} <= known


def test_presets():
  assert presets.y_decoder("decoder_small").width == 256
  with pytest.raises(ValueError, match="no y_decoder preset 'big'; there are decoder_nano, decoder_small"):
    presets.y_decoder("big")
  with pytest.raises(ValueError, match="has no field 'depth'"):
    presets.y_decoder("decoder_nano", depth=3)
