"""X-encoders: frames (B, T, H, W, 3), already normalised, to visual tokens (B, N, D).

Tokens are in time, row, column order. Shape letters as in `layers.py`.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vljepa_jax.model.attention import attention
from vljepa_jax.model.layers import Linear, apply_rope, constrain, gelu, layer_norm, param_axes, run_layers
from vljepa_jax.model.presets import MobileNetV2Config, VJepa2Config

# MobileNetV2 stages: (expansion, channels, blocks, stride of the first block).
MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
MOBILENET_STEM = 32


class VJepa2(nn.Module):
  """V-JEPA 2 vision transformer up to its final LayerNorm; no class token, no learned positions."""

  config: VJepa2Config

  @nn.compact
  def __call__(self, frames: jax.Array) -> jax.Array:
    """Encodes frames.

    Args:
      frames: (B, T, H, W, 3) float32, normalised. H and W must be multiples of the patch size and T of the
        tubelet size; a clip shorter than one tubelet has its frames repeated to fill it.

    Returns:
      (B, N, D) in the compute dtype, N = T / tubelet * H / patch * W / patch.
    """
    c = self.config
    _check_vjepa2_config(c)
    patches, grid = tubelet_patches(frames, c.tubelet_size, c.patch_size)
    patches = constrain(patches.astype(c.dtype), "act_batch", "act_seq", None)
    x = Linear(c.width, ("conv_in", "embed"), dtype=c.dtype, name="patch_embed")(patches)
    x = constrain(x, "act_batch", "act_seq", "act_embed")
    cos, sin = rope_3d_tables(grid, c.width // c.num_heads, c.rope_theta)
    x = run_layers(VJepa2Block, {"config": c}, c.num_layers, x, cos, sin, scan=c.scan, remat=c.remat)
    x = layer_norm(c.norm_eps, "norm")(x).astype(c.dtype)
    return constrain(x, "act_batch", "act_seq", "act_embed")


class VJepa2Block(nn.Module):
  """Pre-norm transformer block with rotary positions in time, row and column."""

  config: VJepa2Config

  @nn.compact
  def __call__(self, x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:  # (B, N, D), 2 x (N, h)
    c = self.config
    split = (*x.shape[:2], c.num_heads, c.width // c.num_heads)

    def heads(name: str, y: jax.Array) -> jax.Array:  # (B, N, D) -> (B, N, K, h)
      y = Linear(c.width, ("embed", "heads"), dtype=c.dtype, name=name)(y)
      return constrain(y.reshape(split), "act_batch", "act_seq", "act_heads", None)

    y = layer_norm(c.norm_eps, "norm1")(x).astype(c.dtype)
    q, k = (apply_rope(heads(name, y), cos, sin, 1) for name in ("query", "key"))
    y = attention(q, k, heads("value", y), split[-1] ** -0.5).reshape(x.shape)
    x = x + Linear(c.width, ("heads", "embed"), dtype=c.dtype, name="out")(y)
    x = constrain(x, "act_batch", "act_seq", "act_embed")

    y = layer_norm(c.norm_eps, "norm2")(x).astype(c.dtype)
    y = Linear(c.mlp_width, ("embed", "mlp"), dtype=c.dtype, name="up")(y)
    y = gelu(constrain(y, "act_batch", "act_seq", "act_mlp"))
    x = x + Linear(c.width, ("mlp", "embed"), dtype=c.dtype, name="down")(y)
    return constrain(x, "act_batch", "act_seq", "act_embed")


def token_grid(config: VJepa2Config | MobileNetV2Config, frames: int, height: int, width: int) -> tuple[int, int, int]:
  """Visual tokens of a clip in time, rows and columns; a clip shorter than a tubelet counts as one."""
  if isinstance(config, MobileNetV2Config):
    return frames, math.ceil(height / 32), math.ceil(width / 32)
  return max(frames // config.tubelet_size, 1), height // config.patch_size, width // config.patch_size


def _check_vjepa2_config(c: VJepa2Config) -> None:
  if c.width % c.num_heads or c.width // c.num_heads % 2:
    raise ValueError(f"width {c.width} must split into {c.num_heads} heads of an even width")


def tubelet_patches(frames: jax.Array, tubelet: int, patch: int) -> tuple[jax.Array, tuple[int, int, int]]:
  """Cuts frames into flattened tubelets.

  Args:
    frames: (B, T, H, W, 3).
    tubelet: frames per token.
    patch: side of a token in pixels.

  Returns:
    (B, N, tubelet * patch * patch * 3), values in frame, row, column, channel order, and the token grid
    (time, rows, columns).
  """
  _check_frames(frames)
  length = frames.shape[1]
  if length < tubelet:  # a picture is a clip that stands still
    frames = frames[:, np.arange(tubelet) * length // tubelet]
  batch, length, height, width, channels = frames.shape
  for name, size, unit in (("frames", length, tubelet), ("height", height, patch), ("width", width, patch)):
    if size % unit:
      raise ValueError(f"the clip's {name}, {size}, must be a multiple of {unit}")
  grid = (length // tubelet, height // patch, width // patch)
  x = frames.reshape(batch, grid[0], tubelet, grid[1], patch, grid[2], patch, channels)
  x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
  return x.reshape(batch, math.prod(grid), tubelet * patch * patch * channels), grid


def _check_frames(frames: jax.Array) -> None:
  if frames.ndim != 5 or frames.shape[-1] != 3 or 0 in frames.shape[1:4]:
    raise ValueError(f"frames must be (batch, time, height, width, 3) and not empty, not {frames.shape}")


def rope_3d_tables(grid: tuple[int, int, int], head_width: int, theta: float) -> tuple[jax.Array, jax.Array]:
  """Cosine and sine of every token and head channel, each (N, h) float32.

  A head's channels are split into time, row and column parts of equal even width; what is left over is
  not rotated. The released weights were trained with the frequencies of a part tiled, [f0 f1 .. f0 f1 ..],
  although the rotation pairs adjacent channels: a slip that must be kept for the weights to work.
  """
  part = 2 * (head_width // 3 // 2)
  frequencies = theta ** (-np.arange(part // 2, dtype=np.float64) / max(part // 2, 1))
  frequencies = np.tile(frequencies, 2).astype(np.float32)
  angles = [
      jax.lax.broadcasted_iota(jnp.float32, grid, axis).reshape(-1, 1) * frequencies for axis in range(3)
  ]
  rest = jnp.zeros((math.prod(grid), head_width - 3 * part), jnp.float32)
  angles = jnp.concatenate([*angles, rest], axis=-1)
  return jnp.cos(angles), jnp.sin(angles)


class MobileNetV2(nn.Module):
  """MobileNetV2 up to its last feature map, frame by frame; batch norms use their stored statistics."""

  config: MobileNetV2Config

  @nn.compact
  def __call__(self, frames: jax.Array) -> jax.Array:
    """Encodes frames.

    Args:
      frames: (B, T, H, W, 3) float32, normalised; any T, H and W.

    Returns:
      (B, N, D) in the compute dtype, N = T * ceil(H / 32) * ceil(W / 32).
    """
    c = self.config
    _check_frames(frames)
    batch, length = frames.shape[:2]
    x = frames.reshape(-1, *frames.shape[2:]).astype(c.dtype)
    x = relu6(StemConv(c, mobilenet_channels(c, MOBILENET_STEM), name="stem")(x))
    for i, block in enumerate(mobilenet_blocks(c)):
      x = InvertedResidual(c, *block, name=f"blocks_{i}")(x)
    x = relu6(PointwiseConv(c, c.width, name="head")(x))
    return constrain(x.reshape(batch, -1, c.width), "act_batch", "act_seq", "act_embed")


def mobilenet_channels(config: MobileNetV2Config, channels: int) -> int:
  """Channels times the width multiplier, to the nearest multiple of 8 that loses at most a tenth."""
  wanted = channels * config.width_multiplier
  rounded = max(8, int(wanted + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * wanted else rounded


def mobilenet_blocks(config: MobileNetV2Config) -> list[tuple[int, int, int]]:
  """(expansion, channels, stride) of every block, in order."""
  return [
      (expansion, mobilenet_channels(config, channels), stride if i == 0 else 1)
      for expansion, channels, count, stride in MOBILENET_STAGES
      for i in range(count)
  ]


def relu6(x: jax.Array) -> jax.Array:
  """Clips to 0..6."""
  return jnp.clip(x, 0, 6)


class InvertedResidual(nn.Module):
  """Widen, filter each channel, narrow; with a skip where the shape stays the same."""

  config: MobileNetV2Config
  expansion: int
  features: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # (B, H, W, C) -> (B, H / stride, W / stride, features)
    y = x
    if self.expansion > 1:
      y = relu6(PointwiseConv(self.config, x.shape[-1] * self.expansion, name="expand")(y))
    y = relu6(DepthwiseConv(self.config, self.stride, name="depthwise")(y))
    y = PointwiseConv(self.config, self.features, name="project")(y)
    return x + y if x.shape == y.shape else y


class FrozenBatchNorm(nn.Module):
  """Batch norm with stored statistics, which no gradient reaches, as factor and offset (C,) in float32."""

  eps: float

  @nn.compact
  def __call__(self, channels: int) -> tuple[jax.Array, jax.Array]:
    param = lambda name, init: self.param(name, param_axes(init, "norm"), (channels,))
    scale, bias = param("scale", nn.initializers.ones), param("bias", nn.initializers.zeros)
    mean = jax.lax.stop_gradient(param("mean", nn.initializers.zeros))
    var = jax.lax.stop_gradient(param("var", nn.initializers.ones))
    factor = scale * jax.lax.rsqrt(var + self.eps)
    return factor, bias - mean * factor


class StemConv(nn.Module):
  """3x3 convolution of stride 2 with its batch norm folded in."""

  config: MobileNetV2Config
  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # (B, H, W, 3) -> (B, H / 2, W / 2, features)
    init = param_axes(nn.initializers.he_normal(), None, None, "conv_in", "conv_out")
    kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
    factor, offset = FrozenBatchNorm(self.config.norm_eps, name="norm")(self.features)
    y = jax.lax.conv_general_dilated(
        x, (kernel * factor).astype(x.dtype), (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + offset.astype(x.dtype)


class PointwiseConv(nn.Module):
  """1x1 convolution, written as one 2-D matmul, with its batch norm folded in."""

  config: MobileNetV2Config
  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # (B, H, W, C) -> (B, H, W, features)
    init = param_axes(nn.initializers.he_normal(), "conv_in", "conv_out")
    kernel = self.param("kernel", init, (x.shape[-1], self.features))
    factor, offset = FrozenBatchNorm(self.config.norm_eps, name="norm")(self.features)
    y = x.reshape(-1, x.shape[-1]) @ (kernel * factor).astype(x.dtype) + offset.astype(x.dtype)
    return y.reshape(*x.shape[:-1], self.features)


class DepthwiseConv(nn.Module):
  """3x3 convolution of each channel by itself, with its batch norm folded in.

  Nine shifted multiply-adds: XLA:CPU runs them 4 to 9 times faster than a grouped convolution.
  """

  config: MobileNetV2Config
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # (B, H, W, C) -> (B, H / stride, W / stride, C)
    height, width, channels = x.shape[1:]
    init = param_axes(nn.initializers.normal(math.sqrt(2 / 9)), None, None, "conv_out")
    kernel = self.param("kernel", init, (3, 3, channels))
    factor, offset = FrozenBatchNorm(self.config.norm_eps, name="norm")(channels)
    kernel = (kernel * factor).astype(x.dtype)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = offset.astype(x.dtype)
    for row in range(3):
      for column in range(3):
        shifted = padded[:, row : row + height : self.stride, column : column + width : self.stride]
        y += shifted * kernel[row, column]
    return y
