"""Nine kinds of question about a sub-goal, answered from what its frames show.

  action      what does the agent do?                         one of 8
  colour      what colour is the thing it deals with?         one of 6
  type        what is the thing it deals with?                one of 4
  object      which thing does it deal with?                  one of 8, first those that the last frame shows
  carrying    what does the agent carry at the end?           nothing or any object
  where       where is the thing at the end?                  one of 4 parts of the room and 4 walls; if it is there
  count       how many objects lie on the floor at the end?   none to 6; doors are no objects
  is_there    is there a green key in the room?               yes or no, with equal chance
  door_state  is the red door open, closed or locked?         one of 3

"The thing" of "put next to" is the one that is put.
"""

from collections.abc import Sequence

import numpy as np

from vljepa_jax.data.babyai.captions import a_name, name, quadrant, wall
from vljepa_jax.data.babyai.planner import VERBS, Goal
from vljepa_jax.data.babyai.scene import Scene
from vljepa_jax.data.babyai.tiles import COLOURS, DOOR, STATES, TYPES, Thing
from vljepa_jax.data.clips import ClipQuestion

KINDS = ("action", "colour", "type", "object", "carrying", "where", "count", "is_there", "door_state")
ACTIONS = (
    "go to an object", "pick up an object", "drop an object", "put an object next to another", "open a door",
    "close a door", "unlock a door", "open a box")  # in the order of VERBS
CHOICES = 8  # candidates of "object"
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
PLACES = tuple(f"in the {part} part of the room" for part in ("upper left", "upper right", "lower left", "lower right"))
PLACES += tuple(f"in the {side} wall" for side in ("left", "right", "upper", "lower"))

QUERIES = {
    "action": ("what does the agent do?", "which action is it?", "what is being done?"),
    "colour": ("what colour is the thing that the agent deals with?", "which colour does that thing have?",
               "what is the colour of the thing that is handled?"),
    "type": ("what is the thing that the agent deals with?", "what kind of thing is handled?",
             "is it a ball, a key, a box or a door?"),
    "object": ("which thing does the agent deal with?", "which one is handled?", "what is the agent busy with?"),
    "carrying": ("what does the agent carry at the end?", "what is in the agent's hand at the end?",
                 "what does the agent hold when it is done?"),
    "where": ("where is the thing at the end?", "in which place is the thing when the agent is done?",
              "where does the thing end up?"),
    "count": ("how many objects lie on the floor at the end?", "what number of objects is on the floor at the end?",
              "how many balls, keys and boxes are on the floor when the agent is done?"),
    "is_there": ("is there {a} in the room at the end?", "can you see {a} in the room at the end?",
                 "does the room have {a} in it at the end?"),
    "door_state": ("is {x} open, closed or locked at the end?", "what state is {x} in when the agent is done?",
                   "how is {x} left at the end: open, closed or locked?"),
}


def ask(goal: Goal, last: Scene, pool: Sequence[Thing], rng: np.random.Generator) -> tuple[ClipQuestion, ...]:
  """One question of every kind that makes sense.

  Args:
    goal: the sub-goal.
    last: the frame in which it is done.
    pool: objects and doors that may be spoken of.
    rng: draws what is asked for, and the order of "object".
  """
  colour, kind = goal.subject
  asked = [
      _question("action", ACTIONS[VERBS.index(goal.verb)], ACTIONS),
      _question("colour", f"it is {colour}", [f"it is {other}" for other in COLOURS]),
      _question("type", f"a {kind}", [f"a {other}" for other in (*TYPES, DOOR)]),
      _which(goal, last, pool, rng),
      _question("carrying", _carried(last.carrying), map(_carried, (None, *(t for t in pool if t[1] != DOOR)))),
      _question("count", _count(len(last.objects)), map(_count, range(len(NUMBERS)))),
      _is_there(last, pool, rng),
      _door_state(last, rng),
  ]
  if goal.subject in last.things():
    cell = last.cell(goal.subject)
    place = f"in the {wall(cell)} wall" if kind == DOOR else f"in the {quadrant(cell)} part of the room"
    asked.append(_question("where", place, PLACES))
  return tuple(sorted(asked, key=lambda question: KINDS.index(question.kind)))


def _question(kind: str, answer: str, candidates, **words: str) -> ClipQuestion:
  return ClipQuestion(kind, tuple(query.format(**words) for query in QUERIES[kind]), answer, tuple(candidates))


def _which(goal: Goal, last: Scene, pool: Sequence[Thing], rng: np.random.Generator) -> ClipQuestion:
  shown = list(dict.fromkeys([goal.subject, *([last.carrying] if last.carrying else []), *last.things()]))[:CHOICES]
  absent = [thing for thing in pool if thing not in shown]
  shown += [absent[i] for i in rng.permutation(len(absent))[: CHOICES - len(shown)]]
  return _question("object", name(goal.subject), [name(shown[i]) for i in rng.permutation(CHOICES)])


def _carried(thing: Thing | None) -> str:
  return f"the agent carries {name(thing)}" if thing else "the agent carries nothing"


def _count(number: int) -> str:
  return f"{NUMBERS[number]} object{'' if number == 1 else 's'} on the floor"


def _is_there(last: Scene, pool: Sequence[Thing], rng: np.random.Generator) -> ClipQuestion:
  """The carried object is not asked for: whether it is in the room is a matter of taste."""
  there = last.things()
  absent = [thing for thing in pool if thing not in there and thing != last.carrying]
  both = sorted({kind for _, kind in there} & {kind for _, kind in absent})
  kind = both[rng.integers(len(both))]  # drawn before yes or no, so that it tells nothing
  yes = bool(rng.random() < 0.5)
  things = [thing for thing in (there if yes else absent) if thing[1] == kind]
  thing = things[rng.integers(len(things))]
  candidates = f"yes, there is {a_name(thing)}", f"no, there is no {' '.join(thing)}"
  return _question("is_there", candidates[not yes], candidates, a=a_name(thing))


def _door_state(last: Scene, rng: np.random.Generator) -> ClipQuestion:
  colour = sorted(last.doors)[rng.integers(len(last.doors))]
  door = name((colour, DOOR))
  states = [f"{door} is {state}" for state in STATES]
  return _question("door_state", f"{door} is {last.doors[colour][1]}", states, x=door)
