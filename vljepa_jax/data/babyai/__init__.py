"""babyai: videos of an agent that carries out sub-goals in a room of MiniGrid, with captions, questions and answers.

A clip shows one sub-goal (go to, pick up, drop, put next to, open, close, unlock, open a box), cut out of a chain of
them; a stream is a chain of any length. Frames are stored as tile codes and rendered by one gather from an atlas that is
stored with them, so that reading needs no minigrid (`pip install minigrid`); generating does. The set is generated when
it is first asked for.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from vljepa_jax.data.babyai.questions import ACTIONS, KINDS, Question
from vljepa_jax.data.babyai.tiles import Thing, render, unpack
from vljepa_jax.errors import UserError

__all__ = [
    "ACTIONS", "ATLAS", "Clip", "Event", "HELD_OUT_PAIRS", "KINDS", "NAME", "Question", "SPLITS", "Stream", "VERSION",
    "data_source", "decode", "load_atlas", "make_stream", "render", "sample_frames", "stream_frames",
    "stream_parts"]

NAME = "babyai"
VERSION = "1.0.0"
ATLAS = "atlas.npy"
SPLITS = ("train", "validation", "test", "test_pairs")
# Never seen, spoken of or asked for but in the split test_pairs; between them, every action can be about one.
HELD_OUT_PAIRS: tuple[Thing, ...] = (("blue", "ball"), ("green", "box"), ("purple", "door"))

JITTER_OUT, JITTER_IN = 2, 1  # frames by which training moves the start and the end of a clip


@dataclasses.dataclass(frozen=True)
class Clip:
  """One sub-goal.

  Attributes:
    id: such as "train-00017".
    codes: (S, 8, 8) uint8 tile codes, up to 4 frames before and after the sub-goal included.
    start: the frame it starts from.
    end: the frame that first shows it done.
    label: index into `ACTIONS`.
    captions: "brief" and "detailed", each a tuple of wordings, the canonical one first.
    questions: one of every kind that makes sense, in the order of `KINDS`.
    subject: what is gone to, picked up, ..., such as ("red", "ball").
    other: what it is put next to, None for other actions.
  """

  id: str
  codes: np.ndarray
  start: int
  end: int
  label: int
  captions: dict[str, tuple[str, ...]]
  questions: tuple[Question, ...]
  subject: Thing
  other: Thing | None


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


def data_source(split: str, data_dir: str | os.PathLike | None = None) -> Sequence[dict]:
  """A split as a random-access sequence of raw records, for `decode`. Generates the data set if it is not there.

  Args:
    split: one of `SPLITS`.
    data_dir: TFDS's data folder, which holds babyai/1.0.0; None for TFDS's own, `~/tensorflow_datasets` or
      the environment's TFDS_DATA_DIR.

  Raises:
    UserError: no such split, or the set is not there and cannot be generated; the message says why.
  """
  if split not in SPLITS:
    raise UserError(f"{NAME} has no split {split!r}; it has {', '.join(SPLITS)}")
  import tensorflow_datasets as tfds  # takes a second; only those who read data pay for it

  return tfds.builder_from_directory(prepare(data_dir)).as_data_source(split)


def load_atlas(data_dir: str | os.PathLike | None = None) -> np.ndarray:
  """The atlas of tiles, (K, 8, 8, 3) uint8; arguments and errors as of `data_source`."""
  return np.load(prepare(data_dir) / ATLAS)


def prepare(data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """The folder of the data set, generated if it is not there; arguments and errors as of `data_source`."""
  if data_dir is None:
    import tensorflow_datasets as tfds

    data_dir = os.environ.get("TFDS_DATA_DIR", tfds.core.constants.DATA_DIR)
  folder = pathlib.Path(data_dir).expanduser() / NAME / VERSION
  if not (folder / "dataset_info.json").is_file():
    print(f"{NAME}: no data set in {folder}; generating it takes about a minute", flush=True)
    # In a process of its own: it starts workers, which a script without a main guard must not do.
    root = str(pathlib.Path(__file__).parents[3])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "vljepa_jax.data.babyai.build", f"--out={data_dir}"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
      raise UserError(f"{NAME} cannot be generated: {done.stderr.strip().splitlines()[-1]}")
  return folder


def decode(raw: dict) -> Clip:
  """Reads a raw record."""
  return Clip(
      id=raw["id"].decode(),
      codes=unpack(raw["codes"]),
      start=int(raw["start"]),
      end=int(raw["end"]),
      label=int(raw["label"]),
      captions={detail: tuple(texts) for detail, texts in json.loads(raw["captions"]).items()},
      questions=tuple(Question(kind, tuple(queries), answer, tuple(candidates))
                      for kind, queries, answer, candidates in json.loads(raw["questions"])),
      subject=_thing(raw["subject"]),
      other=_thing(raw["other"]),
  )


def _thing(text: bytes) -> Thing | None:
  return tuple(text.decode().split()) if text else None


def sample_frames(clip: Clip, frames: int, rng: np.random.Generator | None = None) -> np.ndarray:
  """Indices of frames of a clip, evenly spaced; some come twice where the clip is shorter.

  Args:
    frames: how many.
    rng: for training, moves start and end by up to 2 frames outwards or 1 inwards; None takes them as they are.

  Returns:
    (frames,) int, not decreasing; without rng the first is the clip's start and the last its end.
  """
  start, end = clip.start, clip.end
  if rng is not None:
    start = max(0, start + int(rng.integers(-JITTER_OUT, JITTER_IN + 1)))
    end = min(len(clip.codes) - 1, end + int(rng.integers(0, JITTER_OUT + 1)))
  if frames == 1:
    return np.array([end])
  return np.rint(np.linspace(start, end, frames)).astype(int)


def stream_parts(seed: int, index: int) -> Iterator[tuple[np.ndarray, Event]]:
  """An endless stream, event by event: their frames (n, 8, 8) uint8, and what they show. Needs minigrid.

  The same seed and index give the same stream, in rooms that no clip of the data set shows. Held-out pairs do not occur.
  """
  from vljepa_jax.data.babyai import chain

  return chain.stream(seed, index)


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
