"""BERT sentence encoders as Hugging Face saves them (`BertModel`; all-MiniLM-L6-v2)."""

from vljepa_jax.model import presets
from vljepa_jax.weights.maps import Entry, linear, norm

FRESH = (r"head/.*",)
IGNORED = (
    r"embeddings\.position_ids",  # the constants 0..511, which old versions saved as a tensor
    r"pooler\..*",  # serves next-sentence prediction; sentence encoders average the tokens instead
)


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
