"""BERT sentence encoders as Hugging Face saves them (`BertModel`; all-MiniLM-L6-v2)."""

from typing import Any

from vljepa_jax.model import presets
from vljepa_jax.weights.maps import Entry, linear, norm
from vljepa_jax.weights.tensors import Rules, Tensors

FRESH = (r"head/.*",)
FIELDS = {
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_width",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_positions",
    "layer_norm_eps": "norm_eps",
}
FIXED = {"model_type": "bert", "hidden_act": "gelu", "type_vocab_size": 2}


def rules(found: Tensors, config: presets.BertConfig) -> Rules:
  """`BertModel` names with or without their prefix."""
  del found, config
  return [
      (r"(bert\.)?embeddings\.position_ids",),  # the constants 0..511, which old versions saved as a tensor
      (r"(bert\.)?pooler\..*",),  # serves next-sentence prediction; sentence encoders average the tokens instead
      (r"bert\.(.*)", r"\1"),
  ]


def hf_config(config: presets.BertConfig) -> dict[str, Any]:
  """The config.json of a `BertModel`."""
  sizes = {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()}
  return {"architectures": ["BertModel"], **FIXED, **sizes, "hidden_dropout_prob": config.dropout}


def stated(hf: dict[str, Any], config: presets.BertConfig) -> dict[str, Any]:
  """The sizes and the constants of a BERT."""
  del config
  return {name: hf[name] for name in (*FIELDS, *FIXED) if name in hf}


def name_map(config: presets.BertConfig) -> list[Entry]:
  """Rows of the whole encoder."""
  rows = [
      Entry("backbone/token_embed/embedding", "embeddings.word_embeddings.weight"),
      Entry("backbone/position_embed/embedding", "embeddings.position_embeddings.weight"),
      Entry("backbone/type_embed/embedding", "embeddings.token_type_embeddings.weight"),
      *norm("backbone/embed_norm", "embeddings.LayerNorm"),
  ]
  for i in range(config.num_layers):
    ours, theirs = f"backbone/layers_{i}", f"encoder.layer.{i}"
    rows += [
        *linear(f"{ours}/query", f"{theirs}.attention.self.query"),
        *linear(f"{ours}/key", f"{theirs}.attention.self.key"),
        *linear(f"{ours}/value", f"{theirs}.attention.self.value"),
        *linear(f"{ours}/out", f"{theirs}.attention.output.dense"),
        *norm(f"{ours}/norm1", f"{theirs}.attention.output.LayerNorm"),
        *linear(f"{ours}/up", f"{theirs}.intermediate.dense"),
        *linear(f"{ours}/down", f"{theirs}.output.dense"),
        *norm(f"{ours}/norm2", f"{theirs}.output.LayerNorm"),
    ]
  return rows
