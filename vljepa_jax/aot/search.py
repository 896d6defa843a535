"""The fastest way to run a recipe on a slice: meshes, remat policies and micro-batches, guessed, then compiled."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

import jax

from vljepa_jax import config as config_lib
from vljepa_jax import flops
from vljepa_jax import parts as parts_lib
from vljepa_jax import sharding
from vljepa_jax.aot import compiler, plan, topology
from vljepa_jax.aot.plan import HEADROOM, Plan, changed
from vljepa_jax.config import Config
from vljepa_jax.errors import UserError
from vljepa_jax.model.layers import REMAT_POLICIES
from vljepa_jax.parts import Parts
from vljepa_jax.progress import say

TOWERS = ("x_encoder", "predictor", "y_encoder")
TENSOR = (1, 2, 4)  # parts of heads; more than there are key-value heads is of no use
MOST_PARTS = 64  # micro-batches
MOST_COMPILED = 6


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way to run a recipe, and guesses about it.

  Attributes:
    changes: of config values, by their keys.
    remat: the policy of all towers.
    parts: micro-batches.
    pieces: that every weight is cut into.
    flops: of a step, what is computed twice included.
    bytes: of a chip's memory, roughly.
  """

  changes: dict[str, Any]
  remat: str
  parts: int
  pieces: int
  flops: int
  bytes: float


def search(recipe: str, plain: Mapping[str, Any], changes: Mapping[str, Any], name: str, slices: int) -> Plan:
  """Compiles candidates until one of every remat policy fits with room to spare: those with least arithmetic first,
  then those in fewest micro-batches, then those whose weights are cut into fewest pieces, which take links to join.

  Returns:
    The fastest of those that fit, by their rooflines.

  Raises:
    UserError: none does, of those that by a rough guess could.
  """
  chip, _ = topology.parse(name)
  room = chip.hbm_bytes * (1 - HEADROOM)
  ordered = sorted(candidates(plain, name, slices), key=lambda c: (c.flops, c.parts, c.pieces))
  hopeful = [c for c in ordered if c.bytes <= room]
  say(f"{len(ordered)} ways to run {recipe} on {name}, {len(hopeful)} of which may fit")
  found: dict[str, Plan] = {}
  too_low: dict[str, float] = {}
  for candidate in _tried(hopeful, found, too_low, room):
    words = " ".join(f"{key}={value}" for key, value in candidate.changes.items())
    made = plan.make_plan(
        recipe, changed(plain, candidate.changes), {**changes, **candidate.changes}, name, slices)
    spare, step = made.derived["memory"]["headroom"], made.derived["seconds"]["step"]
    say(f"  {words}: " + (
        f"{spare:.0%} of the memory to spare, {1e3 * step:,.1f} ms at best" if made.compiled.fits else "does not fit"))
    if made.fits:
      found[candidate.remat] = made
    else:
      too_low[candidate.remat] = (made.compiled.needed if made.compiled.fits else chip.hbm_bytes) / candidate.bytes
  if found:
    return min(found.values(), key=lambda made: made.derived["seconds"]["step"])
  raise UserError(
      f"{recipe} does not fit {name} with {HEADROOM:.0%} of the memory to spare; take more chips, such as "
      + ", ".join(larger(name)))


def _tried(
    hopeful: Sequence[Candidate], found: Mapping[str, Plan], too_low: Mapping[str, float], room: float
) -> Iterator[Candidate]:
  """Candidates in turn, without those of a policy that has been found to fit meanwhile, and those that cannot fit if
  the guess about their bytes is as much `too_low` as it was for the last one of their policy."""
  count = 0
  for candidate in hopeful:
    fits = candidate.bytes * too_low.get(candidate.remat, 1.0) <= room
    if fits and candidate.remat not in found and count < MOST_COMPILED:
      count += 1
      yield candidate


def larger(name: str) -> list[str]:
  """The next slices above this one."""
  chip, shape = topology.parse(name)
  bigger = [s for s in topology.shapes(chip) if math.prod(s) > math.prod(shape)]
  return [topology.slice_name(chip, s) for s in bigger[:2]] or ["several slices (--slices=2)"]


def candidates(plain: Mapping[str, Any], name: str, slices: int) -> Iterator[Candidate]:
  """Everything that divides evenly."""
  devices = topology.describe(name, slices)
  chips = len(devices) // slices
  sizes = [n for n in range(1, chips + 1) if chips % n == 0]
  model = config_lib.model_config(config_lib.parse(dict(plain)).model)
  layered = [tower for tower in TOWERS if hasattr(getattr(model, tower), "remat")]
  for fsdp, tensor in itertools.product(sizes, TENSOR):
    if chips % (fsdp * tensor):
      continue
    mesh = {"mesh.slice": slices, "mesh.data": chips // (fsdp * tensor), "mesh.fsdp": fsdp, "mesh.tensor": tensor}
    first = None
    for policy, parts in itertools.product(REMAT_POLICIES, _powers(MOST_PARTS)):
      change = mesh | {f"model.{tower}.remat": policy for tower in layered}
      change["loss.micro_batches"] = parts
      try:
        config = changed(plain, change)
        first = first or parts_lib.make_parts(config, devices)
        sharding.check_batch_size(config.train.batch_size, parts, first.mesh, config.mesh.rules)
      except UserError:
        continue  # does not divide
      yield guess(config, first, change)


def guess(config: Config, parts: Parts, changes: dict[str, Any]) -> Candidate:
  """Arithmetic exactly, memory roughly: state, gradients, what is stored between forward and backward, and the widest
  layer at work."""
  rows = sharding.batch_parts(parts.mesh, config.mesh.rules)
  work = flops.step_flops(config, parts.frozen, compiler.query_length(config), rows)
  examples = config.train.batch_size / rows / config.loss.micro_batches
  model = config_lib.model_config(config.model)
  query, target = compiler.query_length(config), config.tokenizers.target.length
  visual = flops.visual_tokens(model.x_encoder, config.data.frames, config.data.image_size)
  pooled = flops.predictor_tokens(model, config.data.frames, config.data.image_size)
  lengths = {"x_encoder": visual, "predictor": pooled + query, "y_encoder": target}
  stored = widest = 0.0
  for tower, length in lengths.items():
    size = getattr(model, tower)
    tokens = examples * length
    mlp = getattr(size, "mlp_width", 4 * size.width)
    widest = max(widest, 8 * tokens * mlp)
    if not all(jax.tree.leaves(parts.frozen[tower])):
      stored += getattr(size, "num_layers", 1) * tokens * _stored_per_token(size)
  state = compiler.state_bytes(parts)
  gradients = state["optimizer"] / 2 * (2 if config.loss.micro_batches > 1 else 1)
  table = 6 * model.y_encoder.vocab_size * model.y_encoder.width  # gathered, and its gradient
  policy = changes.get("model.predictor.remat", "")
  memory = sum(state.values()) + gradients + stored + widest + table
  pieces = config.mesh.fsdp * config.mesh.tensor
  return Candidate(changes, policy, config.loss.micro_batches, pieces, work.total, memory)


def _stored_per_token(size: Any) -> float:
  """Bytes that one layer keeps of a token in half precision, by its remat policy."""
  heads = size.num_heads * getattr(size, "head_width", size.width // size.num_heads)
  mlp = 3 * size.mlp_width
  return 2 * {
      "full": size.width, "attention": size.width + heads, "dots": 3 * size.width + 4 * heads + mlp,
      None: 8 * size.width + 8 * heads + 2 * mlp}[size.remat]


def _powers(most: int) -> list[int]:
  return [2**i for i in range(most.bit_length())]
