"""How much arithmetic every tower takes: matrix products and attention, in floating-point operations for one example.

A multiply-add counts as two. Norms, activations, softmax, rotary positions and lookups are left out: a few per cent.
Attention is counted as it is computed, every query against every key, in the sliding layers of Gemma, too.
"""

import dataclasses
import math

from vljepa_jax.model import presets
from vljepa_jax.model.layers import heads_side_by_side
from vljepa_jax.model.vision import MOBILENET_STEM, mobilenet_blocks, mobilenet_channels, token_grid


@dataclasses.dataclass(frozen=True)
class Piece:
  """One part of a tower with parameters of its own.

  Attributes:
    path: of its parameters below the tower's.
    weights: operations of products with weights, forward.
    attention: operations of products of activations, forward.
    rotary: operations of the products that rotate queries and keys, forward: how this program does it, not the model's.
    first: of `weights`, what reads the input of the piece as it is; their gradient of the input is not needed where
      nothing below learns. Behind a norm that learns, it always is.
    last: of `weights`, what gives an output that no gradient needs; it is not computed again under "full" remat.
    remat: what the backward pass computes again, see `layers.REMAT_POLICIES`.
  """

  path: tuple[str, ...]
  weights: int = 0
  attention: int = 0
  rotary: int = 0
  first: int = 0
  last: int = 0
  remat: str | None = None

  @property
  def forward(self) -> int:
    return self.weights + self.attention

  @property
  def again(self) -> int:
    """What remat adds where a gradient passes."""
    scores = self.attention // 2  # what attention gives is stored; its backward pass asks for the scores
    layer = self.weights - self.last + self.rotary
    return {None: 0, "dots": scores, "attention": layer + scores, "full": layer + self.attention}[self.remat]


@dataclasses.dataclass(frozen=True)
class Tower:
  """Pieces in the order of the forward pass: branches side by side, then the trunk that all of them lead to."""

  branches: tuple[tuple[Piece, ...], ...]
  trunk: tuple[Piece, ...]

  @property
  def forward(self) -> int:
    return sum(piece.forward for piece in self._pieces)

  @property
  def rotary(self) -> int:
    return sum(piece.rotary for piece in self._pieces)

  @property
  def _pieces(self) -> tuple[Piece, ...]:
    return sum(self.branches, self.trunk)


def visual_tokens(x_encoder: presets.XEncoderConfig, frames: int, image_size: int) -> int:
  """N, the tokens that the X-encoder makes of a square clip."""
  return math.prod(token_grid(x_encoder, frames, image_size, image_size))


def x_encoder(config: presets.XEncoderConfig, frames: int, image_size: int) -> Tower:
  """V-JEPA 2 or MobileNetV2 of one clip."""
  if isinstance(config, presets.MobileNetV2Config):
    return Tower(((),), _mobilenet(config, frames, image_size))
  tokens, width = visual_tokens(config, frames, image_size), config.width
  embed = _product(tokens, config.tubelet_size * config.patch_size**2 * 3, width)
  layer = Piece(
      _layer(config, 0), 4 * _product(tokens, width, width) + 2 * _product(tokens, width, config.mlp_width),
      _attention(tokens, width), _rotary(tokens, config.num_heads, config.num_heads, width // config.num_heads),
      last=_product(tokens, config.mlp_width, width), remat=config.remat)
  return Tower(((),), (Piece(("patch_embed",), embed, first=embed), *_layers(config, layer)))


def predictor(config: presets.PredictorConfig, visual: int, visual_width: int, query: int, embed_width: int) -> Tower:
  """Llama layers over `visual` tokens of width `visual_width` and `query` tokens, and the head of width E."""
  length = visual + query
  visual_proj = _product(visual, visual_width, config.width)
  query_proj = _product(query, config.token_width, config.width)
  layer = _llama(config, length, last=_product(length, config.mlp_width, config.width))
  return Tower(
      ((Piece(("visual_proj",), visual_proj, first=visual_proj),),
       (Piece(("token_embed",)), Piece(("query_proj",), query_proj, first=query_proj))),
      (*_layers(config, layer), Piece(("head",), _product(1, config.width, embed_width))))


def y_encoder(config: presets.YEncoderConfig, length: int, embed_width: int | None) -> Tower:
  """Gemma or BERT over `length` tokens, its dense heads, and the projection to E, if there is one."""
  width = config.width
  if isinstance(config, presets.BertConfig):
    qkv, mlp = 3 * _product(length, width, width), 2 * _product(length, width, config.mlp_width)
    layer = Piece(
        _layer(config, 0), qkv + _product(length, width, width) + mlp, _attention(length, width),
        first=0 if config.scan else qkv, remat=config.remat)
    below, heads = ("token_embed", "type_embed", "position_embed", "embed_norm"), ()
  else:
    layer, below, heads = _llama(config, length), ("token_embed",), config.dense_widths
  layers = [dataclasses.replace(piece, path=("backbone", *piece.path)) for piece in _layers(config, layer)]
  ends = [(f"dense_{i}", size) for i, size in enumerate(heads)]
  ends += [("head", embed_width)] if embed_width else []
  widths = [width, *(size for _, size in ends)]
  products = [_product(1, a, b) for a, b in zip(widths, widths[1:])]
  return Tower(((),), (
      *(Piece(("backbone", name)) for name in below), *layers,
      *(Piece((name,), ops, first=ops) for (name, _), ops in zip(ends, products, strict=True))))


def _product(rows: int, inputs: int, outputs: int) -> int:
  return 2 * rows * inputs * outputs


def _rotary(length: int, heads: int, groups: int, head_width: int) -> int:
  """Queries and keys times a signed permutation, see `layers.apply_rope`."""
  wide = lambda count: _product(length, count * head_width, heads_side_by_side(count, head_width) * head_width)
  return wide(heads) + wide(groups)


def _attention(length: int, width: int) -> int:
  """Scores and their sums of values; `width` is that of all heads."""
  return 2 * _product(length, width, length)


def _llama(config: presets.PredictorConfig | presets.EmbeddingGemmaConfig, length: int, last: int = 0) -> Piece:
  """Grouped keys and values, and an MLP with a gate."""
  heads, groups = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
  per_row = 2 * config.width * (heads + groups) + 3 * config.width * config.mlp_width
  return Piece(
      _layer(config, 0), _product(length, per_row, 1), _attention(length, heads),
      _rotary(length, config.num_heads, config.num_kv_heads, config.head_width), last=last, remat=config.remat)


def _layer(config: presets.XEncoderConfig | presets.YEncoderConfig | presets.PredictorConfig, i: int) -> tuple[str]:
  return ("layers" if config.scan else f"layers_{i}",)


def _layers(config: presets.XEncoderConfig | presets.YEncoderConfig | presets.PredictorConfig, layer: Piece):
  return [dataclasses.replace(layer, path=_layer(config, i)) for i in range(config.num_layers)]


def _mobilenet(config: presets.MobileNetV2Config, frames: int, image_size: int) -> tuple[Piece, ...]:
  """Convolutions of all frames."""
  channels = mobilenet_channels(config, MOBILENET_STEM)
  size = math.ceil(image_size / 2)
  stem = _product(frames * size**2, 9 * 3, channels)
  pieces = [Piece(("stem",), stem, first=stem)]
  for i, (expansion, features, stride) in enumerate(mobilenet_blocks(config)):
    wide = channels * expansion
    expand = _product(frames * size**2, channels, wide) if expansion > 1 else 0
    size = math.ceil(size / stride)
    rest = _product(frames * size**2, 9, wide) + _product(frames * size**2, wide, features)
    pieces.append(Piece((f"blocks_{i}",), expand + rest))
    channels = features
  return *pieces, Piece(("head",), _product(frames * size**2, channels, config.width))
