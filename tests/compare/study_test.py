from configs import ablate, compare
import pytest

from vljepa_jax.compare import study as study_lib
from vljepa_jax.errors import UserError


@pytest.mark.parametrize("recipe", [compare, ablate])
@pytest.mark.parametrize("variant", ["base", "debug"])
def test_recipes_are_whole(recipe, variant):
  study = study_lib.parse(recipe.get_config(variant))
  for name, task in study.tasks.items():
    for arm in task.arms:
      config = study_lib.arm_config(study, name, arm, 0.125, 7)
      assert (config.optim.learning_rate, config.seed) == (0.125, 7)


def test_arms_differ_only_in_what_they_name():
  study = study_lib.parse(compare.get_config())
  half, large = (study_lib.arm_config(study, "babyai", arm, 1e-3, 1) for arm in ("vljepa", "vljepa_large"))
  assert (half.model.predictor.changes["layers"], large.model.predictor.changes["layers"]) == ((0, 2), (0, 4))
  for part in ("data", "tokenizers", "optim", "train", "loss", "eval"):
    assert getattr(half, part) == getattr(large, part)


def change(path, value):
  recipe = compare.get_config("debug").to_dict()
  place = recipe
  *folders, last = path.split(".")
  for folder in folders:
    place = place[folder]
  place[last] = value
  return recipe


@pytest.mark.parametrize("path, value, message", [
    ("seeds", (0, 1), "sweep_seed 0 is among config.seeds"),
    ("tasks.openclipart.points", (4, 2, 8), "must rise"),
    ("tasks.openclipart.points", (1, 2), "end at 2, but the run has 8 steps"),
    ("rates", (), "config.rates is empty"),
    ("tasks.openclipart.validation", 0, "validation must be 1 or more"),
    ("tasks.openclipart.decoder_of", "nobody", "must name the arm"),
    ("tasks.openclipart.arms.vljepa.side", "words", "must be 'embeddings' or 'tokens'"),
    ("tasks.openclipart.arms.vljepa.values", (("model.nothing.x", 1),), "has no 'model.nothing.x'"),
    ("tasks.openclipart.arms.vljepa.values", (("model.embed_wide", 1),), "embed_wide"),
    ("tasks.openclipart.config.data.feature_views", 0, "feature_views must be above 0"),
    ("tasks.openclipart.recods", 3, "recods"),
])
def test_what_cannot_be_compared_is_named(path, value, message):
  with pytest.raises(UserError, match=message):
    study_lib.parse(change(path, value))


def test_a_recipe_of_a_model_is_no_study():
  from configs import base

  with pytest.raises(UserError, match="not the recipe of a study"):
    study_lib.parse(base.get_config("debug"))
