"""Sub-goals, what they need, and the shortest moves to them: breadth-first search over position and direction."""

from collections.abc import Collection, Iterator
import collections
import dataclasses

import numpy as np

from vljepa_jax.data.babyai.scene import VECTORS, Cell, Scene, beside, neighbours
from vljepa_jax.data.babyai.tiles import DOOR, SIZE, Thing

VERBS = ("go to", "pick up", "drop", "put next to", "open", "close", "unlock", "open a box")
GO, PICK, DROP, PUT, OPEN, CLOSE, UNLOCK, OPEN_BOX = VERBS

LEFT, RIGHT, FORWARD, PICKUP, RELEASE, TOGGLE = range(6)  # minigrid's actions
LAST_ACTION = {GO: [], PICK: [PICKUP], DROP: [RELEASE], PUT: [RELEASE], OPEN: [TOGGLE], CLOSE: [TOGGLE],
               UNLOCK: [TOGGLE], OPEN_BOX: [TOGGLE]}
MIN_STEPS, MAX_STEPS = 3, 24  # shorter and longer sub-goals are not generated
MAX_PRIOR = 3  # sub-goals that may have to come first
INSIDE = frozenset((x, y) for x in range(1, SIZE - 1) for y in range(1, SIZE - 1))


@dataclasses.dataclass(frozen=True)
class Goal:
  """A sub-goal.

  Attributes:
    verb: one of `VERBS`.
    subject: what is gone to, picked up, dropped, put, opened, closed or unlocked.
    other: what the subject is put next to; None for other verbs.
  """

  verb: str
  subject: Thing
  other: Thing | None = None


def toward(
    scene: Scene, verb: str, rng: np.random.Generator, about: Thing | None = None, prior: int = MAX_PRIOR
) -> tuple[Goal, list[int]] | None:
  """The next sub-goal on the way to one with this verb, with its moves.

  It is such a sub-goal itself if one can be done now; else one that has to come first, such as picking up the key of a
  locked door. Choices are drawn at random.

  Args:
    about: subject, or what the subject is put next to; None for any.
    prior: how many sub-goals may have to come first.

  Returns:
    The sub-goal and minigrid's actions, `MIN_STEPS` to `MAX_STEPS` of them; None if this room offers no way.
  """
  goals = [goal for goal in possible(scene, verb) if about in (None, goal.subject, goal.other)]
  for i in rng.permutation(len(goals)):
    moves = plan(scene, goals[i], rng)
    if moves:
      return goals[i], moves
  first = list(needs(scene, verb, about)) if prior else []
  for i in rng.permutation(len(first)):
    first_verb, first_about = first[i]
    found = toward(scene, first_verb, rng, first_about, prior - 1)
    if found:
      return found
  return None


def possible(scene: Scene, verb: str) -> list[Goal]:
  """Sub-goals whose preconditions hold now; there may be no way to them."""
  hand = scene.carrying
  if verb == GO:
    return [Goal(verb, thing) for thing in scene.things() if scene.cell(thing) != scene.front]
  if verb == PICK:
    return [] if hand else [Goal(verb, thing) for thing in scene.objects]
  if verb == DROP:
    return [Goal(verb, hand)] if hand else []
  if verb == PUT:
    return [Goal(verb, hand, other) for other in scene.objects] if hand else []
  if verb == OPEN_BOX:
    return [Goal(verb, thing) for thing in scene.objects if thing[1] == "box"]
  state = {OPEN: "closed", CLOSE: "open", UNLOCK: "locked"}[verb]
  colours = [colour for colour, (_, at) in scene.doors.items() if at == state]
  return [Goal(verb, (colour, DOOR)) for colour in colours if verb != UNLOCK or hand == (colour, "key")]


def fits(verb: str, thing: Thing) -> bool:
  """Whether a sub-goal with this verb can be about a thing."""
  if verb in (PICK, DROP, PUT):
    return thing[1] != DOOR
  if verb == OPEN_BOX:
    return thing[1] == "box"
  return verb == GO or thing[1] == DOOR


def needs(scene: Scene, verb: str, about: Thing | None) -> Iterator[tuple[str, Thing | None]]:
  """Verbs and subjects of sub-goals that could make one with this verb possible."""
  hand = scene.carrying
  if verb == PICK and hand or verb == DROP and hand and hand != about:
    yield from ((DROP, None), (PUT, None))
  elif verb in (DROP, PUT) and not hand:
    yield from ((PICK, about), *([(PICK, None)] if verb == PUT else []))
  doors = [(colour, state) for colour, (_, state) in scene.doors.items() if about in (None, (colour, DOOR))]
  for colour, state in doors:
    change = {"open": CLOSE, "closed": OPEN, "locked": UNLOCK}[state]
    if verb in (OPEN, CLOSE) and change != verb:
      yield change, (colour, DOOR)
    elif verb == UNLOCK == change and (colour, "key") in scene.objects:
      yield PICK, (colour, "key")


def plan(scene: Scene, goal: Goal, rng: np.random.Generator) -> list[int] | None:
  """The shortest moves to a sub-goal, None if there are none, or fewer than `MIN_STEPS` or more than `MAX_STEPS`.

  What is dropped comes to lie next to nothing, what is put next to something next to that alone; never before a door.
  """
  if goal.verb == DROP:
    cells = clear_cells(scene, [])
    cells = [cells[rng.integers(len(cells))]] if cells else []
  elif goal.verb == PUT:
    cells = clear_cells(scene, [goal.other])
  else:
    cells = [scene.cell(goal.subject)]
  moves = search(scene, {((x - dx, y - dy), d) for x, y in cells for d, (dx, dy) in enumerate(VECTORS)})
  if moves is None:
    return None
  moves += LAST_ACTION[goal.verb]
  return moves if MIN_STEPS <= len(moves) <= MAX_STEPS else None


def clear_cells(scene: Scene, allowed: list[Thing]) -> list[Cell]:
  """Free cells, not before a door, that lie beside exactly the allowed objects."""
  taken = set(scene.objects.values()) | {near for cell, _ in scene.doors.values() for near in neighbours(cell)}
  return [cell for cell in sorted(INSIDE - taken) if beside(scene, cell) == allowed]


def search(scene: Scene, goals: Collection[tuple[Cell, int]]) -> list[int] | None:
  """The fewest turns and steps forward to one of several positions with direction; None if none can be reached."""
  free = INSIDE - set(scene.objects.values())
  start = scene.agent, scene.direction
  came = {start: None}
  queue = collections.deque([start])
  while queue:
    state = queue.popleft()
    if state in goals:
      return trace(came, state)
    (x, y), d = state
    ahead = x + VECTORS[d][0], y + VECTORS[d][1]
    for move, after in ((FORWARD, (ahead, d)), (LEFT, ((x, y), (d - 1) % 4)), (RIGHT, ((x, y), (d + 1) % 4))):
      if after not in came and after[0] in free:
        came[after] = state, move
        queue.append(after)
  return None


def trace(came: dict, state: tuple[Cell, int]) -> list[int]:
  """Follows a search back from where it ended."""
  moves = []
  while came[state]:
    state, move = came[state]
    moves.append(move)
  return moves[::-1]
