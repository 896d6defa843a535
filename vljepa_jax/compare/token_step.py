"""The training step of the token model: next-token cross-entropy of the answer behind picture and question."""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from vljepa_jax import optim, parts as parts_lib, sharding
from vljepa_jax.config import Config, model_config
from vljepa_jax.data.vocabulary import BOS
from vljepa_jax.model.token_model import Prompt, TokenModel
from vljepa_jax.parts import Parts
from vljepa_jax.step import TrainState, step_key
from vljepa_jax.y_decoder.step import cross_entropy

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_parts(config: Config, vocab_size: int, visual_width: int, table_given: bool) -> Parts:
  """Builds the parts; nothing is allocated.

  Args:
    config: the recipe, whose predictor gives the sizes.
    vocab_size: V.
    visual_width: D of the visual tokens.
    table_given: whether the token table is copied from pretrained embeddings; it is then frozen, as VL-JEPA's is.

  Raises:
    UserError: the recipe does not fit the devices.
  """
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(config.train.batch_size, 1, mesh, config.mesh.rules)
  model = TokenModel(model_config(config.model).predictor, vocab_size)
  groups = ((".*", 1.0),)
  if table_given:
    groups = (("token_embed/.*", None), *groups)
  recipe = dataclasses.replace(config, optim=dataclasses.replace(config.optim, groups=groups))
  return parts_lib.assemble(recipe, model, functools.partial(init_params, model, visual_width), mesh)


def init_params(model: TokenModel, visual_width: int, rng: jax.Array) -> dict:
  """Boxed parameters from a seed."""
  ids = jnp.zeros((1, 1), jnp.int32)
  return model.init(rng, (jnp.zeros((1, 1, visual_width)), ids, ids == 0), ids)["params"]


def make_step(config: Config, parts: Parts) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """The jitted training step; it takes over the state that it is given.

  A batch has `visual` (B, N, D), `query` (B, Q), `query_mask` (B, Q) and `tokens` (B, L), all ids of the model's own
  vocabulary.
  """
  schedule = optim.make_schedule(config.optim, config.train.steps)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    grads, metrics = grads_of(parts, state.params, batch, step_key(state))
    updates, opt_state = parts.tx.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u, skip: p if skip else p + u, state.params, updates, parts.frozen)
    metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": schedule(state.step)}
    return TrainState(state.step + 1, params, opt_state, state.rng, None), metrics

  return jax.jit(train_step, out_shardings=(parts.shardings, parts.whole), donate_argnums=0)


def grads_of(parts: Parts, params: dict, batch: Batch, dropout: jax.Array) -> tuple[dict, Metrics]:
  """Gradients of the loss, and its metrics."""

  def loss(params):
    params = jax.tree.map(lambda p, skip: jax.lax.stop_gradient(p) if skip else p, params, parts.frozen)
    return cross_entropy(next_token_logits(parts.model, params, batch, dropout), batch["tokens"])

  return jax.grad(loss, has_aux=True)(params)


def next_token_logits(model: TokenModel, params: dict, batch: Batch, dropout: jax.Array | None = None) -> jax.Array:
  """Logits (B, L, V) of every token of an answer, each from the prompt and the true tokens before it."""
  before = jnp.pad(batch["tokens"][:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
  rngs = None if dropout is None else {"dropout": dropout}
  return model.apply({"params": params}, prompt_of(batch), before, dropout is None, rngs=rngs)


def prompt_of(batch: Batch) -> Prompt:
  """What stands before the answers of a batch."""
  return batch["visual"], batch["query"], batch["query_mask"]
