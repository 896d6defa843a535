from flax.linen import logical_axis_rules
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny_decoder
from vljepa_jax import decoding, parts as parts_lib, sharding
from vljepa_jax.data.vocabulary import BOS, EOS, PAD
from vljepa_jax.y_decoder import step as step_lib

WIDTH, VOCAB, TEXTS, LENGTH = 16, 24, 16, 6


def make_batch():
  """Random texts of different lengths, each with a random unit vector."""
  rng = np.random.default_rng(0)
  embed = rng.normal(size=(TEXTS, WIDTH)).astype(np.float32)
  tokens = rng.integers(4, VOCAB, (TEXTS, LENGTH)).astype(np.int32)
  ends = rng.integers(1, LENGTH, TEXTS)
  place = np.arange(LENGTH)
  tokens = np.where(place < ends[:, None], tokens, np.where(place == ends[:, None], EOS, PAD)).astype(np.int32)
  return {"embed": embed / np.linalg.norm(embed, axis=1, keepdims=True), "tokens": tokens}


def train(recipe, steps, devices):
  parts = step_lib.make_parts(recipe, WIDTH, VOCAB, jax.devices()[:devices])
  with jax.set_mesh(parts.mesh), logical_axis_rules(recipe.mesh.rules):
    make = lambda key: parts_lib.first_state(recipe, parts.tx, parts.frozen, sharding.unbox(parts.init(key)))
    state = jax.jit(make, out_shardings=parts.shardings)(jax.random.key(0))
    step_fn, losses = step_lib.make_step(recipe, parts), []
    for _ in range(steps):
      state, metrics = step_fn(state, sharding.put_batch(make_batch(), parts.rows))
      losses.append(float(metrics["loss"]))
  return parts, state, losses


def recipe(**changes):
  fast = {"train.steps": 200, "optim.learning_rate": 1e-2, "decoder.dropout": 0.0}
  return tiny_decoder.recipe("x", **fast, **changes)


def test_cross_entropy_by_hand():
  logits = np.random.default_rng(1).normal(size=(2, 3, 5)).astype(np.float32)
  tokens = np.array([[4, EOS, PAD], [EOS, PAD, PAD]])
  log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  loss, metrics = step_lib.cross_entropy(jnp.asarray(logits), jnp.asarray(tokens))
  picked = [log_probs[0, 0, 4], log_probs[0, 1, EOS], log_probs[1, 0, EOS]]
  np.testing.assert_allclose(loss, -np.mean(picked), rtol=1e-6)
  right = [logits[0, 0].argmax() == 4, logits[0, 1].argmax() == EOS, logits[1, 0].argmax() == EOS]
  np.testing.assert_allclose(metrics["token_accuracy"], np.mean(right))


def test_tokens_are_told_from_those_before_them():
  seen = []

  class Module:
    def apply(self, variables, embed, tokens, deterministic, rngs):
      seen.append((np.asarray(tokens), deterministic))

  step_lib.next_token_logits(Module(), {}, None, jnp.array([[7, 8, EOS], [9, EOS, PAD]]))
  assert seen[0][0].tolist() == [[BOS, 7, 8], [BOS, 9, EOS]] and seen[0][1] is True


def test_training_learns_its_texts_and_the_search_tells_them():
  parts, state, losses = train(recipe(**{"mesh.data": 1}), 200, 1)
  assert losses[0] == pytest.approx(np.log(VOCAB), rel=0.3) and losses[-1] < 0.05
  batch = make_batch()
  params = jax.device_get(state.params)
  told = decoding.greedy(parts.model, params, batch["embed"], length=LENGTH).tokens
  np.testing.assert_array_equal(told, batch["tokens"])


@pytest.mark.parametrize("shape", [dict(data=2, fsdp=2, tensor=2)])
def test_a_mesh_changes_nothing(shape):
  one = train(recipe(**{"mesh.data": 1}), 3, 1)
  many = train(recipe(**{f"mesh.{axis}": size for axis, size in shape.items()}), 3, 8)
  kernel = many[1].params["layers_0"]["up"]["kernel"]
  assert kernel.sharding.shard_shape(kernel.shape) == (16, 32)
  np.testing.assert_allclose(many[2], one[2], rtol=1e-5)
  for a, b in zip(jax.tree.leaves(jax.device_get(many[1].params)), jax.tree.leaves(jax.device_get(one[1].params))):
    np.testing.assert_allclose(a, b, atol=1e-4)
