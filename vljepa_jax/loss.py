"""Losses over the global batch, by name (paper, section 3.1 and the ablation of losses).

  info_nce, sigmoid             of the whole table of logits, which the compiler splits over the devices
  info_nce_chunked, ..._ring    the same numbers from a few rows of it at a time (`streamed.py`)
  cosine, l1, l2                of each prediction and its own target alone; nothing keeps embeddings apart
  auto                          InfoNCE, in the way that the size asks for

Rows with equal target texts are not negatives of one another in any of them: a model cannot and should not tell them
apart.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp

from vljepa_jax import streamed
from vljepa_jax.model.attention import MASKED_LOGIT
from vljepa_jax.model.layers import constrain

MAX_LOG_SCALE = math.log(100.0)

AUTO = "auto"
PAIRS = ("cosine", "l1", "l2")
TABLES = ("info_nce", "sigmoid")
KINDS = (AUTO, *TABLES, *(f"{table}_{way}" for table in TABLES for way in (streamed.CHUNKED, streamed.RING)), *PAIRS)
REGULARIZERS = ("", "sigreg", "vicreg")
PLAIN_LOGITS = 2**23  # per device; a plain table of more costs over 100 MiB of float32 for gradients and softmaxes

SKETCHES = 64  # directions of `sigreg`
KNOTS = 17  # points at which it compares characteristic functions

Metrics = dict[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array, dict[str, jax.Array], jax.Array, jax.Array], tuple[jax.Array, Metrics]]


def pick_kind(kind: str, batch_size: int, devices: int) -> str:
  """`kind`, or for "auto" what fits a global batch on so many devices: plain, then chunked, a ring over several."""
  if kind != AUTO:
    return kind
  if batch_size * batch_size // devices <= PLAIN_LOGITS:
    return "info_nce"
  return "info_nce_ring" if devices > 1 else "info_nce_chunked"


def make_loss(kind: str, regularizer: str, weight: float, axes: Sequence[str]) -> Loss:
  """The loss of a run.

  Args:
    kind: one of `KINDS`, not "auto".
    regularizer: "sigreg" or "vicreg" of predictions and targets against collapse, "" for none.
    weight: of the regularizer.
    axes: mesh axes that the rows of a batch lie over.

  Returns:
    A function of pred_embed and target_embed, (B, E) of unit length, scales (`log_scale`, and `logit_bias` for sigmoid
    losses), target_id (B,), and a random key for the regularizer; it gives the loss, () float32, and metrics: `loss`,
    `temperature`, `batch_recall` (share of predictions whose nearest target in the batch has the right text),
    `duplicate_rate` (share of rows whose text occurs twice), and `regularizer` where there is one.
  """
  table, _, way = kind.rpartition("_") if kind.endswith((streamed.CHUNKED, streamed.RING)) else (kind, "", "")

  def contrast(pred, target, scales, target_id):
    if kind in PAIRS:
      return pair_loss(kind, pred, target, scales["log_scale"], target_id)
    if not way:
      plain = info_nce if table == "info_nce" else sigmoid
      return plain(pred, target, **scales, target_id=target_id)
    scale, bias = jnp.exp(clamped(scales["log_scale"])), scales.get("logit_bias")
    if table == "info_nce":
      loss, right, count = streamed.info_nce(pred, target, scale, target_id, axes, way)
    else:
      loss, right, count = streamed.sigmoid(pred, target, scale, bias, target_id, axes, way)
    return loss, _metrics(loss, scales["log_scale"], right, count)

  def loss(pred, target, scales, target_id, key):
    value, metrics = contrast(pred, target, scales, target_id)
    if regularizer:
      term = sigreg if regularizer == "sigreg" else vicreg
      spread = 0.5 * (term(pred, key) + term(target, key))
      value = value + weight * spread
      metrics |= {"regularizer": jax.lax.stop_gradient(spread)}
    return value, metrics

  return loss


def clamped(log_scale: jax.Array) -> jax.Array:
  """At most ln 100."""
  # `where` and not `minimum`: at exactly ln 100 the gradient is whole, so that the scale can come down again.
  return jnp.where(log_scale > MAX_LOG_SCALE, MAX_LOG_SCALE, log_scale.astype(jnp.float32))


def info_nce(
    pred_embed: jax.Array, target_embed: jax.Array, log_scale: jax.Array, target_id: jax.Array
) -> tuple[jax.Array, Metrics]:
  """Cross-entropy of each prediction against all targets, and of each target against all predictions.

  Written for arrays of the whole global batch: under `jit` on a mesh the compiler gathers what it needs,
  and gradients through the gather are right by construction.

  Args:
    pred_embed: (B, E) of unit length.
    target_embed: (B, E) of unit length.
    log_scale: () logarithm of the inverse temperature; what exceeds ln 100 counts as ln 100.
    target_id: (B,) integers, equal where the target texts are equal.

  Returns:
    The loss, () float32, and the metrics of `make_loss`.
  """
  logits = _logits(pred_embed, target_embed, log_scale)
  same_text, itself = _pairs(target_id)
  candidates = jnp.where(same_text & ~itself, MASKED_LOGIT, logits)
  match = jnp.diagonal(logits)
  pred_to_target = jax.nn.logsumexp(candidates, axis=1) - match
  target_to_pred = jax.nn.logsumexp(candidates, axis=0) - match
  loss = 0.5 * jnp.mean(pred_to_target + target_to_pred)
  return loss, _table_metrics(loss, log_scale, logits, same_text, target_id)


def sigmoid(
    pred_embed: jax.Array, target_embed: jax.Array, log_scale: jax.Array, logit_bias: jax.Array, target_id: jax.Array
) -> tuple[jax.Array, Metrics]:
  """The loss of SigLIP (arXiv 2303.15343): is this the target of this prediction, asked of every pair.

  Args and results as for `info_nce`; logit_bias: () added to every logit.
  """
  logits = _logits(pred_embed, target_embed, log_scale)
  same_text, itself = _pairs(target_id)
  terms = jax.nn.softplus(jnp.where(itself, -1.0, 1.0) * (logits + logit_bias))
  loss = jnp.sum(jnp.where(same_text & ~itself, 0.0, terms)) / len(target_id)
  return loss, _table_metrics(loss, log_scale, logits, same_text, target_id)


def pair_loss(
    kind: str, pred_embed: jax.Array, target_embed: jax.Array, log_scale: jax.Array, target_id: jax.Array
) -> tuple[jax.Array, Metrics]:
  """Mean distance of predictions and their own targets: "cosine" (1 - cosine), "l1" or "l2" (squared) per entry."""
  distance = {
      "cosine": lambda: 1.0 - jnp.sum(pred_embed * target_embed, axis=1),
      "l1": lambda: jnp.mean(jnp.abs(pred_embed - target_embed), axis=1),
      "l2": lambda: jnp.mean(jnp.square(pred_embed - target_embed), axis=1),
  }
  loss = jnp.mean(distance[kind]())
  logits = _logits(*jax.lax.stop_gradient((pred_embed, target_embed, log_scale)))
  return loss, _table_metrics(loss, log_scale, logits, _pairs(target_id)[0], target_id)


def sigreg(embed: jax.Array, key: jax.Array) -> jax.Array:
  """Sketched isotropic Gaussian regularization (LeJEPA, arXiv 2511.08544).

  Along random directions, the Epps-Pulley distance of the batch from a standard normal: the squared difference of the
  two characteristic functions, under a normal weight. Embeddings of unit length are scaled by sqrt(E) first, the length
  that such a normal has.

  Args:
    embed: (B, E) of unit length.
    key: of the directions.

  Returns:
    () mean over directions.
  """
  width = embed.shape[1]
  directions = jax.random.normal(key, (width, SKETCHES))
  directions = directions / jnp.linalg.norm(directions, axis=0)
  along = jnp.sqrt(width) * jnp.einsum(
      "be,ek->bk", embed, directions, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
  knots = jnp.linspace(-4.0, 4.0, KNOTS)
  normal = jnp.exp(-0.5 * knots**2)

  def distance(knot, weight):  # of one point, (SKETCHES,)
    real, imaginary = jnp.mean(jnp.cos(knot * along), axis=0), jnp.mean(jnp.sin(knot * along), axis=0)
    return weight * (jnp.square(real - weight) + jnp.square(imaginary))

  total = jnp.sum(jax.lax.map(lambda pair: distance(*pair), (knots, normal)), axis=0)
  return jnp.mean(total) * (knots[1] - knots[0])


def vicreg(embed: jax.Array, key: jax.Array) -> jax.Array:
  """Variance and covariance terms of VICReg (arXiv 2105.04906), of embeddings of unit length scaled by sqrt(E).

  Args:
    embed: (B, E).
    key: not used.

  Returns:
    () mean over entries of max(0, 1 - standard deviation), plus squared covariances of different entries over E.
  """
  del key
  batch, width = embed.shape
  centred = jnp.sqrt(width) * (embed - jnp.mean(embed, axis=0))
  covariance = jnp.einsum(
      "bi,bj->ij", centred, centred, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
  covariance = covariance / (batch - 1)
  variance = jnp.diagonal(covariance)
  off_diagonal = jnp.sum(jnp.square(covariance)) - jnp.sum(jnp.square(variance))
  return jnp.mean(jax.nn.relu(1.0 - jnp.sqrt(variance + 1e-4))) + off_diagonal / width


def _logits(pred_embed: jax.Array, target_embed: jax.Array, log_scale: jax.Array) -> jax.Array:
  cosine = jnp.einsum(
      "ie,je->ij",
      pred_embed,
      target_embed,
      precision=jax.lax.Precision.HIGHEST,  # the default rounds float32 to bfloat16 on TPU
      preferred_element_type=jnp.float32,
  )
  return constrain(jnp.exp(clamped(log_scale)) * cosine, "act_batch", None)  # (B, B)


def _pairs(target_id: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Which pairs have the same text, and which are of one row, (B, B)."""
  return target_id[:, None] == target_id[None, :], jnp.eye(len(target_id), dtype=bool)


def _table_metrics(loss, log_scale, logits, same_text, target_id) -> Metrics:
  nearest = jnp.argmax(logits, axis=1)
  return _metrics(loss, log_scale, target_id[nearest] == target_id, jnp.sum(same_text, axis=1))


def _metrics(loss: jax.Array, log_scale: jax.Array, right: jax.Array, count: jax.Array) -> Metrics:
  metrics: dict[str, Any] = {
      "loss": loss,
      "temperature": jnp.exp(-clamped(log_scale)),
      "batch_recall": jnp.mean(right, dtype=jnp.float32),
      "duplicate_rate": jnp.mean(count > 1, dtype=jnp.float32),
  }
  return jax.tree.map(jax.lax.stop_gradient, metrics)
