"""VL-JEPA: predict the embedding of the answer from the picture and the question."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from vljepa_jax.model import presets
from vljepa_jax.model.layers import constrain, param_axes, unit
from vljepa_jax.model.predictor import Predictor
from vljepa_jax.model.text import YEncoder
from vljepa_jax.model.vision import MobileNetV2, VJepa2, token_grid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INITIAL_LOG_SCALE = 2.6592600369327783  # ln(1 / 0.07)
# SigLIP's start (arXiv 2303.15343): of the many pairs hardly one belongs together.
SIGMOID_LOG_SCALE, SIGMOID_BIAS = 2.302585092994046, -10.0  # ln 10


@dataclasses.dataclass(frozen=True)
class VLJepaConfig:
  """The three towers and the width E of the space they share.

  Attributes:
    pooling: neighbouring visual tokens, (in time, in rows, in columns), that become their mean before the predictor.
    logit_bias: for sigmoid losses.
  """

  x_encoder: presets.XEncoderConfig
  predictor: presets.PredictorConfig
  y_encoder: presets.YEncoderConfig
  embed_width: int = 1536
  y_head: bool = True
  logit_bias: bool = False
  pooling: tuple[int, int, int] = (1, 1, 1)


class VLJepa(nn.Module):
  """All parts under one parameter tree: x_encoder, predictor, y_encoder, log_scale."""

  config: VLJepaConfig

  def setup(self):
    c = self.config
    vision = VJepa2 if isinstance(c.x_encoder, presets.VJepa2Config) else MobileNetV2
    self.x_encoder = vision(c.x_encoder)
    self.predictor = Predictor(c.predictor, c.embed_width)
    self.y_encoder = YEncoder(c.y_encoder, c.embed_width if c.y_head else None)
    number = lambda name, value: self.param(name, param_axes(nn.initializers.constant(value)), ())
    self.log_scale = number("log_scale", SIGMOID_LOG_SCALE if c.logit_bias else INITIAL_LOG_SCALE)
    if c.logit_bias:
      self.logit_bias = number("logit_bias", SIGMOID_BIAS)

  def encode_video(self, video: jax.Array) -> jax.Array:
    """Visual tokens (B, N, D) of frames (B, T, H, W, 3), uint8, pooled as the config says; ImageNet mean and std."""
    frames = video.astype(jnp.float32) / 255.0
    frames = (frames - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)
    tokens = self.x_encoder(constrain(frames, "act_batch", None, None, None, None))
    return pool_tokens(tokens, token_grid(self.config.x_encoder, *video.shape[1:4]), self.config.pooling)

  def predict(
      self, visual: jax.Array, query: jax.Array, query_mask: jax.Array, deterministic: bool = True
  ) -> jax.Array:
    """Embedding of the answer, (B, E) of unit length.

    Args:
      visual: (B, N, D) tokens from `encode_video`.
      query: (B, Q) token ids; Q may be 0.
      query_mask: (B, Q), True = real token. A row without any is a query-free prediction.
      deterministic: no dropout.
    """
    return unit(self.predictor(visual, query, query_mask, deterministic))

  def encode_text(self, target: jax.Array, target_mask: jax.Array, deterministic: bool = True) -> jax.Array:
    """Embedding of a text, (B, E) of unit length. target: (B, L) token ids; target_mask: True = real token."""
    return unit(self.y_encoder(target, target_mask, deterministic))

  def __call__(self, batch: dict[str, jax.Array], deterministic: bool = True) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `embed`, and log_scale ()."""
    return *self.embed(batch, deterministic), self.log_scale

  def embed(self, batch: dict[str, jax.Array], deterministic: bool = True) -> tuple[jax.Array, jax.Array]:
    """One training pass up to the loss.

    Args:
      batch: `video` (B, T, H, W, 3) uint8, or in its place `visual` (B, N, D), the tokens that a frozen
        X-encoder gave earlier; `query`, `query_mask` (B, Q); `target`, `target_mask` (B, L), or in their place
        `target_embed` (B, E), what a frozen Y-encoder gave earlier. Or K texts that share the video: (B, K, Q) and
        (B, K, L).
      deterministic: no dropout.

    Returns:
      pred_embed, target_embed, of unit length; (B, E), or (B, K, E).
    """
    visual = batch["visual"] if "visual" in batch else self.encode_video(batch["video"])
    several = batch["query"].shape[1:-1]  # (K,) or ()
    flat = lambda name: batch[name].reshape(-1, batch[name].shape[-1]) if several else batch[name]
    if several:
      visual = jnp.repeat(visual, several[0], axis=0)
    pred = self.predict(visual, flat("query"), flat("query_mask"), deterministic)
    if "target_embed" in batch:
      target = flat("target_embed")
    else:
      target = self.encode_text(flat("target"), flat("target_mask"), deterministic)
    place = lambda x: constrain(x.reshape(-1, *several, x.shape[-1]), "act_batch", *[None] * len(several), "act_joint")
    return place(pred), place(target)


def pool_tokens(tokens: jax.Array, grid: tuple[int, int, int], pooling: tuple[int, int, int]) -> jax.Array:
  """Means of blocks of neighbouring tokens.

  Args:
    tokens: (B, N, D), in time, row, column order.
    grid: tokens in time, rows and columns; their product is N.
    pooling: size of a block along each; ValueError if it does not divide the grid.

  Returns:
    (B, N / size of a block, D).
  """
  if pooling == (1, 1, 1):
    return tokens
  if any(size % unit for size, unit in zip(grid, pooling)):
    raise ValueError(f"pooling {pooling} does not divide the {grid} visual tokens in time, rows and columns")
  (t, h, w), (a, b, c) = grid, pooling
  blocks = tokens.reshape(tokens.shape[0], t // a, a, h // b, b, w // c, c, tokens.shape[-1])
  pooled = jnp.mean(blocks, axis=(2, 4, 6), dtype=jnp.float32).astype(tokens.dtype)
  return constrain(pooled.reshape(tokens.shape[0], -1, tokens.shape[-1]), "act_batch", "act_seq", "act_embed")
