"""The vision towers against PyTorch (recorded by fixtures/make_vision_fixtures.py) and against themselves."""

import dataclasses
import math
import pathlib

import flax.linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import RULES
from vljepa_jax.model import presets, vision
from vljepa_jax.model.layers import apply_rope
from vljepa_jax.sharding import AXES
from vljepa_jax.weights import vjepa2

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "vjepa2.npz"
TINY = presets.x_encoder(
    "vjepa2_vitl", width=48, num_layers=3, num_heads=3, mlp_width=84, patch_size=4, scan=False
)
MOBILENET = presets.x_encoder("mobilenet_v2")


@pytest.fixture(scope="module")
def recorded():
  with np.load(FIXTURE) as file:
    return {name: np.asarray(value, np.float32) for name, value in file.items()}


@pytest.fixture(scope="module")
def params(recorded):
  flat = {row.ours: row.to_ours(recorded[f"weight/{row.theirs}"]) for row in vjepa2.name_map(TINY)}
  assert len(flat) == sum(name.startswith("weight/") for name in recorded)
  return traverse_util.unflatten_dict(flat, sep="/")


def stacked(params):
  """The scanned tree of an unrolled one."""
  layers = [params[f"layers_{i}"] for i in range(3)]
  rest = {name: value for name, value in params.items() if not name.startswith("layers_")}
  return {**rest, "layers": jax.tree.map(lambda *rows: jnp.stack(rows), *layers)}


def random_params(module, frames_shape):
  """Weights of unit gain, without running `init`: compiling random numbers takes longer than the tests."""
  rng = np.random.default_rng(0)
  shapes = nn.unbox(abstract_params(module, frames_shape))

  def value(path, leaf):
    if path[-1].key in ("scale", "var"):
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    return (rng.normal(size=leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))).astype(np.float32)

  return jax.tree_util.tree_map_with_path(value, shapes)


@pytest.fixture
def short_mobilenet(monkeypatch):
  """The first three blocks: without and with expansion, with stride 2, with a skip. It compiles in a second."""
  monkeypatch.setattr(vision, "MOBILENET_STAGES", vision.MOBILENET_STAGES[:2])


def relative_error(ours, theirs):
  return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def value_and_grads(config, params, frames, cotangent):
  """(tokens, (gradients of the weights, gradient of the frames)) of sum(tokens * cotangent)."""

  def total(params, frames):
    tokens = vision.VJepa2(config).apply({"params": params}, frames)
    return jnp.sum(tokens * cotangent), tokens

  (_, tokens), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(params, frames)
  return tokens, grads


@pytest.mark.parametrize("case, weight_grads", (("square", 0), ("picture", 0), ("tall", 5)))
def test_vjepa2_and_its_gradients_equal_transformers(recorded, params, case, weight_grads):
  frames, cotangent = recorded[f"{case}/frames"], recorded[f"{case}/cotangent"]
  tokens, (grads, frames_grad) = value_and_grads(TINY, params, frames, cotangent)
  assert relative_error(tokens, recorded[f"{case}/tokens"]) < 1e-5
  assert relative_error(frames_grad, recorded[f"{case}/frames_grad"]) < 1e-4
  grads, checked = traverse_util.flatten_dict(grads, sep="/"), 0
  for row in vjepa2.name_map(TINY):
    name = f"{case}/grad/{row.theirs}"
    if name in recorded:
      checked += 1
      assert relative_error(grads[row.ours], row.to_ours(recorded[name])) < 1e-4, row.ours
  assert checked == weight_grads


@pytest.fixture(scope="module")
def square_grads(recorded, params):
  return value_and_grads(TINY, params, recorded["square/frames"], recorded["square/cotangent"])


@pytest.mark.parametrize("scan, remat", ((True, None), (False, "full"), (True, "dots")))
def test_scan_and_remat_change_no_value(recorded, params, square_grads, scan, remat):
  config = dataclasses.replace(TINY, scan=scan, remat=remat)
  frames, cotangent = recorded["square/frames"], recorded["square/cotangent"]
  tokens, (grads, _) = value_and_grads(config, stacked(params) if scan else params, frames, cotangent)
  expected, (expected_grads, _) = square_grads
  assert relative_error(tokens, expected) < 1e-5
  expected_grads = stacked(expected_grads) if scan else expected_grads
  for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
    assert relative_error(ours, theirs) < 1e-5


def test_tokens_are_in_time_row_column_order():
  frames = np.zeros((1, 4, 12, 8, 3), np.float32)
  frames[0, 2, 9, 5, 1] = 1  # tubelet 1, row 2, column 1; inside: frame 0, row 1, column 1, green
  patches, grid = vision.tubelet_patches(frames, tubelet=2, patch=4)
  assert grid == (2, 3, 2)
  assert np.argwhere(patches).tolist() == [[0, 1 * 6 + 2 * 2 + 1, (1 * 4 + 1) * 3 + 1]]


@pytest.mark.parametrize("length, order", ((1, (0, 0, 0, 0)), (2, (0, 0, 1, 1)), (4, (0, 1, 2, 3))))
def test_short_clip_fills_one_tubelet(length, order):
  frames = np.random.default_rng(0).normal(size=(2, length, 4, 4, 3)).astype(np.float32)
  patches, grid = vision.tubelet_patches(frames, tubelet=4, patch=4)
  assert grid == (1, 1, 1)
  np.testing.assert_array_equal(patches, frames[:, np.array(order)].reshape(2, 1, -1))


def test_rope_rotates_adjacent_pairs_with_tiled_frequencies():
  head_width, grid, theta = 16, (2, 3, 4), 10_000.0  # parts of 4 channels, 4 left over
  x = np.random.default_rng(0).normal(size=(1, 24, 2, head_width)).astype(np.float32)
  y = apply_rope(x, *vision.rope_3d_tables(grid, head_width, theta), 1)
  for n, position in enumerate(np.ndindex(grid)):
    for axis in range(3):
      for i in (0, 2):
        a, b = x[0, n, :, 4 * axis + i], x[0, n, :, 4 * axis + i + 1]
        angle = position[axis] * theta ** -np.array([0, 0.5])  # of the pair's two channels: the quirk
        cos, sin = np.cos(angle), np.sin(angle)
        expected = np.stack([a * cos[0] - b * sin[0], b * cos[1] + a * sin[1]], axis=-1)
        np.testing.assert_allclose(y[0, n, :, 4 * axis + i : 4 * axis + i + 2], expected, atol=1e-5)
  np.testing.assert_array_equal(y[..., 12:], x[..., 12:])


def abstract_params(module, frames_shape):
  init = lambda: module.init(jax.random.key(0), jnp.zeros(frames_shape))["params"]
  return jax.eval_shape(init)


@pytest.mark.parametrize("scan", (False, True))
def test_vit_l_has_the_published_parameter_count(scan):
  module = vision.VJepa2(presets.x_encoder("vjepa2_vitl", scan=scan))
  shapes = abstract_params(module, (1, 2, 256, 256, 3))
  assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 303_885_312


def test_mobilenet_has_the_published_parameter_count():
  shapes = traverse_util.flatten_dict(nn.unbox(abstract_params(vision.MobileNetV2(MOBILENET), (1, 1, 32, 32, 3))))
  count = sum(math.prod(leaf.shape) for path, leaf in shapes.items() if path[-1] not in ("mean", "var"))
  assert count == 3_504_872 - 1_281_000  # torchvision's, less the classifier


@pytest.mark.parametrize("module", (
    vision.VJepa2(TINY), vision.VJepa2(dataclasses.replace(TINY, scan=True)), vision.MobileNetV2(MOBILENET),
))
def test_every_weight_has_known_axis_names(module):
  known = {name for name, _ in RULES} | {None}
  boxed = abstract_params(module, (1, 2, 32, 32, 3))
  is_boxed = lambda x: isinstance(x, nn.LogicallyPartitioned)
  for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=is_boxed):
    assert is_boxed(leaf), path
    assert len(leaf.names) == leaf.value.ndim, path
    assert set(leaf.names) <= known and set(leaf.names) != {None}, path


@pytest.mark.parametrize("family, config", (
    (vision.VJepa2, dataclasses.replace(TINY, num_layers=2, scan=True, remat="dots")), (vision.MobileNetV2, MOBILENET),
))
@pytest.mark.usefixtures("short_mobilenet")
def test_eight_devices_compute_the_same(family, config):
  mesh = jax.make_mesh((1, 4, 2, 1), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 4)
  frames = np.random.default_rng(0).normal(size=(8, 2, 16, 16, 3)).astype(np.float32)
  variables = {"params": random_params(family(config), frames.shape)}
  expected = jax.jit(family(config).apply)(variables, frames)
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    tokens = jax.jit(family(config).apply)(variables, frames)
  assert tokens.sharding.spec[0] == ("data", "fsdp")  # an axis of one is left out
  assert relative_error(tokens, expected) < 1e-5


@pytest.mark.parametrize("family, config", ((vision.VJepa2, TINY), (vision.MobileNetV2, MOBILENET)))
@pytest.mark.usefixtures("short_mobilenet")
def test_bfloat16_compute_stays_near_float32(family, config):
  frames = np.random.default_rng(0).normal(size=(2, 2, 16, 16, 3)).astype(np.float32)
  variables = {"params": random_params(family(config), frames.shape)}
  exact = jax.jit(family(config).apply)(variables, frames)
  rough = jax.jit(family(dataclasses.replace(config, dtype="bfloat16")).apply)(variables, frames)
  assert (exact.dtype, rough.dtype) == (jnp.float32, jnp.bfloat16)
  error = np.linalg.norm(rough.astype(np.float32) - exact) / np.linalg.norm(exact)
  assert 1e-4 < error < 0.05


def test_parameters_stay_float32_under_bfloat16_compute():
  for family, config in ((vision.VJepa2, TINY), (vision.MobileNetV2, MOBILENET)):
    module = family(dataclasses.replace(config, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract_params(module, (1, 2, 32, 32, 3)))} == {np.dtype("float32")}


@pytest.mark.usefixtures("short_mobilenet")
def test_mobilenet_frames_are_independent_and_in_order():
  frames = np.random.default_rng(0).normal(size=(2, 3, 8, 5, 3)).astype(np.float32)
  apply = jax.jit(vision.MobileNetV2(MOBILENET).apply)
  variables = {"params": random_params(vision.MobileNetV2(MOBILENET), frames.shape)}
  tokens = apply(variables, frames)
  assert tokens.shape == (2, 3 * 2 * 2, 1280)  # a quarter of 8 x 5, rounded up
  assert relative_error(tokens[1, 8:], apply(variables, frames[1:, 2:])[0]) < 1e-5
  changed = frames.copy()
  changed[1, 2, 0, 0] += 1  # reaches the first token of its own frame, and no other frame
  moved = np.any(apply(variables, changed) != tokens, axis=-1)
  assert moved[1, 8] and not moved[0].any() and not moved[1, :8].any()


@pytest.mark.parametrize("size", ((7, 7), (8, 5)))
@pytest.mark.parametrize("stride", (1, 2))
def test_depthwise_equals_grouped_convolution(size, stride):
  x = np.random.default_rng(0).normal(size=(2, *size, 6)).astype(np.float32)
  module = vision.DepthwiseConv(MOBILENET, stride)
  rng = np.random.default_rng(1)
  kernel = rng.normal(size=(3, 3, 6)).astype(np.float32)
  norm = {name: rng.uniform(0.5, 2, 6).astype(np.float32) for name in ("scale", "bias", "mean", "var")}
  y = jax.lax.conv_general_dilated(
      x, kernel[:, :, None], (stride, stride), ((1, 1), (1, 1)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=6,
  )
  expected = (y - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) * norm["scale"] + norm["bias"]
  np.testing.assert_allclose(module.apply({"params": {"kernel": kernel, "norm": norm}}, x), expected, atol=1e-5)


def test_no_gradient_reaches_stored_statistics():
  x = np.random.default_rng(0).normal(size=(1, 3, 3, 4)).astype(np.float32)
  module = vision.InvertedResidual(MOBILENET, expansion=2, features=4, stride=1)
  params = random_params(module, x.shape)
  grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(module.apply({"params": p}, x)))))(params)
  for path, grad in traverse_util.flatten_dict(grads).items():
    assert np.any(grad) == (path[-1] not in ("mean", "var")), path


@pytest.mark.parametrize("shape, message", (
    ((1, 3, 32, 32, 3), "frames, 3, must be a multiple of 2"),
    ((1, 2, 30, 32, 3), "height, 30, must be a multiple of 4"),
    ((1, 2, 32, 30, 3), "width, 30, must be a multiple of 4"),
    ((1, 32, 32, 3), r"must be \(batch, time, height, width, 3\)"),
    ((1, 2, 32, 32, 4), r"must be \(batch, time, height, width, 3\)"),
    ((1, 0, 32, 32, 3), "not empty"),
))
def test_wrong_frames_are_one_clear_error(shape, message):
  with pytest.raises(ValueError, match=message):
    abstract_params(vision.VJepa2(TINY), shape)


def test_heads_that_do_not_fit_are_one_clear_error():
  with pytest.raises(ValueError, match="width 48 must split into 5 heads"):
    abstract_params(vision.VJepa2(dataclasses.replace(TINY, num_heads=5)), (1, 2, 32, 32, 3))
