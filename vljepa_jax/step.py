"""Train state and the pure step: (state, batch) -> (state, metrics)."""

from collections.abc import Callable
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vljepa_jax import loss, sharding
from vljepa_jax.model.layers import constrain
from vljepa_jax.model.vljepa import VLJepa

Batch = dict[str, jax.Array]
Embed = Callable[[Any, Batch, jax.Array], tuple[jax.Array, jax.Array]]
Score = Callable[[tuple[jax.Array, jax.Array], Any], tuple[jax.Array, dict[str, jax.Array]]]

SCALES = ("log_scale", "logit_bias")  # parameters that the loss reads


@flax.struct.dataclass
class TrainState:
  """Everything that a step reads and writes; saved as one.

  Attributes:
    step: () int32, steps done.
    params: unboxed parameters.
    opt_state: of the optimizer.
    rng: key data of the dropout key, uint32; the key of a step is folded from it and `step`.
    ema: averaged trainable parameters, None at frozen ones; None if the run keeps no average.
  """

  step: jax.Array
  params: Any
  opt_state: optax.OptState
  rng: jax.Array
  ema: Any


def abstract_batch(
    batch_size: int, frames: int, image_size: int, query_length: int, target_length: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a global training batch that holds pictures, enough to build every parameter."""
  tokens = lambda length, dtype: jax.ShapeDtypeStruct((batch_size, length), dtype)
  return {
      "video": jax.ShapeDtypeStruct((batch_size, frames, image_size, image_size, 3), jnp.uint8),
      "query": tokens(query_length, jnp.int32),
      "query_mask": tokens(query_length, jnp.bool),
      "target": tokens(target_length, jnp.int32),
      "target_mask": tokens(target_length, jnp.bool),
      "target_id": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
  }


def init_params(model: VLJepa, batch: dict[str, jax.ShapeDtypeStruct], rng: jax.Array) -> Any:
  """Boxed parameters from a seed. The forward pass is dead code that `jit` drops, so a huge batch costs nothing."""
  zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()}
  return model.init(rng, zeros)["params"]


def init_state(params: Any, tx: optax.GradientTransformation, seed: int, frozen: Any, keep_ema: bool) -> TrainState:
  """The state before the first step.

  Args:
    params: unboxed, from `init_params`, pretrained weights already in place.
    frozen: tree of bools.
    keep_ema: average the trainable parameters.
  """
  return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=tx.init(params),
      rng=jax.random.key_data(jax.random.key(seed)),
      ema=without_frozen(jax.tree.map(jnp.copy, params), frozen) if keep_ema else None,
  )


def state_shardings(
    boxed: Any, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh, rules: sharding.Rules, frozen: Any,
    keep_ema: bool,
) -> TrainState:
  """NamedSharding of every leaf of the state, found without allocating.

  Args:
    boxed: abstract parameters with their logical names, `eval_shape` of `init_params`.
  """
  params = sharding.param_shardings(boxed, mesh, rules)
  whole = sharding.replicated(mesh)
  return TrainState(
      step=whole,
      params=params,
      opt_state=sharding.opt_state_shardings(tx, sharding.unbox(boxed), params, mesh),
      rng=whole,
      ema=without_frozen(params, frozen) if keep_ema else None,
  )


def without_frozen(tree: Any, frozen: Any) -> Any:
  """`tree` with None in place of frozen leaves."""
  return jax.tree.map(lambda x, skip: None if skip else x, tree, frozen)


def average(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
  """Moves the averaged parameters towards `params`; early steps count more: decay min(decay, (1 + t) / (10 + t))."""
  decay = jnp.minimum(decay, (1 + step) / (10 + step))
  move = lambda old, new: None if old is None else old + (1 - decay).astype(old.dtype) * (new - old)
  return jax.tree.map(move, ema, params, is_leaf=lambda x: x is None)


def averaged_params(params: Any, ema: Any) -> Any:
  """The parameters to evaluate and export: averaged ones where there are any."""
  if ema is None:
    return params
  return jax.tree.map(lambda old, new: new if old is None else old, ema, params, is_leaf=lambda x: x is None)


def make_train_step(
    model: VLJepa, tx: optax.GradientTransformation, schedule: optax.Schedule, frozen: Any, ema_decay: float,
    loss_fn: loss.Loss, micro_batches: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """The training step; pure, to be jitted with a donated state.

  Args:
    model: the Linen module.
    tx: from `optim.make_optimizer`.
    schedule: only to report the learning rate.
    frozen: tree of bools; the backward pass of these parameters is never built.
    ema_decay: 0 keeps no average.
    loss_fn: from `loss.make_loss`.
    micro_batches: parts of the batch that the towers run on one after another.
  """
  embed, score_of = make_objective(model, frozen, loss_fn)
  grads_of = make_grads(micro_batches)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
    dropout = step_key(state)
    grads, metrics = grads_of(embed, score_of(batch, dropout), state.params, batch, dropout)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    # Frozen leaves are passed on as they are: adding zero would turn -0.0 into 0.0.
    params = jax.tree.map(lambda p, u, skip: p if skip else p + u, state.params, updates, frozen)
    # Held at the clamp, not beyond it, where the loss has no gradient to bring it back.
    params = {**params, "log_scale": jnp.minimum(params["log_scale"], loss.MAX_LOG_SCALE)}
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        rng=state.rng,
        ema=average(state.ema, params, state.step, ema_decay) if ema_decay else None,
    )
    metrics |= {"grad_norm": optax.tree.norm(grads), "learning_rate": schedule(state.step)}
    return new_state, metrics

  return train_step


def step_key(state: TrainState) -> jax.Array:
  """The dropout key of the step that comes next."""
  return jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)


def make_objective(
    model: VLJepa, frozen: Any, loss_fn: loss.Loss
) -> tuple[Embed, Callable[[Batch, jax.Array], Score]]:
  """What is minimised: (params, batch, dropout) -> embeddings, and (batch, dropout) -> their loss."""

  def embed(params, batch, dropout):
    params = jax.tree.map(lambda p, skip: jax.lax.stop_gradient(p) if skip else p, params, frozen)
    return model.apply(
        {"params": params}, batch, deterministic=False, rngs={"dropout": dropout}, method=VLJepa.embed)

  def score_of(batch, dropout):

    def score(embeds, params):
      scales = {name: params[name] for name in SCALES if name in params}
      pred, target = (x.reshape(-1, x.shape[-1]) for x in embeds)  # every text of every row is one of the batch
      return loss_fn(pred, target, scales, batch["target_id"].reshape(-1), jax.random.fold_in(dropout, 1))

    return score

  return embed, score_of


def make_grads(micro_batches: int) -> Callable[..., tuple[Any, dict[str, jax.Array]]]:
  """(embed, score, params, batch, dropout) -> gradients and metrics, of the batch in so many parts."""
  return whole_batch_grads if micro_batches == 1 else functools.partial(cached_grads, micro_batches)


def whole_batch_grads(embed: Embed, score: Score, params: Any, batch: Batch, dropout: jax.Array) -> tuple[Any, Any]:
  """Gradients of the loss, and its metrics, with the batch in one piece."""
  return jax.grad(lambda params: score(embed(params, batch, dropout), params), has_aux=True)(params)


def cached_grads(
    count: int, embed: Embed, score: Score, params: Any, batch: Batch, dropout: jax.Array
) -> tuple[Any, Any]:
  """The same gradients with activations of one of `count` micro-batches at a time (GradCache, arXiv 2101.06983).

  All embeddings come first, without gradients; the loss sees them together and gives theirs; then every micro-batch
  runs again and hands its part down to the parameters. Dropout differs from micro-batch to micro-batch.
  """
  parts, keys, embeds = micro_embeds(count, embed, params, batch, dropout)
  (embed_grads, grads), metrics = jax.grad(score, argnums=(0, 1), has_aux=True)(
      jax.tree.map(join_rows, embeds), params)

  def add(grads, part):
    *inputs, cotangents = part
    _, pull = jax.vjp(lambda params: embed(params, *inputs), params)
    return jax.tree.map(jnp.add, grads, pull(cotangents)[0]), None

  split_grads = jax.tree.map(lambda x: split_rows(x, count), embed_grads)
  return jax.lax.scan(add, grads, (parts, keys, split_grads))[0], metrics


def micro_embeds(
    count: int, embed: Embed, params: Any, batch: Batch, dropout: jax.Array
) -> tuple[Batch, jax.Array, tuple[jax.Array, jax.Array]]:
  """The micro-batches, their dropout keys and their embeddings, all with a leading axis of `count`."""
  parts = jax.tree.map(lambda x: split_rows(x, count), batch)
  keys = jax.vmap(lambda i: jax.random.fold_in(dropout, i))(jnp.arange(count))
  return parts, keys, jax.lax.map(lambda part: embed(params, *part), (parts, keys))


def split_rows(x: jax.Array, count: int) -> jax.Array:
  """(B, ...) -> (count, B / count, ...), every count-th row, so that a part lies over the devices as the whole does."""
  parts = x.reshape(len(x) // count, count, *x.shape[1:]).swapaxes(0, 1)
  return constrain(parts, None, "act_batch", *[None] * (x.ndim - 1))


def join_rows(parts: jax.Array) -> jax.Array:
  """What `split_rows` split."""
  whole = parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])
  return constrain(whole, "act_batch", *[None] * (whole.ndim - 1))
