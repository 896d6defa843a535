"""What the model sees of a picture or a clip: in training, in a cache of tokens, in evaluation."""

from collections.abc import Sequence

import numpy as np

from vljepa_jax.data.augment import Augment, random_view
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.sources import AnySource


def training_frames(
    source: AnySource, index: int, count: int, preprocess: Preprocess, augment: Augment, rng: np.random.Generator
) -> np.ndarray:
  """Frames for training, (count, size, size, 3) uint8.

  Frames of a clip are cropped, mirrored and coloured alike; those of a picture are all the same.
  """
  frames = source.frames(index, count, rng)
  if len(frames) == 1:
    return np.repeat(random_view(frames[0], preprocess, augment, rng)[None], count, axis=0)
  seed = rng.integers(2**63)
  return np.stack([random_view(frame, preprocess, augment, np.random.default_rng(seed)) for frame in frames])


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


def evaluation_frames(
    source: AnySource, count: int, preprocess: Preprocess, indices: Sequence[int] | None = None
) -> np.ndarray:
  """All of a split, or some records of it, (n, T, size, size, 3) uint8; T is `count` for clips and 1 for pictures."""
  indices = range(len(source)) if indices is None else indices
  return np.stack([np.stack([preprocess(frame) for frame in source.frames(i, count)]) for i in indices])
