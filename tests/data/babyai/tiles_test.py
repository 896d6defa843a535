"""Tile codes: packing, rendering, and whether tiles can be told apart."""

from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT
import numpy as np
import pytest

from vljepa_jax.data.babyai import chain, tiles
from vljepa_jax.data.babyai.scene import read_scene


@pytest.fixture(scope="module")
def atlas():
  return tiles.draw_atlas()


@pytest.fixture(scope="module")
def walk():
  """A chain that carries something now."""
  walk = chain.Chain(np.random.default_rng(1), tiles.THINGS)
  walk.new_room()
  while walk.go_on("pick up") is None or not walk.world.carrying:
    walk.new_room()
  return walk


@pytest.mark.parametrize("length", (1, 2, 30))
def test_packing_loses_nothing(length):
  rng = np.random.default_rng(length)
  for share in (0, 0.02, 0.5, 1):
    codes = rng.integers(0, tiles.COUNT, (length, 8, 8)).astype(np.uint8)
    for i in range(1, length):
      codes[i] = np.where(rng.random((8, 8)) < share, codes[i], codes[i - 1])
    np.testing.assert_array_equal(tiles.unpack(tiles.pack(codes)), codes)


def test_every_tile_can_be_told_from_every_other(atlas):
  assert atlas.shape == (42, 8, 8, 3) and len(atlas) == tiles.COUNT <= 256
  difference = np.abs(atlas[:, None].astype(int) - atlas)
  largest, total = difference.max(axis=(2, 3, 4)), difference.sum(axis=(2, 3, 4))
  others = ~np.eye(len(atlas), dtype=bool)
  assert largest[others].min() >= 50  # grey levels
  assert total[others].min() >= 900


def test_frames_look_as_minigrid_draws_them_but_for_the_corner(atlas, walk):
  env = walk.world
  frame = tiles.render(atlas, walk.codes)
  theirs = env.grid.render(tiles.TILE, env.agent_pos, env.agent_dir)
  np.testing.assert_array_equal(frame[:8, :8], atlas[tiles.OBJECT_CODES[env.carrying.color, env.carrying.type]])
  assert (frame[:8, :8] != theirs[:8, :8]).any()
  frame[:8, :8] = theirs[:8, :8]
  np.testing.assert_array_equal(frame, theirs)


def test_an_empty_hand_is_a_plain_wall(atlas):
  walk = chain.Chain(np.random.default_rng(2), tiles.THINGS)
  walk.new_room()
  env = walk.world
  np.testing.assert_array_equal(
      tiles.render(atlas, walk.codes), env.grid.render(tiles.TILE, env.agent_pos, env.agent_dir))


def test_rendering_keeps_leading_axes(atlas):
  codes = np.random.default_rng(0).integers(0, tiles.COUNT, (2, 3, 8, 8))
  pixels = tiles.render(atlas, codes)
  assert pixels.shape == (2, 3, 64, 64, 3) and pixels.dtype == np.uint8
  for a, b, row, column in ((0, 0, 0, 0), (1, 2, 7, 3), (0, 1, 2, 6)):
    np.testing.assert_array_equal(
        pixels[a, b, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8], atlas[codes[a, b, row, column]])


def test_codes_outside_of_the_atlas_are_named(atlas):
  with pytest.raises(ValueError, match="tile code 42 is outside of the atlas, which has 42 tiles"):
    tiles.render(atlas, np.full((8, 8), 42))


def test_scenes_say_what_minigrid_encodes(told):
  """Read back against the encoding of minigrid itself."""
  world = chain.World()
  for seed in range(40):
    codes = world.enter(chain.draw_layout(np.random.default_rng(seed), tiles.THINGS))
    scene = read_scene(codes)
    encoded = world.grid.encode()
    seen = {}
    for x, y in np.ndindex(8, 8):
      kind, colour, state = encoded[x, y]
      if IDX_TO_OBJECT[kind] not in ("empty", "wall"):
        seen[IDX_TO_COLOR[colour], IDX_TO_OBJECT[kind]] = (x, y), ("open", "closed", "locked")[state]
    assert {thing: cell for thing, (cell, _) in seen.items() if thing[1] != "door"} == scene.objects
    assert {colour: at for (colour, kind), at in seen.items() if kind == "door"} == scene.doors
    assert (scene.agent, scene.direction, scene.carrying) == (world.agent_pos, world.agent_dir, None)
