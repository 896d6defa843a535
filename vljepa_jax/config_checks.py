"""What no run can use though it has the right type: the rules that values of a recipe keep, each one error."""

from collections.abc import Callable, Iterable, Mapping
import math
from typing import Any

from vljepa_jax import loss as losses
from vljepa_jax.data import preprocess
from vljepa_jax.data.text import LEFT, SIDES
from vljepa_jax.errors import UserError

POSITIVE = (
    "optim.learning_rate", "optim.clip_norm", "data.frames", "data.image_size", "model.embed_width",
    "tokenizers.query.length", "tokenizers.target.length", "eval.batch_size", "loss.micro_batches",
)
NOT_NEGATIVE = (
    "seed", "optim.warmup_steps", "optim.weight_decay", "data.workers", "data.feature_views", "data.feature_tokens",
    "loss.regularizer_weight", "tokenizers.query.pad_id", "tokenizers.target.pad_id",
)
BELOW_ONE = ("optim.b1", "optim.b2", "optim.ema")
SHARES = ("optim.final", "data.max_failures")
CHOICES = {
    "loss.kind": losses.KINDS,
    "loss.regularizer": losses.REGULARIZERS,
    "optim.schedule": ("constant", "cosine"),
    "model.y_head_init": ("normal", "identity"),
    "model.token_init": ("", "y_encoder"),
    "data.preprocess": preprocess.KINDS,
    "data.feature_dtype": ("float16", "float32"),
    **{f"tokenizers.{side}.{field}": SIDES for side in ("query", "target") for field in ("cut", "pad_side")},
}

Values = Mapping[str, Any]


def check(values: Values) -> None:
  """UserError for values of the right type that no run can use.

  Args:
    values: of a whole recipe in plain form, by dotted path.
  """
  if not values["name"] or "/" in values["name"]:
    raise UserError(f"config.name must be a plain name, not {values['name']!r}")
  _check_numbers(values)
  for key, known in CHOICES.items():
    if values[key] not in known:
      raise UserError(f"config.{key} must be one of {', '.join(map(repr, known))}, not {values[key]!r}")
  _check_prompts(values)
  _check_loss(values)
  _check_data(values)
  _check_profile(values["profile"], values["train.steps"])


def _check_numbers(values: Values) -> None:
  below = lambda path: [key for key in values if key.startswith(path)]
  pooling = {f"model.pooling[{i}]": size for i, size in enumerate(values["model.pooling"])}
  values = {**values, **pooling}
  _check_range(values, (*POSITIVE, *pooling, *below("train.")), lambda x: x > 0, "above 0")
  _check_range(values, NOT_NEGATIVE, lambda x: x >= 0, "0 or more")
  _check_range(values, BELOW_ONE, lambda x: 0 <= x < 1, "at least 0 and below 1")
  _check_range(values, (*SHARES, *below("data.augment.")), lambda x: 0 <= x <= 1, "within 0..1")


def _check_range(values: Values, keys: Iterable[str], holds: Callable[[float], bool], words: str) -> None:
  for key in sorted(keys):
    if not (math.isfinite(values[key]) and holds(values[key])):
      raise UserError(f"config.{key} must be {words}, not {values[key]!r}")


def _check_prompts(values: Values) -> None:
  for side in ("query", "target"):
    if values[f"tokenizers.{side}.prompt"] and values[f"tokenizers.{side}.cut"] == LEFT:
      raise UserError(
          f"config.tokenizers.{side}.cut='left' would cut the prompt first; set it to 'right', or leave the prompt out")


def _check_loss(values: Values) -> None:
  kind, sigmoid = values["loss.kind"], values["loss.kind"].startswith("sigmoid")
  if sigmoid != values["model.logit_bias"]:
    needed = "needs" if sigmoid else "has no use for"
    raise UserError(f"config.loss.kind {kind!r} {needed} config.model.logit_bias")
  if values["train.batch_size"] % values["loss.micro_batches"]:
    raise UserError(
        f"config.train.batch_size {values['train.batch_size']} must be a multiple of config.loss.micro_batches "
        f"{values['loss.micro_batches']}")


def _check_data(values: Values) -> None:
  if values["data.feature_tokens"] and not values["data.feature_views"]:
    raise UserError("config.data.feature_tokens picks among cached tokens: set config.data.feature_views, too")
  if not values["data.sources"]:
    raise UserError("config.data.sources is empty: there is nothing to train on")
  for i, source in enumerate(values["data.sources"]):
    if not source["view"]:
      raise UserError(f"config.data.sources[{i}].view names no view")
    if not source["weight"] > 0:
      raise UserError(f"config.data.sources[{i}].weight must be above 0, not {source['weight']!r}")


def _check_profile(profile: tuple[int, ...], steps: int) -> None:
  if profile and (len(profile) != 2 or not 1 <= profile[0] < profile[1] <= steps + 1):
    raise UserError(
        f"config.profile must be () or (first, last) with 1 <= first < last <= {steps + 1} (the steps first..last-1 of "
        f"{steps}), not {profile!r}")
