"""The Y-decoder: words from one embedding, by a small causal Llama-style transformer.

The embedding becomes a few tokens that stand before the text (a prefix, as in ClipCap, arXiv 2111.09734). The paper
names a "lightweight text decoder" that is not part of the training (section 2) and says no more.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vljepa_jax.model import presets
from vljepa_jax.model.attention import attention
from vljepa_jax.model.layers import Embed, Linear, RMSNorm, constrain, rope_frequencies, rope_tables, run_layers
from vljepa_jax.model.predictor import PredictorBlock

CACHE = "cache"  # collection of the keys and values of earlier tokens


class Cached(NamedTuple):
  """Where a piece of a sequence stands, behind what the cache holds.

  Attributes:
    place: () of its first token in the whole sequence.
    seen: (B or 1, S, M), True where a token of the piece may look.
  """

  place: jax.Array | int
  seen: jax.Array


def seen_so_far(place: jax.Array | int, length: int, room: int) -> jax.Array:
  """(1, S, M), True up to each token's own place; a piece of `length` tokens begins at `place`."""
  return (jnp.arange(room) <= place + jnp.arange(length)[:, None])[None]


class DecoderBlock(PredictorBlock):
  """The predictor's layer with a causal mask. In place of the mask of pads it may take a `Cached`.

  Attributes:
    room: tokens that the cache has place for; 0 keeps none.
  """

  config: presets.DecoderConfig | presets.PredictorConfig
  room: int

  def _look(self, q: jax.Array, k: jax.Array, v: jax.Array, real: Cached | jax.Array | None) -> jax.Array:
    scale = self.config.head_width**-0.5
    if not isinstance(real, Cached):
      return attention(q, k, v, scale, real=real, causal=True)
    k, v = self._cached("cached_key", k, real.place), self._cached("cached_value", v, real.place)
    return jax.nn.dot_product_attention(q, k, v, mask=real.seen[:, None], scale=scale)

  def _cached(self, name: str, x: jax.Array, place: jax.Array) -> jax.Array:
    """All keys or values so far, (B, M, G, h), with x written at `place`."""
    batch, _, heads, width = x.shape
    cache = self.variable(CACHE, name, jnp.zeros, (batch, self.room, heads, width), x.dtype)
    cache.value = jax.lax.dynamic_update_slice_in_dim(cache.value, x, place, axis=1)
    return cache.value


class Decoder(nn.Module):
  """Next-token logits of a text, given its embedding.

  Attributes:
    embed_width: E, width of the shared space.
    vocab_size: V.
  """

  config: presets.DecoderConfig
  embed_width: int
  vocab_size: int

  def prefix_length(self, embed: jax.Array) -> int:
    """How many tokens stand before the text."""
    return self.config.prefix_tokens

  @nn.compact
  def __call__(
      self, embed: jax.Array | None, tokens: jax.Array, deterministic: bool = True, *,
      place: jax.Array | int | None = None, room: int = 0,
  ) -> jax.Array:
    """Runs [prefix ; tokens], or a piece of it behind what the collection "cache" holds.

    Args:
      embed: (B, E) unit vectors; None where their prefix is in the cache already.
      tokens: (B, S) int32; S may be 0. A token sees the prefix, itself and what stands before it.
      deterministic: no dropout; otherwise the rng "dropout" is needed when the config's rate is not 0.
      place: of the first token here (of the prefix, if there is one) in the whole sequence; None keeps no cache.
      room: tokens that the cache has place for, the prefix included.

    Returns:
      (B, S, V) float32 logits of the token after each.
    """
    c = self.config
    x = Embed(self.vocab_size, c.width, dtype=c.dtype, name="token_embed")(tokens)
    if embed is not None:
      prefix = Linear(c.prefix_tokens * c.width, ("joint", "embed"), dtype=c.dtype, name="prefix_proj")(embed)
      x = jnp.concatenate([prefix.reshape(-1, c.prefix_tokens, c.width), x], axis=1)
    cos, sin = rope_tables(room or x.shape[1], rope_frequencies(c.head_width, c.rope_theta))
    before = None
    if place is not None:
      cos, sin = (jax.lax.dynamic_slice_in_dim(table, place, x.shape[1]) for table in (cos, sin))
      before = Cached(place, seen_so_far(place, x.shape[1], room))
    x = run_layers(
        DecoderBlock, dict(config=c, deterministic=deterministic, room=room), c.num_layers, x, before, cos, sin,
        scan=c.scan, remat=c.remat,
    )
    x = RMSNorm(c.norm_eps, name="norm")(x[:, x.shape[1] - tokens.shape[1]:])
    x = constrain(x, "act_batch", "act_seq", "act_embed")
    head = Linear(self.vocab_size, ("embed", "vocab"), use_bias=False, dtype=c.dtype, name="head")
    return head(x).astype(jnp.float32)
