"""Sub-goals hold in minigrid when they are said to be done, and the way to them is the shortest."""

import collections

import numpy as np
import pytest

from vljepa_jax.data.babyai import chain, planner
from vljepa_jax.data.babyai.scene import VECTORS, read_scene
from vljepa_jax.data.babyai.tiles import THINGS


def test_chains_have_every_sub_goal(told):
  counts = collections.Counter(part.goal.verb for part, *_ in told)
  assert set(counts) == set(planner.VERBS) and min(counts.values()) >= 10, counts


def test_sub_goals_were_not_done_before_and_are_done_after(told):
  for part, before, after in told:
    subject, other = part.goal.subject, part.goal.other
    done = {
        "go to": lambda s: s.front == (s.doors[subject[0]][0] if subject[1] == "door" else s.objects[subject]),
        "pick up": lambda s: s.carrying == subject and subject not in s.objects,
        "drop": lambda s: s.carrying is None and s.objects.get(subject) == s.front and not s.beside(s.front),
        "put next to": lambda s: s.carrying is None and s.objects.get(subject) == s.front
                                 and s.beside(s.front) == {other},
        "open": lambda s: s.doors[subject[0]][1] == "open",
        "close": lambda s: s.doors[subject[0]][1] == "closed",
        "unlock": lambda s: s.doors[subject[0]][1] == "open",
        "open a box": lambda s: subject not in s.objects and s.at(s.front) == before.contents.get(subject),
    }[part.goal.verb]
    assert done(after) and not done(before), part.goal


def test_sub_goals_begin_as_their_verbs_say(told):
  for part, before, _ in told:
    subject = part.goal.subject
    match part.goal.verb:
      case "pick up":
        assert before.carrying is None and subject in before.objects
      case "drop" | "put next to":
        assert before.carrying == subject
      case "open":
        assert before.doors[subject[0]][1] == "closed"
      case "unlock":
        assert before.doors[subject[0]][1] == "locked" and before.carrying == (subject[0], "key")
      case "open a box":
        assert subject in before.objects and subject[1] == "box"


def test_nothing_else_changes(told):
  """Of the objects on the floor, the doors and the hand, each sub-goal changes its own alone."""
  for part, before, after in told:
    subject, verb = part.goal.subject, part.goal.verb
    own = {subject, before.contents.get(subject)}
    assert {t: c for t, c in before.objects.items() if t not in own} == \
        {t: c for t, c in after.objects.items() if t not in own}
    if verb not in ("open", "close", "unlock"):
      assert before.doors == after.doors
    if verb not in ("pick up", "drop", "put next to"):
      assert before.carrying == after.carrying


def test_frames_begin_and_end_with_the_states(told):
  for part, before, after in told:
    for codes, state in ((part.codes[0], before), (part.codes[-1], after)):
      scene = read_scene(codes)
      assert (scene.agent, scene.direction, scene.carrying) == (state.agent, state.direction, state.carrying)
      assert dict(scene.objects) == state.objects and dict(scene.doors) == state.doors
    assert planner.MIN_STEPS <= len(part.codes) - 1 <= planner.MAX_STEPS
    assert (part.codes[1:] != part.codes[:-1]).any(axis=(1, 2)).all()


def test_rooms_are_as_described():
  for seed in range(300):
    layout = chain.draw_layout(np.random.default_rng(seed), THINGS)
    cells = [layout.agent, *layout.objects.values()]
    assert 3 <= len(layout.objects) <= 6 and 1 <= len(layout.doors) <= 2
    assert len(set(cells)) == len(cells) and all(0 < x < 7 and 0 < y < 7 for x, y in cells)
    assert all((x in (0, 7)) != (y in (0, 7)) for (x, y), _ in layout.doors.values())
    things = [*layout.objects, *layout.contents.values()]
    assert len(set(things)) == len(things)
    for colour, (_, state) in layout.doors.items():
      assert state != "locked" or (colour, "key") in layout.objects


@pytest.mark.parametrize("about", THINGS)
def test_a_room_can_be_asked_to_have_a_thing(about):
  for seed in range(20):
    layout = chain.draw_layout(np.random.default_rng(seed), THINGS, about)
    assert about in layout.objects or about[0] in layout.doors and about[1] == "door"


def distances(scene):
  """Fewest moves to every position and direction, by relaxation until nothing changes."""
  free = np.zeros((8, 8), bool)
  free[1:-1, 1:-1] = True
  for x, y in scene.objects.values():
    free[x, y] = False
  reach = np.full((8, 8, 4), np.inf)
  reach[(*scene.agent, scene.direction)] = 0
  while True:
    old = reach.copy()
    for d, (dx, dy) in enumerate(VECTORS):
      turned = np.minimum(reach[:, :, (d + 1) % 4], reach[:, :, (d - 1) % 4])
      stepped = np.roll(reach[:, :, d], (dx, dy), axis=(0, 1))
      reach[:, :, d] = np.where(free, np.minimum(reach[:, :, d], np.minimum(turned, stepped) + 1), np.inf)
    if (old == reach).all():
      return reach


def test_ways_are_the_shortest():
  world = chain.World()
  for seed in range(8):
    scene = read_scene(world.enter(chain.draw_layout(np.random.default_rng(seed), THINGS)))
    reach = distances(scene)
    for x, y in np.ndindex(8, 8):
      for d in range(4):
        moves = planner.search(scene, {((x, y), d)})
        assert (len(moves) if moves is not None else np.inf) == reach[x, y, d]


def test_what_has_to_come_first_is_done_first():
  """Every verb is reached from a fresh room, and a locked door by way of its key."""
  for verb in planner.VERBS:
    parts, wanted = chain.draw_parts(np.random.default_rng(3), THINGS, verb)
    assert parts[wanted].goal.verb == verb and len(parts) - wanted <= 2
    for a, b in zip(parts, parts[1:]):
      np.testing.assert_array_equal(a.codes[-1], b.codes[0])
  for seed in range(20):
    parts, wanted = chain.draw_parts(np.random.default_rng(seed), THINGS, "unlock")
    colour = parts[wanted].goal.subject[0]
    last = [part.goal for part in parts[:wanted] if part.goal.verb in ("pick up", "drop", "put next to")][-1]
    assert (last.verb, last.subject) == ("pick up", (colour, "key"))


def test_nothing_is_left_before_a_door(told):
  for part, _, after in told:
    if part.goal.verb in ("drop", "put next to"):
      x, y = after.front
      assert not any(abs(x - a) + abs(y - b) == 1 for (a, b), _ in after.doors.values())
