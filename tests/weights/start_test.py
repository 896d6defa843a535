import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljepa_jax.weights import copy_token_table, init_y_head


def make_params(width=6, embed_width=6, vocab=10, token_width=6):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {
      "predictor": {"token_embed": {"embedding": draw(vocab, token_width)}, "norm": {"scale": draw(4)}},
      "y_encoder": {
          "backbone": {"token_embed": {"embedding": draw(10, 6)}},
          "head": {"kernel": draw(width, embed_width), "bias": draw(embed_width)},
      },
  }


def test_identity_head_passes_the_embedding_through_and_changes_nothing_else():
  params = make_params()
  started = init_y_head("identity", params)
  x = jnp.arange(6.0)
  head = started["y_encoder"]["head"]
  np.testing.assert_array_equal(x @ head["kernel"] + head["bias"], x)
  assert head["kernel"].dtype == jnp.float32
  chex.assert_trees_all_equal(started["predictor"], params["predictor"])
  chex.assert_trees_all_equal(started["y_encoder"]["backbone"], params["y_encoder"]["backbone"])
  assert np.any(params["y_encoder"]["head"]["bias"] != 0), "the input must stay as it was"


def test_normal_head_stays():
  params = make_params(embed_width=8)
  chex.assert_trees_all_equal(init_y_head("normal", params), params)


@pytest.mark.parametrize("kind, params, message", [
    ("identity", make_params(embed_width=8), "needs embed_width 6, .* not 8"),
    ("identity", {"y_encoder": {"backbone": {}}}, "needs a head"),
    ("zeros", make_params(), "'zeros' is not known; there are normal, identity"),
])
def test_wrong_heads_are_refused(kind, params, message):
  with pytest.raises(ValueError, match=message):
    init_y_head(kind, params)


def test_token_table_is_a_copy_that_can_be_donated():
  params = copy_token_table(make_params())
  table = params["y_encoder"]["backbone"]["token_embed"]["embedding"]
  np.testing.assert_allclose(
      params["predictor"]["token_embed"]["embedding"], table / np.sqrt(np.mean(np.square(table))), rtol=1e-6)
  assert "norm" in params["predictor"]
  stepped = jax.jit(lambda p: jax.tree.map(lambda x: x + 1, p), donate_argnums=0)(params)  # a shared buffer fails here
  chex.assert_tree_all_finite(stepped)


@pytest.mark.parametrize("shape", [dict(vocab=11), dict(token_width=5)])
def test_token_tables_of_another_shape_are_refused(shape):
  with pytest.raises(ValueError, match=r"token table of the Y-encoder's shape \(10, 6\), not"):
    copy_token_table(make_params(**shape))
