import dataclasses
import functools
import time

import chex
from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
import numpy as np
import pytest

from configs import base
from vljepa_jax.model import presets
from vljepa_jax.model.vision import token_grid
from vljepa_jax.model.vljepa import VLJepa, VLJepaConfig, pool_tokens
from vljepa_jax.sharding import AXES

pytestmark = pytest.mark.usefixtures("quick_compiler")
RULES = base.RULES


def nano(x_encoder="vjepa2_nano", y_encoder="bert_nano"):
  # A quarter of MobileNetV2's channels: its depth is what costs time to compile.
  changes = {"width_multiplier": 0.25} if x_encoder == "mobilenet_v2" else {}
  return VLJepaConfig(
      x_encoder=presets.x_encoder(x_encoder, **changes),
      predictor=presets.predictor("nano"),
      y_encoder=presets.y_encoder(y_encoder),
      embed_width=24,
  )


PAPER = VLJepaConfig(
    x_encoder=presets.x_encoder("vjepa2_vitl"),
    predictor=presets.predictor("llama3_1b_l8"),
    y_encoder=presets.y_encoder("embedding_gemma_300m"),
)


def make_batch(size=4, frames=2, pixels=32):
  rng = np.random.default_rng(0)
  lengths = np.arange(size)[:, None]
  return {
      "video": rng.integers(0, 256, (size, frames, pixels, pixels, 3), dtype=np.uint8),
      "query": rng.integers(0, 500, (size, 5)).astype(np.int32),
      "query_mask": np.arange(5) < lengths,  # the first row has no query
      "target": rng.integers(0, 500, (size, 6)).astype(np.int32),
      "target_mask": np.arange(6) < lengths + 1,
  }


@pytest.fixture
def init(random_params):
  return lambda config, batch: random_params(VLJepa(config), batch)


@functools.partial(jax.jit, static_argnames="config")
def forward(config, params, batch):
  return VLJepa(config).apply({"params": params}, batch)


@pytest.mark.parametrize("x_encoder, y_encoder", [("vjepa2_nano", "gemma_nano"), ("mobilenet_v2", "bert_nano")])
def test_embeddings_have_length_one_and_pads_do_not_count(init, x_encoder, y_encoder):
  config, batch = nano(x_encoder, y_encoder), make_batch()
  params = init(config, batch)
  pred, target, log_scale = forward(config, params, batch)
  chex.assert_shape([pred, target], (4, 24))
  chex.assert_type([pred, target, log_scale], jnp.float32)
  np.testing.assert_allclose(np.linalg.norm(pred, axis=1), 1, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(target, axis=1), 1, atol=1e-6)
  np.testing.assert_array_equal(log_scale, params["log_scale"])

  pads = batch | {name: np.where(batch[f"{name}_mask"], batch[name], 3) for name in ("query", "target")}
  chex.assert_trees_all_equal(forward(config, params, pads), (pred, target, log_scale))
  for name, row in (("video", slice(0, 4)), ("query", slice(1, 4))):
    other = forward(config, params, batch | {name: batch[name] ^ 1})[0]
    assert np.all(np.any(other[row] != pred[row], axis=1)), name
  assert np.all(np.any(forward(config, params, batch | {"target": batch["target"] ^ 1})[1] != target, axis=1))


def test_temperature_starts_at_0_07():
  start = jax.jit(lambda batch: VLJepa(nano()).init(jax.random.key(0), batch)["params"]["log_scale"])
  np.testing.assert_allclose(np.exp(-nn.unbox(start(make_batch()))), 0.07, rtol=1e-6)


def test_rows_do_not_influence_one_another(init):
  config, batch = nano(), make_batch()
  params = init(config, batch)
  whole = forward(config, params, batch)
  rows = [1, 3]
  some = forward(config, params, {name: value[rows] for name, value in batch.items()})
  chex.assert_trees_all_close(some[:2], (whole[0][jnp.array(rows)], whole[1][jnp.array(rows)]), atol=1e-6)


def test_cached_visual_tokens_replace_the_video(init):
  config, batch = nano(), make_batch()
  params = init(config, batch)
  model = VLJepa(config)
  visual = jax.jit(functools.partial(model.apply, method="encode_video"))({"params": params}, batch["video"])
  chex.assert_shape(visual, (4, 4, 48))
  cached = {name: value for name, value in batch.items() if name != "video"} | {"visual": visual}
  chex.assert_trees_all_close(forward(config, params, cached), forward(config, params, batch), atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_sharded_forward_equals_the_plain_one(init, shape):
  """Also shows that every logical name of weights and activations has a rule."""
  config, batch = nano("vjepa2_nano", "gemma_nano"), make_batch(size=8)
  params = init(config, batch)
  plain = forward(config, params, batch)
  mesh = jax.make_mesh((1, *shape), AXES, axis_types=(AxisType.Auto,) * 4)
  boxed = jax.eval_shape(VLJepa(config).init, jax.random.key(0), batch)["params"]
  shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, RULES)
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    run = jax.jit(lambda p, b: VLJepa(config).apply({"params": p}, b))
    out = run(jax.device_put(params, shardings), batch)
  chex.assert_trees_all_close(out, plain, atol=1e-5)


@pytest.mark.parametrize("pooling", [(1, 2, 2), (2, 1, 1), (2, 2, 1)])
def test_pooled_tokens_are_means_of_neighbours(pooling):
  tokens = np.random.default_rng(0).normal(size=(2, 4 * 6 * 2, 5)).astype(np.float32)
  pooled = pool_tokens(tokens, (4, 6, 2), pooling)
  grid, (a, b, c) = tokens.reshape(2, 4, 6, 2, 5), pooling
  expected = [grid[:, t:t + a, y:y + b, x:x + c].mean(axis=(1, 2, 3))
              for t in range(0, 4, a) for y in range(0, 6, b) for x in range(0, 2, c)]
  np.testing.assert_allclose(pooled, np.stack(expected, axis=1), atol=1e-6)


def test_pooling_that_does_not_divide_the_tokens():
  with pytest.raises(ValueError, match=r"pooling \(1, 4, 1\) does not divide the \(4, 6, 2\) visual tokens"):
    pool_tokens(np.zeros((1, 48, 3)), (4, 6, 2), (1, 4, 1))


def test_the_predictor_sees_pooled_tokens(init):
  batch, config = make_batch(frames=4), nano()
  params = init(config, batch)
  pooled = dataclasses.replace(config, pooling=(2, 1, 1))
  encode = lambda config: VLJepa(config).apply({"params": params}, batch["video"], method=VLJepa.encode_video)
  whole, half = encode(config), encode(pooled)
  assert half.shape[1] == whole.shape[1] // 2
  chex.assert_trees_all_close(half, whole.reshape(4, 2, -1, whole.shape[-1]).mean(axis=1), atol=1e-5)
  assert forward(pooled, params, batch)[0].shape == (4, 24)


@pytest.mark.parametrize("config, frames, height, width, grid", [
    (presets.VJepa2Config(), 8, 256, 128, (4, 16, 8)), (presets.VJepa2Config(), 1, 64, 64, (1, 4, 4)),
    (presets.MobileNetV2Config(), 3, 192, 200, (3, 6, 7)),
])
def test_token_grids(config, frames, height, width, grid):
  assert token_grid(config, frames, height, width) == grid


@pytest.mark.parametrize("config", [nano("mobilenet_v2", "bert_nano"), PAPER], ids=["laptop", "paper"])
def test_every_weight_has_logical_names_that_have_rules(config):
  boxed = jax.eval_shape(VLJepa(config).init, jax.random.key(0), make_batch(1))["params"]
  is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)
  known = {name for name, _ in RULES} | {None}
  boxes = jax.tree.leaves(boxed, is_leaf=is_box)
  assert boxes and all(is_box(box) for box in boxes)
  for box in boxes:
    assert len(box.names) == len(box.value.shape) and set(box.names) <= known, box


def test_paper_model_is_built_in_seconds_and_has_the_exact_size():
  abstract = jax.ShapeDtypeStruct
  batch = {
      "video": abstract((2, 16, 256, 256, 3), jnp.uint8),
      "query": abstract((2, 512), jnp.int32), "query_mask": abstract((2, 512), jnp.bool_),
      "target": abstract((2, 512), jnp.int32), "target_mask": abstract((2, 512), jnp.bool_),
  }
  start = time.monotonic()
  out, tree = jax.eval_shape(VLJepa(PAPER).init_with_output, jax.random.key(0), batch)
  assert time.monotonic() - start < 60
  chex.assert_shape(out[:2], (2, 1536))
  params = nn.unbox(tree["params"])
  size = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in params.items()}
  assert size == {
      "x_encoder": 303_885_312,
      "predictor": 486_572_032 + 2_048 + 2_099_200 + 4_196_352 + 3_147_264 + 262_668_288,
      "y_encoder": 307_581_696 + 1_181_184,
      "log_scale": 1,
  }
  leaf_names = {key.rsplit("/", 1)[-1] for key in traverse_util.flatten_dict(params, sep="/")}
  assert leaf_names == {"kernel", "bias", "scale", "embedding", "log_scale"}
