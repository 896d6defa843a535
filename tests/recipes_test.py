"""The shipped recipes parse, build, and have the paper's sizes; nothing is allocated."""

from configs import babyai, base, folder, vljepa_sft, vljepa_stage1
import jax
import pytest

from vljepa_jax import config as config_lib
from vljepa_jax import optim
from vljepa_jax.parts import make_parts

STAGE1 = [(vljepa_stage1, variant) for variant in vljepa_stage1.FRAMES]


def count(tree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def on_eight_devices(config):
  """A recipe of the paper with the weights cut into as many parts as there are devices here."""
  config.mesh.update(dict(data=1, fsdp=-1))
  return config_lib.parse(config)


@pytest.mark.parametrize("module, variant", [
    (base, "base"), (base, "debug"), (babyai, "frozen"), (babyai, "pretrain"), (babyai, "debug"),
    (folder, "my/clips.jsonl"), *STAGE1,
    (vljepa_sft, None)])
def test_recipe_builds(module, variant):
  config = on_eight_devices(module.get_config(*[variant] * (variant is not None)))
  parts = make_parts(config)
  assert set(parts.shapes) == {"x_encoder", "predictor", "y_encoder", "log_scale"}
  assert any(jax.tree.leaves(parts.frozen)) != (module is babyai and variant != "frozen")
  assert not all(jax.tree.leaves(parts.frozen))


@pytest.mark.parametrize("variant, frozen_x", [("1frame", True), ("8frames", True), ("32frames", False)])
def test_paper_parameters(variant, frozen_x):
  parts = make_parts(on_eight_devices(vljepa_stage1.get_config(variant)))
  assert count(parts.shapes["x_encoder"]) == 303_885_312
  assert count(parts.shapes["predictor"]["token_embed"]) == 262_668_288
  assert count(parts.shapes["predictor"]["layers"]) == 486_572_032
  assert count(parts.shapes["y_encoder"]) == 307_581_696 + 1_181_184
  groups = parts.labels["x_encoder"]["norm"]["scale"], parts.labels["y_encoder"]["head"]["kernel"]
  assert groups == (optim.group_name(None if frozen_x else 1.0), optim.group_name(1.0))
  assert parts.labels["y_encoder"]["backbone"]["norm"]["scale"] == optim.group_name(0.05)
  assert parts.shapes["x_encoder"]["norm"]["scale"].dtype == "float32"


@pytest.mark.parametrize("module", [babyai, base, vljepa_stage1])
def test_unknown_variant_is_named(module):
  with pytest.raises(ValueError, match="no variant 'big'; there are"):
    module.get_config("big")


@pytest.mark.parametrize("manifest, name", [
    ("my/clips.jsonl", "clips"), ("a.csv", "a"), ("pictures/manifest.jsonl", "pictures"),
    ("manifest.jsonl", "manifest")])
def test_a_manifest_is_all_that_a_folder_needs(manifest, name):
  config = config_lib.parse(folder.get_config(manifest))
  assert config.name == name and config.eval.dataset == config.data.sources[0].dataset == manifest
  with pytest.raises(ValueError, match="needs a manifest"):
    folder.get_config()
