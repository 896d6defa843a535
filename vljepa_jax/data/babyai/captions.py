"""Captions of a sub-goal: brief ones say action and objects alone, detailed ones where, from where and with what."""

from vljepa_jax.data.babyai.planner import CLOSE, DROP, GO, OPEN, OPEN_BOX, PICK, PUT, UNLOCK, Goal
from vljepa_jax.data.babyai.scene import DIRECTIONS, Cell, Scene, beside
from vljepa_jax.data.babyai.tiles import DOOR, SIZE, Thing

# The first is the canonical one. {x}: the red ball; {p}: the ball that is red; {y}, {q}: the same of the other object.
BRIEF = {
    GO: ("go to {x}", "walk over to {x}", "move to {p}", "approach {x}", "the agent walks up to {p}",
         "{x} is where the agent goes"),
    PICK: ("pick up {x}", "grab {p}", "get {x}", "take {x} from the floor", "the agent picks {p} up",
           "{x} gets picked up"),
    DROP: ("drop {x}", "put down {p}", "let go of {x}", "set {x} down on the floor", "the agent drops {p}",
           "{x} gets dropped"),
    PUT: ("put {x} next to {y}", "place {p} beside {q}", "set {x} down by {y}", "lay {x} right beside {q}",
          "the agent puts {p} next to {y}", "next to {y}, {x} gets put"),
    OPEN: ("open {x}", "pull {x} open", "open up {p}", "make {x} stand open", "the agent opens {p}", "{x} gets opened"),
    CLOSE: ("close {x}", "shut {p}", "push {x} shut", "make sure {x} is shut", "the agent closes {p}",
            "{x} gets closed"),
    UNLOCK: ("unlock {x}", "undo the lock of {x}", "use a key on {p}", "turn the key in {x}", "the agent unlocks {p}",
             "{x} gets unlocked"),
    OPEN_BOX: ("open {x}", "look inside {p}", "lift the lid of {x}", "see what {x} holds", "the agent opens {p}",
               "{x} gets opened"),
}

# {act}: picks up the red ball; {carry}: with an empty hand; {move}: walks from ... to ...; {place}: in the ... part
# of the room. Where the thing is told of is where it was, or where it comes to lie.
DETAILED = (
    "{carry}, the agent {move} and {act}, which was {place}; now {result}",
    "the agent {move}; {carry}, it {act} that was {place}, and in the end {result}",
    "{x} is {place} at first; the agent, {carry}, {move} and {act}, so that {result}",
    "the agent {act}: {carry}, it {move}, as {x} is {place}, until {result}",
)
DETAILED_LAID = (
    "{carry}, the agent {move} and {act}, where it lies {place}; now {result}",
    "the agent {move}; {carry}, it {act}, {place}, and in the end {result}",
    "{x} comes to lie {place}: the agent, {carry}, {move} and {act}, so that {result}",
    "the agent {act}: {carry}, it {move}, {x} comes to lie {place}, and {result}",
)
ACTS = {
    GO: "comes to stand before {x}", PICK: "picks up {x}", DROP: "drops {x}", PUT: "puts {x} next to {y}",
    OPEN: "opens {x}", CLOSE: "closes {x}", UNLOCK: "uses {key} to unlock {x}", OPEN_BOX: "opens {x}"}


def name(thing: Thing) -> str:
  """Such as "the red ball"."""
  return f"the {thing[0]} {thing[1]}"


def a_name(thing: Thing) -> str:
  """Such as "a red ball"."""
  return f"a {thing[0]} {thing[1]}"


def brief(goal: Goal) -> tuple[str, ...]:
  """Wordings of what is done with what, the canonical one first; a verb has them in one order for all things."""
  words = {"x": name(goal.subject), "p": f"the {goal.subject[1]} that is {goal.subject[0]}"}
  if goal.other:
    words |= {"y": name(goal.other), "q": f"the {goal.other[1]} that is {goal.other[0]}"}
  return tuple(template.format(**words) for template in BRIEF[goal.verb])


def quadrant(cell: Cell) -> str:
  """The part of the room that a cell of the floor is in, such as "upper left"."""
  return f"{'upper' if cell[1] < SIZE // 2 else 'lower'} {'left' if cell[0] < SIZE // 2 else 'right'}"


def wall(cell: Cell) -> str:
  """The wall that a door stands in, such as "left"."""
  x, y = cell
  return "left" if x == 0 else "right" if x == SIZE - 1 else "upper" if y == 0 else "lower"


def detailed(goal: Goal, first: Scene, last: Scene) -> tuple[str, ...]:
  """Wordings of the whole story, from the frames in which the sub-goal begins and is done."""
  laid = goal.verb in (DROP, PUT)
  key = name((goal.subject[0], "key"))
  act = ACTS[goal.verb].format(x=name(goal.subject), y=goal.other and name(goal.other), key=key)
  carry = f"carrying {name(first.carrying)}" if first.carrying else "with an empty hand"
  words = dict(x=name(goal.subject), act=act, carry=carry, move=movement(first, last), result=result(goal, last),
               place=place(last if laid else first, goal))
  return tuple(text.format(**words) for text in (DETAILED_LAID if laid else DETAILED))


def place(scene: Scene, goal: Goal) -> str:
  """Where the subject is in a frame."""
  if goal.subject[1] == DOOR:
    return f"in the {wall(scene.cell(goal.subject))} wall"
  x, y = cell = scene.cell(goal.subject)
  part = f"in the {quadrant(cell)} part"
  near = [thing for thing in beside(scene, cell) if thing != goal.other]
  if near:
    return f"{part} beside {name(near[0])}"
  end = SIZE - 2
  at_wall = {"left": x == 1, "right": x == end, "upper": y == 1, "lower": y == end}
  sides = [side for side, there in at_wall.items() if there]
  return f"{part} by the {sides[0]} wall" if len(sides) == 1 else f"{part} in the corner" if sides else part


def movement(first: Scene, last: Scene) -> str:
  """How the agent gets from one frame to the other."""
  if first.agent == last.agent:
    return f"turns to face {DIRECTIONS[last.direction]}"
  start, end = quadrant(first.agent), quadrant(last.agent)
  if start == end:
    return f"walks to another spot in the {end} part"
  return f"walks from the {start} to the {end} part"


def result(goal: Goal, last: Scene) -> str:
  """What holds when the sub-goal is done."""
  if goal.verb == GO:
    return f"it faces {name(goal.subject)}"
  if goal.verb == PICK:
    return f"it carries {name(goal.subject)}"
  if goal.verb in (DROP, PUT):
    return "its hand is empty"
  if goal.verb != OPEN_BOX:
    return f"{name(goal.subject)} is {last.doors[goal.subject[0]][1]}"
  found = [thing for thing, cell in last.objects.items() if cell == last.front]
  return f"{a_name(found[0])} lies in its place" if found else "the box is gone without a trace"
