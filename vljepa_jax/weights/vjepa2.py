"""V-JEPA 2 encoders as Hugging Face saves them (`VJEPA2Model`), or the authors (`vitl.pt`)."""

import math
from typing import Any

import numpy as np

from vljepa_jax.model import presets
from vljepa_jax.weights.maps import Entry, linear, norm
from vljepa_jax.weights.tensors import Rules, Tensors

FRESH = ()
SIZES = {
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "patch_size": "patch_size",
    "tubelet_size": "tubelet_size",
    "layer_norm_eps": "norm_eps",
}
FIELDS = SIZES | {"hidden_size * mlp_ratio": "mlp_width"}
FIXED = {"model_type": "vjepa2", "hidden_act": "gelu", "qkv_bias": True, "in_chans": 3}
ROPE_THETA = 10_000.0  # a constant in the code of `VJEPA2Model`


def patch_to_ours(x: np.ndarray) -> np.ndarray:
  """(out, channel, frame, row, column) to (frame * row * column * channel, out)."""
  return x.transpose(2, 3, 4, 1, 0).reshape(-1, x.shape[0])


def name_map(config: presets.VJepa2Config) -> list[Entry]:
  """Rows of the whole encoder."""
  c, embed = config, "encoder.embeddings.patch_embeddings.proj"

  def patch_to_theirs(x: np.ndarray) -> np.ndarray:
    return x.reshape(c.tubelet_size, c.patch_size, c.patch_size, 3, -1).transpose(4, 3, 0, 1, 2)

  rows = [
      Entry("patch_embed/kernel", f"{embed}.weight", patch_to_ours, patch_to_theirs),
      Entry("patch_embed/bias", f"{embed}.bias"),
  ]
  for i in range(c.num_layers):
    ours, theirs = f"layers_{i}", f"encoder.layer.{i}"
    rows += [
        *norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *linear(f"{ours}/query", f"{theirs}.attention.query"),
        *linear(f"{ours}/key", f"{theirs}.attention.key"),
        *linear(f"{ours}/value", f"{theirs}.attention.value"),
        *linear(f"{ours}/out", f"{theirs}.attention.proj"),
        *norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *linear(f"{ours}/up", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/down", f"{theirs}.mlp.fc2"),
    ]
  return rows + norm("norm", "encoder.layernorm")


def rules(found: Tensors, config: presets.VJepa2Config) -> Rules:
  """Hugging Face's names, or those of the authors' checkpoint, whose averaged encoder is the one to use."""
  del config
  root = "target_encoder" if any(name.startswith("target_encoder.") for name in found) else "encoder"
  old, layer = rf"{root}\.module\.backbone\.", r"encoder.layer.\1"
  qkv = [rf"{layer}.attention.{part}.\2" for part in ("query", "key", "value")]
  return [
      (old + r"patch_embed\.proj\.(.*)", r"encoder.embeddings.patch_embeddings.proj.\1"),
      (old + r"blocks\.(\d+)\.attn\.qkv\.(.*)", *qkv),
      (old + r"blocks\.(\d+)\.attn\.proj\.(.*)", rf"{layer}.attention.proj.\2"),
      (old + r"blocks\.(\d+)\.(.*)", rf"{layer}.\2"),
      (old + r"norm\.(.*)", r"encoder.layernorm.\1"),
      (r"predictor\..*",),  # fills in masked patches; nothing here asks for that
      (r"(opt|scaler)\..*",),  # the state of the authors' training
      *([(r"encoder\.module\..*",)] if root == "target_encoder" else []),
  ]


def hf_config(config: presets.VJepa2Config) -> dict[str, Any]:
  """The config.json of a `VJEPA2Model`, which counts positions for squares of 16 x 16 patches."""
  if config.rope_theta != ROPE_THETA:
    raise ValueError(f"a VJEPA2Model has rope_theta {ROPE_THETA}, but the preset has {config.rope_theta}")
  sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
  ratio = config.mlp_width / config.width
  if int(config.width * ratio) < config.mlp_width:  # transformers rounds the product down
    ratio = math.nextafter(ratio, math.inf)
  rest = {"mlp_ratio": ratio, "crop_size": 16 * config.patch_size}
  return {"architectures": ["VJEPA2Model"], **FIXED, **sizes, **rest}


def stated(hf: dict[str, Any], config: presets.VJepa2Config) -> dict[str, Any]:
  """The sizes and the constants of an encoder."""
  del config
  found = {name: hf[name] for name in (*SIZES, *FIXED) if name in hf}
  if "hidden_size" in hf and "mlp_ratio" in hf:
    found["hidden_size * mlp_ratio"] = int(hf["hidden_size"] * hf["mlp_ratio"])
  return found
