"""AdamW in ordered parameter groups, and its schedule."""

from collections.abc import Sequence
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vljepa_jax.config import Optim
from vljepa_jax.errors import UserError

FROZEN = "frozen"


def path_name(path: Sequence[Any]) -> str:
  """A key path of an unboxed parameter tree as text: `predictor/head/kernel`."""
  return "/".join(key.key for key in path)


def group_name(multiplier: float | None) -> str:
  """Label of the group whose learning rate is multiplied by `multiplier`; None freezes."""
  return FROZEN if multiplier is None else f"x{multiplier}"


def label_params(params: Any, groups: Sequence[tuple[str, float | None]]) -> Any:
  """The group of every parameter, as a tree of labels.

  Args:
    params: unboxed tree of arrays or shapes.
    groups: ordered (regex of the whole path, multiplier of the learning rate); the first match counts.

  Returns:
    A tree like `params` of `group_name`s.

  Raises:
    UserError: a parameter that no pattern covers, or a pattern that is no parameter's first match.
  """
  used = set()

  def label(path, _):
    name = path_name(path)
    for pattern, multiplier in groups:
      if re.fullmatch(pattern, name):
        used.add(pattern)
        return group_name(multiplier)
    raise UserError(f"no pattern of config.optim.groups covers the parameter {name!r}; add (\".*\", 1.0) as the last")

  labels = jax.tree_util.tree_map_with_path(label, params)
  for pattern, _ in groups:
    if pattern not in used:
      raise UserError(
          f"the pattern {pattern!r} of config.optim.groups is not the first match of any parameter; remove or move it")
  return labels


def frozen_mask(labels: Any) -> Any:
  """True where a parameter never changes, from the tree of `label_params`."""
  return jax.tree.map(lambda label: label == FROZEN, labels)


def make_schedule(optim: Optim, steps: int) -> optax.Schedule:
  """Learning rate of step 0, 1, ...: a linear warm-up that ends at the peak, then constant or cosine.

  The first step already moves: it has 1 / warmup_steps of the peak. Cosine reaches `final` at `steps`.
  """
  if optim.schedule not in ("constant", "cosine"):
    raise UserError(f"config.optim.schedule is {optim.schedule!r}; there are constant, cosine")

  def schedule(step):
    rate = optim.learning_rate * jnp.minimum(1.0, (step + 1) / max(optim.warmup_steps, 1))
    if optim.schedule == "constant":
      return rate
    done = jnp.clip((step - optim.warmup_steps) / max(steps - optim.warmup_steps, 1), 0.0, 1.0)
    return rate * (optim.final + (1 - optim.final) * 0.5 * (1 + jnp.cos(jnp.pi * done)))

  return schedule


def decay_mask(params: Any) -> Any:
  """True where weight decay applies: matrices, which are the leaves named `kernel`.

  Norms, biases, embedding tables and the temperature are left alone.
  """
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(optim: Optim, steps: int, params: Any) -> optax.GradientTransformation:
  """Clip by global norm, then AdamW per group.

  A group's multiplier scales its whole update, weight decay included. Frozen parameters hold no moments.

  Args:
    params: unboxed tree of arrays or shapes, to label.
  """
  labels = label_params(params, optim.groups)
  schedule = make_schedule(optim, steps)

  def adamw(multiplier):
    return optax.adamw(
        lambda step: multiplier * schedule(step),
        b1=optim.b1,
        b2=optim.b2,
        weight_decay=optim.weight_decay,
        mask=decay_mask,
    )

  transforms = {
      group_name(multiplier): optax.set_to_zero() if multiplier is None else adamw(multiplier)
      for _, multiplier in optim.groups
  }
  return optax.chain(optax.clip_by_global_norm(optim.clip_norm), optax.partition(transforms, labels))
