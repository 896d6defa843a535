"""Random changes of pictures in training: crop, mirror, colour."""

import dataclasses

import numpy as np

from vljepa_jax.data.preprocess import Preprocess

MAX_ASPECT = 4 / 3  # of a crop
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


@dataclasses.dataclass(frozen=True)
class Augment:
  """How far training pictures and captions may stray from the originals; every share is a probability.

  Attributes:
    min_area: smallest share of the picture that a random crop keeps; 1 never crops.
    flip: share of mirrored pictures, of those whose texts name no direction (`data/directions.py`).
    jitter: largest relative change of brightness, contrast and saturation.
    drop_keywords: share of captions that keep a random subset of their keywords.
    shuffle_keywords: share of captions whose keywords are shuffled.
    drop_title: share of captions told by keywords alone.
  """

  min_area: float
  flip: float
  jitter: float
  drop_keywords: float
  shuffle_keywords: float
  drop_title: float

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not 0 <= value <= 1:
        raise ValueError(f"augment.{field.name} must lie in 0..1, not {value}")
    if self.min_area == 0:
      raise ValueError("augment.min_area must be above 0; 1 never crops")


def random_view(image: np.ndarray, preprocess: Preprocess, augment: Augment, rng: np.random.Generator) -> np.ndarray:
  """A random crop of the picture, perhaps mirrored, its colours changed. (H, W, 3) -> (size, size, 3), uint8."""
  return _changed(random_crop(image, preprocess, augment.min_area, rng), augment, rng)


def random_clip(frames: np.ndarray, preprocess: Preprocess, augment: Augment, rng: np.random.Generator) -> np.ndarray:
  """The same for all frames: one crop, one mirror, one change of colours. (T, H, W, 3) -> (T, size, size, 3), uint8."""
  seed = rng.integers(2**63)
  crops = []
  for frame in frames:
    own = np.random.default_rng(seed)
    crops.append(random_crop(frame, preprocess, augment.min_area, own))
  return _changed(np.stack(crops), augment, own)


def _changed(crops: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
  if rng.random() < augment.flip:
    crops = crops[..., ::-1, :]
  return jitter_colours(crops, augment.jitter, rng)


def random_crop(image: np.ndarray, preprocess: Preprocess, min_area: float, rng: np.random.Generator) -> np.ndarray:
  """Cuts out `min_area`..1 of the canvas, the picture or its white square, and scales it to (size, size, 3).

  Of a canvas that is longer than `MAX_ASPECT` at most the largest part within this aspect is cut out.
  """
  if min_area == 1:
    return preprocess(image)
  canvas = preprocess.canvas(image)
  height, width = canvas.shape[:2]
  area = min(rng.uniform(min_area, 1) * height * width, MAX_ASPECT * min(height, width)**2)
  # Sides may not leave the canvas: a crop near the whole of it has near its aspect.
  low = max(-np.log(MAX_ASPECT), np.log(area / height**2))
  high = max(low, min(np.log(MAX_ASPECT), np.log(width**2 / area)))
  stretch = np.exp(rng.uniform(low, high) / 2)
  across, down = min(np.sqrt(area) * stretch, width), min(np.sqrt(area) / stretch, height)
  left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
  return preprocess.cut(canvas, (left, top, min(left + across, width), min(top + down, height)))


def jitter_colours(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
  """Scales brightness, contrast and saturation, each by 1 - amount .. 1 + amount. (..., H, W, 3) uint8, kept."""
  if amount == 0:
    return image
  brightness, contrast, saturation = rng.uniform(1 - amount, 1 + amount, 3).astype(np.float32)
  pixels = image.astype(np.float32) * brightness
  mean = (pixels @ GREY_WEIGHTS).mean()
  pixels = mean + (pixels - mean) * contrast
  grey = (pixels @ GREY_WEIGHTS)[..., None]
  pixels = grey + (pixels - grey) * saturation
  return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
