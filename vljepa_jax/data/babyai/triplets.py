"""Triplets of texts (paper section 4.7): two wordings of one fact, and one of another fact that differs in one point.

  colour   the other colour of one of the things: pick up the red ball, grab the ball that is red, pick up the blue ball
  type     another type: pick up the red key
  action   another action that fits the thing: drop the red ball
  swap     the roles exchanged: put the red ball next to the blue key, put the blue key next to the red ball
"""

import dataclasses
import os

import numpy as np

from vljepa_jax.data.babyai.captions import brief
from vljepa_jax.data.babyai.planner import PUT, VERBS, Goal, fits
from vljepa_jax.data.babyai.reading import HELD_OUT_PAIRS, data_source, decode
from vljepa_jax.data.babyai.tiles import COLOURS, DOOR, TYPES, Thing

CHANGES = ("colour", "type", "action", "swap")


def triplets(n: int, seed: int, data_dir: str | os.PathLike | None = None) -> list[tuple[str, str, str, str]]:
  """Triplets from the brief captions of the split "test", with the four kinds of change in equal numbers.

  Args:
    n: how many.
    seed: of all draws.
    data_dir: as of `data_source`.

  Returns:
    n tuples (p1, p2, negative, kind): p1 and p2 say the same, the negative is worded as p1 or as p2 but for one changed
    fact, which kind names.
  """
  rng = np.random.default_rng(seed)
  data = data_source("test", data_dir)
  clips = [decode(data[i]) for i in range(len(data))]
  goals = [Goal(VERBS[clip.label], clip.subject, clip.other) for clip in clips]
  changed = {kind: [(goal, others) for goal in goals if (others := changes(goal, kind))] for kind in CHANGES}
  return [draw(*_pick(changed[kind], rng), kind, rng) for kind in (CHANGES[i % len(CHANGES)] for i in range(n))]


def draw(goal: Goal, others: list[Goal], kind: str, rng: np.random.Generator) -> tuple[str, str, str, str]:
  """A triplet of a sub-goal and one of others that differ from it in one fact."""
  texts, wrong = brief(goal), brief(_pick(others, rng))
  a, b = rng.permutation(len(texts))[:2]
  return texts[a], texts[b], wrong[a if rng.random() < 0.5 else b], kind


def changes(goal: Goal, kind: str) -> list[Goal]:
  """All sub-goals that make sense, speak of no held-out pair, and differ from one in a single fact of this kind."""
  subject, other = goal.subject, goal.other
  if kind == "swap":
    return [Goal(PUT, other, subject)] if other else []
  if kind == "action":
    return [dataclasses.replace(goal, verb=verb) for verb in VERBS
            if verb not in (goal.verb, PUT) and goal.verb != PUT and fits(verb, subject)]
  found = [Goal(goal.verb, thing, other) for thing in variants(subject, kind) if fits(goal.verb, thing)]
  found += [Goal(goal.verb, subject, thing) for thing in variants(other, kind)] if other else []
  return [change for change in found if change.subject != change.other]


def variants(thing: Thing, kind: str) -> list[Thing]:
  """Things of another colour or another type, held-out ones left out."""
  colour, what = thing
  if kind == "colour":
    things = [(other, what) for other in COLOURS if other != colour]
  else:
    things = [(colour, other) for other in (*TYPES, DOOR) if other != what]
  return [other for other in things if other not in HELD_OUT_PAIRS]


def _pick(choices: list, rng: np.random.Generator):
  return choices[rng.integers(len(choices))]
