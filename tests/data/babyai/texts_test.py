"""Captions and answers against the state of minigrid, read without the code that makes them."""

import collections
import re

import numpy as np
import pytest

from vljepa_jax.data.babyai import captions, chain, questions
from vljepa_jax.data.babyai.planner import Goal
from vljepa_jax.data.babyai.tiles import COLOURS, THINGS
from vljepa_jax.data.babyai.scene import read_scene

WORDS = {*COLOURS, "ball", "key", "box", "door"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def part_of_room(cell):
  return ("upper" if cell[1] <= 3 else "lower") + " " + ("left" if cell[0] <= 3 else "right")


def wall_of(cell):
  return {(True, False, False, False): "left", (False, True, False, False): "right",
          (False, False, True, False): "upper", (False, False, False, True): "lower"}[
              cell[0] == 0, cell[0] == 7, cell[1] == 0, cell[1] == 7]


def test_brief_captions_name_the_things_and_nothing_else(told):
  for part, *_ in told:
    goal = part.goal
    texts = captions.brief(goal)
    assert len(set(texts)) == len(texts) == 6
    named = sorted([*goal.subject, *(goal.other or ())])
    for text in texts:
      words = re.findall("[a-z]+", text)
      # "use a key on" and "turn the key in" name no key of the room.
      words = [w for w in words if w in WORDS and not (goal.verb == "unlock" and w == "key")]
      assert sorted(words) == named, text


def test_canonical_captions():
  assert captions.brief(Goal("pick up", ("red", "ball")))[0] == "pick up the red ball"
  assert captions.brief(Goal("put next to", ("red", "ball"), ("blue", "key")))[0] == \
      "put the red ball next to the blue key"
  assert captions.brief(Goal("open a box", ("grey", "box")))[0] == "open the grey box"


def test_roles_are_kept_in_every_wording():
  """In a wording of "put next to", what is put comes first, or both come after "next to"."""
  for text in captions.brief(Goal("put next to", ("red", "ball"), ("blue", "key"))):
    ball_first = text.index("ball") < text.index("key")
    assert ball_first != text.startswith("next to")


def tell(part):
  return captions.detailed(part.goal, read_scene(part.codes[0]), read_scene(part.codes[-1]))


def test_detailed_captions_are_four_and_name_the_things(told):
  for part, *_ in told:
    texts = tell(part)
    assert len(set(texts)) == len(texts) == 4
    for text in texts:
      assert f"the {' '.join(part.goal.subject)}" in text and "{" not in text
      assert not part.goal.other or f"the {' '.join(part.goal.other)}" in text


def test_what_is_carried_is_told_rightly(told):
  for part, before, after in told:
    carried = f"carrying the {' '.join(before.carrying)}" if before.carrying else "with an empty hand"
    for text in tell(part):
      assert text.count("carrying") + text.count("with an empty hand") == 1 and carried in text
      assert ("its hand is empty" in text) == (part.goal.verb in ("drop", "put next to"))
      assert ("it carries the" in text) == (part.goal.verb == "pick up")
    assert (after.carrying is None) == (part.goal.verb in ("drop", "put next to")
                                        or part.goal.verb != "pick up" and before.carrying is None)


def test_the_way_is_told_rightly(told):
  for part, before, after in told:
    for text in tell(part):
      route = re.search(r"walks from the (\w+ \w+) to the (\w+ \w+) part", text)
      spot = re.search(r"walks to another spot in the (\w+ \w+) part", text)
      turn = re.search(r"turns to face (\w+)", text)
      assert sum(map(bool, (route, spot, turn))) == 1
      start, end = part_of_room(before.agent), part_of_room(after.agent)
      if route:
        assert route.groups() == (start, end) and start != end
      elif spot:
        assert spot[1] == start == end and before.agent != after.agent
      else:
        assert before.agent == after.agent and before.direction != after.direction
        assert turn[1] == ("right", "down", "left", "up")[after.direction]


def test_the_place_is_told_rightly(told):
  for part, before, after in told:
    goal = part.goal
    state = after if goal.verb in ("drop", "put next to") else before
    for text in tell(part):
      text = re.sub(r"walks to another spot in the \w+ \w+ part", "", text)
      if goal.subject[1] == "door":
        assert f"in the {wall_of(state.doors[goal.subject[0]][0])} wall" in text
        continue
      x, y = cell = state.objects[goal.subject]
      place = re.search(r"in the (\w+ \w+) part(?: beside the (\w+ \w+)| by the (\w+) wall| (in the corner))?", text)
      assert place[1] == part_of_room(cell)
      walls = {side for side, at in (("left", x == 1), ("right", x == 6), ("upper", y == 1), ("lower", y == 6)) if at}
      near = state.beside(cell) - {goal.other}
      assert bool(place[2]) == bool(near) and (not near or tuple(place[2].split()) in near)
      if not near:
        assert ({place[3]} == walls if len(walls) == 1 else place[3] is None) and bool(place[4]) == (len(walls) == 2)


def test_the_end_is_told_rightly(told):
  seen = collections.Counter()
  for part, before, after in told:
    goal = part.goal
    for text in tell(part):
      if goal.subject[1] == "door" and goal.verb != "go to":
        assert text.endswith(f"the {goal.subject[0]} door is {after.doors[goal.subject[0]][1]}")
      if goal.verb == "open a box":
        found = before.contents.get(goal.subject)
        assert text.endswith(f"a {' '.join(found)} lies in its place" if found else "the box is gone without a trace")
        seen[found is not None] += 1
      if goal.verb == "unlock":
        assert f"uses the {goal.subject[0]} key" in text
  assert len(seen) == 2


@pytest.fixture(scope="module")
def asked(told):
  """(question, part, state after) for every question about every sub-goal."""
  rng = np.random.default_rng(0)
  return [(question, part, after) for part, _, after in told
          for question in questions.ask(part.goal, read_scene(part.codes[-1]), THINGS, rng)]


def test_every_question_is_well_formed(asked):
  assert {question.kind for question, *_ in asked} == set(questions.KINDS) and len(questions.KINDS) == 9
  for question, *_ in asked:
    assert question.candidates.count(question.answer) == 1
    assert len(set(question.candidates)) == len(question.candidates) > 1
    assert len(set(question.queries)) == len(question.queries) >= 3
    assert all(query and "{" not in query for query in question.queries)


def test_candidates_of_a_kind_are_fixed(asked):
  lists = collections.defaultdict(set)
  for question, *_ in asked:
    lists[question.kind].add(question.candidates)
  for kind, size in dict(action=8, colour=6, type=4, carrying=19, where=8, count=7).items():
    assert [len(candidates) for candidates in lists[kind]] == [size]
  for kind, size in dict(object=8, is_there=2, door_state=3).items():
    assert {len(candidates) for candidates in lists[kind]} == {size}


def test_answers_are_true(asked):
  for question, part, after in asked:
    subject, answer = part.goal.subject, question.answer
    name = " ".join(subject)
    match question.kind:
      case "action":
        verb = re.sub(r"\b(an|a|object|door|another)\b", "", answer).split()
        want = "open box" if part.goal.verb == "open a box" else part.goal.verb
        assert " ".join(verb) == want
      case "colour":
        assert answer == f"it is {subject[0]}"
      case "type":
        assert answer == f"a {subject[1]}"
      case "object":
        assert answer == f"the {name}"
        shown = {subject, *after.objects, *((colour, "door") for colour in after.doors)} | {after.carrying} - {None}
        shown = {f"the {' '.join(thing)}" for thing in shown}
        assert len(shown & {*question.candidates}) == min(8, len(shown))
      case "carrying":
        assert answer == f"the agent carries {'the ' + ' '.join(after.carrying) if after.carrying else 'nothing'}"
      case "where":
        cell = after.doors[subject[0]][0] if subject[1] == "door" else after.objects[subject]
        assert answer == (f"in the {wall_of(cell)} wall" if subject[1] == "door"
                          else f"in the {part_of_room(cell)} part of the room")
      case "count":
        number = len(after.objects)
        assert answer == f"{NUMBERS[number]} object{'' if number == 1 else 's'} on the floor"
      case "door_state":
        colour = re.search(r"the (\w+) door", question.queries[0])[1]
        assert answer == f"the {colour} door is {after.doors[colour][1]}"


def test_is_there_is_true_and_even(asked):
  answers = collections.defaultdict(list)
  for question, _, after in asked:
    if question.kind == "is_there":
      thing = tuple(re.search(r"is there a (\w+ \w+) in", question.queries[0])[1].split())
      there = thing in after.objects or thing[1] == "door" and thing[0] in after.doors
      name = " ".join(thing)
      assert question.answer == (f"yes, there is a {name}" if there else f"no, there is no {name}")
      assert thing != after.carrying
      answers[thing[1]].append(there)
  for values in answers.values():  # no type gives the answer away: within 4 standard deviations of a half
    assert abs(np.mean(values) - 0.5) < 2 / np.sqrt(len(values))


def test_where_is_asked_only_of_what_is_there(told, asked):
  have = {id(part) for question, part, _ in asked if question.kind == "where"}
  for part, _, after in told:
    there = part.goal.subject in after.objects or part.goal.subject[1] == "door"
    assert (id(part) in have) == there


def test_things_outside_the_pool_are_not_spoken_of():
  held_out = (("blue", "ball"), ("green", "box"), ("purple", "door"))
  pool = chain.pool_without(held_out)
  rng = np.random.default_rng(0)
  for verb in chain.VERBS:
    parts, wanted = chain.draw_parts(rng, pool, verb)
    text = str(questions.ask(parts[wanted].goal, read_scene(parts[wanted].codes[-1]), pool, rng))
    assert not any(f"{colour} {kind}" in text for colour, kind in held_out)
