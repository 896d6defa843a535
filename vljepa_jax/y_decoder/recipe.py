"""The typed form of the recipe of a Y-decoder; values are in `configs/decoder.py`."""

import dataclasses
import math
import pathlib
from typing import Any

import ml_collections

from vljepa_jax import config as config_lib
from vljepa_jax import config_parsing
from vljepa_jax.config import DECODER_KEY, Mesh, Optim, Train
from vljepa_jax.errors import UserError, as_user_error
from vljepa_jax.model import presets


@dataclasses.dataclass(frozen=True)
class Texts:
  """What the decoder learns from.

  Attributes:
    length: tokens of a text at most, the mark of its end included; a longer one is cut.
    variants: random captions of every training record, besides its canonical one.
    error_records: training records of each data set on which the predictor's error is measured.
    noise: smallest and largest share of a measured angle between prediction and target by which an embedding is
      turned; (1.0, 1.0) always takes the whole of it.
  """

  length: int
  variants: int
  error_records: int
  noise: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Eval:
  """How held-out texts are decoded: in batches of this size, with a beam (1 is greedy) and its length penalty."""

  batch_size: int
  beam: int
  length_penalty: float


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A whole recipe.

  Attributes:
    name: of the run; its workdir is `runs/<name>` unless another is given.
    seed: of parameters, dropout, texts, noise and order.
    model_workdir: of the finished run whose embeddings are decoded.
    decoder: a preset of `model/presets.py` and single changed fields: dict(preset="decoder_small", dropout=0.1).
  """

  name: str
  seed: int
  model_workdir: str
  decoder: dict[str, Any]
  texts: Texts
  optim: Optim
  mesh: Mesh
  train: Train
  eval: Eval


def parse(config: ml_collections.ConfigDict | dict[str, Any]) -> Recipe:
  """The typed form of a recipe; UserError names an unknown, missing, mistyped or impossible value and its place."""
  plain = config if isinstance(config, dict) else config.to_dict()
  if DECODER_KEY not in plain:
    raise UserError("this is the recipe of a model, not of a Y-decoder; give the decoder's")
  recipe = config_parsing.parse_as(Recipe, plain, "config")
  _check(recipe)
  return recipe


def read(workdir: pathlib.Path) -> Recipe:
  """The recipe of a decoder's workdir; UserError if it has none."""
  return config_lib.read_as(parse, pathlib.Path(workdir))


def decoder_config(recipe: Recipe) -> presets.DecoderConfig:
  """The decoder's own dataclass; UserError names a preset or field that does not exist."""
  changes = dict(recipe.decoder)
  with as_user_error(ValueError):
    return presets.y_decoder(changes.pop("preset", None), **changes)


def _check(recipe: Recipe) -> None:
  """UserError for values of the right type that no run can use."""
  if not recipe.name or "/" in recipe.name:
    raise UserError(f"config.name must be a plain name, not {recipe.name!r}")
  decoder_config(recipe)
  values = config_parsing.flat(config_lib.to_dict(recipe))
  positive = {"optim.learning_rate", "optim.clip_norm", "texts.error_records", "eval.batch_size", "eval.beam",
              *(f"train.{field.name}" for field in dataclasses.fields(Train))}
  rules = [
      (positive, lambda x: x > 0, "above 0"),
      ({"texts.length"}, lambda x: x > 1, "above 1: a token and the mark of the end"),
      ({"seed", "texts.variants", "optim.warmup_steps", "optim.weight_decay", "eval.length_penalty"},
       lambda x: x >= 0, "0 or more"),
      ({"optim.b1", "optim.b2", "optim.ema"}, lambda x: 0 <= x < 1, "at least 0 and below 1"),
      ({"optim.final"}, lambda x: 0 <= x <= 1, "within 0..1"),
  ]
  for keys, holds, words in rules:
    for key in sorted(keys):
      if not (math.isfinite(values[key]) and holds(values[key])):
        raise UserError(f"config.{key} must be {words}, not {values[key]!r}")
  low, high = recipe.texts.noise
  if not 0 <= low <= high:
    raise UserError(f"config.texts.noise must be (low, high) with 0 <= low <= high, not {recipe.texts.noise!r}")
