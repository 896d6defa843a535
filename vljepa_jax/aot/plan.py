"""A plan: what one recipe would take and give on one kind of slice, and the certificate that keeps it."""

from collections.abc import Mapping
import copy
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
from typing import Any

import jax

from vljepa_jax import config as config_lib
from vljepa_jax import flops
from vljepa_jax import parts as parts_lib
from vljepa_jax import sharding
from vljepa_jax.aot import compiler, roofline, topology
from vljepa_jax.chips import FLAGS_VARIABLE
from vljepa_jax.config import Config
from vljepa_jax.errors import UserError
from vljepa_jax.parts import Parts

HEADROOM = 0.10  # of a chip's memory, that a plan must leave
VERSIONS = ("jax", "jaxlib", "libtpu", "flax")


@dataclasses.dataclass(frozen=True)
class Plan:
  """Everything that `python -m vljepa_jax.plan` says.

  Attributes:
    recipe: as given on the command line, "configs/vljepa_stage1.py:8frames".
    changes: of single config values, by their keys.
    topology: of one slice.
    slices: how many.
    compiled: what the compiler said; the only part that takes minutes.
    derived: worked out from the recipe and `compiled`.
    versions: of what compiled it, and the compiler's flags.
  """

  recipe: str
  changes: dict[str, Any]
  topology: str
  slices: int
  compiled: compiler.Compiled
  derived: dict[str, Any]
  versions: dict[str, str]

  @property
  def fits(self) -> bool:
    """Whether the compiler placed everything, with room to spare."""
    return self.compiled.fits and self.derived["memory"]["headroom"] >= HEADROOM

  def write(self, path: pathlib.Path) -> None:
    """As a certificate, JSON."""
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
      raise UserError(f"{path} cannot be written: {error.strerror}") from error


def read(path: pathlib.Path) -> Plan:
  """A certificate."""
  plain = json.loads(path.read_text(encoding="utf-8"))
  made = plain["compiled"]
  pairs = lambda rows: tuple((size, what) for size, what in rows)
  exchanges = tuple(
      compiler.Exchange(**(e | {"axes": tuple(e["axes"]), "torus": tuple(e["torus"])})) for e in made["exchanges"])
  compiled = compiler.Compiled(**(made | {"consumers": pairs(made["consumers"]), "exchanges": exchanges}))
  return Plan(**(plain | {"compiled": compiled}))


def make_plan(recipe: str, config: Config, changes: Mapping[str, Any], name: str, slices: int) -> Plan:
  """Compiles the step of a recipe for slices that are not there; minutes.

  Args:
    recipe: for the certificate.
    config: the recipe, changes made.
    changes: for the certificate.
    name: topology of one slice.
    slices: how many.
  """
  parts = compiler.make_parts(config, name, slices)
  compiled = compiler.compile_step(config, parts)
  versions = {package: importlib.metadata.version(package) for package in VERSIONS}
  versions[FLAGS_VARIABLE] = os.environ[FLAGS_VARIABLE]
  return Plan(recipe, dict(changes), name, slices, compiled, derive(config, parts, name, slices, compiled), versions)


def derive(config: Config, parts: Parts, name: str, slices: int, compiled: compiler.Compiled) -> dict[str, Any]:
  """What follows from the recipe and what the compiler said; seconds."""
  chip, shape = topology.parse(name)
  chips = math.prod(shape) * slices
  work = flops.step_flops(
      config, parts.frozen, compiler.query_length(config), sharding.batch_parts(parts.mesh, config.mesh.rules))
  bound = roofline.roofline(
      chip, shape, chips, work.model_total, work.total, compiled.hbm_bytes, compiled.exchanges)
  hosts, rate = roofline.hosts(chip, chips), config.train.batch_size / bound.step
  return {
      "chips": chips,
      "hosts": hosts,
      "mesh": dict(parts.mesh.shape),
      "batch": config.train.batch_size,
      "micro_batches": config.loss.micro_batches,
      "loss": parts_lib.loss_kind(config, parts.mesh),
      "tokens": {
          "visual": flops.predictor_tokens(parts.model.config, config.data.frames, config.data.image_size),
          "query": compiler.query_length(config), "target": config.tokenizers.target.length},
      "memory": {
          "chip": chip.hbm_bytes, "needed": compiled.needed, "headroom": 1 - compiled.needed / chip.hbm_bytes,
          "state": compiler.state_bytes(parts)},
      "parameters_per_chip": sum(
          math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(parts.state.params)),
      "flops": {"model": {name: list(pair) for name, pair in work.model.items()}, "recomputed": work.recomputed,
                "model_total": work.model_total, "total": work.total},
      "seconds": {name: getattr(bound, name) for name in ("compute", "hbm", "ici", "dcn", "step")},
      "limit": bound.limit,
      "mfu": bound.mfu,
      "mfu_of_compute": work.model_total / work.total,
      "samples_per_second": rate,
      "clips_per_second_per_host": rate / hosts,
      "recipe_days": bound.step * config.train.steps / roofline.DAY,
      "chip_days": roofline.chip_days(bound.step, config.train.steps, chips),
  }


def changed(plain: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
  """A recipe with single values changed, "loss.micro_batches" and so on."""
  copied = copy.deepcopy(dict(plain))
  for key, value in changes.items():
    *folders, leaf = key.split(".")
    inner = copied
    for folder in folders:
      inner = inner[folder]
    inner[leaf] = value
  return config_lib.parse(copied)


def load_config(plan: Plan, root: pathlib.Path) -> Config:
  """The recipe of a certificate; its file lies below `root`."""
  path, _, variant = plan.recipe.partition(":")
  spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, root / path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return changed(module.get_config(*([variant] if variant else [])).to_dict(), plan.changes)
