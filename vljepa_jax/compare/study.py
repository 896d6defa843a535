"""The typed form of a study; values are in `configs/compare.py` and `configs/ablate.py`."""

from collections.abc import Mapping
import copy
import dataclasses
from typing import Any

import ml_collections

from vljepa_jax import config as config_lib
from vljepa_jax import config_parsing
from vljepa_jax.config import Config
from vljepa_jax.errors import UserError

TASKS_KEY = "tasks"  # only recipes of a study have it
EMBEDDINGS, TOKENS = "embeddings", "tokens"
LABELS = "labels"  # classes are those of the data set


@dataclasses.dataclass(frozen=True)
class Arm:
  """One side of a comparison.

  Attributes:
    side: "embeddings" for VL-JEPA, "tokens" for a causal model of the predictor's layers that spells the answer out.
    words: what it is, for tables and pictures.
    values: (dotted key, value) of all that differs from the task's recipe.
  """

  side: str
  words: str
  values: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class TaskRecipe:
  """A data set and what is compared on it.

  Attributes:
    records: training records that are used, the first ones; 0 takes all.
    validation: of these, the last ones are kept out of training, to choose learning rates on.
    points: steps after which a reported run is measured on the test split; the last is its end.
    classes: what is classified: "labels" of the data set, or a kind of question, whose answers are then the classes.
    config: the recipe of a model, in plain form.
    decoder: recipe of a Y-decoder, trained once, beside the arm `decoder_of`; {} takes nearest texts alone.
    decoder_of: name of an arm whose Y-encoder is frozen; "" without a decoder.
    arms: by name.
  """

  records: int
  validation: int
  points: tuple[int, ...]
  classes: str
  config: dict[str, Any]
  decoder: dict[str, Any]
  decoder_of: str
  arms: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Study:
  """A whole study.

  Attributes:
    name: its workdir is `runs/<name>` unless another is given.
    rates: learning rates of the sweep that every arm goes through, on the validation split.
    sweep_seed: of those runs.
    seeds: of the runs that are reported, each at the best rate of its arm.
    tasks: by name.
  """

  name: str
  rates: tuple[float, ...]
  sweep_seed: int
  seeds: tuple[int, ...]
  tasks: dict[str, TaskRecipe]


def parse(plain: ml_collections.ConfigDict | Mapping[str, Any]) -> Study:
  """The typed form of a study; UserError names an unknown, missing, mistyped or impossible value and its place."""
  plain = plain.to_dict() if isinstance(plain, ml_collections.ConfigDict) else dict(plain)
  if TASKS_KEY not in plain:
    raise UserError("this is not the recipe of a study; give configs/compare.py or configs/ablate.py")
  study = config_parsing.parse_as(Study, plain, "config")
  tasks = {}
  for name, task in study.tasks.items():
    path = f"config.tasks.{name}"
    task = config_parsing.parse_as(TaskRecipe, task, path)
    arms = {arm: config_parsing.parse_as(Arm, value, f"{path}.arms.{arm}") for arm, value in task.arms.items()}
    tasks[name] = dataclasses.replace(task, arms=arms)
  study = dataclasses.replace(study, tasks=tasks)
  _check(study)
  return study


def arm_config(study: Study, task: str, arm: str, rate: float, seed: int) -> Config:
  """The recipe of one run; UserError names a key of the arm that does not exist."""
  recipe = study.tasks[task]
  plain = copy.deepcopy(recipe.config)
  values = (
      *recipe.arms[arm].values, ("optim.learning_rate", rate), ("seed", seed), ("name", f"{task}-{arm}"))
  for key, value in values:
    *folders, last = key.split(".")
    place = plain
    for folder in folders:
      place = place.get(folder) if isinstance(place, dict) else None
    if not isinstance(place, dict):
      raise UserError(f"config.tasks.{task}.arms.{arm}: the task's recipe has no {key!r}")
    place[last] = value
  return config_lib.parse(plain)


def _check(study: Study) -> None:
  if study.sweep_seed in study.seeds:
    raise UserError(f"config.sweep_seed {study.sweep_seed} is among config.seeds; rates must be chosen on another")
  for what in ("rates", "seeds", "tasks"):
    if not getattr(study, what):
      raise UserError(f"config.{what} is empty")
  for name, task in study.tasks.items():
    path = f"config.tasks.{name}"
    if not task.points or list(task.points) != sorted(set(task.points)) or task.points[0] < 1:
      raise UserError(f"{path}.points must rise from 1 or more, not {task.points}")
    if task.validation < 1:
      raise UserError(f"{path}.validation must be 1 or more, not {task.validation}")
    if bool(task.decoder) != bool(task.decoder_of) or (task.decoder_of and task.decoder_of not in task.arms):
      raise UserError(f"{path}.decoder_of must name the arm that the decoder is of, not {task.decoder_of!r}")
    for arm in task.arms:
      _check_arm(study, name, arm)


def _check_arm(study: Study, task: str, arm: str) -> None:
  path = f"config.tasks.{task}.arms.{arm}"
  side = study.tasks[task].arms[arm].side
  if side not in (EMBEDDINGS, TOKENS):
    raise UserError(f"{path}.side must be {EMBEDDINGS!r} or {TOKENS!r}, not {side!r}")
  config, last = arm_config(study, task, arm, study.rates[0], study.seeds[0]), study.tasks[task].points[-1]
  if config.train.steps != last:
    raise UserError(f"{path}: the task's points end at {last}, but the run has {config.train.steps} steps")
  if not config.data.feature_views:
    raise UserError(f"config.tasks.{task}.config.data.feature_views must be above 0: all runs share cached tokens")
  if any(not isinstance(source.view, str) for source in config.data.sources):
    raise UserError(f"config.tasks.{task}.config.data.sources: one view each, so that both sides read the same texts")
  if len({source.dataset for source in config.data.sources} | {config.eval.dataset}) > 1:
    raise UserError(f"config.tasks.{task}.config: all sources must be of the data set that is evaluated")
