"""Texts from a decoder: greedy and beam search, and the likelihood of given texts, each one compiled program with a
cache of keys and values.

A decoder is the Y-decoder or the token model; what stands before the text is an embedding (B, E) or a `Prompt`.

Shape letters as in `model/layers.py`, and W hypotheses of a beam.
"""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from vljepa_jax.data.vocabulary import BOS, EOS, PAD, UNK
from vljepa_jax.model.decoder import CACHE, Decoder
from vljepa_jax.model.token_model import TokenModel

NEVER = (PAD, BOS, UNK)  # marks that no text has

SCORED_ROWS = 128  # texts times prefixes that are scored at a time

AnyDecoder = Decoder | TokenModel


@flax.struct.dataclass
class Decoded:
  """Texts as token ids.

  Attributes:
    tokens: (..., L) int32; the stop token included, PAD after it. A text that reaches L has none.
    scores: (...) float32, log-probability of the text, of `beam` divided by its length to the power of the penalty.
  """

  tokens: jax.Array
  scores: jax.Array


@functools.partial(jax.jit, static_argnames=("decoder", "length", "stop"))
def greedy(decoder: AnyDecoder, params: Any, embed: Any, *, length: int, stop: tuple[int, ...] = (EOS,)) -> Decoded:
  """The most probable token, again and again, until every text has stopped.

  Args:
    decoder: the module.
    params: its parameters.
    embed: (B, E) unit vectors, or a prompt.
    length: L, most tokens of a text, the stop token included.
    stop: tokens that end a text.

  Returns:
    Tokens (B, L), scores (B,).
  """
  batch, prefix = len(jax.tree.leaves(embed)[0]), decoder.prefix_length(embed)

  def unfinished(state):
    step, _, done, *_ = state
    return (step < length) & ~jnp.all(done)

  def extend(state):
    step, last, done, tokens, scores, cache = state
    log_probs, cache = _next(decoder, params, cache, last, prefix + step, prefix + length)
    last = jnp.where(done, PAD, jnp.argmax(log_probs, axis=-1)).astype(jnp.int32)
    scores += jnp.where(done, 0.0, jnp.max(log_probs, axis=-1))
    return step + 1, last, done | _is_in(last, stop), tokens.at[:, step].set(last), scores, cache

  state = (
      0, jnp.full(batch, BOS, jnp.int32), jnp.zeros(batch, bool), jnp.full((batch, length), PAD, jnp.int32),
      jnp.zeros(batch), _start(decoder, params, embed, length))
  _, _, _, tokens, scores, _ = jax.lax.while_loop(unfinished, extend, state)
  return Decoded(tokens, scores)


@functools.partial(jax.jit, static_argnames=("decoder", "width", "length", "stop"))
def beam(
    decoder: AnyDecoder, params: Any, embed: Any, *, width: int, length: int, length_penalty: float = 1.0,
    stop: tuple[int, ...] = (EOS,),
) -> Decoded:
  """Beam search. A finished hypothesis keeps its place in the beam for as long as no other outranks it.

  Hypotheses are ranked by log-probability / length ** length_penalty. A width of 1 is greedy search; a width of at
  least the number of possible texts finds the best.

  Args:
    decoder: the module.
    params: its parameters.
    embed: (B, E) unit vectors, or a prompt.
    width: W.
    length: L, most tokens of a text, the stop token included.
    length_penalty: 0 compares log-probabilities, 1 their mean over the tokens.
    stop: tokens that end a text.

  Returns:
    Tokens (B, W, L) and scores (B, W), the best first; a score is -inf where there are fewer than W texts.
  """
  batch, prefix = len(jax.tree.leaves(embed)[0]), decoder.prefix_length(embed)
  rows = jnp.arange(batch)[:, None]

  def unfinished(state):
    step, _, done, *_ = state
    return (step < length) & ~jnp.all(done)

  def extend(state):
    step, last, done, tokens, total, size, cache = state
    log_probs, cache = _next(decoder, params, cache, last.reshape(-1), prefix + step, prefix + length)
    log_probs = log_probs.reshape(batch, width, -1)
    vocab = log_probs.shape[-1]
    only_pad = jnp.where(jnp.arange(vocab) == PAD, 0.0, -jnp.inf)
    grown = total[..., None] + jnp.where(done[..., None], only_pad, log_probs)  # (B, W, V)
    size = jnp.where(done, size, size + 1)
    rank = grown / size[..., None].astype(jnp.float32) ** length_penalty
    _, best = jax.lax.top_k(rank.reshape(batch, -1), width)
    parent, last = best // vocab, (best % vocab).astype(jnp.int32)
    tokens = tokens[rows, parent].at[:, :, step].set(last)
    done = done[rows, parent] | _is_in(last, stop)
    total = jnp.take_along_axis(grown.reshape(batch, -1), best, axis=1)
    return step + 1, last, done, tokens, total, size[rows, parent], _reorder(cache, (rows * width + parent).reshape(-1))

  first_alone = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf)  # all W would begin alike
  cache = _reorder(_start(decoder, params, embed, length), jnp.repeat(jnp.arange(batch), width))
  state = (
      0, jnp.full((batch, width), BOS, jnp.int32), jnp.zeros((batch, width), bool),
      jnp.full((batch, width, length), PAD, jnp.int32), jnp.tile(first_alone, (batch, 1)),
      jnp.zeros((batch, width), jnp.int32), cache)
  _, _, _, tokens, total, size, _ = jax.lax.while_loop(unfinished, extend, state)
  return Decoded(tokens, total / size.astype(jnp.float32) ** length_penalty)


@functools.partial(jax.jit, static_argnames="decoder")
def log_likelihood(decoder: AnyDecoder, params: Any, embed: Any, texts: jax.Array) -> jax.Array:
  """Log-probability of every one of some texts behind every one of some prefixes, which are run once.

  Args:
    decoder: the module.
    params: its parameters.
    embed: (B, E) unit vectors, or a prompt.
    texts: (C, L) int32 as `Vocabulary.encode` makes them: tokens, EOS, then PAD.

  Returns:
    (B, C) float32, the sum over the tokens of a text, the mark of its end among them.
  """
  count, length = texts.shape
  batch, prefix = len(jax.tree.leaves(embed)[0]), decoder.prefix_length(embed)
  cache = _start(decoder, params, embed, length)

  def score(text):
    before = jnp.broadcast_to(jnp.pad(text[:-1], (1, 0), constant_values=BOS), (batch, length))
    logits, _ = _apply(decoder, {"params": params, CACHE: cache}, None, before, prefix, prefix + length)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), text[None, :, None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(text == PAD, 0.0, chosen), axis=1)

  return jax.lax.map(score, texts, batch_size=max(1, SCORED_ROWS // batch)).T


def writable(logits: jax.Array) -> jax.Array:
  """Log-probabilities among the tokens that a text can have, float32. (..., V) -> (..., V)."""
  return jax.nn.log_softmax(logits.at[..., jnp.array(NEVER)].set(-jnp.inf), axis=-1)


def _start(decoder: AnyDecoder, params: Any, embed: Any, length: int) -> Any:
  """The cache with the prefix in it, and room for `length` tokens of a text."""
  no_tokens = jnp.zeros((len(jax.tree.leaves(embed)[0]), 0), jnp.int32)
  return _apply(decoder, {"params": params}, embed, no_tokens, 0, decoder.prefix_length(embed) + length)[1]


def _next(
    decoder: AnyDecoder, params: Any, cache: Any, last: jax.Array, place: jax.Array, room: int
) -> tuple[jax.Array, Any]:
  """Log-probabilities (B, V) of the token behind `last` (B,), which stands at `place`, and the cache with it."""
  logits, cache = _apply(decoder, {"params": params, CACHE: cache}, None, last[:, None], place, room)
  return writable(logits[:, 0]), cache


def _apply(decoder, variables, embed, tokens, place, room):
  # Without rules: a batch of one cannot be cut over the devices that training pins it to.
  with nn.logical_axis_rules(()):
    logits, changed = decoder.apply(variables, embed, tokens, place=place, room=room, mutable=[CACHE])
  return logits, changed[CACHE]


def _reorder(cache: Any, rows: jax.Array) -> Any:
  """The cache of other rows; keys and values of a stack of layers have an axis before that of rows."""
  return jax.tree.map(lambda x: jnp.take(x, rows, axis=max(x.ndim - 4, 0)), cache)


def _is_in(tokens: jax.Array, stop: tuple[int, ...]) -> jax.Array:
  return jnp.isin(tokens, jnp.array(stop, jnp.int32))
