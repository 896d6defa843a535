"""The typed form of a config file.

A file under `configs/` returns a plain `ConfigDict` that holds every value; `parse` turns it into the frozen
dataclasses below, so that a misspelt key, a key that nothing reads, or a missing one is an error that names it.
There are no defaults here: the config file is the one place to look a value up.
"""

from collections.abc import Callable
import dataclasses
import json
import pathlib
from typing import Any

import ml_collections

from vljepa_jax import config_checks, config_parsing
from vljepa_jax.data.dataset import DataSet
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
    "mesh", "data.workers", "data.max_failures", "profile",
)


@dataclasses.dataclass(frozen=True)
class Tower:
  """One pretrained or fresh part: a preset name, single changed fields, and where its weights come from.

  In a recipe the changed fields stand beside the two others; the preset checks their names.

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
    dataset: "openclipart", "babyai", a manifest (.jsonl, .csv, .parquet), or a folder that
      `tfds.builder_from_directory` reads; or a dict of path, fields and queries (`data/dataset.py`).
    view: "caption" (no query; the target is a caption of any field), a field of captions ("brief"), or fields with
      weights ("brief:0.7,detailed:0.3"); or the kind of question that is asked: of pictures "what", "is_there",
      "which_word" (`data/questions.py`), of BabyAI one of `babyai.KINDS`, of a manifest its kinds; or "answer", any
      question that comes with a clip. Several views give every example a text of each, which share its X-encoder pass.
  """

  name: str
  dataset: str | DataSet
  view: str | tuple[str, ...]
  weight: float

  @property
  def views(self) -> tuple[str, ...]:
    """The views of an example."""
    return (self.view,) if isinstance(self.view, str) else self.view


@dataclasses.dataclass(frozen=True)
class Augment:
  """Training-time changes of pictures and captions; every share is a probability.

  Attributes:
    min_area: smallest share of the picture that a random crop keeps; 1 never crops.
    flip: share of mirrored pictures and clips, of those whose texts name no direction.
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
    feature_dtype: of cached tokens. "float16" halves the files; "float32" keeps what the encoder gives bit by bit.
    feature_tokens: how many of the tokens of a view a training example keeps, drawn anew each time; 0 keeps all.
    workers: decoding processes per host; 0 decodes in threads of the training process.
    max_failures: largest share of training examples whose file cannot be read; each is replaced by the next one. Beyond
      it the run stops. Counted from 100 examples on.
    resident: whether the devices hold the whole data set and make the batches (`resident.py`); for babyai alone.
  """

  sources: tuple[Source, ...]
  frames: int
  image_size: int
  preprocess: str
  augment: Augment
  feature_views: int
  feature_dtype: str
  feature_tokens: int
  workers: int
  max_failures: float
  resident: bool


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
  """What is measured: the held-out data set, the batch size, and how classes are told.

  Attributes:
    class_query: what is asked for the class; "" asks nothing.
    class_templates: prompt templates of class names, `{}` for the name.
    report: whether `report.html` is written.
  """

  dataset: str | DataSet
  split: str
  batch_size: int
  class_query: str
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
  parsed = config_parsing.parse_as(Config, plain, "config")
  config_checks.check(config_parsing.flat(to_dict(parsed)))
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
    early = "is missing" in str(error)
    old = "; if the run is of an earlier version, add the value that configs/ give" if early else ""
    raise UserError(f"{path}: {error}{old}") from error


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
  before, after = (config_parsing.flat(to_dict(recipe)) for recipe in (old, new))
  instead = f", where --config.init_from={workdir} starts from its parameters" if isinstance(new, Config) else ""
  for key in sorted(before.keys() | after.keys()):
    if before.get(key) != after.get(key) and not may_change(key):
      raise UserError(
          f"{workdir} holds a run with config.{key} {before.get(key)!r}, not {after.get(key)!r}; choose another "
          f"--workdir{instead}")


def may_change(key: str) -> bool:
  """Whether a value may differ between two starts of one run; its key is dotted."""
  return any(key == k or key.startswith(k + ".") for k in MAY_CHANGE)


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
