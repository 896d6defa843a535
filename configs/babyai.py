"""Moving pictures with known truth, on a laptop: python -m vljepa_jax.main --config=configs/babyai.py

Clips of a room in which an agent fetches, carries, opens and unlocks (`data/babyai`, generated at the first use),
with a caption and eight questions about every clip at once. A predictor and a small text encoder from scratch, on the
cached tokens of a small V-JEPA 2 encoder that comes with the package, frozen. `:pretrain` is for that encoder, from
scratch, with a GPU that holds the data set, of 100,000 clips then, and makes the batches; `:debug` runs in seconds,
with nano towers.
"""

from configs.base import MINILM, RULES
from ml_collections import ConfigDict

ENCODER = "pkg://vljepa_jax/data/babyai/encoder"
VARIANTS = ("frozen", "pretrain", "debug")
# A text of each for every clip; "where" is not asked where the thing has left the floor.
ALWAYS = ("brief", "action", "colour", "type", "object", "carrying", "count", "is_there", "door_state")


def get_config(variant: str = "frozen") -> ConfigDict:
  if variant not in VARIANTS:
    raise ValueError(f"configs/babyai.py has no variant {variant!r}; there are {', '.join(VARIANTS)}")
  return {"frozen": _frozen, "pretrain": _pretrain, "debug": _debug}[variant](_common())


def _common() -> ConfigDict:
  """Everything from scratch, on two cores."""
  config = ConfigDict()
  config.seed = 0
  config.init_from = ""
  config.profile = ()
  config.model = ConfigDict(dict(
      x_encoder=dict(preset="vjepa2_tiles", weights=""),
      predictor=dict(preset="tiles", weights="", dropout=0.0),
      y_encoder=dict(preset="bert_tiny", weights=""),
      embed_width=128,
      y_head=True,
      pooling=(1, 2, 2),
      logit_bias=False,
      y_head_init="normal",
      token_init="",
  ))
  tokenizer = dict(source=MINILM, prompt="", special_tokens=True, cut="right", pad_side="right", pad_id=0)
  config.tokenizers = ConfigDict(dict(query=dict(length=20, **tokenizer), target=dict(length=16, **tokenizer)))
  config.data = ConfigDict(dict(
      sources=(
          dict(name="all", dataset="babyai", view=ALWAYS, weight=0.9),
          dict(name="where", dataset="babyai", view="where", weight=0.1),
      ),
      frames=4,
      image_size=64,
      preprocess="pad_square",
      augment=dict(min_area=1.0, flip=0.0, jitter=0.0, drop_keywords=0.0, shuffle_keywords=0.0, drop_title=0.0),
      feature_views=0,
      feature_dtype="float16",
      feature_tokens=0,
      workers=0,
      max_failures=0.05,
      resident=False,
  ))
  config.loss = ConfigDict(dict(kind="auto", regularizer="", regularizer_weight=0.0, micro_batches=1))
  config.optim = ConfigDict(dict(
      learning_rate=1e-3, schedule="cosine", warmup_steps=100, final=0.01, b1=0.9, b2=0.95, weight_decay=0.05,
      clip_norm=1.0, groups=((".*", 1.0),), ema=0.0,
  ))
  config.mesh = ConfigDict(dict(slice=1, data=-1, fsdp=1, tensor=1, rules=RULES))
  config.train = ConfigDict(dict(
      steps=300, batch_size=64, log_every=20, eval_every=300, checkpoint_every=100, keep_checkpoints=2,
  ))
  config.eval = ConfigDict(dict(
      dataset="babyai", split="test", batch_size=128, class_query="what does the agent do?", class_templates=("{}",),
      report=True,
  ))
  return config


def _pretrain(config: ConfigDict) -> ConfigDict:
  """The encoder: large batches of all that can be said of a clip at once, and every fourth of detailed captions."""
  config.name = "babyai_pretrain"
  config.tokenizers.target.length = 56
  config.data.sources = (
      dict(name="all", dataset="babyai", view=(*ALWAYS, "where"), weight=0.75),
      dict(name="detailed", dataset="babyai", view="detailed", weight=0.25),
  )
  config.data.resident = True
  config.optim.warmup_steps = 500
  config.train = ConfigDict(dict(
      steps=7220, batch_size=256, log_every=100, eval_every=1000, checkpoint_every=500, keep_checkpoints=2,
  ))
  return config


def _frozen(config: ConfigDict) -> ConfigDict:
  """The same on tokens of the encoder that pretraining gave, of two views of every clip."""
  config.name = "babyai"
  config.model.x_encoder.weights = ENCODER
  config.model.predictor = ConfigDict(dict(preset="tiles", weights="", dropout=0.1, layers=(0, 2)))
  config.data.sources = (
      dict(name="all", dataset="babyai", view=ALWAYS, weight=0.4),
      dict(name="all and where", dataset="babyai", view=(*ALWAYS, "where"), weight=0.6),
  )
  config.data.feature_views = 2
  config.optim.groups = (("x_encoder/.*", None), (".*", 1.0))
  return config


def _debug(config: ConfigDict) -> ConfigDict:
  """The same run with nano towers, 8 steps and no weights to install."""
  config.name = "babyai_debug"
  config.model.x_encoder = ConfigDict(dict(preset="vjepa2_nano", weights=""))
  config.model.predictor = ConfigDict(dict(preset="nano", weights="", dropout=0.1))
  config.model.y_encoder = ConfigDict(dict(preset="bert_nano", weights=""))
  config.model.embed_width = 32
  for side in (config.tokenizers.query, config.tokenizers.target):
    side.source = "bytes"
    side.length = 48
  config.optim.warmup_steps = 2
  config.train = ConfigDict(dict(
      steps=8, batch_size=16, log_every=2, eval_every=8, checkpoint_every=4, keep_checkpoints=2,
  ))
  return config
