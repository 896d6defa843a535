"""A small tower of every family of weights, for the tests of this folder."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vljepa_jax.model import presets
from vljepa_jax.model.predictor import Predictor
from vljepa_jax.model.text import YEncoder
from vljepa_jax.model.vision import MobileNetV2, VJepa2

CONFIGS = {
    "bert": presets.y_encoder("bert_nano"),
    "gemma": presets.y_encoder("gemma_nano"),
    "llama": presets.predictor("nano", rope_scaling=(8.0, 1.0, 4.0, 128)),
    "mobilenet_v2": presets.x_encoder("mobilenet_v2", width_multiplier=0.5),
    "vjepa2": presets.x_encoder("vjepa2_nano", num_layers=3, patch_size=4, tubelet_size=3),
}
# A tensor of each family that lies otherwise than ours.
MATRIX = {
    "bert": "encoder.layer.1.intermediate.dense.weight",
    "gemma": "layers.2.mlp.up_proj.weight",
    "llama": "layers.1.self_attn.k_proj.weight",
    "mobilenet_v2": "features.2.conv.0.0.weight",
    "vjepa2": "encoder.embeddings.patch_embeddings.proj.weight",
}
SCANNABLE = [name for name in CONFIGS if name != "mobilenet_v2"]


def make_module(config, embed_width=16):
  """The tower of a config, and abstract inputs of it."""
  text = lambda rows: (jax.ShapeDtypeStruct((rows, 4), jnp.int32), jax.ShapeDtypeStruct((rows, 4), jnp.bool_))
  frames = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  if isinstance(config, presets.VJepa2Config):
    return VJepa2(config), (frames(1, config.tubelet_size, config.patch_size, config.patch_size, 3),)
  if isinstance(config, presets.MobileNetV2Config):
    return MobileNetV2(config), (frames(1, 1, 32, 32, 3),)
  if isinstance(config, presets.PredictorConfig):
    return Predictor(config, embed_width), (jax.ShapeDtypeStruct((1, 2, 12), jnp.float32), *text(1))
  return YEncoder(config, embed_width), text(1)


def make_shapes(config, embed_width=16):
  """The parameters of a tower, as shapes."""
  module, inputs = make_module(config, embed_width)
  return nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"])


def make_params(config):
  """Random parameters of a tower."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), make_shapes(config))
