"""BERT, the backbone of sentence encoders such as all-MiniLM-L6-v2."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vljepa_jax.model import presets
from vljepa_jax.model.attention import attention
from vljepa_jax.model.layers import Embed, Linear, constrain, gelu, layer_norm, run_layers


class BertBlock(nn.Module):
  """Post-norm transformer layer: attention, then an MLP with the exact (erf) GELU."""

  config: presets.BertConfig
  deterministic: bool

  @nn.compact
  def __call__(self, x: jax.Array, real: jax.Array) -> jax.Array:
    """x: (B, L, D); real: (B, L), True = real token."""
    c = self.config
    drop = nn.Dropout(c.dropout, deterministic=self.deterministic)
    x = constrain(x, "act_batch", "act_seq", "act_embed")
    x = layer_norm(c.norm_eps, "norm1")(x + drop(self._attend(x, real))).astype(c.dtype)
    x = layer_norm(c.norm_eps, "norm2")(x + drop(self._mlp(x))).astype(c.dtype)
    return constrain(x, "act_batch", "act_seq", "act_embed")

  def _heads(self, x: jax.Array, name: str) -> jax.Array:
    c = self.config
    y = Linear(c.width, ("embed", "heads"), dtype=c.dtype, name=name)(x)
    y = y.reshape(*y.shape[:2], c.num_heads, c.width // c.num_heads)
    return constrain(y, "act_batch", "act_seq", "act_heads", None)

  def _attend(self, x: jax.Array, real: jax.Array) -> jax.Array:
    c = self.config
    q, k, v = (self._heads(x, name) for name in ("query", "key", "value"))
    y = attention(q, k, v, (c.width // c.num_heads) ** -0.5, real=real).reshape(x.shape)
    return Linear(c.width, ("heads", "embed"), dtype=c.dtype, name="out")(y)

  def _mlp(self, x: jax.Array) -> jax.Array:
    c = self.config
    hidden = gelu(Linear(c.mlp_width, ("embed", "mlp"), dtype=c.dtype, name="up")(x))
    hidden = constrain(hidden, "act_batch", "act_seq", "act_mlp")
    return Linear(c.width, ("mlp", "embed"), dtype=c.dtype, name="down")(hidden)


class Bert(nn.Module):
  """Token ids to hidden states; every token has type 0."""

  config: presets.BertConfig

  @nn.compact
  def __call__(self, ids: jax.Array, mask: jax.Array, deterministic: bool = True) -> jax.Array:
    """Hidden states of the last layer.

    Args:
      ids: (B, L) int32 token ids, L at most `max_positions`.
      mask: (B, L), True = real token; pads are not attended.
      deterministic: no dropout; otherwise the rng "dropout" is needed when the config's rate is not 0.

    Returns:
      (B, L, D) in the compute type.
    """
    c = self.config
    length = ids.shape[1]
    if length > c.max_positions:
      raise ValueError(f"texts of {length} tokens are longer than the {c.max_positions} positions of this BERT")
    embed = lambda rows, axis, name: Embed(rows, c.width, (axis, "embed"), dtype=c.dtype, name=name)
    x = embed(c.vocab_size, "vocab", "token_embed")(ids)
    x = x + embed(2, None, "type_embed")(jnp.zeros((1, 1), jnp.int32))
    x = x + embed(c.max_positions, "position", "position_embed")(jnp.arange(length))
    x = layer_norm(c.norm_eps, "embed_norm")(x).astype(c.dtype)
    x = nn.Dropout(c.dropout, deterministic=deterministic)(x)
    return run_layers(
        BertBlock, dict(config=c, deterministic=deterministic), c.num_layers, x, mask.astype(bool),
        scan=c.scan, remat=c.remat,
    )
