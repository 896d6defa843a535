"""Recorded outputs of other implementations, and towers in their scanned form."""

import pathlib
import re

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def recorded():
  """`recorded(name)` -> (arrays, parameter tree) of `tests/fixtures/<name>.npz`."""

  def load(name):
    with np.load(FIXTURES / f"{name}.npz") as file:
      arrays = {key: file[key] for key in file}
    flat = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    return arrays, traverse_util.unflatten_dict(flat, sep="/")

  return load


@pytest.fixture
def random_params():
  """`random_params(module, *inputs)` -> parameters drawn in NumPy, so that nothing is compiled.

  They are large enough for attention to be far from uniform and for norms and biases to matter.
  """

  def draw(module, *inputs):
    rng = np.random.default_rng(0)
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"])
    size = {"kernel": 0.3, "embedding": 1.0}

    def leaf(path, shape):
      name, noise = path[-1].key, rng.normal(size=shape.shape).astype(np.float32)
      return 1 + 0.2 * np.tanh(noise) if name in ("scale", "var") else size.get(name, 0.2) * noise

    return jax.tree_util.tree_map_with_path(leaf, shapes)

  return draw


@pytest.fixture
def stacked():
  """`stacked(tree)` -> the same parameters with every `layers_i` stacked under `layers`."""

  def stack(tree):
    flat = traverse_util.flatten_dict(tree, sep="/")
    rows: dict[str, list] = {}
    for key in sorted(flat, key=lambda k: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", k)]):
      rows.setdefault(re.sub(r"layers_\d+", "layers", key), []).append(flat[key])
    joined = {k: jnp.stack(v) if "layers/" in k else v[0] for k, v in rows.items()}
    return traverse_util.unflatten_dict(joined, sep="/")

  return stack


@pytest.fixture
def assert_like_recording():
  """Checks a forward pass to 1e-5 and its recorded gradients to 1e-4 of their scale."""
  def check(forward, params, arrays):
    def weighted(p):
      output = forward(p)
      return jnp.sum(output * arrays["cotangent"]), output

    grads, output = jax.jit(jax.grad(weighted, has_aux=True))(params)
    np.testing.assert_allclose(output, arrays["output"], rtol=0, atol=1e-5 * np.abs(arrays["output"]).max())
    names = [key.removeprefix("grad/") for key in arrays if key.startswith("grad/")]
    assert len(names) >= 5
    flat = traverse_util.flatten_dict(grads, sep="/")
    for name in names:
      expected = arrays[f"grad/{name}"]
      np.testing.assert_allclose(
          flat[name], expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)

  return check
