"""Blocks that every tower shares.

Shape letters used throughout the code:
  B batch, T frames, H W pixels, N visual tokens, Q query tokens, L target tokens, S any sequence,
  D model width, F MLP width, K heads, G key-value heads, h head width, E shared embedding width.
"""

from collections.abc import Callable
import math
from typing import Any

import flax.linen as nn
from flax.linen.spmd import RulesFallback
import jax
import jax.numpy as jnp
import numpy as np

ATTENTION = "attention"  # checkpoint name of what attention gives
# What the backward pass finds stored of a layer besides its input; all else it computes again.
REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENTION),
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENTION)),
}

normal_init = nn.initializers.normal(0.02)
# Keeps the scale of activations at any width; at 2048 inputs it is the usual 0.02.
fan_in_init = nn.initializers.lecun_normal()


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """Pins an activation to the mesh axes of its logical names; raises on a name that has no rule.

  Outside of `nn.logical_axis_rules` (a notebook, a unit test) it is the identity.
  """
  if not nn.get_logical_axis_rules():
    return x
  return nn.with_logical_constraint(x, names, fallback=RulesFallback.RAISE_ERROR)


def param_axes(init: Callable[..., jax.Array], *names: str | None) -> Callable[..., Any]:
  """Gives an initialiser the logical axis names of the weight it makes."""
  return nn.with_logical_partitioning(init, names)


class Linear(nn.Module):
  """Dense layer on the last axis, as one 2-D matmul (XLA:CPU runs batched ones 1.5 times slower).

  Attributes:
    features: output width.
    axes: logical names of the kernel's (input, output) axes.
  """

  features: int
  axes: tuple[str | None, str | None]
  use_bias: bool = True
  dtype: str = "float32"
  kernel_init: Callable[..., jax.Array] = fan_in_init

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # (..., in) -> (..., features)
    kernel = self.param("kernel", param_axes(self.kernel_init, *self.axes), (x.shape[-1], self.features))
    flat = x.reshape(-1, x.shape[-1]).astype(self.dtype)
    y = flat @ kernel.astype(self.dtype)
    if self.use_bias:
      y += self.param("bias", param_axes(nn.initializers.zeros, self.axes[1]), (self.features,)).astype(self.dtype)
    return y.reshape(*x.shape[:-1], self.features)


class Embed(nn.Module):
  """Table of vectors. Rows are taken before the cast, so that a large table is never copied whole.

  Attributes:
    axes: logical names of the table's (row, feature) axes.
  """

  rows: int
  features: int
  axes: tuple[str | None, str | None] = ("vocab", "embed")
  dtype: str = "float32"

  @nn.compact
  def __call__(self, ids: jax.Array) -> jax.Array:  # (...) int32 -> (..., features)
    table = self.param("embedding", param_axes(normal_init, *self.axes), (self.rows, self.features))
    # Whole on every device: left to itself, the compiler looks every row up everywhere and sends the results around.
    return jnp.take(constrain(table, None, None), ids, axis=0).astype(self.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32.

  Attributes:
    unit_offset: the stored weight is the distance from one (Gemma), not the scale itself (Llama).
  """

  eps: float
  unit_offset: bool = False
  axis: str = "norm"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = nn.initializers.zeros if self.unit_offset else nn.initializers.ones
    scale = self.param("scale", param_axes(init, self.axis), (x.shape[-1],)) + float(self.unit_offset)
    x32 = x.astype(jnp.float32)
    rms = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
    return (x32 * rms * scale).astype(x.dtype)


def layer_norm(eps: float, name: str) -> nn.LayerNorm:
  """LayerNorm with two-pass variance in float32, so that it agrees with the reference to 1e-6."""
  return nn.LayerNorm(
      epsilon=eps,
      use_fast_variance=False,
      scale_init=param_axes(nn.initializers.ones, "norm"),
      bias_init=param_axes(nn.initializers.zeros, "norm"),
      dtype=jnp.float32,
      name=name,
  )


def rope_frequencies(head_width: int, theta: float, llama3: tuple[float, float, float, int] | None = None) -> np.ndarray:
  """Angular frequency of each rotary pair, (h / 2,) float32.

  Args:
    llama3: (factor, low_freq_factor, high_freq_factor, original_positions) of Llama 3's long-context
      scaling: slow pairs are slowed by `factor`, fast ones kept, those between interpolated.
  """
  freq = theta ** (-np.arange(0, head_width, 2, dtype=np.float64) / head_width)
  if llama3 is not None:
    factor, low, high, original = llama3
    wavelength = 2 * math.pi / freq
    blend = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    freq = (1 - blend) * freq / factor + blend * freq
  return freq.astype(np.float32)


def rope_tables(length: int, frequencies: np.ndarray) -> tuple[jax.Array, jax.Array]:
  """Cosine and sine of positions 0..length-1 for pairs (i, i + h / 2), each (S, h).

  In float32: bfloat16 rounds 257 to 256.
  """
  angles = jnp.arange(length, dtype=jnp.float32)[:, None] * np.tile(frequencies, 2)
  return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array, distance: int) -> jax.Array:
  """Rotates pairs of channels.

  Args:
    x: (B, S, K, h).
    cos: (S, h), float32.
    sin: like cos.
    distance: between the two channels of a pair: h / 2 for (i, i + h / 2), the layout of Hugging Face weights, 1 for
      (2i, 2i + 1).

  Returns:
    (B, S, K, h).
  """
  # As a product with a signed permutation, of as many heads at a time as fill a matrix unit: on a TPU a shift within an
  # axis is a copy of its own, in padded memory, while a product takes the rest into itself.
  batch, length, heads, width = x.shape
  side = heads_side_by_side(heads, width)
  x = constrain(x.reshape(batch, length, heads // side, side * width), "act_batch", "act_seq", "act_heads", None)
  turned = jnp.einsum(
      "bsgi,ij->bsgj", x, _turn(side * width, distance).astype(x.dtype), precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=jnp.float32)
  cos, sin = jnp.tile(cos, side)[:, None], jnp.tile(sin, side)[:, None]
  y = x.astype(jnp.float32) * cos + turned * sin
  return y.astype(x.dtype).reshape(batch, length, heads, width)


def heads_side_by_side(heads: int, width: int) -> int:
  """How many heads to take together: up to a width of 256, and no more than a device has."""
  parts = axis_parts("act_heads")
  here = heads if heads % parts else heads // parts
  return max(n for n in range(1, here + 1) if here % n == 0 and (n == 1 or n * width <= 256))


def _turn(width: int, distance: int) -> np.ndarray:
  """(width, width), takes (a, b) of every pair to (-b, a)."""
  first = np.flatnonzero(np.arange(width) % (2 * distance) < distance)
  turn = np.zeros((width, width), np.float32)
  turn[first + distance, first], turn[first, first + distance] = -1.0, 1.0
  return turn


def axis_parts(name: str) -> int:
  """How many parts the current mesh and rules cut a logical axis into; 1 where there is no mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = None if mesh.empty else dict(nn.get_logical_axis_rules()).get(name)
  return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


def gelu(x: jax.Array) -> jax.Array:
  """The exact GELU, in float32: written with one erf, the compiler fuses it into the product before it."""
  x32 = x.astype(jnp.float32)
  return (0.5 * x32 * (1.0 + jax.lax.erf(x32 * math.sqrt(0.5)))).astype(x.dtype)


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean over real tokens, float32. x: (B, S, D), mask: (B, S) True = real -> (B, D).

  Pads are dropped by `where`, so that whatever stands there, a NaN too, cannot leak in.
  """
  total = jnp.sum(jnp.where(mask[..., None], x.astype(jnp.float32), 0.0), axis=1)
  return total / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)


def first_real_first(ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Turns rows until each begins with its first real token: no position then depends on the side of the pads.

  Args:
    ids: (B, S) token ids; S may be 0.
    mask: (B, S), True = real token. A row without any stays as it is.

  Returns:
    ids and mask, (B, S).
  """
  length = ids.shape[1]
  if length == 0:
    return ids, mask
  place = (jnp.arange(length) + jnp.argmax(mask, axis=1, keepdims=True)) % length
  return jnp.take_along_axis(ids, place, axis=1), jnp.take_along_axis(mask, place, axis=1)


def unit(x: jax.Array) -> jax.Array:
  """Scales the last axis to length one, in float32; a zero vector stays zero and has a zero gradient."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))


def run_layers(
    block_class: type[nn.Module],
    fields: dict[str, Any],
    num_layers: int,
    x: jax.Array,
    *shared: Any,
    per_layer: jax.Array | None = None,
    scan: bool,
    remat: str | None,
) -> jax.Array:
  """Applies a stack of equal blocks; call it inside a compact method of the tower.

  Args:
    block_class: module whose call is (x, *shared[, row]) -> x.
    fields: attributes of each block.
    num_layers: how many.
    x: (B, S, D).
    *shared: arguments that every block gets after x.
    per_layer: (num_layers, ...) whose i-th row block i gets as its last argument.
    scan: one compiled block, weights stacked on a leading "layers" axis under `layers`; otherwise
      unrolled under `layers_0`, `layers_1`, ...
    remat: a key of REMAT_POLICIES, or None to keep every activation.

  Returns:
    (B, S, D).
  """
  if remat is not None:
    block_class = nn.remat(block_class, policy=REMAT_POLICIES[remat], prevent_cse=not scan)
  extra = lambda row: () if per_layer is None else (row,)
  if not scan:
    for i in range(num_layers):
      row = None if per_layer is None else per_layer[i]
      x = block_class(**fields, name=f"layers_{i}")(x, *shared, *extra(row))
    return x

  def body(block, carry, row):
    return block(carry, *shared, *extra(row)), None

  scanned = nn.scan(
      body,
      variable_axes={"params": 0, "cache": 0},
      split_rngs={"params": True, "dropout": True},
      length=num_layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
  )
  return scanned(block_class(**fields, name="layers"), x, per_layer)[0]
