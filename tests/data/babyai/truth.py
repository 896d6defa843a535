"""The state of minigrid's own objects, read without any of babyai's code: what texts and frames are checked against."""

import dataclasses

DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))


@dataclasses.dataclass(frozen=True)
class State:
  """Objects lie on the floor: thing -> cell. Doors: colour -> (cell, state). Contents: box -> what it hides."""

  agent: tuple
  direction: int
  carrying: tuple | None
  objects: dict
  doors: dict
  contents: dict

  @property
  def front(self):
    dx, dy = DIRECTIONS[self.direction]
    return self.agent[0] + dx, self.agent[1] + dy

  def at(self, cell):
    return next((thing for thing, other in self.objects.items() if other == cell), None)

  def beside(self, cell):
    return {self.at((cell[0] + dx, cell[1] + dy)) for dx, dy in DIRECTIONS} - {None}


def state(env) -> State:
  objects, doors, contents = {}, {}, {}
  for i in range(env.width):
    for j in range(env.height):
      obj = env.grid.get(i, j)
      if obj is None or obj.type == "wall":
        continue
      if obj.type == "door":
        doors[obj.color] = (i, j), "open" if obj.is_open else "locked" if obj.is_locked else "closed"
        continue
      objects[obj.color, obj.type] = i, j
      if obj.type == "box" and obj.contains:
        contents[obj.color, obj.type] = obj.contains.color, obj.contains.type
  carrying = env.carrying and (env.carrying.color, env.carrying.type)
  return State(tuple(map(int, env.agent_pos)), int(env.agent_dir), carrying, objects, doors, contents)
