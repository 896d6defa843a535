"""One 8x8 room of minigrid: its rules, our layouts. Imports minigrid."""

import dataclasses

from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Ball, Box, Door, Key
from minigrid.minigrid_env import MiniGridEnv
import numpy as np

from vljepa_jax.data.babyai.scene import Cell
from vljepa_jax.data.babyai.tiles import (
    AGENT, DOOR, DOOR_CODES, EMPTY, OBJECT_CODES, SIZE, STATES, WALL, Thing)

MIN_OBJECTS, MAX_OBJECTS = 3, 6
MAX_DOORS = 2
FULL_BOX = 0.5  # chance that a box holds something
MAKE = {"ball": Ball, "key": Key, "box": Box}


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a room begins.

  Attributes:
    contents: boxes that hold something, with what they hold; no thing is there twice.
    doors: by colour, with cell and state.
  """

  agent: Cell
  direction: int
  objects: dict[Thing, Cell]
  contents: dict[Thing, Thing]
  doors: dict[str, tuple[Cell, str]]


def draw_layout(rng: np.random.Generator, pool: tuple[Thing, ...], about: Thing | None = None) -> Layout:
  """Draws a room: 3 to 6 objects and 1 or 2 doors, no two of one colour and type; the key of a locked door is there.

  Args:
    pool: what may be in the room.
    about: one of them that has to be.
  """
  doors = _draw_doors(rng, [colour for colour, kind in pool if kind == DOOR], about)
  objects = [thing for thing in pool if thing[1] != DOOR]
  first = [(colour, "key") for colour, (_, state) in doors.items() if state == "locked"]
  first += [about] if about in objects and about not in first else []
  rest = [objects[i] for i in rng.permutation(len(objects)) if objects[i] not in first]
  count = int(rng.integers(max(MIN_OBJECTS, len(first)), MAX_OBJECTS + 1))
  chosen, absent = (first + rest)[:count], (first + rest)[count:]
  boxes = [thing for thing in chosen if thing[1] == "box" and rng.random() < FULL_BOX]
  before_doors = {(min(max(x, 1), SIZE - 2), min(max(y, 1), SIZE - 2)) for (x, y), _ in doors.values()}
  floor = [(x, y) for x in range(1, SIZE - 1) for y in range(1, SIZE - 1) if (x, y) not in before_doors]
  cells = [floor[i] for i in rng.permutation(len(floor))[: count + 1]]
  return Layout(cells[0], int(rng.integers(4)), dict(zip(chosen, cells[1:])), dict(zip(boxes, absent)), doors)


def _draw_doors(
    rng: np.random.Generator, colours: list[str], about: Thing | None) -> dict[str, tuple[Cell, str]]:
  """One or two doors, on different walls."""
  chosen = [colours[i] for i in rng.permutation(len(colours))[: rng.integers(1, MAX_DOORS + 1)]]
  if about and about[1] == DOOR and about[0] not in chosen:
    chosen[0] = about[0]
  doors = {}
  for colour, wall in zip(chosen, rng.permutation(4)):
    along = int(rng.integers(1, SIZE - 1))
    cell = ((SIZE - 1, along), (along, SIZE - 1), (0, along), (along, 0))[wall]
    doors[colour] = cell, STATES[rng.integers(len(STATES))]
  return doors


class World(MiniGridEnv):
  """The room as an environment of minigrid; what is observed is the (8, 8) uint8 tile codes of the whole room."""

  def __init__(self):
    space = MissionSpace(mission_func=lambda: "")
    super().__init__(space, grid_size=SIZE, max_steps=2**62, see_through_walls=True)
    self._layout = None

  def enter(self, layout: Layout) -> np.ndarray:
    """Starts in a new room with an empty hand; returns its codes."""
    self._layout = layout
    return self.reset()[0]

  def _gen_grid(self, width, height):
    self.grid = Grid(width, height)
    self.grid.wall_rect(0, 0, width, height)
    for (colour, kind), cell in self._layout.objects.items():
      self.put_obj(MAKE[kind](colour), *cell)
    for box, (colour, kind) in self._layout.contents.items():
      self.grid.get(*self._layout.objects[box]).contains = MAKE[kind](colour)
    for colour, (cell, state) in self._layout.doors.items():
      self.put_obj(Door(colour, state == "open", state == "locked"), *cell)
    self.agent_pos, self.agent_dir = self._layout.agent, self._layout.direction

  def gen_obs(self) -> np.ndarray:
    codes = [EMPTY if obj is None else _code(obj) for obj in self.grid.grid]
    codes[self.agent_pos[1] * SIZE + self.agent_pos[0]] = AGENT + self.agent_dir
    if self.carrying:
      codes[0] = _code(self.carrying)
    return np.array(codes, np.uint8).reshape(SIZE, SIZE)


def _code(obj) -> int:
  if obj.type == "wall":
    return WALL
  if obj.type == DOOR:
    return DOOR_CODES[obj.color, "open" if obj.is_open else "locked" if obj.is_locked else "closed"]
  return OBJECT_CODES[obj.color, obj.type]
