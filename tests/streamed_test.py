"""Every loss on 1 to 8 devices against the plain program on one, values and gradients."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from vljepa_jax import loss, streamed

AXES = ("data", "fsdp")
SCALES = {"log_scale": jnp.float32(2.6), "logit_bias": jnp.float32(-3.0)}
IDS = np.random.default_rng(2).integers(0, 20, 32).astype(np.int32)  # uneven duplicates


def unit_rows(seed):
  x = np.random.default_rng(seed).normal(size=(32, 12))
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def scales_of(kind):
  return SCALES if kind.startswith("sigmoid") else {"log_scale": SCALES["log_scale"]}


@functools.cache
def run(kind, shape, regularizer=""):
  """Loss, metrics and gradients on a mesh of this shape."""
  devices = jax.devices()[: shape[0] * shape[1]]
  mesh = jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)
  rows = NamedSharding(mesh, P(AXES))
  pred, target, ids = (jax.device_put(x, rows) for x in (unit_rows(0), unit_rows(1), IDS))
  function = loss.make_loss(kind, regularizer, 0.5, AXES)
  with jax.set_mesh(mesh):
    grad = jax.value_and_grad(lambda *args: function(*args, ids, jax.random.key(0)), argnums=(0, 1, 2), has_aux=True)
    return jax.device_get(jax.jit(grad)(pred, target, scales_of(kind)))


def assert_same(got, wanted):
  (value, metrics), grads = got
  (expected, expected_metrics), expected_grads = wanted
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  for name in expected_metrics:
    np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-6, err_msg=name)
  for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(np.abs(b).max(), 1e-3))


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (2, 2), (8, 1), (4, 2)])
@pytest.mark.parametrize("kind", [kind for kind in loss.KINDS if kind != "auto"])
def test_devices_and_ways_do_not_matter(kind, shape, monkeypatch):
  monkeypatch.setattr(streamed, "TABLE", 70)  # pieces of few rows
  plain = kind.removesuffix("_ring").removesuffix("_chunked")
  assert_same(run(kind, shape), run(plain, (1, 1)))


@pytest.mark.parametrize("regularizer", ["sigreg", "vicreg"])
def test_regularizers_are_global(regularizer):
  assert_same(run("cosine", (4, 2), regularizer), run("cosine", (1, 1), regularizer))
  assert run("cosine", (1, 1), regularizer)[0][1]["regularizer"] > 0


def test_regularizers_tell_collapse_from_spread():
  rng = np.random.default_rng(0)
  spread = rng.normal(size=(512, 16))
  spread = jnp.asarray(spread / np.linalg.norm(spread, axis=1, keepdims=True), jnp.float32)
  collapsed = jnp.broadcast_to(spread[0], spread.shape)
  for term in (loss.sigreg, loss.vicreg):
    assert term(spread, jax.random.key(0)) < 0.2 * term(collapsed, jax.random.key(0))


def test_sigmoid_is_the_sum_over_pairs():
  pred, target = unit_rows(0).astype(np.float64), unit_rows(1).astype(np.float64)
  total = 0.0
  for i in range(32):
    for j in range(32):
      if i == j or IDS[i] != IDS[j]:
        logit = np.exp(2.6) * pred[i] @ target[j] - 3.0
        total += np.log1p(np.exp(-logit if i == j else logit))
  np.testing.assert_allclose(run("sigmoid", (1, 1))[0][0], total / 32, rtol=1e-6)


def test_vicreg_by_hand():
  x = np.sqrt(12) * unit_rows(0).astype(np.float64)
  covariance = np.cov(x.T)
  hinge = np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean()
  rest = covariance - np.diag(np.diag(covariance))
  np.testing.assert_allclose(loss.vicreg(unit_rows(0), None), hinge + (rest**2).sum() / 12, rtol=1e-5)


def test_auto_goes_by_size():
  assert loss.pick_kind("auto", 256, 1) == loss.pick_kind("auto", 24_576, 256) == "info_nce"
  assert loss.pick_kind("auto", 24_576, 8) == loss.pick_kind("auto", 131_072, 256) == "info_nce_ring"
  assert loss.pick_kind("auto", 24_576, 1) == "info_nce_chunked"
  assert loss.pick_kind("sigmoid", 24_576, 1) == "sigmoid"
