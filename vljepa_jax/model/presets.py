"""Named sizes of every tower, as frozen dataclasses: from `nano` to the paper's.

A config names a preset and changes single fields: `x_encoder("vjepa2_vitl", num_layers=2)`.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class VJepa2Config:
  """V-JEPA 2 vision transformer; the defaults are ViT-L."""

  width: int = 1024
  num_layers: int = 24
  num_heads: int = 16
  mlp_width: int = 4096
  patch_size: int = 16
  tubelet_size: int = 2
  norm_eps: float = 1e-6
  rope_theta: float = 10_000.0
  dtype: str = "float32"
  scan: bool = True
  remat: str | None = None


@dataclasses.dataclass(frozen=True)
class MobileNetV2Config:
  """MobileNetV2 up to its last feature map, frame by frame."""

  width_multiplier: float = 1.0
  norm_eps: float = 1e-5
  dtype: str = "float32"
  tubelet_size: int = 1

  @property
  def width(self) -> int:
    """Channels of a token; the last feature map does not shrink below 1280."""
    return int(1280 * max(1.0, self.width_multiplier))


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
  """Bidirectional Llama-style predictor; the defaults are 8 layers of Llama-3.2-1B.

  Attributes:
    layers: which layers of the pretrained Llama these are, (first, end); from scratch (0, how many).
    rope_scaling: see `layers.rope_frequencies`.
  """

  width: int = 2048
  layers: tuple[int, int] = (8, 16)
  num_heads: int = 32
  num_kv_heads: int = 8
  head_width: int = 64
  mlp_width: int = 8192
  vocab_size: int = 128_256
  token_width: int = 2048
  norm_eps: float = 1e-5
  rope_theta: float = 500_000.0
  rope_scaling: tuple[float, float, float, int] | None = (32.0, 1.0, 4.0, 8192)
  causal: bool = False
  dropout: float = 0.0
  dtype: str = "float32"
  scan: bool = True
  remat: str | None = None

  def __post_init__(self):
    first, end = self.layers
    if not 0 <= first < end:
      raise ValueError(f"layers {self.layers} must be (first, end) with 0 <= first < end")

  @property
  def num_layers(self) -> int:
    """How many layers the predictor has."""
    return self.layers[1] - self.layers[0]


@dataclasses.dataclass(frozen=True)
class EmbeddingGemmaConfig:
  """Gemma 3 text encoder, bidirectional; the defaults are EmbeddingGemma-300M.

  Attributes:
    sliding_window: exclusive radius of the sliding layers (Hugging Face's 512 becomes 512 // 2 + 1).
    full_every: every so-many-th layer looks at the whole text, the others at the window.
    dense_widths: widths of the sentence-embedding heads after mean pooling, no bias, no activation.
  """

  width: int = 768
  num_layers: int = 24
  num_heads: int = 3
  num_kv_heads: int = 1
  head_width: int = 256
  mlp_width: int = 1152
  vocab_size: int = 262_144
  norm_eps: float = 1e-6
  query_scale: float = 256.0
  rope_theta: float = 1_000_000.0
  rope_local_theta: float = 10_000.0
  sliding_window: int = 257
  full_every: int = 6
  dense_widths: tuple[int, ...] = (3072, 768)
  dtype: str = "float32"
  scan: bool = True
  remat: str | None = None


@dataclasses.dataclass(frozen=True)
class BertConfig:
  """BERT sentence encoder; the defaults are all-MiniLM-L6-v2."""

  width: int = 384
  num_layers: int = 6
  num_heads: int = 12
  mlp_width: int = 1536
  vocab_size: int = 30_522
  max_positions: int = 512
  norm_eps: float = 1e-12
  dropout: float = 0.0
  dtype: str = "float32"
  scan: bool = False
  remat: str | None = None


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Causal Llama-style decoder of one embedding; the defaults are a small one.

  Attributes:
    prefix_tokens: tokens that the embedding becomes; they stand before the text.
  """

  width: int = 256
  num_layers: int = 4
  num_heads: int = 4
  num_kv_heads: int = 4
  head_width: int = 64
  mlp_width: int = 704
  prefix_tokens: int = 4
  norm_eps: float = 1e-5
  rope_theta: float = 10_000.0
  dropout: float = 0.0
  dtype: str = "float32"
  scan: bool = False
  remat: str | None = None


XEncoderConfig = VJepa2Config | MobileNetV2Config
YEncoderConfig = EmbeddingGemmaConfig | BertConfig

X_ENCODERS: dict[str, XEncoderConfig] = {
    "vjepa2_nano": VJepa2Config(width=48, num_layers=2, num_heads=3, mlp_width=96, scan=False),
    "vjepa2_tiles": VJepa2Config(width=192, num_layers=6, num_heads=4, mlp_width=768, patch_size=8, scan=False),
    "vjepa2_tiny": VJepa2Config(width=192, num_layers=12, num_heads=3, mlp_width=768),
    "vjepa2_vitl": VJepa2Config(),
    "vjepa2_vith": VJepa2Config(width=1280, num_layers=32, num_heads=16, mlp_width=5120),
    "vjepa2_vitg": VJepa2Config(width=1408, num_layers=40, num_heads=22, mlp_width=6144),
    "mobilenet_v2": MobileNetV2Config(),
}

PREDICTORS: dict[str, PredictorConfig] = {
    "nano": PredictorConfig(
        width=32, layers=(0, 2), num_heads=4, num_kv_heads=2, head_width=8, mlp_width=64,
        vocab_size=512, token_width=32, rope_scaling=None, scan=False,
    ),
    "tiles": PredictorConfig(
        width=128, layers=(0, 1), num_heads=2, num_kv_heads=2, head_width=64, mlp_width=384,
        vocab_size=30_522, token_width=128, rope_scaling=None, scan=False,
    ),
    "small": PredictorConfig(
        width=384, layers=(0, 1), num_heads=6, num_kv_heads=6, head_width=64, mlp_width=1024,
        vocab_size=30_522, token_width=384, rope_scaling=None, scan=False,
    ),
    "llama3_1b_l8": PredictorConfig(),
}

Y_ENCODERS: dict[str, YEncoderConfig] = {
    "bert_nano": BertConfig(width=32, num_layers=2, num_heads=2, mlp_width=64, vocab_size=512, max_positions=64),
    "gemma_nano": EmbeddingGemmaConfig(
        width=32, num_layers=3, num_heads=3, num_kv_heads=1, head_width=16, mlp_width=48, vocab_size=512,
        query_scale=16.0, sliding_window=5, full_every=3, dense_widths=(64, 32), scan=False,
    ),
    "bert_tiny": BertConfig(width=128, num_layers=2, num_heads=2, mlp_width=512),
    "minilm": BertConfig(),
    "embedding_gemma_300m": EmbeddingGemmaConfig(),
}

Y_DECODERS: dict[str, DecoderConfig] = {
    "decoder_nano": DecoderConfig(width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_width=8, mlp_width=64),
    "decoder_small": DecoderConfig(),
}


def _preset(table: dict[str, Any], kind: str, name: str, changes: dict[str, Any]) -> Any:
  if name not in table:
    raise ValueError(f"no {kind} preset {name!r}; there are {', '.join(sorted(table))}")
  fields = {f.name for f in dataclasses.fields(table[name])}
  unknown = sorted(set(changes) - fields)
  if unknown:
    raise ValueError(f"{kind} {name!r} has no field {unknown[0]!r}; it has {', '.join(sorted(fields))}")
  return dataclasses.replace(table[name], **changes)


def x_encoder(name: str, **changes: Any) -> XEncoderConfig:
  """The X-encoder preset `name` with single fields changed; ValueError names what does not exist."""
  return _preset(X_ENCODERS, "x_encoder", name, changes)


def predictor(name: str, **changes: Any) -> PredictorConfig:
  """The predictor preset `name` with single fields changed; ValueError names what does not exist."""
  return _preset(PREDICTORS, "predictor", name, changes)


def y_encoder(name: str, **changes: Any) -> YEncoderConfig:
  """The Y-encoder preset `name` with single fields changed; ValueError names what does not exist."""
  return _preset(Y_ENCODERS, "y_encoder", name, changes)


def y_decoder(name: str, **changes: Any) -> DecoderConfig:
  """The Y-decoder preset `name` with single fields changed; ValueError names what does not exist."""
  return _preset(Y_DECODERS, "y_decoder", name, changes)
