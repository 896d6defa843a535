"""Two-way InfoNCE over the global batch (paper.md, decisions)."""

import math

import jax
import jax.numpy as jnp

from vljepa_jax.model.layers import MASKED_LOGIT, constrain

MAX_LOG_SCALE = math.log(100.0)


def info_nce(
    pred_embed: jax.Array, target_embed: jax.Array, log_scale: jax.Array, target_id: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Cross-entropy of each prediction against all targets, and of each target against all predictions.

  Written for arrays of the whole global batch: under `jit` on a mesh the compiler gathers what it needs,
  and gradients through the gather are right by construction.

  Args:
    pred_embed: (B, E) of unit length.
    target_embed: (B, E) of unit length.
    log_scale: () logarithm of the inverse temperature; what exceeds ln 100 counts as ln 100.
    target_id: (B,) integers, equal where the target texts are equal. Such rows are not negatives of one
      another, in either direction: a model cannot and should not tell them apart.

  Returns:
    The loss, () float32, and metrics: `loss`, `temperature`, `batch_recall` (share of predictions whose
    nearest target in the batch has the right text), `duplicate_rate` (share of rows whose text occurs twice).
  """
  # `where` and not `minimum`: at exactly ln 100 the gradient is whole, so that the scale can come down again.
  log_scale = jnp.where(log_scale > MAX_LOG_SCALE, MAX_LOG_SCALE, log_scale.astype(jnp.float32))
  cosine = jnp.einsum(
      "ie,je->ij",
      pred_embed,
      target_embed,
      precision=jax.lax.Precision.HIGHEST,  # the default rounds float32 to bfloat16 on TPU
      preferred_element_type=jnp.float32,
  )
  logits = constrain(jnp.exp(log_scale) * cosine, "act_batch", None)  # (B, B)
  same_text = target_id[:, None] == target_id[None, :]
  itself = jnp.eye(len(target_id), dtype=bool)
  candidates = jnp.where(same_text & ~itself, MASKED_LOGIT, logits)
  match = jnp.diagonal(logits)
  pred_to_target = jax.nn.logsumexp(candidates, axis=1) - match
  target_to_pred = jax.nn.logsumexp(candidates, axis=0) - match
  loss = 0.5 * jnp.mean(pred_to_target + target_to_pred)

  nearest = jnp.argmax(logits, axis=1)
  metrics = {
      "loss": loss,
      "temperature": jnp.exp(-log_scale),
      "batch_recall": jnp.mean(target_id[nearest] == target_id, dtype=jnp.float32),
      "duplicate_rate": jnp.mean(jnp.sum(same_text, axis=1) > 1, dtype=jnp.float32),
  }
  return loss, jax.tree.map(jax.lax.stop_gradient, metrics)
