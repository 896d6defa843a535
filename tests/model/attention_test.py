import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
import numpy as np
import pytest

from configs.base import RULES
from vljepa_jax.model import attention as lib
from vljepa_jax.sharding import AXES

CASES = {
    "everything": {},
    "pads": dict(real=True),
    "window": dict(real=True, window=50),
    "causal": dict(real=True, causal=True),
    "causal window": dict(causal=True, window=50),
}


def inputs(batch=2, length=256, heads=4, groups=2, width=64, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda n: jnp.asarray(rng.normal(size=(batch, length, n, width)), jnp.float32)
  return draw(heads), draw(groups), draw(groups)


def real_tokens(batch, length):
  """Rows of all, then fewer and fewer, real tokens at their start."""
  return jnp.arange(length) < length - (length // 3) * jnp.arange(batch)[:, None]


def numpy_attention(q, k, v, scale, mask):
  """Query by query, head by head."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  out = np.zeros(q.shape)
  repeat = q.shape[2] // k.shape[2]
  for b, s, head in np.ndindex(*q.shape[:3]):
    keys = np.flatnonzero(mask[b, s])
    logits = k[b, keys, head // repeat] @ q[b, s, head] * scale
    weights = np.exp(logits - logits.max())
    out[b, s, head] = weights @ v[b, keys, head // repeat] / weights.sum()
  return out


def options(case, batch, length):
  given = dict(CASES[case])
  if "real" in given:
    given["real"] = real_tokens(batch, length)
  return given


def check_same(a, b, inputs, weight, shown):
  """Values where shown, and gradients of a weighted sum of them, of two functions of (q, k, v)."""
  def results(function):
    total = lambda *x: jnp.sum(function(*x) * weight)
    return [function(*inputs) * shown, *jax.grad(total, (0, 1, 2))(*inputs)]

  for got, expected in zip(results(a), results(b), strict=True):
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_plain_attention_is_what_a_loop_computes(case):
  q, k, v = inputs(length=24, width=8)
  given = options(case, 2, 24)
  if "window" in given:
    given["window"] = 5
  real = np.asarray(given.get("real", np.ones((2, 24), bool)))
  i, j = np.arange(24)[:, None], np.arange(24)
  mask = np.broadcast_to(real[:, None, :], (2, 24, 24)).copy()
  mask &= (j <= i) | (not given.get("causal"))
  mask &= abs(i - j) < given.get("window", 99)
  shown = mask.any(axis=2)[:, :, None, None]  # a pad without a key in reach means nothing
  mask |= ~mask.any(axis=2, keepdims=True)
  out = lib.attention(q, k, v, 0.3, **given)
  np.testing.assert_allclose(out * shown, numpy_attention(q, k, v, 0.3, mask) * shown, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width, groups, length", [(64, 2, 256), (256, 1, 200)])
def test_splash_equals_the_plain_program(case, width, groups, length):
  """In interpret mode, which runs the kernel's own steps on the CPU."""
  given = options(case, 2, length)
  shown = given.get("real", jnp.ones((2, length), bool))[:, :, None, None]
  rest = dict(scale=width**-0.5, real=given.get("real"), causal=given.get("causal", False), window=given.get("window"))
  weight = jnp.asarray(np.random.default_rng(1).normal(size=(2, length, 4, width)), jnp.float32) * shown
  check_same(
      functools.partial(lib.splash, interpret=True, **rest), functools.partial(lib.plain, **rest),
      inputs(2, length, 4, groups, width), weight, shown)


@pytest.mark.parametrize("shape", [(1, 4, 2, 1), (2, 1, 2, 2)])
def test_splash_on_a_mesh_works_on_rows_and_heads_of_its_own(shape):
  rest = dict(scale=0.1, real=real_tokens(8, 128) | True, causal=False, window=None)
  mesh = jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 4)
  x = inputs(8, 128, 4, 2, 64)
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    out = jax.jit(functools.partial(lib.splash, interpret=True, **rest))(*x)
  rows, heads = shape[0] * shape[1] * shape[2], shape[3]
  assert out.addressable_shards[0].data.shape == (8 // rows, 128, 4 // heads, 64)
  np.testing.assert_allclose(out, lib.plain(*x, **rest), atol=2e-5)


def test_rows_that_do_not_divide_over_a_mesh_are_not_cut():
  x = inputs(3, 128, 3, 1, 64)
  rest = dict(scale=0.1, real=None, causal=False, window=None)
  mesh = jax.make_mesh((1, 2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 4)
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    out = jax.jit(functools.partial(lib.splash, interpret=True, **rest))(*x)
  np.testing.assert_allclose(out, lib.plain(*x, **rest), atol=2e-5)


@pytest.mark.parametrize("kernel", ["xla", "interpreted"])
def test_whether_the_window_counts_may_be_known_only_at_run_time(monkeypatch, kernel):
  monkeypatch.setitem(lib.KERNELS, "interpreted", functools.partial(lib.splash, interpret=True))
  q, k, v = inputs(length=128)
  run = jax.jit(lambda windowed: lib.attention(q, k, v, 0.1, window=20, windowed=windowed, kernel=kernel))
  np.testing.assert_allclose(run(True), lib.attention(q, k, v, 0.1, window=20), atol=2e-5)
  np.testing.assert_allclose(run(False), lib.attention(q, k, v, 0.1), atol=2e-5)


def test_the_kernel_follows_the_devices():
  q = jnp.zeros((1, 1, 1, 64), jnp.bfloat16)
  assert lib._suitable(q) == "xla"
  for platform, dtype, expected in (
      ("tpu", "bfloat16", "splash"), ("tpu", "float32", "splash"), ("gpu", "bfloat16", "cudnn"), ("gpu", "float32", "xla")):
    mesh = type("Mesh", (), {"empty": False, "abstract_device": type("Device", (), {"platform": platform})})
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(jax.sharding, "get_abstract_mesh", lambda: mesh)
      assert lib._suitable(q.astype(dtype)) == expected
