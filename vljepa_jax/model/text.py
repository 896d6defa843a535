"""The Y-encoder: a text to its embedding."""

import flax.linen as nn
import jax

from vljepa_jax.model import presets
from vljepa_jax.model.bert import Bert
from vljepa_jax.model.gemma import EmbeddingGemma
from vljepa_jax.model.layers import Linear, first_real_first, masked_mean


class YEncoder(nn.Module):
  """Backbone, mean over real tokens, the backbone's own dense heads, and a projection to the shared width.

  Attributes:
    embed_width: E; None leaves the projection out, and the width is that of the text encoder itself.
  """

  config: presets.YEncoderConfig
  embed_width: int | None

  @nn.compact
  def __call__(self, target: jax.Array, target_mask: jax.Array, deterministic: bool = True) -> jax.Array:
    """Embeds texts.

    Args:
      target: (B, L) int32 token ids.
      target_mask: (B, L), True = real token; pads are neither attended nor averaged, whichever side they are on.
      deterministic: no dropout; otherwise the rng "dropout" is needed when the config's rate is not 0.

    Returns:
      (B, E) float32, not normalised.
    """
    c = self.config
    target, target_mask = first_real_first(target, target_mask)
    gemma = isinstance(c, presets.EmbeddingGemmaConfig)
    backbone = EmbeddingGemma(c, name="backbone") if gemma else Bert(c, name="backbone")
    x = masked_mean(backbone(target, target_mask, deterministic), target_mask)
    for i, width in enumerate(c.dense_widths if gemma else ()):
      axes = ("embed", "mlp") if i % 2 == 0 else ("mlp", "embed")
      x = Linear(width, axes, use_bias=False, name=f"dense_{i}")(x)
    if self.embed_width is None:
      return x
    return Linear(self.embed_width, ("embed", "joint"), name="head")(x)
