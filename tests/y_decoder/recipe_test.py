import re

from configs import base, decoder
import pytest

from tests import tiny_decoder
from vljepa_jax import config as config_lib
from vljepa_jax.errors import UserError
from vljepa_jax.y_decoder import recipe as recipe_lib
from vljepa_jax.y_decoder.step import make_parts


@pytest.mark.parametrize("variant", ["base", "debug"])
def test_a_recipe_survives_json_and_builds(tmp_path, variant):
  parsed = recipe_lib.parse(decoder.get_config(variant))
  config_lib.write(parsed, tmp_path)
  assert recipe_lib.read(tmp_path) == parsed
  parts = make_parts(parsed, 32, 100)
  assert set(parts.shapes) >= {"token_embed", "prefix_proj", "norm", "head"}
  assert parts.shapes["head"]["kernel"].shape == (parts.model.config.width, 100)


@pytest.mark.parametrize("changes, message", [
    ({"texts.length": 1}, "config.texts.length must be above 1"),
    ({"texts.noise": (0.5, 0.2)}, "config.texts.noise must be (low, high) with 0 <= low <= high"),
    ({"texts.variants": -1}, "config.texts.variants must be 0 or more, not -1"),
    ({"train.steps": 0}, "config.train.steps must be above 0"),
    ({"eval.beam": 0}, "config.eval.beam must be above 0"),
    ({"optim.b1": 1.0}, "config.optim.b1 must be at least 0 and below 1"),
    ({"name": "a/b"}, "config.name must be a plain name"),
    ({"decoder.preset": "huge"}, "no y_decoder preset 'huge'; there are decoder_nano, decoder_small"),
])
def test_what_no_run_can_use_is_named(changes, message):
  with pytest.raises(UserError, match=re.escape(message)):
    tiny_decoder.recipe("runs/debug", **changes)


def test_unknown_and_missing_keys_are_named():
  plain = decoder.get_config("debug").to_dict()
  with pytest.raises(UserError, match="nothing reads config.texts.lenght; did you mean 'length'"):
    recipe_lib.parse(plain | {"texts": plain["texts"] | {"lenght": 3}})
  with pytest.raises(UserError, match="config.seed is missing"):
    recipe_lib.parse({key: value for key, value in plain.items() if key != "seed"})
  with pytest.raises(UserError, match="has no field 'depth'"):
    recipe_lib.parse(plain | {"decoder": {"preset": "decoder_nano", "depth": 2}})


def test_recipes_of_models_and_decoders_are_told_apart(tmp_path):
  with pytest.raises(UserError, match="recipe of a Y-decoder, not of a model"):
    config_lib.parse(decoder.get_config("debug"))
  with pytest.raises(UserError, match="recipe of a model, not of a Y-decoder"):
    recipe_lib.parse(base.get_config("debug"))
  config_lib.write(tiny_decoder.recipe("runs/debug"), tmp_path)
  with pytest.raises(UserError, match=r"config.json: this is the recipe of a Y-decoder"):
    config_lib.read(tmp_path)


def test_unknown_variant_is_named():
  with pytest.raises(ValueError, match="no variant 'big'; there are base, debug"):
    decoder.get_config("big")
