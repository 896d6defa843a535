"""Streams: contiguous, repeatable, true."""

import itertools

import numpy as np
import pytest

from vljepa_jax.data import babyai
from vljepa_jax.data.babyai.scene import read_scene

EVENTS = 60


@pytest.fixture(scope="module")
def stream():
  return babyai.make_stream(7, 0, EVENTS)


def test_events_cover_the_stream_without_gaps(stream):
  assert len(stream.events) == EVENTS and stream.codes.dtype == np.uint8
  assert stream.events[0].start == 0 and stream.events[-1].end == len(stream.codes) - 1
  for event, after in itertools.pairwise(stream.events):
    assert event.start <= event.end and after.start == event.end + 1


def test_rooms_change_only_where_told(stream):
  """Within a room doors stay where they are and one or two cells and the hand change at a time."""
  for event in stream.events:
    for i in range(event.start, event.end + 1):
      if i == 0:
        continue
      changed = (stream.codes[i] != stream.codes[i - 1]).sum()
      if i == event.start and event.new_room:
        assert set(read_scene(stream.codes[i]).doors.values()) != set(read_scene(stream.codes[i - 1]).doors.values())
      else:
        assert 1 <= changed <= 2
  assert 3 <= sum(event.new_room for event in stream.events) < EVENTS / 2 and stream.events[0].new_room


def test_events_hold_at_their_end_and_not_before(stream):
  for event in stream.events:
    words = event.caption.split()
    subject = tuple(words[words.index("the") + 1 :][:2])
    before, after = (read_scene(stream.codes[i]) for i in (event.end - 1, event.end))
    action = babyai.ACTIONS[event.label]
    if action == "go to an object":
      assert after.cell(subject) == after.front != before.front
    elif action == "pick up an object":
      assert (before.carrying, after.carrying) == (None, subject)
    elif action.startswith(("drop", "put")):
      assert (before.carrying, after.carrying) == (subject, None) and after.objects[subject] == after.front
    elif action == "open a box":
      assert subject in before.objects and subject not in after.objects
    else:
      change = {"open a door": ("closed", "open"), "close a door": ("open", "closed"),
                "unlock a door": ("locked", "open")}[action]
      assert (before.doors[subject[0]][1], after.doors[subject[0]][1]) == change
    assert event.captions["brief"][0] == event.caption and len(event.captions["detailed"]) >= 3


def test_streams_repeat(stream):
  again = babyai.make_stream(7, 0, 10)
  assert again.events == stream.events[:10]
  np.testing.assert_array_equal(again.codes, stream.codes[: len(again.codes)])
  for other in (babyai.make_stream(7, 1, 10), babyai.make_stream(8, 0, 10)):
    assert [event.caption for event in other.events] != [event.caption for event in again.events]


def test_streams_read_in_turns_do_not_disturb_each_other(stream):
  both = zip(babyai.stream_frames(7, 0), babyai.stream_frames(7, 1))
  for i, ((frame, event), _) in zip(range(200), both):
    np.testing.assert_array_equal(frame, stream.codes[i])
    assert event.start <= i <= event.end


def test_streams_go_on():
  """Read frame by frame, for longer than any room lasts."""
  frames = itertools.islice(babyai.stream_frames(0, 0), 5000)
  rooms = {event.start for _, event in frames if event.new_room}
  assert len(rooms) > 50


def test_streams_have_every_action_and_no_held_out_pair(stream):
  long = babyai.make_stream(3, 0, 300)
  counts = np.bincount([event.label for event in long.events], minlength=8)
  assert counts.min() >= 5, counts
  held_out = [" ".join(pair) for pair in babyai.HELD_OUT_PAIRS]
  assert not any(pair in text for event in long.events for texts in event.captions.values() for text in texts
                 for pair in held_out)


def test_a_stream_needs_an_event():
  with pytest.raises(ValueError, match="at least one event, not 0"):
    babyai.make_stream(0, 0, 0)
