"""What a frame shows, read from its tile codes alone: nothing hidden is known to planner, captions or questions."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from vljepa_jax.data.babyai.tiles import AGENT, DOOR, DOORS, FIRST_DOOR, FIRST_OBJECT, OBJECTS, SIZE, Thing

Cell = tuple[int, int]  # column, row

VECTORS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # of the directions 0 to 3: right, down, left, up
DIRECTIONS = ("right", "down", "left", "up")


@dataclasses.dataclass(frozen=True)
class Scene:
  """One frame.

  Attributes:
    agent: its cell.
    direction: 0 to 3, right, down, left, up.
    carrying: what the corner shows, None for an empty hand.
    objects: balls, keys and boxes that lie on the floor, with their cells.
    doors: doors by colour, with cell and state: "open", "closed" or "locked".
  """

  agent: Cell
  direction: int
  carrying: Thing | None
  objects: Mapping[Thing, Cell]
  doors: Mapping[str, tuple[Cell, str]]

  @property
  def front(self) -> Cell:
    dx, dy = VECTORS[self.direction]
    return self.agent[0] + dx, self.agent[1] + dy

  def cell(self, thing: Thing) -> Cell:
    """Where an object on the floor or a door is; KeyError if it is neither."""
    return self.doors[thing[0]][0] if thing[1] == DOOR else self.objects[thing]

  def things(self) -> list[Thing]:
    """Objects on the floor and doors."""
    return [*self.objects, *((colour, DOOR) for colour in self.doors)]


def read_scene(codes: np.ndarray) -> Scene:
  """Reads a frame of (8, 8) codes."""
  flat = codes.ravel().tolist()
  agent, direction, objects, doors = None, None, {}, {}
  carrying = OBJECTS[flat[0] - FIRST_OBJECT] if flat[0] >= FIRST_OBJECT else None
  for i, code in enumerate(flat):
    if code < AGENT or i == 0:
      continue
    cell = i % SIZE, i // SIZE
    if code < FIRST_OBJECT:
      agent, direction = cell, code - AGENT
    elif code < FIRST_DOOR:
      objects[OBJECTS[code - FIRST_OBJECT]] = cell
    else:
      colour, state = DOORS[code - FIRST_DOOR]
      doors[colour] = cell, state
  return Scene(agent, direction, carrying, objects, doors)


def neighbours(cell: Cell) -> tuple[Cell, ...]:
  """The four cells that share a side with one."""
  return tuple((cell[0] + dx, cell[1] + dy) for dx, dy in VECTORS)


def beside(scene: Scene, cell: Cell) -> list[Thing]:
  """Objects on the floor that share a side with a cell."""
  return [thing for thing, other in scene.objects.items() if abs(other[0] - cell[0]) + abs(other[1] - cell[1]) == 1]
