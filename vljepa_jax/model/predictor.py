"""The predictor: a bidirectional Llama-style transformer over [visual ; query]."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vljepa_jax.model import presets
from vljepa_jax.model.attention import attention
from vljepa_jax.model.layers import (
    Embed,
    Linear,
    RMSNorm,
    apply_rope,
    constrain,
    first_real_first,
    masked_mean,
    rope_frequencies,
    rope_tables,
    run_layers,
)


class PredictorBlock(nn.Module):
  """Pre-norm Llama layer: grouped-query attention with RoPE, then SwiGLU; no biases."""

  config: presets.PredictorConfig
  deterministic: bool

  @nn.compact
  def __call__(self, x: jax.Array, real: jax.Array | None, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x: (B, S, D); real: (B, S), True = real token, None where all are; cos, sin: (S, h)."""
    c = self.config
    drop = nn.Dropout(c.dropout, deterministic=self.deterministic)
    x = constrain(x, "act_batch", "act_seq", "act_embed")
    x = x + drop(self._attend(RMSNorm(c.norm_eps, name="norm1")(x), real, cos, sin))
    x = x + drop(self._mlp(RMSNorm(c.norm_eps, name="norm2")(x)))
    return constrain(x, "act_batch", "act_seq", "act_embed")

  def _linear(self, features: int, axes: tuple[str, str], name: str) -> Linear:
    return Linear(features, axes, use_bias=False, dtype=self.config.dtype, name=name)

  def _attend(self, x: jax.Array, real: jax.Array | None, cos: jax.Array, sin: jax.Array) -> jax.Array:
    c = self.config
    split = lambda y, heads: y.reshape(*y.shape[:2], heads, c.head_width)  # (B, S, K, h)
    q = split(self._linear(c.num_heads * c.head_width, ("embed", "heads"), "query")(x), c.num_heads)
    k = split(self._linear(c.num_kv_heads * c.head_width, ("embed", "kv_heads"), "key")(x), c.num_kv_heads)
    v = split(self._linear(c.num_kv_heads * c.head_width, ("embed", "kv_heads"), "value")(x), c.num_kv_heads)
    q = constrain(q, "act_batch", "act_seq", "act_heads", None)
    q, k = (apply_rope(x, cos, sin, c.head_width // 2) for x in (q, k))
    y = self._look(q, k, v, real)
    y = constrain(y, "act_batch", "act_seq", "act_heads", None)
    return self._linear(c.width, ("heads", "embed"), "out")(y.reshape(*y.shape[:2], -1))

  def _look(self, q: jax.Array, k: jax.Array, v: jax.Array, real: jax.Array | None) -> jax.Array:
    return attention(q, k, v, self.config.head_width**-0.5, real=real, causal=self.config.causal)

  def _mlp(self, x: jax.Array) -> jax.Array:
    c = self.config
    gate = self._linear(c.mlp_width, ("embed", "mlp"), "gate")(x)
    up = self._linear(c.mlp_width, ("embed", "mlp"), "up")(x)
    hidden = constrain(nn.silu(gate) * up, "act_batch", "act_seq", "act_mlp")
    return self._linear(c.width, ("mlp", "embed"), "down")(hidden)


class Predictor(nn.Module):
  """Embedding of the answer from visual tokens and a query.

  Attributes:
    embed_width: E, width of the shared space.
  """

  config: presets.PredictorConfig
  embed_width: int

  @nn.compact
  def __call__(
      self, visual: jax.Array, query: jax.Array, query_mask: jax.Array, deterministic: bool = True
  ) -> jax.Array:
    """Runs the sequence [visual ; query] and averages it over visual and real query tokens.

    Args:
      visual: (B, N, D of the X-encoder), any float type.
      query: (B, Q) int32 token ids; Q may be 0.
      query_mask: (B, Q), True = real token; pads are neither attended nor averaged, whichever side they are on.
      deterministic: no dropout; otherwise the rng "dropout" is needed when the config's rate is not 0.

    Returns:
      (B, E) float32, not normalised.
    """
    c = self.config
    query, query_mask = first_real_first(query, query_mask)
    tokens = Embed(c.vocab_size, c.token_width, dtype=c.dtype, name="token_embed")(query)
    x = jnp.concatenate([
        Linear(c.width, (None, "embed"), dtype=c.dtype, name="visual_proj")(visual),
        Linear(c.width, (None, "embed"), dtype=c.dtype, name="query_proj")(tokens),
    ], axis=1)  # (B, S, D), S = N + Q
    real = jnp.concatenate([jnp.ones(visual.shape[:2], bool), query_mask.astype(bool)], axis=1)
    seen = real if query.shape[1] else None  # all tokens of a query-free sequence are real
    cos, sin = rope_tables(x.shape[1], rope_frequencies(c.head_width, c.rope_theta, c.rope_scaling))
    x = run_layers(
        PredictorBlock, dict(config=c, deterministic=deterministic), c.num_layers, x, seen, cos, sin,
        scan=c.scan, remat=c.remat,
    )
    pooled = masked_mean(RMSNorm(c.norm_eps, name="norm")(x), real)
    return Linear(self.embed_width, ("embed", "joint"), name="head")(pooled)
