"""EmbeddingGemma as Hugging Face and sentence-transformers save it (`Gemma3TextModel`, `2_Dense/`, `3_Dense/`)."""

from typing import Any

from vljepa_jax.model import presets
from vljepa_jax.model.gemma import full_layers
from vljepa_jax.weights.config_json import rope
from vljepa_jax.weights.maps import Entry, gated_layer, linear, norm
from vljepa_jax.weights.tensors import Rules, Tensors

FRESH = (r"head/.*",)
SIZES = {
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_width",
    "intermediate_size": "mlp_width",
    "vocab_size": "vocab_size",
    "rms_norm_eps": "norm_eps",
    "query_pre_attn_scalar": "query_scale",
    "rope_theta": "rope_theta",
    "rope_local_base_freq": "rope_local_theta",
}
FIELDS = SIZES | {"sliding_window // 2 + 1": "sliding_window", "layer_types": "full_every"}
FIXED = {
    "model_type": "gemma3_text",
    "use_bidirectional_attention": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "rope_scaling": None,
}


def name_map(config: presets.EmbeddingGemmaConfig) -> list[Entry]:
  """Rows of the whole encoder and of its dense heads."""
  rows = [Entry("backbone/token_embed/embedding", "embed_tokens.weight")]
  norms = {
      "norm1": "input_layernorm", "post_norm1": "post_attention_layernorm", "norm2": "pre_feedforward_layernorm",
      "post_norm2": "post_feedforward_layernorm", "query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm",
  }
  for i in range(config.num_layers):
    ours, theirs = f"backbone/layers_{i}", f"layers.{i}"
    rows += gated_layer(ours, theirs)
    rows += [row for part, name in norms.items() for row in norm(f"{ours}/{part}", f"{theirs}.{name}", bias=False)]
  rows += norm("backbone/norm", "norm", bias=False)
  for i, folder in enumerate(_dense_folders(config)):
    rows += linear(f"dense_{i}", f"{folder}/linear", bias=False)
  return rows


def rules(found: Tensors, config: presets.EmbeddingGemmaConfig) -> Rules:
  """`Gemma3TextModel` names with or without their prefix; ValueError when the number of dense heads differs."""
  folders = sorted({name.partition("/")[0] for name in found if "/" in name})
  if folders != _dense_folders(config):
    has = ", ".join(folders) or "no Dense folder"
    raise ValueError(f"{found.path}: there is {has} beside it, but the preset has dense_widths {config.dense_widths}")
  return [(r"model\.(.*)", r"\1")]


def hf_config(config: presets.EmbeddingGemmaConfig) -> dict[str, Any]:
  """The config.json of a bidirectional `Gemma3TextModel`."""
  if config.query_scale != int(config.query_scale):
    raise ValueError(f"the query_scale of a Gemma3TextModel is a whole number, not {config.query_scale}")
  sizes = {theirs: getattr(config, ours) for theirs, ours in SIZES.items()}
  rest = {
      "query_pre_attn_scalar": int(config.query_scale),
      "sliding_window": 2 * (config.sliding_window - 1),
      "layer_types": ["full_attention" if full else "sliding_attention" for full in full_layers(config)],
      "max_position_embeddings": 2048,
  }
  return {"architectures": ["Gemma3TextModel"], **FIXED, **sizes, **rest}


def stated(hf: dict[str, Any], config: presets.EmbeddingGemmaConfig) -> dict[str, Any]:
  """The sizes and the constants of a text encoder. Without the word for it, a Gemma looks at earlier tokens only."""
  del config
  found = {"use_bidirectional_attention": False} | {name: hf[name] for name in (*SIZES, *FIXED) if name in hf}
  by_type = hf.get("rope_parameters") or {}
  found["rope_theta"], found["rope_scaling"] = rope(by_type.get("full_attention"), hf, default_theta=1_000_000.0)
  local = {"rope_theta": hf.get("rope_local_base_freq")}
  found["rope_local_base_freq"], _ = rope(by_type.get("sliding_attention"), local, default_theta=10_000.0)
  if hf.get("sliding_window") is not None:
    found["sliding_window // 2 + 1"] = hf["sliding_window"] // 2 + 1
  if "num_hidden_layers" in hf:
    pattern = hf.get("sliding_window_pattern", hf.get("_sliding_window_pattern", 6))
    numbers = range(1, hf["num_hidden_layers"] + 1)
    types = ["sliding_attention" if i % pattern else "full_attention" for i in numbers]
    found["layer_types"] = hf.get("layer_types") or types
  return found


def sentence_files(config: presets.EmbeddingGemmaConfig) -> dict[str, Any]:
  """The JSON files that sentence-transformers wants beside the model, by their path: mean pooling and dense heads."""
  folders = ["", "1_Pooling", *_dense_folders(config)]
  folders.append(f"{len(folders)}_Normalize")
  kind = lambda folder: folder.partition("_")[2] or "Transformer"
  modules = [
      {"idx": i, "name": str(i), "path": folder, "type": f"sentence_transformers.models.{kind(folder)}"}
      for i, folder in enumerate(folders)
  ]
  modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
  pooling = {f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes}
  files = {
      "modules.json": modules,
      "1_Pooling/config.json": {"word_embedding_dimension": config.width, **pooling, "include_prompt": True},
  }
  widths = (config.width, *config.dense_widths)
  for folder, before, after in zip(_dense_folders(config), widths, config.dense_widths):
    files[f"{folder}/config.json"] = {
        "in_features": before, "out_features": after, "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
  return files


def _dense_folders(config: presets.EmbeddingGemmaConfig) -> list[str]:
  return [f"{i + 2}_Dense" for i in range(len(config.dense_widths))]
