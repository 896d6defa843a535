"""Layers of Llama models as Hugging Face saves them (`LlamaModel`, `LlamaForCausalLM`)."""

import re
from typing import Any

from vljepa_jax.model import presets
from vljepa_jax.weights.config_json import rope
from vljepa_jax.weights.maps import Entry, gated_layer, norm
from vljepa_jax.weights.tensors import Rules, Tensors

FRESH = (r"visual_proj/.*", r"query_proj/.*", r"head/.*")
SIZES = {
    "hidden_size": "width",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_width",
    "intermediate_size": "mlp_width",
    "vocab_size": "vocab_size",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
}
FIELDS = SIZES | {"num_hidden_layers": "layers", "rope_scaling": "rope_scaling"}
FIXED = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def name_map(config: presets.PredictorConfig) -> list[Entry]:
  """Rows of the layers that the config picks, of the token table and of the last norm."""
  rows = [Entry("token_embed/embedding", "embed_tokens.weight")]
  for i, layer in enumerate(range(*config.layers)):
    ours, theirs = f"layers_{i}", f"layers.{layer}"
    rows += [
        *norm(f"{ours}/norm1", f"{theirs}.input_layernorm", bias=False),
        *gated_layer(ours, theirs),
        *norm(f"{ours}/norm2", f"{theirs}.post_attention_layernorm", bias=False),
    ]
  return rows + norm("norm", "norm", bias=False)


def rules(found: Tensors, config: presets.PredictorConfig) -> Rules:
  """`LlamaModel` names with or without their prefix; ValueError when the file has too few layers."""
  numbers = [int(match[1]) for name in found if (match := re.match(r"(?:model\.)?layers\.(\d+)\.", name))]
  depth = max(numbers, default=-1) + 1
  first, end = config.layers
  if end > depth:
    raise ValueError(f"{found.path}: the preset takes layers {first} to {end - 1}, but the file has {depth} layers")
  unused = "|".join(str(i) for i in range(depth) if not first <= i < end)
  return [
      (rf"(model\.)?layers\.({unused})\..*",),
      (r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),  # constants, which old versions saved
      (r"lm_head\.weight",),  # scores the next word; nothing here asks for that
      (r"model\.(.*)", r"\1"),
  ]


def hf_config(config: presets.PredictorConfig) -> dict[str, Any]:
  """The config.json of a `LlamaModel` that ends with the last of these layers."""
  if config.token_width != config.width:
    raise ValueError(f"the tokens of a LlamaModel are as wide as its layers, {config.width}; set token_width to that")
  scaling = None
  if config.rope_scaling is not None:
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    scaling = {"rope_type": "llama3", **dict(zip(names, config.rope_scaling))}
  sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
  rest = {"num_hidden_layers": config.layers[1], "rope_scaling": scaling, "max_position_embeddings": 131_072}
  return {"architectures": ["LlamaModel"], **FIXED, **sizes, **rest, "tie_word_embeddings": True}


def stated(hf: dict[str, Any], config: presets.PredictorConfig) -> dict[str, Any]:
  """The sizes and the constants of a Llama; layers after those that the config takes do not count."""
  found = {name: hf[name] for name in (*SIZES, *FIXED) if name in hf}
  found["rope_theta"], found["rope_scaling"] = rope(hf.get("rope_parameters"), hf, default_theta=10_000.0)
  if "num_hidden_layers" in hf:
    found["num_hidden_layers"] = min(hf["num_hidden_layers"], config.layers[1])
  if "num_attention_heads" in hf:
    found.setdefault("num_key_value_heads", hf["num_attention_heads"])
    if found.get("head_dim") is None and "hidden_size" in hf:
      found["head_dim"] = hf["hidden_size"] // hf["num_attention_heads"]
  return found
