"""Streams of sub-goals, of any length. They are generated as they are read, which needs minigrid."""

from collections.abc import Iterator
import dataclasses

import numpy as np

from vljepa_jax.data.babyai.planner import VERBS
from vljepa_jax.data.babyai.reading import HELD_OUT_PAIRS
from vljepa_jax.data.babyai.tiles import require_minigrid

STREAMS = 99  # keeps the seeds of streams apart from those of splits


@dataclasses.dataclass(frozen=True)
class Event:
  """A sub-goal of a stream.

  Attributes:
    start, end: its first and last frame, both included; the next event starts at end + 1.
    caption: canonical brief caption.
    captions: as of a `Clip`.
    label: index into `ACTIONS`.
    new_room: whether it starts with the first frame of another room.
  """

  start: int
  end: int
  caption: str
  captions: dict[str, tuple[str, ...]]
  label: int
  new_room: bool


@dataclasses.dataclass(frozen=True)
class Stream:
  """Frames (S, 8, 8) uint8 as tile codes, and the events that they are made of, one after the other without gaps."""

  codes: np.ndarray
  events: tuple[Event, ...]


def stream_parts(seed: int, index: int) -> Iterator[tuple[np.ndarray, Event]]:
  """An endless stream, event by event: their frames (n, 8, 8) uint8, and what they show. Needs minigrid.

  The same seed and index give the same stream; no seed shares its draws with a clip of the data set. Held-out pairs do
  not occur.
  """
  require_minigrid()
  from vljepa_jax.data.babyai import chain

  at = 0
  for part, new in chain.endless(np.random.default_rng((seed, STREAMS, index)), chain.pool_without(HELD_OUT_PAIRS)):
    codes = part.codes if new else part.codes[1:]
    texts = chain.make_texts(part)
    end = at + len(codes) - 1
    yield codes, Event(at, end, texts["brief"][0], texts, VERBS.index(part.goal.verb), new)
    at = end + 1


def stream_frames(seed: int, index: int) -> Iterator[tuple[np.ndarray, Event]]:
  """An endless stream, frame by frame: codes (8, 8) uint8, and the event that the frame is part of."""
  for codes, event in stream_parts(seed, index):
    for frame in codes:
      yield frame, event


def make_stream(seed: int, index: int, events: int) -> Stream:
  """The first events of the stream that `stream_parts` gives."""
  if events < 1:
    raise ValueError(f"a stream needs at least one event, not {events}")
  parts = [part for part, _ in zip(stream_parts(seed, index), range(events))]
  return Stream(np.concatenate([codes for codes, _ in parts]), tuple(event for _, event in parts))
