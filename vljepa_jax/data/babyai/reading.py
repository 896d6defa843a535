"""Clips of the babyai data set: generated when first asked for, read, sampled. No minigrid is needed to read."""

from collections.abc import Hashable, Sequence
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from vljepa_jax.data.babyai.tiles import Thing, require_minigrid, unpack
from vljepa_jax.data.clips import ClipQuestion
from vljepa_jax.data.tfds_records import Records
from vljepa_jax.errors import UserError

NAME = "babyai"
VERSION = "1.0.0"
ATLAS = "atlas.npy"
SPLITS = ("train", "validation", "test", "test_pairs")
# Never seen, spoken of or asked for but in the split test_pairs; between them, every action can be about one.
HELD_OUT_PAIRS: tuple[Thing, ...] = (("blue", "ball"), ("green", "box"), ("purple", "door"))

BUILD = ("-m", "vljepa_jax.data.babyai.build")
WINDOWS = 0.5  # share of training views that are windows of consecutive frames, the others span the sub-goal
JITTER_OUT, JITTER_IN = 2, 1  # frames by which training moves start and end


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
  questions: tuple[ClipQuestion, ...]
  subject: Thing
  other: Thing | None


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

  return Records(tfds.builder_from_directory(prepare(data_dir)), split)


def load_atlas(data_dir: str | os.PathLike | None = None) -> np.ndarray:
  """The atlas of tiles, (K, 8, 8, 3) uint8; arguments and errors as of `data_source`."""
  return np.load(prepare(data_dir) / ATLAS)


def prepare(data_dir: str | os.PathLike | None = None) -> pathlib.Path:
  """The folder of the data set, generated if it is not there; arguments and errors as of `data_source`."""
  folder = set_folder(data_dir)
  if not _is_there(folder):
    require_minigrid()
    print(f"{NAME}: there is no data set in {folder}; generating it takes about a minute", file=sys.stderr, flush=True)
    # In a process of its own: it starts workers, which a script without a main guard must not do.
    paths = [str(pathlib.Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, *BUILD, f"--out={folder.parents[1]}"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True)
    if done.returncode and not _is_there(folder):  # it may be there by another process that began earlier
      raise UserError(f"{NAME} cannot be generated: {done.stderr.strip().splitlines()[-1]}")
  return folder


def set_folder(data_dir: str | os.PathLike | None) -> pathlib.Path:
  """Where the data set is or will be, for a `data_dir` as of `data_source`."""
  if data_dir is None:
    import tensorflow_datasets as tfds  # takes a second

    data_dir = os.environ.get("TFDS_DATA_DIR", tfds.core.constants.DATA_DIR)
  return pathlib.Path(data_dir).expanduser() / NAME / VERSION


def _is_there(folder: pathlib.Path) -> bool:
  return (folder / "dataset_info.json").is_file()


def decode(raw: dict) -> Clip:
  """Reads a raw record."""
  return Clip(
      id=raw["id"].decode(),
      codes=unpack(raw["codes"]),
      start=int(raw["start"]),
      end=int(raw["end"]),
      label=int(raw["label"]),
      captions={detail: _shared(tuple(texts)) for detail, texts in json.loads(raw["captions"]).items()},
      questions=tuple(_shared(ClipQuestion(kind, _shared(tuple(queries)), answer, _shared(tuple(candidates))))
                      for kind, queries, answer, candidates in json.loads(raw["questions"])),
      subject=_thing(raw["subject"]),
      other=_thing(raw["other"]),
  )


@functools.lru_cache(maxsize=100_000)
def _shared(value: Hashable) -> Hashable:
  """One object for equal values: many clips have the same texts, and processes that load data get all of them."""
  return value


def _thing(text: bytes) -> Thing | None:
  return tuple(text.decode().split()) if text else None


def sample_frames(clip: Clip, frames: int, rng: np.random.Generator | None = None) -> np.ndarray:
  """Indices of frames of a clip, evenly spaced; some come twice where the clip is shorter.

  Args:
    frames: how many.
    rng: for training, moves start and end by up to 2 frames outwards, or the start by 1 inwards; None takes them as
      they are.

  Returns:
    (frames,) int, not decreasing; the first is the start and the last the end; of one frame, it is the end.
  """
  if frames < 1:
    raise ValueError(f"a clip is sampled at one frame or more, not {frames}")
  start, end = clip.start, clip.end
  if rng is not None:
    start = max(0, start + int(rng.integers(-JITTER_OUT, JITTER_IN + 1)))
    end = min(len(clip.codes) - 1, end + int(rng.integers(0, JITTER_OUT + 1)))
  if frames == 1:
    return np.array([end])
  return np.rint(np.linspace(start, end, frames)).astype(int)


def window_frames(clip: Clip, frames: int, rng: np.random.Generator) -> np.ndarray:
  """Indices of consecutive frames, as a window that slides over a stream holds them.

  The sub-goal is done in the second half of the window, whose other frames may be of its neighbours.

  Args:
    frames: how many.
    rng: places the window.

  Returns:
    (frames,) int, not decreasing; the first or last frame comes again where the clip ends.
  """
  first = clip.end - int(rng.integers(frames // 2, frames))
  return np.clip(np.arange(first, first + frames), 0, len(clip.codes) - 1)
