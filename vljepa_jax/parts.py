"""The parts of a run that hold no data: model, mesh, optimizer, and the shape and place of every array."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import NamedSharding
import optax

from vljepa_jax import inspection, loss, optim, sharding, step
from vljepa_jax.config import Config, model_config
from vljepa_jax.model.vljepa import VLJepa


@dataclasses.dataclass(frozen=True)
class Parts:
  """What `make_parts` builds.

  Attributes:
    init: key -> boxed parameters.
    shapes: of the unboxed parameters.
    labels: the optimizer group of every parameter.
    frozen: True where a parameter never changes.
    shardings: of the train state.
    state: the train state as ShapeDtypeStructs with these shardings.
    rows: sharding of batches.
    whole: a copy on every device.
  """

  model: nn.Module
  mesh: jax.sharding.Mesh
  tx: optax.GradientTransformation
  init: Callable[[jax.Array], Any]
  shapes: Any
  labels: Any
  frozen: Any
  shardings: step.TrainState
  state: step.TrainState
  rows: NamedSharding
  whole: NamedSharding


def make_parts(config: Config, devices: list[jax.Device] | None = None) -> Parts:
  """Builds the parts; nothing is allocated. UserError where the config does not fit itself or the devices."""
  rules = config.mesh.rules
  mesh = sharding.make_mesh(config.mesh, devices)
  sharding.check_batch_size(config.train.batch_size, config.loss.micro_batches, mesh, rules)
  model = VLJepa(model_config(config.model))
  batch = step.abstract_batch(
      config.train.batch_size, config.data.frames, config.data.image_size, config.tokenizers.query.length,
      config.tokenizers.target.length)
  init = functools.partial(step.init_params, model, batch)
  return assemble(config, model, init, mesh)


def assemble(
    config: Any, model: nn.Module, init: Callable[[jax.Array], Any], mesh: jax.sharding.Mesh
) -> Parts:
  """The parts around any model.

  Args:
    config: a recipe with seed, optim, mesh and train.
    model: the Linen module.
    init: key -> its boxed parameters.
    mesh: to lie on.
  """
  rules = config.mesh.rules
  with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
    boxed = jax.eval_shape(lambda: init(jax.random.key(0)))
  shapes = sharding.unbox(boxed)
  labels = optim.label_params(shapes, config.optim.groups)
  frozen = optim.frozen_mask(labels)
  tx = optim.make_optimizer(config.optim, config.train.steps, shapes)
  shardings = step.state_shardings(boxed, tx, mesh, rules, frozen, bool(config.optim.ema))
  state = jax.eval_shape(lambda params: first_state(config, tx, frozen, params), shapes)
  return Parts(
      model=model,
      mesh=mesh,
      tx=tx,
      init=init,
      shapes=shapes,
      labels=labels,
      frozen=frozen,
      shardings=shardings,
      state=sharding.with_shardings(state, shardings),
      rows=sharding.batch_sharding(mesh, rules),
      whole=sharding.replicated(mesh),
  )


def loss_kind(config: Config, mesh: jax.sharding.Mesh) -> str:
  """The kind of loss that a run takes, "auto" made out."""
  texts = max(len(source.views) for source in config.data.sources)
  devices = sharding.batch_parts(mesh, config.mesh.rules)
  return loss.pick_kind(config.loss.kind, config.train.batch_size * texts, devices)


def first_state(config: Any, tx: optax.GradientTransformation, frozen: Any, params: Any) -> step.TrainState:
  """The state before the first step, of these parameters."""
  return step.init_state(params, tx, config.seed, frozen, bool(config.optim.ema))


def make_loss(config: Config, parts: Parts) -> loss.Loss:
  """The loss of a run over its global batch."""
  return loss.make_loss(
      loss_kind(config, parts.mesh), config.loss.regularizer, config.loss.regularizer_weight,
      sharding.batch_axes(config.mesh.rules))


def make_step(config: Config, parts: Parts) -> Callable[..., tuple[step.TrainState, dict[str, jax.Array]]]:
  """The jitted training step; it takes over the state that it is given."""
  schedule = optim.make_schedule(config.optim, config.train.steps)
  train_step = step.make_train_step(
      parts.model, parts.tx, schedule, parts.frozen, config.optim.ema, make_loss(config, parts),
      config.loss.micro_batches)
  return jax.jit(train_step, out_shardings=(parts.shardings, parts.whole), donate_argnums=0)


def make_inspection(config: Config, parts: Parts) -> Callable[..., inspection.Findings]:
  """What is not finite in the step from a state on a batch."""
  count = config.loss.micro_batches
  embed, score_of = step.make_objective(parts.model, parts.frozen, make_loss(config, parts))

  def grads_of(params, batch, dropout):
    return step.make_grads(count)(embed, score_of(batch, dropout), params, batch, dropout)

  def embeds_of(params, batch, dropout):
    if count == 1:
      return embed(params, batch, dropout)
    return jax.tree.map(step.join_rows, step.micro_embeds(count, embed, params, batch, dropout)[2])

  return inspection.make_inspection(grads_of, embeds_of, score_of, ("prediction", "target"), parts.whole)
