"""Gemma 3 as a bidirectional text encoder, the backbone of EmbeddingGemma."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vljepa_jax.model import presets
from vljepa_jax.model.attention import attention
from vljepa_jax.model.layers import (
    Embed,
    Linear,
    RMSNorm,
    apply_rope,
    constrain,
    rope_frequencies,
    rope_tables,
    run_layers,
)


class GemmaBlock(nn.Module):
  """Sandwich-norm layer: norms before and after both branches, normed queries and keys, GeGLU (tanh)."""

  config: presets.EmbeddingGemmaConfig

  @nn.compact
  def __call__(
      self, x: jax.Array, real: jax.Array, cos: jax.Array, sin: jax.Array, is_full: jax.Array
  ) -> jax.Array:
    """Applies the layer.

    Args:
      x: (B, L, D).
      real: (B, L), True = real token. What a pad itself gets means nothing: neither later layers nor the pooling look
        at it.
      cos: (2, L, h), rotary tables of sliding and of full layers.
      sin: like cos.
      is_full: () int32, which of the two this layer is.

    Returns:
      (B, L, D).
    """
    x = constrain(x, "act_batch", "act_seq", "act_embed")
    y = self._attend(self._norm("norm1")(x), real, is_full, cos[is_full], sin[is_full])
    x = x + self._norm("post_norm1")(y)
    y = self._mlp(self._norm("norm2")(x))
    x = x + self._norm("post_norm2")(y)
    return constrain(x, "act_batch", "act_seq", "act_embed")

  def _norm(self, name: str) -> RMSNorm:
    return RMSNorm(self.config.norm_eps, unit_offset=True, name=name)

  def _linear(self, features: int, axes: tuple[str, str], name: str) -> Linear:
    return Linear(features, axes, use_bias=False, dtype=self.config.dtype, name=name)

  def _attend(
      self, x: jax.Array, real: jax.Array, is_full: jax.Array, cos: jax.Array, sin: jax.Array
  ) -> jax.Array:
    c = self.config
    split = lambda y, heads: y.reshape(*y.shape[:2], heads, c.head_width)  # (B, L, K, h)
    q = split(self._linear(c.num_heads * c.head_width, ("embed", "heads"), "query")(x), c.num_heads)
    k = split(self._linear(c.num_kv_heads * c.head_width, ("embed", "kv_heads"), "key")(x), c.num_kv_heads)
    v = split(self._linear(c.num_kv_heads * c.head_width, ("embed", "kv_heads"), "value")(x), c.num_kv_heads)
    q = apply_rope(self._norm("query_norm")(q), cos, sin, c.head_width // 2)
    k = apply_rope(self._norm("key_norm")(k), cos, sin, c.head_width // 2)
    q = constrain(q, "act_batch", "act_seq", "act_heads", None)
    y = attention(q, k, v, c.query_scale**-0.5, real=real, window=c.sliding_window, windowed=is_full == 0)
    y = constrain(y, "act_batch", "act_seq", "act_heads", None)
    return self._linear(c.width, ("heads", "embed"), "out")(y.reshape(*y.shape[:2], -1))

  def _mlp(self, x: jax.Array) -> jax.Array:
    c = self.config
    gate = self._linear(c.mlp_width, ("embed", "mlp"), "gate")(x)
    up = self._linear(c.mlp_width, ("embed", "mlp"), "up")(x)
    hidden = constrain(nn.gelu(gate, approximate=True) * up, "act_batch", "act_seq", "act_mlp")
    return self._linear(c.width, ("mlp", "embed"), "down")(hidden)


class EmbeddingGemma(nn.Module):
  """Token ids to hidden states after the final norm; no dropout, like the original."""

  config: presets.EmbeddingGemmaConfig

  @nn.compact
  def __call__(self, ids: jax.Array, mask: jax.Array, deterministic: bool = True) -> jax.Array:
    """Hidden states. ids: (B, L) int32; mask: (B, L), True = real token -> (B, L, D) in the compute type."""
    del deterministic
    c = self.config
    x = Embed(c.vocab_size, c.width, dtype=c.dtype, name="token_embed")(ids) * math.sqrt(c.width)
    cos, sin = _rope_pair(c, ids.shape[1])
    x = run_layers(
        GemmaBlock, dict(config=c), c.num_layers, x, mask.astype(bool), cos, sin,
        per_layer=jnp.asarray(full_layers(c)), scan=c.scan, remat=c.remat,
    )
    return RMSNorm(c.norm_eps, unit_offset=True, name="norm")(x)


def full_layers(c: presets.EmbeddingGemmaConfig) -> np.ndarray:
  """(layers,) int32: 1 for a layer that looks at the whole text, 0 for one that looks at the window."""
  return (np.arange(1, c.num_layers + 1) % c.full_every == 0).astype(np.int32)


def _rope_pair(c: presets.EmbeddingGemmaConfig, length: int) -> tuple[jax.Array, jax.Array]:
  """Cosine and sine of sliding and of full layers, each (2, L, h)."""
  tables = functools.partial(rope_tables, length)
  pairs = [tables(rope_frequencies(c.head_width, theta)) for theta in (c.rope_local_theta, c.rope_theta)]
  cos, sin = zip(*pairs)
  return jnp.stack(cos), jnp.stack(sin)
