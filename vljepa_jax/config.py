"""The typed form of a config file.

A file under `configs/` returns a plain `ConfigDict` that holds every value; `parse` turns it into the frozen
dataclasses below, so that a misspelt key, a key that nothing reads, or a missing one is an error that names it.
There are no defaults here: the config file is the one place to look a value up.
"""

from collections.abc import Callable
import dataclasses
import difflib
import json
import math
import pathlib
import types
import typing
from typing import Any

import ml_collections

from vljepa_jax.data import preprocess
from vljepa_jax import loss as losses
from vljepa_jax.data.questions import KINDS
from vljepa_jax.data.text import LEFT, SIDES
from vljepa_jax.errors import UserError
from vljepa_jax.model import presets
from vljepa_jax.model.vljepa import VLJepaConfig


FILE = "config.json"
TOKENIZERS = "tokenizers"  # folder of tokenizers that travel with a model
TEXTS = ("query", "target")
DECODER_KEY = "model_workdir"  # only recipes of a Y-decoder (`y_decoder/recipe.py`) have it
# What may change between two starts of one run: how long, how often, on which devices.
MAY_CHANGE = (
    "train.steps", "train.log_every", "train.eval_every", "train.checkpoint_every", "train.keep_checkpoints", "eval",
    "mesh", "data.workers", "profile",
)


@dataclasses.dataclass(frozen=True)
class Tower:
  """One pretrained or fresh part: a preset name, single changed fields, and where its weights come from.

  Attributes:
    preset: a name in `model/presets.py`.
    weights: `pkg://package/path`, `hf://org/name`, a folder or a file; "" starts from the seed.
    changes: preset fields to replace.
  """

  preset: str
  weights: str
  changes: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Model:
  """The towers, the shared width E, whether the Y-encoder gets a projection head, and the token-table source.

  Attributes:
    pooling: neighbouring visual tokens, (in time, in rows, in columns), that become their mean before the predictor;
      (1, 1, 1) keeps all.
    logit_bias: whether logits get a learned bias, as sigmoid losses need it.
    y_head_init: "normal", or "identity" where the text encoder's own width is E.
    token_init: "" for a random query-token table, "y_encoder" to copy the Y-encoder's word embeddings.
  """

  x_encoder: Tower
  predictor: Tower
  y_encoder: Tower
  embed_width: int
  y_head: bool
  pooling: tuple[int, int, int]
  logit_bias: bool
  y_head_init: str
  token_init: str


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """How one side of the model reads text.

  Attributes:
    source: where `tokenizer.json` lies: `pkg://package/path`, `hf://org/name`, a folder or the file; "bytes" is a
      built-in byte tokenizer.
    length: tokens of every text, prompt, special tokens and pads included.
    prompt: stands before every text.
    special_tokens: whether the tokenizer's own are added.
    cut: "right" cuts the end of a text that is too long, "left" its beginning.
    pad_side: "right" or "left"; the model's output does not depend on it.
    pad_id: token of pads.
  """

  source: str
  length: int
  prompt: str
  special_tokens: bool
  cut: str
  pad_side: str
  pad_id: int


@dataclasses.dataclass(frozen=True)
class Tokenizers:
  """Of queries, for the predictor, and of targets, for the Y-encoder."""

  query: Tokenizer
  target: Tokenizer


@dataclasses.dataclass(frozen=True)
class Source:
  """One named source of the training mixture: the data set, the view of its records, and its weight.

  Attributes:
    dataset: "openclipart", or a folder that `tfds.builder_from_directory` reads.
    view: "caption" (no query; the target is a caption), or the kind of question that is asked: "what",
      "is_there", "which_word" (`data/questions.py`).
  """

  name: str
  dataset: str
  view: str
  weight: float


@dataclasses.dataclass(frozen=True)
class Augment:
  """Training-time changes of pictures and captions; every share is a probability.

  Attributes:
    min_area: smallest share of the picture that a random crop keeps; 1 never crops.
    flip: share of mirrored pictures.
    jitter: largest relative change of brightness, contrast and saturation.
    drop_keywords: share of captions that keep a random subset of their keywords.
    shuffle_keywords: share of captions whose keywords are shuffled.
    drop_title: share of captions told by keywords alone.
  """

  min_area: float
  flip: float
  jitter: float
  drop_keywords: float
  shuffle_keywords: float
  drop_title: float


@dataclasses.dataclass(frozen=True)
class Data:
  """Input: sources, clip shape, preprocessing, augmentation, and the cache of frozen features.

  Attributes:
    preprocess: how pictures and frames become squares of `image_size`. "pad_square": the whole picture on a white
      square; "vjepa2", "imagenet": short side resized to 8/7 of the square, rounded as either does it, and the
      centre cut out.
    feature_views: with a frozen X-encoder, how many augmented views of each picture are encoded once and
      drawn from in training; 0 runs the encoder in every step.
    feature_tokens: how many of the tokens of a view a training example keeps, drawn anew each time; 0 keeps all.
    workers: decoding processes per host; 0 decodes in threads of the training process.
  """

  sources: tuple[Source, ...]
  frames: int
  image_size: int
  preprocess: str
  augment: Augment
  feature_views: int
  feature_tokens: int
  workers: int


@dataclasses.dataclass(frozen=True)
class Optim:
  """AdamW, its schedule, and the ordered parameter groups.

  Attributes:
    schedule: "constant" or "cosine", both after `warmup_steps` of linear warm-up.
    final: learning rate at the end of "cosine", as a share of the peak.
    groups: ordered (regex of the whole parameter path, multiplier of the learning rate); the first match
      counts, every parameter must match, and None freezes.
    ema: decay of the averaged weights that are evaluated and exported; 0 keeps none.
  """

  learning_rate: float
  schedule: str
  warmup_steps: int
  final: float
  b1: float
  b2: float
  weight_decay: float
  clip_norm: float
  groups: tuple[tuple[str, float | None], ...]
  ema: float


@dataclasses.dataclass(frozen=True)
class Loss:
  """What pulls predictions and targets together.

  Attributes:
    kind: one of `loss.KINDS`; "auto" picks InfoNCE in the way that batch and devices ask for.
    regularizer: "sigreg" or "vicreg" against collapse, "" for none.
    regularizer_weight: of it.
    micro_batches: the towers run on so many parts of a batch one after another, while the loss still sees all of it
      (GradCache, arXiv 2101.06983).
  """

  kind: str
  regularizer: str
  regularizer_weight: float
  micro_batches: int


@dataclasses.dataclass(frozen=True)
class Mesh:
  """Device mesh (one size may be -1: what is left) and the table from logical names to mesh axes.

  Attributes:
    slice: TPU slices that the data-centre network joins, each with a copy of the model; 1 on one slice.
    data: copies of the model, each with its rows of the batch.
    fsdp: parts that every weight is cut into, each device with its rows of the batch, too.
    tensor: parts that heads and MLPs are cut into; these devices share their rows.
  """

  slice: int
  data: int
  fsdp: int
  tensor: int
  rules: tuple[tuple[str, str | tuple[str, ...] | None], ...]


@dataclasses.dataclass(frozen=True)
class Train:
  """Length of the run and how often it logs, evaluates and saves; all in steps, batch size global."""

  steps: int
  batch_size: int
  log_every: int
  eval_every: int
  checkpoint_every: int
  keep_checkpoints: int


@dataclasses.dataclass(frozen=True)
class Eval:
  """What is measured: the held-out data set, the batch size, and the prompt templates of class names."""

  dataset: str
  split: str
  batch_size: int
  class_templates: tuple[str, ...]
  report: bool


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole recipe.

  Attributes:
    name: of the run; its workdir is `runs/<name>` unless another is given.
    seed: of parameters, dropout, order and augmentation.
    init_from: workdir or checkpoint of another run whose parameters to start from; "" for none.
    profile: (first, last) traces the steps first..last-1 into WORKDIR/profile, for TensorBoard; () none.
  """

  name: str
  seed: int
  init_from: str
  profile: tuple[int, ...]
  model: Model
  tokenizers: Tokenizers
  data: Data
  loss: Loss
  optim: Optim
  mesh: Mesh
  train: Train
  eval: Eval


def parse(config: ml_collections.ConfigDict | dict[str, Any]) -> Config:
  """The typed form of a config; UserError names an unknown, missing, mistyped or impossible value and its place."""
  if DECODER_KEY in config:
    raise UserError("this is the recipe of a Y-decoder, not of a model; give the model's")
  plain = config if isinstance(config, dict) else config.to_dict()
  parsed = parse_value(Config, plain, "config")
  _check(parsed)
  return parsed


def to_dict(config: Any) -> dict[str, Any]:
  """The plain form of a typed config, which `parse` turns back into the same config."""

  def plain(value):
    if isinstance(value, Tower):
      return {"preset": value.preset, "weights": value.weights, **value.changes}
    if dataclasses.is_dataclass(value):
      return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return tuple(map(plain, value)) if isinstance(value, tuple) else value

  return plain(config)


def write(config: Any, workdir: pathlib.Path) -> None:
  """Stores the config in a workdir, as `config.json`; whole or not at all."""
  partial = workdir / f"{FILE}.partial"
  partial.write_text(_text(config), encoding="utf-8")
  partial.replace(workdir / FILE)


def is_written(config: Any, workdir: pathlib.Path) -> bool:
  """Whether a workdir holds this very config, as `write` stores it."""
  path = workdir / FILE
  return path.is_file() and path.read_text(encoding="utf-8") == _text(config)


def _text(config: Any) -> str:
  return json.dumps(to_dict(config), indent=2) + "\n"


def read(workdir: pathlib.Path) -> Config:
  """The config of a run; UserError if the workdir has none."""
  config = read_as(parse, workdir)
  return with_tokenizers(config, own_tokenizers(pathlib.Path(workdir)))


def read_as(parse_plain: Callable[[dict[str, Any]], Any], workdir: pathlib.Path) -> Any:
  """The config of a workdir, from its plain form by `parse_plain`; UserError if there is none or it is wrong."""
  path = pathlib.Path(workdir) / FILE
  if not path.is_file():
    what = f"has no {FILE}" if pathlib.Path(workdir).is_dir() else "does not exist"
    raise UserError(f"{workdir} is not the workdir of a run: it {what}; train one with python -m vljepa_jax.main")
  try:
    plain = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise UserError(f"{path} is damaged: {error}") from error
  try:
    return parse_plain(plain)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def own_tokenizers(folder: pathlib.Path) -> dict[str, str]:
  """Side -> folder of the tokenizer that an imported or exported model carries with it."""
  folders = {side: folder / TOKENIZERS / side for side in TEXTS}
  return {side: str(path) for side, path in folders.items() if path.is_dir()}


def with_tokenizers(config: Config, sources: dict[str, str]) -> Config:
  """The recipe with other sources of tokenizers for some sides."""
  sides = {side: dataclasses.replace(getattr(config.tokenizers, side), source=path) for side, path in sources.items()}
  return dataclasses.replace(config, tokenizers=dataclasses.replace(config.tokenizers, **sides))


def check_same_run(old: Any, new: Any, workdir: pathlib.Path) -> None:
  """UserError if a run cannot go on with `new` and still be the same run."""
  before, after = flat(to_dict(old)), flat(to_dict(new))
  instead = f", where --config.init_from={workdir} starts from its parameters" if isinstance(new, Config) else ""
  for key in sorted(before.keys() | after.keys()):
    if before.get(key) != after.get(key) and not any(key == k or key.startswith(k + ".") for k in MAY_CHANGE):
      raise UserError(
          f"{workdir} holds a run with config.{key} {before.get(key)!r}, not {after.get(key)!r}; choose another "
          f"--workdir{instead}")


def model_config(model: Model) -> VLJepaConfig:
  """The model's own dataclass; ValueError names a preset or field that does not exist."""
  return VLJepaConfig(
      x_encoder=presets.x_encoder(model.x_encoder.preset, **model.x_encoder.changes),
      predictor=presets.predictor(model.predictor.preset, **model.predictor.changes),
      y_encoder=presets.y_encoder(model.y_encoder.preset, **model.y_encoder.changes),
      embed_width=model.embed_width,
      y_head=model.y_head,
      logit_bias=model.logit_bias,
      pooling=model.pooling,
  )


def _check(config: Config) -> None:
  """UserError for values of the right type that no run can use."""
  if not config.name or "/" in config.name:
    raise UserError(f"config.name must be a plain name, not {config.name!r}")
  positive = {
      "optim.learning_rate", "optim.clip_norm", "data.frames", "data.image_size", "model.embed_width",
      "tokenizers.query.length", "tokenizers.target.length", "eval.batch_size", "loss.micro_batches",
      *(f"model.pooling[{i}]" for i in range(3)),
      *(f"train.{field.name}" for field in dataclasses.fields(Train)),
  }
  not_negative = {
      "seed", "optim.warmup_steps", "optim.weight_decay", "data.workers", "data.feature_views",
      "data.feature_tokens", "loss.regularizer_weight", "tokenizers.query.pad_id", "tokenizers.target.pad_id",
  }
  pooling = {f"model.pooling[{i}]": size for i, size in enumerate(config.model.pooling)}
  below_one = {"optim.b1", "optim.b2", "optim.ema"}
  shares = {"optim.final", *(f"data.augment.{field.name}" for field in dataclasses.fields(Augment))}
  rules = [
      (positive, lambda x: x > 0, "above 0"),
      (not_negative, lambda x: x >= 0, "0 or more"),
      (below_one, lambda x: 0 <= x < 1, "at least 0 and below 1"),
      (shares, lambda x: 0 <= x <= 1, "within 0..1"),
  ]
  values = flat(to_dict(config)) | pooling
  for keys, holds, words in rules:
    for key in sorted(keys):
      if not (math.isfinite(values[key]) and holds(values[key])):
        raise UserError(f"config.{key} must be {words}, not {values[key]!r}")
  choices = {
      "loss.kind": losses.KINDS,
      "loss.regularizer": losses.REGULARIZERS,
      "optim.schedule": ("constant", "cosine"),
      "model.y_head_init": ("normal", "identity"),
      "model.token_init": ("", "y_encoder"),
      "data.preprocess": preprocess.KINDS,
      **{f"tokenizers.{side}.{field}": SIDES for side in ("query", "target") for field in ("cut", "pad_side")},
  }
  for key, known in choices.items():
    if values[key] not in known:
      raise UserError(f"config.{key} must be one of {', '.join(map(repr, known))}, not {values[key]!r}")
  for side in ("query", "target"):
    if values[f"tokenizers.{side}.prompt"] and values[f"tokenizers.{side}.cut"] == LEFT:
      raise UserError(
          f"config.tokenizers.{side}.cut='left' would cut the prompt first; set it to 'right', or leave the prompt out")
  if config.loss.kind.startswith("sigmoid") != config.model.logit_bias:
    needed = "needs" if config.loss.kind.startswith("sigmoid") else "has no use for"
    raise UserError(f"config.loss.kind {config.loss.kind!r} {needed} config.model.logit_bias")
  if config.train.batch_size % config.loss.micro_batches:
    raise UserError(
        f"config.train.batch_size {config.train.batch_size} must be a multiple of config.loss.micro_batches "
        f"{config.loss.micro_batches}")
  if config.data.feature_tokens and not config.data.feature_views:
    raise UserError("config.data.feature_tokens picks among cached tokens: set config.data.feature_views, too")
  if config.profile:
    _check_profile(config.profile, config.train.steps)
  if not config.data.sources:
    raise UserError("config.data.sources is empty: there is nothing to train on")
  for i, source in enumerate(config.data.sources):
    if source.view not in ("caption", *KINDS):
      raise UserError(f"config.data.sources[{i}].view must be one of caption, {', '.join(KINDS)}, not {source.view!r}")
    if not source.weight > 0:
      raise UserError(f"config.data.sources[{i}].weight must be above 0, not {source.weight!r}")


def _check_profile(profile: tuple[int, ...], steps: int) -> None:
  if len(profile) != 2 or not 1 <= profile[0] < profile[1] <= steps + 1:
    raise UserError(
        f"config.profile must be () or (first, last) with 1 <= first < last <= {steps + 1} (the steps first..last-1 of "
        f"{steps}), not {profile!r}")


def flat(value: Any, path: str = "") -> dict[str, Any]:
  """Values of nested dicts by dotted path."""
  if not isinstance(value, dict):
    return {path: value}
  return {k: v for key, child in value.items() for k, v in flat(child, f"{path}.{key}" if path else key).items()}


def parse_value(kind: Any, value: Any, path: str) -> Any:
  """`value` as an instance of the annotation `kind`."""
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if dataclasses.is_dataclass(kind):
    return _parse_dataclass(kind, value, path)
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      raise UserError(f"{path} must be a tuple, not {value!r}")
    kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
    if len(kinds) != len(value):
      raise UserError(f"{path} must have {len(kinds)} entries, not {value!r}")
    return tuple(parse_value(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value)))
  if origin in (typing.Union, types.UnionType):
    for option in args:
      try:
        return parse_value(option, value, path)
      except UserError:
        continue
    raise UserError(f"{path} must be {kind}, not {value!r}")
  if origin is dict or kind is Any:
    return value
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if kind is type(None) and value is None:
    return None
  if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
    return value
  raise UserError(f"{path} must be {getattr(kind, '__name__', kind)}, not {value!r}")


def _parse_dataclass(kind: Any, value: Any, path: str) -> Any:
  if not isinstance(value, dict):
    raise UserError(f"{path} must be a dict with the keys of {kind.__name__}, not {value!r}")
  fields = typing.get_type_hints(kind)
  if kind is Tower:  # what is not a field of Tower changes the preset, which checks the names itself
    tuples = lambda v: tuple(map(tuples, v)) if isinstance(v, list) else v  # JSON has lists only
    changes = {k: tuples(v) for k, v in value.items() if k not in ("preset", "weights")}
    value = {k: v for k, v in value.items() if k in ("preset", "weights")} | {"changes": changes}
  for key in value:
    if key not in fields:
      near = difflib.get_close_matches(key, fields, n=1)
      hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(fields)}"
      raise UserError(f"nothing reads {path}.{key}{hint}")
  missing = [key for key in fields if key not in value]
  if missing:
    raise UserError(f"{path}.{missing[0]} is missing")
  return kind(**{key: parse_value(fields[key], value[key], f"{path}.{key}") for key in fields})
