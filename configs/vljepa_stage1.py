"""Stage 1 of the paper, query-free captions: python -m vljepa_jax.main --config=configs/vljepa_stage1.py:1frame

Variants, in the order of the paper (section 3): `1frame` (2.46B samples), `8frames` (0.74B), `32frames` (0.12B,
X-encoder trained). Each starts from the one before: --config.init_from=runs/vljepa_stage1_1frame. Made for a TPU slice;
the captions are expected in data/captions, a TFDS ArrayRecord folder with the fields of openclipart.
"""

from configs.base import RULES
from ml_collections import ConfigDict

FRAMES = {"1frame": 1, "8frames": 8, "32frames": 32}
STEPS = {"1frame": 100_000, "8frames": 60_000, "32frames": 10_000}
MICRO_BATCHES = {"1frame": 1, "8frames": 1, "32frames": 4}
BATCH = {"1frame": 24_576, "8frames": 12_288, "32frames": 12_288}
X_ENCODER_MULTIPLIER = {"1frame": None, "8frames": None, "32frames": 1.0}
# Captions of single pictures are alternative texts from the web (paper 3.1): CLIP reads 77 tokens of them, SigLIP 64.
# Padding them to 512 would cost a third of the step's memory traffic.
TARGET_LENGTH = {"1frame": 128, "8frames": 512, "32frames": 512}
LLAMA_PAD = 128_004  # <|finetune_right_pad_id|>
DOCUMENT = "title: none | text: "  # EmbeddingGemma's own prompt for what is to be found
LEARNING_RATE = {"1frame": 5e-5, "8frames": 5e-5, "32frames": 1e-5}


def get_config(variant: str = "1frame") -> ConfigDict:
  if variant not in FRAMES:
    raise ValueError(f"configs/vljepa_stage1.py has no variant {variant!r}; there are {', '.join(FRAMES)}")
  tower = dict(dtype="bfloat16", remat="attention")
  config = ConfigDict()
  config.name = f"vljepa_stage1_{variant}"
  config.seed = 0
  config.init_from = ""
  config.profile = ()
  config.model = ConfigDict(dict(
      x_encoder=dict(preset="vjepa2_vitl", weights="", **tower),
      predictor=dict(preset="llama3_1b_l8", layers=(8, 16), weights="", **tower),
      y_encoder=dict(preset="embedding_gemma_300m", weights="", **tower),
      embed_width=1536,
      y_head=True,
      pooling=(1, 1, 1),
      logit_bias=False,
      y_head_init="normal",
      token_init="",
  ))
  tokenizer = dict(special_tokens=True, cut="right", pad_side="right")
  config.tokenizers = ConfigDict(dict(
      query=dict(source="hf://meta-llama/Llama-3.2-1B", length=512, prompt="", pad_id=LLAMA_PAD, **tokenizer),
      target=dict(
          source="hf://google/embeddinggemma-300m", length=TARGET_LENGTH[variant], prompt=DOCUMENT, pad_id=0,
          **tokenizer),
  ))
  config.data = ConfigDict(dict(
      sources=(dict(name="captions", dataset="data/captions", view="caption", weight=1.0),),
      frames=FRAMES[variant],
      image_size=256,
      preprocess="vjepa2",
      augment=dict(
          min_area=0.3, flip=0.0, jitter=0.0, drop_keywords=0.0, shuffle_keywords=0.0, drop_title=0.0,
      ),
      feature_views=0,
      feature_dtype="float16",
      feature_tokens=0,
      workers=16,
      max_failures=0.05,
      resident=False,
  ))
  config.loss = ConfigDict(dict(kind="auto", regularizer="", regularizer_weight=0.0))
  config.loss.micro_batches = MICRO_BATCHES[variant]
  config.optim = ConfigDict(dict(
      learning_rate=LEARNING_RATE[variant], schedule="constant", warmup_steps=2000, final=1.0, b1=0.9, b2=0.95,
      weight_decay=0.05, clip_norm=1.0,
      groups=(
          ("x_encoder/.*", X_ENCODER_MULTIPLIER[variant]),
          ("predictor/token_embed/.*", None),
          ("y_encoder/head/.*", 1.0),
          ("y_encoder/.*", 0.05),
          (".*", 1.0),
      ),
      ema=0.0,
  ))
  config.mesh = ConfigDict(dict(slice=1, data=-1, fsdp=16, tensor=1, rules=RULES))
  config.train = ConfigDict(dict(
      steps=STEPS[variant], batch_size=BATCH[variant], log_every=50, eval_every=5000, checkpoint_every=1000,
      keep_checkpoints=3,
  ))
  config.eval = ConfigDict(dict(
      dataset="openclipart", split="test", batch_size=256, class_query="", class_templates=("{}", "a picture of {}"),
      report=True,
  ))
  return config
