"""The token-space rival: a vision-language model that spells the answer out, of the predictor's own layers.

[visual ; query ; answer] through a causal Llama-style transformer, as in LLaVA (arXiv 2304.08485) and the PerceptionLM
baseline of the paper (section 4.2): next-token cross-entropy on the answer, no embedding of it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vljepa_jax.model import presets
from vljepa_jax.model.decoder import CACHE, Cached, DecoderBlock, seen_so_far
from vljepa_jax.model.layers import (
    Embed, Linear, RMSNorm, constrain, first_real_first, rope_frequencies, rope_tables, run_layers)

Prompt = tuple[jax.Array, jax.Array, jax.Array]  # visual (B, N, D), query (B, Q), query_mask (B, Q) True = real token


class TokenModel(nn.Module):
  """Next-token logits of an answer, given visual tokens and a question. It is called as a `Decoder` is.

  Attributes:
    config: sizes, as of a predictor; always causal. Its `vocab_size` is not used.
    vocab_size: V, of the rows of `data/vocabulary.py` that questions and answers are made of.
  """

  config: presets.PredictorConfig
  vocab_size: int

  def prefix_length(self, prompt: Prompt) -> int:
    """How many tokens stand before the answer."""
    return prompt[0].shape[1] + prompt[1].shape[1]

  @nn.compact
  def __call__(
      self, prompt: Prompt | None, tokens: jax.Array, deterministic: bool = True, *,
      place: jax.Array | int | None = None, room: int = 0,
  ) -> jax.Array:
    """Runs [visual ; query ; tokens], or a piece of it behind what the collection "cache" holds.

    Args:
      prompt: visual tokens and query, whose pads nobody sees; None where they are in the cache already.
      tokens: (B, S) int32; S may be 0. A token sees the prompt, itself and what stands before it.
      deterministic: no dropout; otherwise the rng "dropout" is needed when the config's rate is not 0.
      place: of the first token here (of the prompt, if there is one) in the whole sequence; None keeps no cache.
      room: tokens that the cache has place for, the prompt included.

    Returns:
      (B, S, V) float32 logits of the token after each.
    """
    c = self.config
    table = Embed(self.vocab_size, c.token_width, dtype=c.dtype, name="token_embed")
    token_proj = Linear(c.width, (None, "embed"), dtype=c.dtype, name="token_proj")
    x, real = token_proj(table(tokens)), jnp.ones(tokens.shape, bool)
    if prompt is not None:
      visual, query, query_mask = prompt
      query, query_mask = first_real_first(query, query_mask)
      visual = Linear(c.width, (None, "embed"), dtype=c.dtype, name="visual_proj")(visual)
      x = jnp.concatenate([visual, token_proj(table(query)), x], axis=1)
      real = jnp.concatenate([jnp.ones(visual.shape[:2], bool), query_mask.astype(bool), real], axis=1)
    cos, sin = rope_tables(room or x.shape[1], rope_frequencies(c.head_width, c.rope_theta, c.rope_scaling))
    if place is not None:
      cos, sin = (jax.lax.dynamic_slice_in_dim(table, place, x.shape[1]) for table in (cos, sin))
      held = self.variable(CACHE, "real", jnp.zeros, (x.shape[0], room), bool)
      held.value = jax.lax.dynamic_update_slice_in_dim(held.value, real, place, axis=1)
      real = Cached(place, seen_so_far(place, x.shape[1], room) & held.value[:, None])
    x = run_layers(
        DecoderBlock, dict(config=c, deterministic=deterministic, room=room), c.num_layers, x, real, cos, sin,
        scan=c.scan, remat=c.remat,
    )
    x = RMSNorm(c.norm_eps, name="norm")(x[:, x.shape[1] - tokens.shape[1]:])
    x = constrain(x, "act_batch", "act_seq", "act_embed")
    return Linear(self.vocab_size, ("embed", "vocab"), use_bias=False, dtype=c.dtype, name="head")(x).astype(jnp.float32)
