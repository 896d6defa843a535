"""Contrastive losses of a batch that is too large for its table of logits: InfoNCE and sigmoid, in pieces, exact.

Each device holds the predictions and targets of its own rows. Its predictions meet the targets of the whole batch
either as a ring, where blocks of targets travel from device to device (`ring`), or all gathered at once (`chunked`).
Of the table of logits only a few rows exist at a time, in the backward pass too, which computes them again. Sums over
columns travel with their block or are added over the devices. Values and gradients are those of the plain program, as
floats allow.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vljepa_jax.model.attention import MASKED_LOGIT

TABLE = 2**21  # largest number of logits that exist at a time on one device

RING, CHUNKED = "ring", "chunked"

Visit = dict[str, jax.Array]  # what goes with a block of targets: rows of equal count


def info_nce(
    pred: jax.Array, target: jax.Array, scale: jax.Array, target_id: jax.Array, axes: Sequence[str], way: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Two-way InfoNCE; see `loss.info_nce`.

  Args:
    pred: (B, E) of unit length, rows over the mesh axes `axes`.
    target: like pred.
    scale: () inverse temperature.
    target_id: (B,).
    axes: of the current mesh.
    way: "ring" or "chunked".

  Returns:
    The loss (); per row whether the nearest target has the right text, and how many rows have its text, (B,).
  """
  return _info_nce(tuple(axes), way, pred, target, scale, target_id)


def sigmoid(
    pred: jax.Array, target: jax.Array, scale: jax.Array, bias: jax.Array, target_id: jax.Array, axes: Sequence[str],
    way: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The loss of SigLIP (arXiv 2303.15343): every pair by itself, own pairs against all others. As `info_nce`."""
  return _sigmoid(tuple(axes), way, pred, target, scale, bias, target_id)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _info_nce(axes, way, pred, target, scale, target_id):
  return _info_nce_forward(axes, way, pred, target, scale, target_id)[0]


def _info_nce_forward(axes, way, pred, target, scale, target_id):
  def local(pred, target, scale, target_id):
    rows = dict(pred=pred, id=target_id, index=_row_index(axes, len(pred)))
    visit = dict(target=target, id=target_id, index=rows["index"], **_empty_sums(len(target)))
    done = {**_empty_sums(len(pred)), **_empty_nearest(len(pred))}

    def meet(row, done, visit):
      logits = scale * _cosine(row["pred"], visit["target"])
      done = _nearest(done, logits, row, visit)
      candidates = jnp.where(_same_text(row, visit) & ~_itself(row, visit), MASKED_LOGIT, logits)
      return _add_sums(done, candidates, 1), _add_sums(visit, candidates, 0)

    done, visit = _meet_all(axes, way, meet, rows, done, visit, sums=("max", "sum"))
    row_lse, column_lse = _log_sum(done), _log_sum(visit)
    match = scale * jnp.sum(pred * target, axis=1)
    total = jax.lax.psum(jnp.sum(row_lse + column_lse - 2 * match), axes)
    return (total / 2, done["nearest_id"] == target_id, done["count"]), row_lse, column_lse

  by_row, whole = P(axes), P()
  (total, right, count), row_lse, column_lse = jax.shard_map(
      local, in_specs=(by_row, by_row, whole, by_row), out_specs=((whole, by_row, by_row), by_row, by_row),
      check_vma=False)(pred, target, scale, target_id)
  return (total / len(pred), right, count), (pred, target, scale, target_id, row_lse, column_lse)


def _info_nce_backward(axes, way, saved, cotangents):
  pred, target, scale, target_id, row_lse, column_lse = saved
  weight = cotangents[0] / (2 * len(pred))

  def local(pred, target, scale, target_id, row_lse, column_lse, weight):
    rows = dict(pred=pred, id=target_id, index=_row_index(axes, len(pred)), lse=row_lse)
    visit = dict(target=target, id=target_id, index=rows["index"], lse=column_lse, grad=jnp.zeros_like(target))
    done = dict(grad=jnp.zeros_like(pred), scale=jnp.zeros(len(pred)))

    def meet(row, done, visit):
      cosine = _cosine(row["pred"], visit["target"])
      itself = _itself(row, visit)
      shared = jnp.exp(scale * cosine - row["lse"][:, None]) + jnp.exp(scale * cosine - visit["lse"][None, :])
      grad = weight * (jnp.where(_same_text(row, visit) & ~itself, 0.0, shared) - 2.0 * itself)
      return _add_grads(done, visit, row, grad, cosine, scale)

    done, visit = _meet_all(axes, way, meet, rows, done, visit, sums=("grad",))
    return done["grad"], visit["grad"], jax.lax.psum(jnp.sum(done["scale"]), axes)

  by_row, whole = P(axes), P()
  grads = jax.shard_map(
      local, in_specs=(by_row, by_row, whole, by_row, by_row, by_row, whole), out_specs=(by_row, by_row, whole),
      check_vma=False)(pred, target, scale, target_id, row_lse, column_lse, weight)
  return *grads, None


_info_nce.defvjp(_info_nce_forward, _info_nce_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sigmoid(axes, way, pred, target, scale, bias, target_id):
  return _sigmoid_forward(axes, way, pred, target, scale, bias, target_id)[0]


def _sigmoid_forward(axes, way, pred, target, scale, bias, target_id):
  def local(pred, target, scale, bias, target_id):
    rows = dict(pred=pred, id=target_id, index=_row_index(axes, len(pred)))
    visit = dict(target=target, id=target_id, index=rows["index"])
    done = dict(loss=jnp.zeros(len(pred)), **_empty_nearest(len(pred)))

    def meet(row, done, visit):
      logits = scale * _cosine(row["pred"], visit["target"])
      done = _nearest(done, logits, row, visit)
      itself = _itself(row, visit)
      loss = jax.nn.softplus(jnp.where(itself, -1.0, 1.0) * (logits + bias))
      loss = jnp.where(_same_text(row, visit) & ~itself, 0.0, loss)
      return done | {"loss": done["loss"] + jnp.sum(loss, axis=1)}, visit

    done, _ = _meet_all(axes, way, meet, rows, done, visit, sums=())
    return jax.lax.psum(jnp.sum(done["loss"]), axes), done["nearest_id"] == target_id, done["count"]

  by_row, whole = P(axes), P()
  total, right, count = jax.shard_map(
      local, in_specs=(by_row, by_row, whole, whole, by_row), out_specs=(whole, by_row, by_row), check_vma=False)(
          pred, target, scale, bias, target_id)
  return (total / len(pred), right, count), (pred, target, scale, bias, target_id)


def _sigmoid_backward(axes, way, saved, cotangents):
  pred, target, scale, bias, target_id = saved
  weight = cotangents[0] / len(pred)

  def local(pred, target, scale, bias, target_id, weight):
    rows = dict(pred=pred, id=target_id, index=_row_index(axes, len(pred)))
    visit = dict(target=target, id=target_id, index=rows["index"], grad=jnp.zeros_like(target))
    done = dict(grad=jnp.zeros_like(pred), scale=jnp.zeros(len(pred)), bias=jnp.zeros(len(pred)))

    def meet(row, done, visit):
      cosine = _cosine(row["pred"], visit["target"])
      itself = _itself(row, visit)
      sign = jnp.where(itself, -1.0, 1.0)
      grad = weight * sign * jax.nn.sigmoid(sign * (scale * cosine + bias))
      grad = jnp.where(_same_text(row, visit) & ~itself, 0.0, grad)
      done = done | {"bias": done["bias"] + jnp.sum(grad, axis=1)}
      return _add_grads(done, visit, row, grad, cosine, scale)

    done, visit = _meet_all(axes, way, meet, rows, done, visit, sums=("grad",))
    total = lambda x: jax.lax.psum(jnp.sum(x), axes)
    return done["grad"], visit["grad"], total(done["scale"]), total(done["bias"])

  by_row, whole = P(axes), P()
  grads = jax.shard_map(
      local, in_specs=(by_row, by_row, whole, whole, by_row, whole), out_specs=(by_row, by_row, whole, whole),
      check_vma=False)(pred, target, scale, bias, target_id, weight)
  return *grads, None


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)


def _meet_all(
    axes: tuple[str, ...], way: str, meet: Callable[..., tuple[Any, Visit]], rows: Visit, done: Any, visit: Visit,
    sums: tuple[str, ...],
) -> tuple[Any, Visit]:
  """Has this device's rows meet the targets of all devices.

  Args:
    meet: (some rows, what is done for them, visiting block) -> the two latter, updated.
    done: per row of this device.
    visit: this device's own block.
    sums: entries of the block that `meet` adds to.

  Returns:
    `done`, and this device's block with the sums of all devices.
  """
  if way == RING:
    devices = jax.lax.axis_size(axes)
    forward = [(i, (i + 1) % devices) for i in range(devices)]

    def turn(_, carry):
      done, visit = _meet_in_pieces(meet, rows, *carry)
      return done, jax.lax.ppermute(visit, axes, forward)

    return jax.lax.fori_loop(0, devices, turn, (done, visit))  # after a whole turn every block is at home again
  gathered = {name: jax.lax.all_gather(x, axes, tiled=True) for name, x in visit.items()}
  done, gathered = _meet_in_pieces(meet, rows, done, gathered)
  if "max" in sums:
    largest = jax.lax.pmax(gathered["max"], axes)
    gathered |= {"max": largest, "sum": gathered["sum"] * jnp.exp(gathered["max"] - largest)}
    gathered["sum"] = jax.lax.psum(gathered["sum"], axes)
    own = lambda x: jnp.take(x, rows["index"], axis=0)
    return done, {name: own(x) for name, x in gathered.items()}
  return done, {name: jax.lax.psum_scatter(gathered[name], axes, tiled=True) for name in sums}


def _meet_in_pieces(meet, rows: Visit, done: Any, visit: Visit) -> tuple[Any, Visit]:
  """`meet` for a few rows at a time, so that at most `TABLE` logits exist, or those of one row."""
  count = len(rows["index"])
  most = max(1, TABLE // len(visit["index"]))
  size = max(size for size in range(1, min(count, most) + 1) if count % size == 0)
  split = lambda tree: jax.tree.map(lambda x: x.reshape(count // size, size, *x.shape[1:]), tree)

  def piece(visit, given):
    done, visit = meet(given[0], given[1], visit)
    return visit, done

  visit, done = jax.lax.scan(piece, visit, (split(rows), split(done)))
  return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), done), visit


def _row_index(axes: tuple[str, ...], count: int) -> jax.Array:
  """Numbers of this device's rows in the global batch."""
  return jax.lax.axis_index(axes) * count + jnp.arange(count, dtype=jnp.int32)


def _cosine(pred: jax.Array, target: jax.Array) -> jax.Array:
  return jnp.einsum(
      "ie,je->ij", pred, target, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _same_text(row: Visit, visit: Visit) -> jax.Array:
  return row["id"][:, None] == visit["id"][None, :]


def _itself(row: Visit, visit: Visit) -> jax.Array:
  return row["index"][:, None] == visit["index"][None, :]


def _empty_sums(count: int) -> Visit:
  return {"max": jnp.full(count, -jnp.inf), "sum": jnp.zeros(count)}


def _add_sums(sums: Visit, logits: jax.Array, axis: int) -> Visit:
  """Adds exponentials of logits along an axis to running sums that are scaled by their largest."""
  largest = jnp.maximum(sums["max"], jnp.max(logits, axis=axis))
  terms = jnp.sum(jnp.exp(logits - jnp.expand_dims(largest, axis)), axis=axis)
  return sums | {"max": largest, "sum": sums["sum"] * jnp.exp(sums["max"] - largest) + terms}


def _log_sum(sums: Visit) -> jax.Array:
  return sums["max"] + jnp.log(sums["sum"])


def _empty_nearest(count: int) -> Visit:
  """Nearest target so far, and how many targets have the row's own text."""
  zeros = jnp.zeros(count, jnp.int32)
  return {"nearest": jnp.full(count, -jnp.inf), "nearest_id": zeros, "count": zeros}


def _nearest(done: Visit, logits: jax.Array, row: Visit, visit: Visit) -> Visit:
  best = jnp.argmax(logits, axis=1)
  value = jnp.take_along_axis(logits, best[:, None], axis=1)[:, 0]
  nearer = value > done["nearest"]
  return done | {
      "nearest": jnp.maximum(done["nearest"], value),
      "nearest_id": jnp.where(nearer, visit["id"][best], done["nearest_id"]),
      "count": done["count"] + jnp.sum(_same_text(row, visit), axis=1, dtype=jnp.int32),
  }


def _add_grads(
    done: Visit, visit: Visit, row: Visit, grad: jax.Array, cosine: jax.Array, scale: jax.Array
) -> tuple[Visit, Visit]:
  """Adds what a piece of the table's gradient, (rows, targets), gives to predictions, targets and scale."""
  product = functools.partial(
      jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
  done = done | {
      "grad": done["grad"] + scale * product("ij,je->ie", grad, visit["target"]),
      "scale": done["scale"] + jnp.sum(grad * cosine, axis=1),
  }
  return done, visit | {"grad": visit["grad"] + scale * product("ij,ie->je", grad, row["pred"])}
