from flax.linen import logical_axis_rules
import jax
import numpy as np
import pytest

from tests import tiny
from vljepa_jax import parts as parts_lib
from vljepa_jax import sharding, start, weights
from vljepa_jax.errors import UserError


def pretrained(**changes):
  config = tiny.recipe(**{"mesh.data": 4, "mesh.fsdp": 2, **changes})
  parts = parts_lib.make_parts(config)
  with jax.set_mesh(parts.mesh), logical_axis_rules(config.mesh.rules):
    return parts, start.pretrained_params(config, parts)[0]


def test_parts_follow_from_each_other_and_lie_where_they_belong():
  parts, params = pretrained()
  words = params["y_encoder"]["backbone"]["token_embed"]["embedding"]
  table = params["predictor"]["token_embed"]["embedding"]
  # The same words, at unit scale.
  np.testing.assert_allclose(table, words / np.sqrt(np.mean(np.square(words))), rtol=1e-6)
  np.testing.assert_array_equal(params["y_encoder"]["head"]["kernel"], np.eye(32))
  places = jax.tree.map(lambda x: x.sharding, params)
  assert jax.tree.all(jax.tree.map(lambda a, b: a.is_equivalent_to(b, 2) or a == b, places, parts.shardings.params))


def test_loaded_leaves_replace_those_of_the_seed(monkeypatch):
  def load(spec, config, shapes):
    assert spec == "somewhere" and config.width == 32
    return {"backbone": {"embed_norm": {"scale": np.full(32, 7.0, np.float32)}}}

  monkeypatch.setattr(weights, "load_tower", load)
  changes = {"model.y_encoder.weights": "somewhere", "model.token_init": "", "model.y_head_init": "normal"}
  parts, params = pretrained(**changes)
  seed = jax.jit(lambda key: sharding.unbox(parts.init(key)), out_shardings=parts.shardings.params)
  with jax.set_mesh(parts.mesh), logical_axis_rules(tiny.recipe().mesh.rules):
    fresh = seed(jax.random.key(0))
  np.testing.assert_array_equal(params["y_encoder"]["backbone"]["embed_norm"]["scale"], np.full(32, 7.0))
  np.testing.assert_array_equal(params["y_encoder"]["head"]["kernel"], fresh["y_encoder"]["head"]["kernel"])
  np.testing.assert_array_equal(params["predictor"]["head"]["kernel"], fresh["predictor"]["head"]["kernel"])


@pytest.mark.parametrize("changes, message", [
    ({"model.y_encoder.weights": "pkg://no_such_package/model"}, "pip install"),
    ({"model.predictor.vocab_size": 300}, "token_init 'y_encoder' needs"),
])
def test_what_cannot_be_started_from_is_named(changes, message):
  config = tiny.recipe(**changes)
  parts = parts_lib.make_parts(config)
  with jax.set_mesh(parts.mesh), pytest.raises(UserError, match=message):
    start.pretrained_params(config, parts)
