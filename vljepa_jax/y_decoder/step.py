"""The training step of a Y-decoder: next-token cross-entropy of a text behind its disturbed embedding."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import optax

from vljepa_jax import inspection, optim, parts as parts_lib, sharding
from vljepa_jax.data.vocabulary import BOS, PAD
from vljepa_jax.model.decoder import Decoder
from vljepa_jax.parts import Parts
from vljepa_jax.step import TrainState, average, step_key
from vljepa_jax.y_decoder.recipe import Recipe, decoder_config

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_parts(recipe: Recipe, embed_width: int, vocab_size: int, devices: list[jax.Device] | None = None) -> Parts:
  """Builds the parts; nothing is allocated. UserError where the recipe does not fit the devices."""
  mesh = sharding.make_mesh(recipe.mesh, devices)
  sharding.check_batch_size(recipe.train.batch_size, 1, mesh, recipe.mesh.rules)
  decoder = Decoder(decoder_config(recipe), embed_width, vocab_size)
  return parts_lib.assemble(recipe, decoder, lambda key: init_params(decoder, key), mesh)


def init_params(decoder: Decoder, rng: jax.Array) -> dict:
  """Boxed parameters from a seed."""
  return decoder.init(rng, jnp.zeros((1, decoder.embed_width)), jnp.zeros((1, 1), jnp.int32))["params"]


def make_step(recipe: Recipe, parts: Parts) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """The jitted training step; it takes over the state that it is given.

  A batch has `embed` (B, E) float32 of unit length and `tokens` (B, L) int32, as `Vocabulary.encode` makes them.
  """
  schedule = optim.make_schedule(recipe.optim, recipe.train.steps)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    grads, metrics = grads_of(parts.model, state.params, batch, step_key(state))
    updates, opt_state = parts.tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = average(state.ema, params, state.step, recipe.optim.ema) if recipe.optim.ema else None
    metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": schedule(state.step)}
    return TrainState(state.step + 1, params, opt_state, state.rng, ema), metrics

  return jax.jit(train_step, out_shardings=(parts.shardings, parts.whole), donate_argnums=0)


def grads_of(decoder: Decoder, params: dict, batch: Batch, dropout: jax.Array) -> tuple[dict, Metrics]:
  """Gradients of the loss, and its metrics."""

  def loss(params):
    logits = next_token_logits(decoder, params, batch["embed"], batch["tokens"], dropout)
    return cross_entropy(logits, batch["tokens"])

  return jax.grad(loss, has_aux=True)(params)


def make_inspection(parts: Parts) -> Callable[..., inspection.Findings]:
  """What is not finite in the step from a state on a batch."""
  logits = lambda params, batch, dropout: (
      next_token_logits(parts.model, params, batch["embed"], batch["tokens"], dropout),)
  score_of = lambda batch, dropout: lambda embeds, params: cross_entropy(embeds[0], batch["tokens"])
  return inspection.make_inspection(
      functools.partial(grads_of, parts.model), logits, score_of, ("logits",), parts.whole)


def next_token_logits(
    decoder: Decoder, params: dict, embed: jax.Array, tokens: jax.Array, dropout: jax.Array | None = None
) -> jax.Array:
  """Logits (B, L, V) of every token of a text, each from the embedding and the true tokens before it."""
  before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
  rngs = None if dropout is None else {"dropout": dropout}
  return decoder.apply({"params": params}, embed, before, dropout is None, rngs=rngs)


def cross_entropy(logits: jax.Array, tokens: jax.Array) -> tuple[jax.Array, Metrics]:
  """Mean over the real tokens of a batch, the mark of the end among them; and metrics."""
  real = tokens != PAD
  mean = lambda x: jnp.sum(jnp.where(real, x, 0.0)) / jnp.sum(real)
  loss = mean(optax.softmax_cross_entropy_with_integer_labels(logits, tokens))
  return loss, {"loss": loss, "token_accuracy": mean(jnp.argmax(logits, axis=-1) == tokens)}
