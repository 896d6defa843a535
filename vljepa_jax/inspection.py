"""Where numbers of a step stop being finite: rows of the batch, parameters, gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vljepa_jax.step import TrainState, step_key

Findings = dict[str, Any]


def make_inspection(
    grads_of: Callable[..., tuple[Any, dict[str, jax.Array]]], embeds_of: Callable[..., tuple[jax.Array, ...]],
    score_of: Callable[..., Any], names: tuple[str, ...], whole: jax.sharding.Sharding,
) -> Callable[[TrainState, dict[str, jax.Array]], Findings]:
  """(state before the step, batch) -> findings, jitted; the state is kept.

  Findings are: "loss"; "grad_norm", by top-level name of the parameters; "params" and "grads", trees of bools that say
  whether a leaf is finite; "rows", by "input", `names` and "gradient", (B,) bool each, whether a row is.

  Args:
    grads_of: (params, batch, dropout) -> gradients of the step, and its metrics.
    embeds_of: (params, batch, dropout) -> (B, ...) arrays that the loss reads.
    score_of: (batch, dropout) -> ((embeds, params) -> (loss, metrics)).
    names: of these arrays.
    whole: sharding of the findings.
  """

  def inspect(state: TrainState, batch: dict[str, jax.Array]) -> Findings:
    dropout = step_key(state)
    grads, metrics = grads_of(state.params, batch, dropout)
    embeds = embeds_of(state.params, batch, dropout)
    score = score_of(batch, dropout)
    embed_grads = jax.grad(lambda embeds: score(embeds, state.params)[0])(embeds)
    inputs = [x for x in batch.values() if jnp.issubdtype(x.dtype, jnp.floating)]
    rows = {"input": _finite_rows(inputs, len(embeds[0]))}
    rows |= {name: _finite_rows([x], len(x)) for name, x in zip(names, embeds, strict=True)}
    rows["gradient"] = _finite_rows(embed_grads, len(embeds[0]))
    finite = lambda tree: jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), tree)
    return {
        "loss": metrics["loss"],
        "grad_norm": {name: optax.tree.norm(part) for name, part in grads.items()},
        "params": finite(state.params),
        "grads": finite(grads),
        "rows": rows,
    }

  return jax.jit(inspect, out_shardings=whole)


def _finite_rows(arrays: Any, count: int) -> jax.Array:
  """(B,) bool, over arrays of (B, ...)."""
  rows = jnp.ones(count, bool)
  for x in arrays:
    rows &= jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))
  return rows
