import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from vljepa_jax import loss

DISTINCT = np.arange(8)
DUPLICATES = np.array([0, 1, 0, 3, 4, 4, 4, 7])


def unit_rows(seed, shape=(8, 5)):
  x = np.random.default_rng(seed).normal(size=shape)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(pred, target, log_scale, target_id):
  """InfoNCE in float64, pair by pair."""
  scale, total = np.exp(min(log_scale, np.log(100))), 0.0
  for i in range(len(pred)):
    rest = [j for j in range(len(pred)) if j == i or target_id[j] != target_id[i]]
    own = scale * pred[i] @ target[i]
    total += np.log(sum(np.exp(scale * pred[i] @ target[j]) for j in rest)) - own
    total += np.log(sum(np.exp(scale * pred[j] @ target[i]) for j in rest)) - own
  return total / (2 * len(pred))


def finite_difference(function, x, eps=1e-5):
  grad = np.zeros_like(x)
  for index in np.ndindex(x.shape):
    step = np.zeros_like(x)
    step[index] = eps
    grad[index] = (function(x + step) - function(x - step)) / (2 * eps)
  return grad


def as_jax(*arrays):
  return [jnp.asarray(x, jnp.float32) for x in arrays]


@pytest.mark.parametrize("target_id", [DISTINCT, DUPLICATES])
@pytest.mark.parametrize("log_scale", [0.0, 2.66, 9.0])
def test_value_is_that_of_the_reference(target_id, log_scale):
  pred, target = unit_rows(0), unit_rows(1)
  value, metrics = loss.info_nce(*as_jax(pred, target, log_scale), jnp.asarray(target_id))
  expected = reference(pred, target, log_scale, target_id)
  np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6)
  assert metrics["loss"] == value


@pytest.mark.parametrize("target_id", [DISTINCT, DUPLICATES])
def test_gradients_are_those_of_finite_differences(target_id):
  pred, target, log_scale = unit_rows(0), unit_rows(1), np.float64(2.0)
  grads = jax.grad(lambda *args: loss.info_nce(*args, jnp.asarray(target_id))[0], argnums=(0, 1, 2))(
      *as_jax(pred, target, log_scale))
  expected = (
      finite_difference(lambda x: reference(x, target, log_scale, target_id), pred),
      finite_difference(lambda x: reference(pred, x, log_scale, target_id), target),
      finite_difference(lambda x: reference(pred, target, x, target_id), np.array(log_scale)),
  )
  for got, wanted in zip(grads, expected):
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_equal_targets_only_count_against_other_texts():
  pred, target = as_jax(unit_rows(0), unit_rows(1))
  value, metrics = loss.info_nce(pred, target, jnp.float32(3.0), jnp.zeros(8, jnp.int32))
  assert value == 0.0
  assert metrics["duplicate_rate"] == 1.0
  assert metrics["batch_recall"] == 1.0


def test_metrics_by_hand():
  eye = jnp.eye(4)
  pred = eye[jnp.array([0, 2, 2, 1])]  # 0 and 2 find their own; 1 finds 2, its twin; 3 finds 1, a stranger
  _, metrics = loss.info_nce(pred, eye, jnp.log(10.0), jnp.array([5, 6, 6, 7]))
  assert metrics["batch_recall"] == 0.75
  assert metrics["duplicate_rate"] == 0.5
  np.testing.assert_allclose(metrics["temperature"], 0.1, rtol=1e-6)


def test_temperature_has_a_gradient_at_the_clamp_and_none_beyond():
  pred, target = as_jax(unit_rows(0), unit_rows(1))
  grad = jax.grad(lambda s: loss.info_nce(pred, target, s, jnp.asarray(DISTINCT))[0])
  assert grad(jnp.float32(loss.MAX_LOG_SCALE)) != 0.0
  assert grad(jnp.float32(loss.MAX_LOG_SCALE + 1e-3)) == 0.0


def test_bfloat16_embeddings_give_float32_logits():
  pred = jnp.asarray(unit_rows(0), jnp.bfloat16)
  value, _ = loss.info_nce(pred, pred, jnp.float32(4.0), jnp.asarray(DISTINCT))
  assert value.dtype == jnp.float32


def test_sharded_gradients_are_those_of_the_plain_program():
  pred, target = as_jax(unit_rows(0, (32, 16)), unit_rows(1, (32, 16)))
  target_id = jnp.asarray(np.arange(32) // 3)
  grad = jax.value_and_grad(lambda p, t, s: loss.info_nce(p, t, s, target_id)[0], argnums=(0, 1, 2))
  plain = jax.jit(grad)(pred, target, jnp.float32(3.0))
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, P("data"))
  sharded = jax.jit(grad, in_shardings=(rows, rows, None))(pred, target, jnp.float32(3.0))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), plain, sharded)
