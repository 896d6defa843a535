"""Arithmetic of a training step, from the config alone: the model's own, and what is computed a second time.

`cost_analysis` of XLA counts a scanned layer once, so these numbers are worked out. Only matrix products and attention
count; a multiply-add is two operations.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from vljepa_jax import loss as losses
from vljepa_jax import streamed
from vljepa_jax.config import Config, model_config
from vljepa_jax.model import products
from vljepa_jax.model.products import Piece, Tower, visual_tokens
from vljepa_jax.model.vljepa import VLJepaConfig

X, PREDICTOR, Y, LOSS = "x_encoder", "predictor", "y_encoder", "loss"


@dataclasses.dataclass(frozen=True)
class StepFlops:
  """Operations of one step on the global batch.

  Attributes:
    model: (forward, backward) of "x_encoder", "predictor", "y_encoder" and "loss": what the mathematics asks for.
    recomputed: of the same, what remat, GradCache and the streamed losses do a second time, and products that this
      program takes to rotate queries and keys.
  """

  model: dict[str, tuple[int, int]]
  recomputed: dict[str, int]

  @property
  def model_total(self) -> int:
    """Forward and backward, nothing twice: what MFU counts."""
    return sum(map(sum, self.model.values()))

  @property
  def total(self) -> int:
    """All that the devices do."""
    return self.model_total + sum(self.recomputed.values())


def predictor_tokens(model: VLJepaConfig, frames: int, image_size: int) -> int:
  """Visual tokens that reach the predictor, pooled."""
  return visual_tokens(model.x_encoder, frames, image_size) // math.prod(model.pooling)


def forward_flops(
    model: VLJepaConfig, frames: int, image_size: int, query_length: int, target_length: int
) -> dict[str, int]:
  """Forward pass of one example by tower; `query_length` is 0 without a question."""
  visual = predictor_tokens(model, frames, image_size)
  towers = _towers(model, frames, image_size, visual, query_length, target_length)
  return {name: tower.forward for name, tower in towers.items()}


def step_flops(
    config: Config, frozen: Mapping[str, Any], query_length: int | None = None, devices: int = 1, texts: int = 1
) -> StepFlops:
  """One training step.

  Args:
    config: the recipe.
    frozen: whether parameters are frozen, by tower: one bool, or the tree `Parts.frozen`. A layer of which anything is
      trained counts as trained.
    query_length: of this batch; None takes that of the stream with the largest weight, 0 for captions.
    devices: that share the rows of a batch; they decide what kind of loss "auto" is.
    texts: of every row, which share its X-encoder pass.

  Returns:
    Operations of the global batch. The backward pass goes down to the lowest piece that is trained, and takes one more
    product for gradients of weights where they are.
  """
  model, data = model_config(config.model), config.data
  if query_length is None:
    main = max(data.sources, key=lambda source: source.weight)
    query_length = 0 if main.view == "caption" else config.tokenizers.query.length
  cached = data.feature_views > 0
  visual = data.feature_tokens or predictor_tokens(model, data.frames, data.image_size)
  towers = _towers(model, data.frames, data.image_size, visual, query_length, config.tokenizers.target.length)
  forward = {name: tower.forward for name, tower in towers.items()}
  backward, again = {}, {}
  learns = {}  # whether a gradient leaves the lower end of a tower
  for name, tower in towers.items():
    reaches = (learns.get(X, False), False) if name == PREDICTOR else (False,)
    backward[name], again[name], learns[name] = _backward(tower, frozen[name], reaches)
    again[name] += tower.rotary
  if config.loss.micro_batches > 1:
    again = {name: again[name] + forward[name] + tower.rotary for name, tower in towers.items()}
  if cached:
    forward[X] = backward[X] = again[X] = 0
  rows = {name: config.train.batch_size * (1 if name == X else texts) for name in towers}
  loss_model, loss_again = _loss_flops(config, devices, texts)
  return StepFlops(
      model={name: (rows[name] * forward[name], rows[name] * backward[name]) for name in towers} | {LOSS: loss_model},
      recomputed={name: rows[name] * again[name] for name in towers} | {LOSS: loss_again})


def _towers(
    model: VLJepaConfig, frames: int, image_size: int, visual: int, query_length: int, target_length: int
) -> dict[str, Tower]:
  return {
      X: products.x_encoder(model.x_encoder, frames, image_size),
      PREDICTOR: products.predictor(
          model.predictor, visual, model.x_encoder.width, query_length, model.embed_width),
      Y: products.y_encoder(model.y_encoder, target_length, model.embed_width if model.y_head else None),
  }


def _backward(tower: Tower, frozen: Any, reaches: tuple[bool, ...]) -> tuple[int, int, bool]:
  """Backward operations, recomputed ones, and whether anything in the tower or below it is trained.

  Args:
    reaches: whether the input of each branch needs a gradient.
  """
  total = again = 0

  def climb(pieces: tuple[Piece, ...], below: bool) -> bool:
    nonlocal total, again
    for piece in pieces:
      trained = _is_trained(frozen, piece.path)
      if trained or below:
        total += 2 * piece.attention + piece.weights * (1 + trained) - (0 if below else piece.first)
        again += piece.again + piece.rotary
      below = below or trained
    return below

  below = any([climb(branch, start) for branch, start in zip(tower.branches, reaches, strict=True)])
  learns = climb(tower.trunk, below)
  return total, again, learns


def _is_trained(frozen: Any, path: tuple[str, ...]) -> bool:
  """Whether any parameter below `path` is trained; `frozen` may stop being a tree on the way."""
  for key in path:
    if isinstance(frozen, Mapping):
      frozen = frozen[key]
  if isinstance(frozen, Mapping):
    return any(_is_trained(child, ()) for child in frozen.values())
  return not frozen


def _loss_flops(config: Config, devices: int, texts: int) -> tuple[tuple[int, int], int]:
  """(forward, backward) and recomputed operations of the loss over the whole batch."""
  batch, width = config.train.batch_size * texts, config.model.embed_width
  table = 2 * batch * batch * width
  kind = losses.pick_kind(config.loss.kind, batch, devices)
  backward = 0 if kind in losses.PAIRS else 2 * table  # those use the table for their metrics only
  again = table if kind.endswith((streamed.RING, streamed.CHUNKED)) else 0
  spread = {
      "": (0, 0),
      "sigreg": (2 * (2 * batch * width * losses.SKETCHES),) * 2,
      "vicreg": (2 * (2 * batch * width * width), 2 * (4 * batch * width * width)),
  }[config.loss.regularizer]
  return (table + spread[0], backward + spread[1]), again
