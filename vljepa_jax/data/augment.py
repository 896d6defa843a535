"""Random changes of pictures in training: crop, mirror, colour."""

import dataclasses

import numpy as np
from PIL import Image

from vljepa_jax.data.image import fit_square, pad_square

MAX_ASPECT = 4 / 3  # of a crop
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


@dataclasses.dataclass(frozen=True)
class Augment:
  """How far training pictures and captions may stray from the originals; every share is a probability.

  Attributes:
    min_area: smallest share of the picture that a random crop keeps; 1 never crops.
    flip: share of mirrored pictures.
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


def view(image: np.ndarray, size: int, augment: Augment, seed: int, record: int, number: int) -> np.ndarray:
  """One of the fixed views of a picture that a feature cache holds.

  View 0 is the picture as in evaluation, view 1 its mirror, later ones are random; the same arguments always give
  the same pixels. Where `augment.flip` is 0 no view is mirrored, and view 1 is a random one as well.

  Args:
    image: (H, W, 3) uint8.
    size: side of the result.
    record: index of the picture in its data set.
    number: which view.

  Returns:
    (size, size, 3) uint8.
  """
  if number == 0:
    return fit_square(image, size)
  if number == 1 and augment.flip > 0:
    return fit_square(image, size)[:, ::-1].copy()
  return random_view(image, size, augment, np.random.default_rng((seed, record, number)))


def random_view(image: np.ndarray, size: int, augment: Augment, rng: np.random.Generator) -> np.ndarray:
  """A random crop of the picture, perhaps mirrored, its colours changed. (H, W, 3) -> (size, size, 3), uint8."""
  picture = random_crop(image, size, augment.min_area, rng)
  if rng.random() < augment.flip:
    picture = picture[:, ::-1]
  return jitter_colours(picture, augment.jitter, rng)


def random_crop(image: np.ndarray, size: int, min_area: float, rng: np.random.Generator) -> np.ndarray:
  """Cuts out `min_area`..1 of the picture's white square and scales it to (size, size, 3)."""
  if min_area == 1:
    return fit_square(image, size)
  square = pad_square(image)
  side = square.shape[0]
  area = rng.uniform(min_area, 1)
  # Sides may not leave the picture, so a crop near the whole of it is near square.
  limit = min(np.log(MAX_ASPECT), -np.log(area))
  stretch = np.exp(rng.uniform(-limit, limit) / 2)
  width, height = side * np.sqrt(area) * stretch, side * np.sqrt(area) / stretch
  left, top = rng.uniform(0, side - width), rng.uniform(0, side - height)
  box = (left, top, min(left + width, side), min(top + height, side))
  return np.array(Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC, box=box))


def jitter_colours(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
  """Scales brightness, contrast and saturation, each by 1 - amount .. 1 + amount. (H, W, 3) uint8, kept."""
  brightness, contrast, saturation = rng.uniform(1 - amount, 1 + amount, 3).astype(np.float32)
  pixels = image.astype(np.float32) * brightness
  mean = (pixels @ GREY_WEIGHTS).mean()
  pixels = mean + (pixels - mean) * contrast
  grey = (pixels @ GREY_WEIGHTS)[:, :, None]
  pixels = grey + (pixels - grey) * saturation
  return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
