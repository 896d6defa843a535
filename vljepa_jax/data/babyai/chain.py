"""Chains of sub-goals in rooms of minigrid: clips cut out of them, and streams without end."""

import collections
from collections.abc import Iterator
import dataclasses
import json

import numpy as np

from vljepa_jax.data.babyai import captions, questions
from vljepa_jax.data.babyai.planner import VERBS, Goal, fits, toward
from vljepa_jax.data.babyai.scene import read_scene
from vljepa_jax.data.babyai.tiles import THINGS, Thing, pack
from vljepa_jax.data.babyai.world import World, draw_layout

MARGIN = 4  # frames before and after the sub-goal
MAX_BEFORE = 3  # sub-goals of a chain before the way to the wanted one starts
EVEN = 8.0  # how far the verbs of a chain may get out of balance by chance
LEAVE = 0.15  # chance of changing rooms after a sub-goal of a stream
MIN_LEFT = 2  # objects on the floor, with fewer a stream changes rooms


@dataclasses.dataclass(frozen=True)
class Part:
  """A sub-goal as it was carried out.

  Attributes:
    codes: (S, 8, 8) uint8, from the state it starts from to the one in which it is done.
  """

  goal: Goal
  codes: np.ndarray


class Chain:
  """Sub-goals one after the other in one room at a time.

  Args:
    rng: draws rooms and sub-goals.
    pool: objects and doors that may be there.

  Attributes:
    world: minigrid's environment.
    codes: the frame it shows now, (8, 8) uint8; None before the first room.
  """

  def __init__(self, rng: np.random.Generator, pool: tuple[Thing, ...]):
    self._rng, self._pool = rng, pool
    self.world = World()
    self._done = collections.Counter()
    self.codes = None

  def new_room(self, about: Thing | None = None) -> None:
    self.codes = self.world.enter(draw_layout(self._rng, self._pool, about))

  def go_on(self, verb: str, about: Thing | None = None) -> Part | None:
    """Carries out the next sub-goal on the way to one with this verb; None if this room offers none."""
    found = toward(read_scene(self.codes), verb, self._rng, about)
    if found is None:
      return None
    goal, moves = found
    self._done[goal.verb] += 1
    frames = [self.codes, *(self.world.step(move)[0] for move in moves)]
    self.codes = frames[-1]
    return Part(goal, np.stack(frames))

  def go_anywhere(self) -> Part | None:
    """Carries out a sub-goal on the way to one with any verb, rare ones first; None if this room offers none."""
    chances = {verb: self._done[verb] + EVEN * self._rng.random() for verb in VERBS}
    for verb in sorted(VERBS, key=chances.get):
      part = self.go_on(verb)
      if part is not None:
        return part
    return None


def pool_without(pairs: tuple[Thing, ...]) -> tuple[Thing, ...]:
  """All objects and doors but some."""
  return tuple(thing for thing in THINGS if thing not in pairs)


def draw_parts(
    rng: np.random.Generator, pool: tuple[Thing, ...], verb: str, about: Thing | None = None
) -> tuple[list[Part], int]:
  """A chain in one room with a sub-goal of the wanted verb, one more after it where there is a way.

  Args:
    about: what the sub-goal has to speak of; None for anything.

  Returns:
    The parts, and the index of the wanted one.
  """
  chain = Chain(rng, pool)
  while True:
    chain.new_room(about)
    parts = [part for part in (chain.go_anywhere() for _ in range(rng.integers(MAX_BEFORE + 1))) if part]
    for _ in VERBS:
      part = chain.go_on(verb, about)
      if part is None:
        break
      parts.append(part)
      if part.goal.verb == verb and about in (None, part.goal.subject, part.goal.other):
        after = chain.go_anywhere()
        return parts + [after] * (after is not None), len(parts) - 1


def make_record(clip_id: str, seed: tuple[int, ...], index: int, held_out: tuple[Thing, ...], about: bool) -> dict:
  """One clip as the fields of a record; its action goes by the index, so that actions are balanced.

  Args:
    clip_id: becomes the record's id.
    seed: of the split; the clip depends on it and the index alone.
    held_out: colour and type pairs that are kept out of the room.
    about: whether the clip has to speak of one of them instead.
  """
  rng = np.random.default_rng((*seed, index))
  label = index % len(VERBS)
  fitting = [thing for thing in held_out if fits(VERBS[label], thing)]
  thing = fitting[index // len(VERBS) % len(fitting)] if about else None
  pool = THINGS if about else pool_without(held_out)
  parts, wanted = draw_parts(rng, pool, VERBS[label], thing)
  before = np.concatenate([part.codes[:-1] for part in parts[:wanted]])[-MARGIN:] if wanted else parts[0].codes[:0]
  after = parts[wanted + 1].codes[1 : MARGIN + 1] if len(parts) > wanted + 1 else parts[0].codes[:0]
  goal, codes = parts[wanted].goal, parts[wanted].codes
  asked = questions.ask(goal, read_scene(codes[-1]), pool, rng)
  return {
      "id": clip_id,
      "codes": pack(np.concatenate([before, codes, after])),
      "start": len(before),
      "end": len(before) + len(codes) - 1,
      "label": label,
      "subject": " ".join(goal.subject),
      "other": " ".join(goal.other or ()),
      "captions": json.dumps(make_texts(parts[wanted])),
      "questions": json.dumps([dataclasses.astuple(question) for question in asked]),
  }


def make_texts(part: Part) -> dict[str, tuple[str, ...]]:
  """Captions of a sub-goal by how much they tell."""
  first, last = read_scene(part.codes[0]), read_scene(part.codes[-1])
  return {"brief": captions.brief(part.goal), "detailed": captions.detailed(part.goal, first, last)}


def endless(rng: np.random.Generator, pool: tuple[Thing, ...]) -> Iterator[tuple[Part, bool]]:
  """Sub-goals without end, and whether each is the first of a new room.

  Verbs come about equally often where rooms allow; sub-goals that have to come first are carried out too.
  """
  chain = Chain(rng, pool)
  new = True
  while True:
    if new:
      chain.new_room()
    part = chain.go_anywhere()
    if part is None:
      new = True
      continue
    yield part, new
    new = rng.random() < LEAVE or len(read_scene(part.codes[-1]).objects) < MIN_LEFT
