"""Frames as tile codes: what a code stands for, how it looks, how a clip is packed.

A frame is (8, 8) uint8, row by row from the top; a code is an index into an atlas of tiles. Walls form the border,
doors stand in it, and its top left corner shows what the agent carries: an object there is a carried one, a wall is an
empty hand.
"""

import importlib.util
import itertools
import zlib

import numpy as np

from vljepa_jax.errors import UserError

SIZE = 8  # cells along a side of the room, walls included
CELLS = SIZE * SIZE
TILE = 8  # pixels along a side of a tile
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
TYPES = ("ball", "key", "box")
DOOR = "door"
STATES = ("open", "closed", "locked")

Thing = tuple[str, str]  # colour and type

EMPTY, WALL, AGENT = 0, 1, 2  # AGENT + direction: right, down, left, up
FIRST_OBJECT = AGENT + 4
FIRST_DOOR = FIRST_OBJECT + len(TYPES) * len(COLOURS)
OBJECTS: tuple[Thing, ...] = tuple((colour, kind) for kind in TYPES for colour in COLOURS)
THINGS = OBJECTS + tuple((colour, DOOR) for colour in COLOURS)  # all that texts speak of
DOORS = tuple((colour, state) for state in STATES for colour in COLOURS)
COUNT = FIRST_DOOR + len(DOORS)
OBJECT_CODES = {thing: FIRST_OBJECT + i for i, thing in enumerate(OBJECTS)}
DOOR_CODES = {door: FIRST_DOOR + i for i, door in enumerate(DOORS)}

NEXT_FRAME = 64  # added to the step to the cell of the first change of a frame


def empty_room() -> np.ndarray:
  """The codes of a room with nothing in it, (8, 8) uint8."""
  codes = np.full((SIZE, SIZE), WALL, np.uint8)
  codes[1:-1, 1:-1] = EMPTY
  return codes


def render(atlas: np.ndarray, codes: np.ndarray) -> np.ndarray:
  """Pixels of frames by one gather.

  Args:
    atlas: (K, P, P, 3) uint8 tiles.
    codes: (..., 8, 8) integers below K.

  Returns:
    (..., 8 P, 8 P, 3) uint8.
  """
  if codes.size and codes.max() >= len(atlas):
    raise ValueError(f"tile code {codes.max()} is outside of the atlas, which has {len(atlas)} tiles")
  *lead, rows, columns = codes.shape
  pixels = atlas.shape[1]
  tiles = np.swapaxes(atlas[codes], -4, -3)  # (..., row, pixel row, column, pixel column, 3)
  return tiles.reshape(*lead, rows * pixels, columns * pixels, 3)


def require_minigrid() -> None:
  """UserError unless minigrid is installed."""
  if importlib.util.find_spec("minigrid") is None:
    raise UserError("minigrid is not installed, and babyai's videos are generated with it: pip install minigrid")


def draw_atlas(pixels: int = TILE) -> np.ndarray:
  """Every tile as minigrid draws it, (K, pixels, pixels, 3) uint8."""
  from minigrid.core.grid import Grid
  from minigrid.core.world_object import Ball, Box, Door, Key, Wall

  make = {"ball": Ball, "key": Key, "box": Box}
  shown = [(None, None), (Wall(), None), *((None, direction) for direction in range(4))]
  shown += [(make[kind](colour), None) for colour, kind in OBJECTS]
  shown += [(Door(colour, state == "open", state == "locked"), None) for colour, state in DOORS]
  return np.stack([Grid.render_tile(obj, agent, tile_size=pixels).astype(np.uint8) for obj, agent in shown])


def pack(codes: np.ndarray) -> bytes:
  """Packs (S, 8, 8) codes: the cells that change from frame to frame, the first against an empty room, deflated."""
  flat = codes.reshape(-1, CELLS)
  changed = flat != np.concatenate([empty_room().reshape(1, CELLS), flat[:-1]])
  changed[:, 0] |= ~changed.any(axis=1)  # every frame has an entry
  frame_of, cells = np.nonzero(changed)
  moves = np.diff(cells, prepend=0) % CELLS + NEXT_FRAME * (np.diff(frame_of, prepend=-1) > 0)
  changes = np.stack([moves, flat[frame_of, cells]], axis=1).astype(np.uint8)
  deflate = zlib.compressobj(9, wbits=-15)
  return deflate.compress(changes.tobytes()) + deflate.flush()


def unpack(packed: bytes) -> np.ndarray:
  """The (S, 8, 8) uint8 codes that `pack` was given."""
  changes = np.frombuffer(zlib.decompress(packed, wbits=-15), np.uint8).reshape(-1, 2)
  frame_of = np.cumsum(changes[:, 0] >= NEXT_FRAME) - 1
  cells = np.cumsum(changes[:, 0] % NEXT_FRAME) % CELLS
  codes = np.empty((frame_of[-1] + 1, CELLS), np.uint8)
  before, bounds = empty_room().ravel(), np.searchsorted(frame_of, np.arange(len(codes) + 1))
  for frame, (a, b) in zip(codes, itertools.pairwise(bounds), strict=True):
    frame[:] = before
    frame[cells[a:b]] = changes[a:b, 1]
    before = frame
  return codes.reshape(-1, SIZE, SIZE)
