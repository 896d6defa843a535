"""The paper's ablations (section 4.5, table 5) at small scale: python -m vljepa_jax.compare --config=configs/ablate.py

Every arm differs from `default` in one thing; those of the Y-encoder's learning rate differ from one another. Tasks,
splits, sizes and data order are those of configs/compare.py, but for 14 of a picture's 36 tokens at a time, as in
configs/base.py. Hours on two cores; `:debug` takes minutes.

  default            InfoNCE, full attention, two layers, frozen MiniLM without a head, as the paper's rows of losses
  sigmoid cosine l1 l2                the loss
  causal             the predictor's attention
  layers_1 layers_4  the predictor's depth
  untrained_y        MiniLM's sizes with random weights, frozen, in targets and in the table of queries
  y_0 .. y_1         MiniLM's last layer trained with this multiple of the learning rate, below a trained head
"""

import copy

from configs import compare
from ml_collections import ConfigDict

POINTS = {"openclipart": (20, 40, 60), "babyai": (10, 20)}


def get_config(variant: str = "base") -> ConfigDict:
  if variant not in ("base", "debug"):
    raise ValueError(f"configs/ablate.py has no variant {variant!r}; there are base, debug")
  config = compare.get_config(variant)
  config.name = "ablate" if variant == "base" else "ablate_debug"
  for name, task in config.tasks.items():
    task.decoder, task.decoder_of = ConfigDict(), ""
    task.arms = arms(layers=2 if variant == "base" else 1)
    if variant == "base":
      task.points = POINTS[name]
      task.config.train.steps = POINTS[name][-1]
  if variant == "base":  # as configs/base.py has it
    config.tasks.openclipart.config.data.feature_tokens = 14
    config.tasks.openclipart.config.model.pooling = (1, 1, 1)
  # A task of its own, for these runs cannot share targets and take longest.
  config.tasks.openclipart_y = copy.deepcopy(config.tasks.openclipart)
  config.tasks.openclipart_y.arms = rates_of_y(1 if variant == "debug" else 5)
  if variant == "base":
    config.rates = (3e-4, 1e-3, 3e-3)
    config.tasks.openclipart_y.points = POINTS["openclipart"][-1:]  # measuring takes as long as 15 steps
  return config


def arms(layers: int) -> ConfigDict:
  """The rows that cost little: targets of a frozen Y-encoder are computed once."""
  arm = lambda words, *values: dict(side="embeddings", words=words, values=values)
  loss = lambda kind: arm(kind, ("loss.kind", kind))
  depth = lambda count: arm(f"{count} layers", ("model.predictor.layers", (0, count)))
  return ConfigDict(dict(
      default=arm("InfoNCE, full attention, frozen Y-encoder"),
      sigmoid=arm("sigmoid", ("loss.kind", "sigmoid"), ("model.logit_bias", True)),
      cosine=loss("cosine"),
      l1=loss("l1"),
      l2=loss("l2"),
      causal=arm("causal attention", ("model.predictor.causal", True)),
      layers_1=depth(max(1, layers // 2)),
      layers_4=depth(2 * layers),
      untrained_y=arm("Y-encoder with random weights", ("model.y_encoder.weights", "")),
  ))


def rates_of_y(last: int) -> ConfigDict:
  """Multiples of the learning rate for the Y-encoder's last layer; its head always learns."""
  trained, found = f"y_encoder/backbone/layers_{last}/.*", {}
  for multiple in (0.0, 0.01, 0.05, 0.1, 1.0):
    groups = (
        ("x_encoder/.*", None), ("predictor/token_embed/.*", None), ("y_encoder/head/.*", 1.0),
        *(((trained, multiple),) if multiple else ()), ("y_encoder/.*", None), (".*", 1.0))
    found[f"y_{multiple:g}".replace(".", "_")] = dict(
        side="embeddings", words=f"Y-encoder's learning rate x {multiple:g}",
        values=(("model.y_head", True), ("model.y_head_init", "identity"), ("optim.groups", groups)))
  return ConfigDict(found)
