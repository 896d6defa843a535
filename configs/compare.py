"""Embedding prediction against token prediction: python -m vljepa_jax.compare --config=configs/compare.py

VL-JEPA and a causal model of the same layers that spells the answer out, on the same cached tokens of the same frozen
X-encoder, in the same order of data; on openclipart pictures and on BabyAI clips. Arms differ in one thing at a time:

  vljepa         half the trained parameters of `tokens`, or less
  vljepa_large   its layers, and as many trained parameters
  tokens         twice the layers of `vljepa`
  tokens_small   the layers of `vljepa`, and as many trained parameters

Where layers are equal, widths of MLPs differ, for a vocabulary and a head to E do not take the same.

Targets are those of a frozen MiniLM, as the paper's own comparison has frozen ones (SONAR), so that one Y-decoder
serves all checkpoints. An hour on two cores, with a process for either task (--only). `:debug` runs in two minutes,
with nano towers.
"""

from configs import babyai, base, decoder
from ml_collections import ConfigDict

PICTURE_POINTS = (5, 10, 20, 30, 40, 60, 80, 100)
CLIP_POINTS = (3, 6, 10, 15, 20, 30, 45, 60)


def get_config(variant: str = "base") -> ConfigDict:
  if variant not in ("base", "debug"):
    raise ValueError(f"configs/compare.py has no variant {variant!r}; there are base, debug")
  config = ConfigDict()
  config.name = "compare"
  config.rates = (3e-4, 1e-3, 3e-3, 1e-2)
  config.sweep_seed = 0
  config.seeds = (1, 2, 3)
  config.tasks = ConfigDict(dict(
      openclipart=dict(
          records=0, validation=200, points=PICTURE_POINTS, classes="labels", config=openclipart(),
          decoder=y_decoder(15), decoder_of="vljepa", arms=arms(512, 633, 142)),
      babyai=dict(
          records=4000, validation=500, points=CLIP_POINTS, classes="object", config=clips(),
          decoder=y_decoder(15), decoder_of="vljepa", arms=arms(352, 328, 286)),
  ))
  return _debug(config) if variant == "debug" else config


def arms(tokens: int, large: int, small: int) -> ConfigDict:
  """The four of a task. Widths of MLPs: of `tokens`, and of the two whose parameters they make equal to another's."""
  size = lambda layers, mlp: (("model.predictor.layers", (0, layers)), ("model.predictor.mlp_width", mlp))
  return ConfigDict(dict(
      vljepa=dict(side="embeddings", words="VL-JEPA, half", values=()),
      tokens=dict(side="tokens", words="tokens", values=size(4, tokens)),
      vljepa_large=dict(side="embeddings", words="VL-JEPA, as many parameters as tokens", values=size(4, large)),
      tokens_small=dict(side="tokens", words="tokens, as few parameters as VL-JEPA", values=size(2, small)),
  ))


def small_predictor(heads: int, mlp: int) -> ConfigDict:
  """Two layers, of 64 for every head."""
  return ConfigDict(dict(
      preset="small", weights="", dropout=0.1, width=64 * heads, layers=(0, 2), num_heads=heads, num_kv_heads=heads,
      mlp_width=mlp))


def openclipart() -> ConfigDict:
  """Captions of pictures, without questions: classes are zero-shot."""
  config = base.get_config()
  config.data.sources = (dict(name="captions", dataset="openclipart", view="caption", weight=1.0),)
  config.data.augment.update(dict(drop_keywords=0.0, shuffle_keywords=0.0))  # captions in the order of the references
  config.data.feature_tokens = 0  # for a token model, an answer must stand in training where it stands in evaluation
  config.model.pooling = (1, 2, 2)  # 9 tokens of 36
  config.model.predictor = small_predictor(3, 384)
  return _common(config, PICTURE_POINTS[-1])


def clips() -> ConfigDict:
  """Captions of clips, and which object and which action it is."""
  config = babyai.get_config()
  config.model.y_encoder = ConfigDict(dict(preset="minilm", weights=base.MINILM))
  config.model.token_init = "y_encoder"
  config.data.sources = (
      dict(name="captions", dataset="babyai", view="brief", weight=0.6),
      dict(name="object", dataset="babyai", view="object", weight=0.2),
      dict(name="action", dataset="babyai", view="action", weight=0.2),
  )
  config.data.feature_views = 1
  config.tokenizers.query.length = 13
  config.model.predictor = small_predictor(2, 240)
  return _common(config, CLIP_POINTS[-1])


def _common(config: ConfigDict, steps: int) -> ConfigDict:
  """What both have: frozen targets, a constant learning rate, steps of 128."""
  config.model.embed_width, config.model.y_head = 384, False
  config.optim.schedule, config.optim.warmup_steps = "constant", 10
  config.optim.groups = (
      ("x_encoder/.*", None), ("y_encoder/.*", None), ("predictor/token_embed/.*", None), (".*", 1.0))
  config.train = ConfigDict(dict(
      steps=steps, batch_size=128, log_every=1, eval_every=150, checkpoint_every=50, keep_checkpoints=1))
  config.eval.report = False
  return config


def y_decoder(length: int) -> ConfigDict:
  """Of the task's frozen Y-encoder."""
  config = decoder.get_config()
  config.decoder = ConfigDict(dict(preset="decoder_small", dropout=0.1, width=192, num_layers=2, num_heads=3,
                                   num_kv_heads=3, mlp_width=512))
  config.texts.update(dict(length=length, variants=0))
  config.train.update(dict(steps=400, eval_every=400, checkpoint_every=200, keep_checkpoints=1))
  config.eval.beam = 1
  return config


def _debug(config: ConfigDict) -> ConfigDict:
  """Nano towers, 8 steps, one task."""
  config.name = "compare_debug"
  config.rates, config.seeds = (1e-3, 3e-3), (1, 2)
  nano = openclipart_nano()
  layers = lambda count: (("model.predictor.layers", (0, count)),)
  config.tasks = ConfigDict(dict(openclipart=dict(
      records=300, validation=50, points=(1, 2, 4, 8), classes="labels", config=nano, decoder=decoder_nano(),
      decoder_of="vljepa", arms=dict(
          vljepa=dict(side="embeddings", words="VL-JEPA", values=layers(1)),
          tokens=dict(side="tokens", words="tokens", values=layers(2)),
      ))))
  return config


def openclipart_nano() -> ConfigDict:
  """The debug recipe of base with cached tokens and frozen targets."""
  config = base.get_config("debug")
  config.data.sources = (dict(name="captions", dataset="openclipart", view="caption", weight=1.0),)
  config.data.feature_views = 1
  config.model.y_head = False
  config.optim.schedule = "constant"
  config.optim.groups = (
      ("x_encoder/.*", None), ("y_encoder/.*", None), ("predictor/token_embed/.*", None), (".*", 1.0))
  config.train.update(dict(steps=8, batch_size=16, checkpoint_every=4))
  config.eval.report = False
  return config


def decoder_nano() -> ConfigDict:
  """The debug recipe of a decoder."""
  config = decoder.get_config("debug")
  config.texts.variants = 0
  return config
