"""Words from embeddings: python -m vljepa_jax.main --config=configs/decoder.py

The Y-decoder of a finished model, trained from the texts of the model's own recipe; minutes on two cores. Of another
model: --config.model_workdir=runs/mine --workdir=runs/mine_decoder. `:debug` takes seconds, of the model of
configs/base.py:debug.
"""

from configs.base import RULES
from ml_collections import ConfigDict


def get_config(variant: str = "base") -> ConfigDict:
  if variant not in ("base", "debug"):
    raise ValueError(f"configs/decoder.py has no variant {variant!r}; there are base, debug")
  config = ConfigDict()
  config.name = "base_decoder"
  config.seed = 0
  config.model_workdir = "runs/base"
  config.decoder = ConfigDict(dict(preset="decoder_small", dropout=0.1))
  # The Y-encoder of base sees 14 tokens beside its two marks.
  config.texts = ConfigDict(dict(length=15, variants=8, error_records=256, noise=(0.0, 1.0)))
  config.optim = ConfigDict(dict(
      learning_rate=1e-3, schedule="cosine", warmup_steps=50, final=0.01, b1=0.9, b2=0.95, weight_decay=0.05,
      clip_norm=1.0, groups=((".*", 1.0),), ema=0.0,
  ))
  config.mesh = ConfigDict(dict(slice=1, data=-1, fsdp=1, tensor=1, rules=RULES))
  config.train = ConfigDict(dict(
      steps=800, batch_size=128, log_every=20, eval_every=200, checkpoint_every=200, keep_checkpoints=2,
  ))
  config.eval = ConfigDict(dict(batch_size=128, beam=4, length_penalty=1.0))
  return _debug(config) if variant == "debug" else config


def _debug(config: ConfigDict) -> ConfigDict:
  """A nano decoder and 8 steps."""
  config.name = "debug_decoder"
  config.model_workdir = "runs/debug"
  config.decoder = ConfigDict(dict(preset="decoder_nano", dropout=0.1))
  config.texts.update(dict(length=47, variants=1, error_records=64))
  config.optim.warmup_steps = 2
  config.train = ConfigDict(dict(
      steps=8, batch_size=16, log_every=2, eval_every=8, checkpoint_every=4, keep_checkpoints=2,
  ))
  config.eval.beam = 2
  return config
