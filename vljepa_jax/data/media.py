"""What the model sees of a picture or a clip: in training, in a cache of tokens, in evaluation."""

from collections.abc import Sequence
import concurrent.futures
import math
from typing import Any

import numpy as np

from vljepa_jax.data.augment import Augment, random_clip, random_view
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.sources import AnySource
from vljepa_jax.errors import MediaError, as_user_error

THREADS = 4  # that decode for evaluation


def training_frames(
    source: AnySource, index: int, count: int, preprocess: Preprocess, augment: Augment, rng: np.random.Generator
) -> np.ndarray:
  """Frames for training, (count, size, size, 3) uint8.

  Frames of a clip are cropped, mirrored and coloured alike; those of a picture are all the same.
  """
  frames = source.frames(index, count, rng)
  if len(frames) == 1:
    return np.repeat(random_view(frames[0], preprocess, augment, rng)[None], count, axis=0)
  return random_clip(frames, preprocess, augment, rng)


def cached_view(
    source: AnySource, index: int, number: int, count: int, preprocess: Preprocess, augment: Augment, seed: int
) -> np.ndarray:
  """One of the fixed views that a feature cache holds, (count, size, size, 3) uint8.

  View 0 is as in evaluation, view 1 its mirror, later ones are random; the same arguments always give the same pixels.
  Where `augment.flip` is 0 no view is mirrored, and view 1 is a random one as well.

  Args:
    index: of the record.
    number: which view.
    count: frames.
  """
  if number == 0 or (number == 1 and augment.flip > 0):
    frames = np.stack([preprocess(frame) for frame in source.frames(index, count)])
    frames = np.repeat(frames, count // len(frames), axis=0)
    return frames if number == 0 else frames[:, :, ::-1].copy()
  return training_frames(source, index, count, preprocess, augment, np.random.default_rng((seed, index, number)))


class EvaluationFrames:
  """Frames of a split as the model sees them in evaluation, decoded when they are asked for.

  It is indexed like an array (n, T, size, size, 3) uint8, by rows first, and gives arrays. T is `count` for clips and
  1 where nothing moves; a picture among clips is repeated. UserError names a record that cannot be read.

  Args:
    source: the split.
    count: frames of a clip.
    preprocess: what the model sees of a frame.
    indices: the records, or all.
  """

  dtype = np.dtype(np.uint8)
  ndim = 5

  def __init__(self, source: AnySource, count: int, preprocess: Preprocess, indices: Sequence[int] | None = None):
    self._source, self._preprocess = source, preprocess
    self._indices = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    length = count if source.media == "clip" else 1
    self.shape = (len(self._indices), length, preprocess.size, preprocess.size, 3)

  def __len__(self) -> int:
    return self.shape[0]

  @property
  def size(self) -> int:
    """Numbers in the whole array."""
    return math.prod(self.shape)

  def __getitem__(self, key: Any) -> np.ndarray:
    rows, *rest = key if isinstance(key, tuple) else (key,)
    chosen = self._indices[rows]
    if not chosen.ndim:
      return self._clip(chosen)[tuple(rest)]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:  # Pillow and PyAV let go of the interpreter
      clips = list(pool.map(self._clip, chosen))
    frames = np.stack(clips) if clips else np.zeros((0, *self.shape[1:]), np.uint8)
    return frames[(slice(None), *rest)]

  def _clip(self, index: int) -> np.ndarray:
    """One record, (T, size, size, 3) uint8."""
    length = self.shape[1]
    with as_user_error(MediaError):
      frames = np.stack([self._preprocess(frame) for frame in self._source.frames(int(index), length)])
    return frames if len(frames) == length else np.repeat(frames, length // len(frames), axis=0)
