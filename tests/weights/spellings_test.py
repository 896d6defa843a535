"""Files of other libraries: the same tower as from the spelling of the table."""

import json
import pathlib

import chex
import jax
import numpy as np
import pytest

from tests.weights.families import CONFIGS, make_shapes
from vljepa_jax import weights
from vljepa_jax.model import presets
from vljepa_jax.weights.tensors import Tensors, read_weights, rename

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
OFFICIAL = FIXTURES / "vjepa2_official.pt"
OFFICIAL_CONFIG = presets.x_encoder(
    "vjepa2_vitl", width=6, num_layers=2, num_heads=3, mlp_width=10, patch_size=2, tubelet_size=1, scan=False)


def fill(tensors, config):
  return weights.fill_tower(Tensors("memory", tensors), config, make_shapes(config))


def test_rules_rename_split_and_leave_out():
  tensors = Tensors("file.pt", {"a.w": np.arange(7), "b.w": np.arange(6), "c": np.arange(2), "d": np.arange(3)})
  renamed = rename(tensors, [(r"a\.(.)", r"x.\1", r"y.\1"), (r"c",), (r".\.(.)", r"z.\1"), (r"b.*", "never")])
  assert sorted(renamed) == ["d", "x.w", "y.w", "z.w"] and len(renamed) == 4
  for name, value in (("x.w", [0, 1, 2, 3]), ("y.w", [4, 5, 6]), ("z.w", range(6)), ("d", range(3))):
    np.testing.assert_array_equal(renamed[name], value)
  assert renamed.where("y.w") == "file.pt: tensor a.w (part 2 of 2)"
  assert renamed.where("z.w") == "file.pt: tensor b.w"
  assert renamed.where("missing") == "file.pt: tensor missing"


# The checkpoint of V-JEPA 2's authors; see make_vision_fixtures.py for its values.


def test_the_official_checkpoint_gives_the_averaged_encoder():
  loaded = weights.load_tower(str(OFFICIAL), OFFICIAL_CONFIG, make_shapes(OFFICIAL_CONFIG))
  file = read_weights(OFFICIAL)
  old = lambda name: file[f"target_encoder.module.backbone.{name}"]
  qkv = np.split(old("blocks.1.attn.qkv.weight"), 3)
  for part, matrix in zip(("query", "key", "value"), qkv):
    np.testing.assert_array_equal(loaded["layers_1"][part]["kernel"], matrix.T)
  np.testing.assert_array_equal(loaded["layers_0"]["key"]["bias"], old("blocks.0.attn.qkv.bias")[6:12])
  np.testing.assert_array_equal(loaded["layers_0"]["up"]["kernel"], old("blocks.0.mlp.fc1.weight").T)
  np.testing.assert_array_equal(loaded["layers_1"]["norm2"]["scale"], old("blocks.1.norm2.weight"))
  np.testing.assert_array_equal(loaded["norm"]["bias"], old("norm.bias"))
  kernel = loaded["patch_embed"]["kernel"].reshape(2, 2, 3, 6)
  np.testing.assert_array_equal(kernel[1, 0, 2], old("patch_embed.proj.weight")[:, 2, 0, 1, 0])


def test_the_official_checkpoint_equals_the_hubs_file(tmp_path):
  loaded = weights.load_tower(str(OFFICIAL), OFFICIAL_CONFIG, make_shapes(OFFICIAL_CONFIG))
  weights.export_folder(tmp_path, OFFICIAL_CONFIG, loaded)
  hub = read_weights(tmp_path)
  assert {name.partition(".")[0] for name in hub} == {"encoder"}
  again = weights.load_tower(str(tmp_path), OFFICIAL_CONFIG, make_shapes(OFFICIAL_CONFIG))
  chex.assert_trees_all_equal(again, loaded)


def test_without_an_averaged_encoder_the_plain_one_is_taken():
  file = read_weights(OFFICIAL)
  averaged = fill({name: file[name] for name in file}, OFFICIAL_CONFIG)
  plain = fill({name: file[name] for name in file if not name.startswith("target_encoder.")}, OFFICIAL_CONFIG)
  chex.assert_trees_all_equal(plain, jax.tree.map(np.negative, averaged))


@pytest.mark.parametrize("name, value, message", [
    ("blocks.1.attn.qkv.weight", np.ones((19, 6), np.float32),
     r"tensor target_encoder.module.backbone.blocks.1.attn.qkv.weight \(part 1 of 3\) has shape \(7, 6\), expected"),
    ("blocks.1.attn.qkv.weight", None, "tensor encoder.layer.1.attention.key.weight is missing"),
    ("blocks.2.norm1.weight", np.ones(6, np.float32),
     "tensor target_encoder.module.backbone.blocks.2.norm1.weight is unexpected"),
])
def test_a_wrong_tensor_of_the_official_checkpoint_has_its_own_name(name, value, message):
  file = read_weights(OFFICIAL)
  tensors = {name: file[name] for name in file} | {f"target_encoder.module.backbone.{name}": value}
  with pytest.raises(ValueError, match=message):
    fill({name: value for name, value in tensors.items() if value is not None}, OFFICIAL_CONFIG)


# timm's MobileNetV2.


def test_timm_names_are_all_known_and_mean_the_same():
  config = CONFIGS["mobilenet_v2"]
  shapes = json.loads((FIXTURES / "timm_mobilenetv2_050.json").read_text())
  rng = np.random.default_rng(0)
  tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  loaded = fill(tensors, config)
  exported = weights.export_tower(config, loaded)
  by_bytes = {value.tobytes(): name for name, value in tensors.items()}
  pairs = {theirs: by_bytes[value.tobytes()] for theirs, value in exported.items()}
  assert len(set(pairs.values())) == len(pairs) == 52 * 5
  assert set(tensors) - set(pairs.values()) == {
      name for name in tensors if name.startswith("classifier.") or name.endswith("num_batches_tracked")}
  assert pairs["features.1.conv.1.weight"] == "blocks.0.0.conv_pw.weight"
  assert pairs["features.3.conv.2.weight"] == "blocks.1.1.conv_pwl.weight"
  assert pairs["features.17.conv.3.running_var"] == "blocks.6.0.bn3.running_var"
  assert pairs["features.18.1.bias"] == "bn2.bias"


def test_a_wrong_tensor_of_timm_has_its_own_name():
  config = CONFIGS["mobilenet_v2"]
  shapes = json.loads((FIXTURES / "timm_mobilenetv2_050.json").read_text())
  tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
  tensors["blocks.1.0.bn3.bias"] = np.zeros(3, np.float32)
  with pytest.raises(ValueError, match=r"tensor blocks.1.0.bn3.bias has shape \(3,\), expected \(16,\)"):
    fill(tensors, config)
