"""From a picture of any size to the square that the model sees."""

from collections.abc import Callable
import dataclasses

import numpy as np
from PIL import Image

from vljepa_jax.data.image import WHITE

PAD_SQUARE = "pad_square"
# Pixels. What would be longer is not resized whole, which 1 x 100,000 pixels would not survive; its centre may differ
# from that of the whole by rounding.
LONGEST = 10_000

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclasses.dataclass(frozen=True)
class CentreCrop:
  """Resizing of the short side, and where the odd pixel goes when the centre is cut out.

  Attributes:
    short_side: side of the square -> length of the picture's short side before the cut.
    half: half of the margin -> whole pixels left of, or above, the cut.
  """

  short_side: Callable[[int], int]
  half: Callable[[float], int]


# As transformers' VJEPA2VideoProcessor and torchvision's Resize and CenterCrop do it, down to the odd pixel.
CENTRE_CROPS = {
    "vjepa2": CentreCrop(lambda size: int(size * 256 / 224), int),
    "imagenet": CentreCrop(lambda size: round(size / 0.875), round),
}
KINDS = (PAD_SQUARE, *CENTRE_CROPS)


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """How a picture becomes the square that the model sees; mean and standard deviation are the model's own affair.

  Attributes:
    kind: "pad_square" shows the whole picture in the middle of a white square. "vjepa2" and "imagenet" resize the
      short side to 8/7 of the square, rounded down or to the nearest, and cut the centre out.
    size: side of the square.
  """

  kind: str
  size: int

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f"there is no preprocessing {self.kind!r}; there are {', '.join(KINDS)}")

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """The picture as in evaluation and prediction. (H, W, 3) uint8 -> (size, size, 3) uint8."""
    if self.kind == PAD_SQUARE:
      return fit_square(image, self.size)
    crop = CENTRE_CROPS[self.kind]
    height, width = image.shape[:2]
    resized = [int(crop.short_side(self.size) * side / min(height, width)) for side in (width, height)]
    left, top = (crop.half((side - self.size) / 2) for side in resized)
    if max(resized) > LONGEST:
      across, down = width / resized[0], height / resized[1]
      return self.cut(image, (left * across, top * down, (left + self.size) * across, (top + self.size) * down))
    shown = Image.fromarray(image)
    if width >= height:
      # Of such a picture Pillow resizes rows first, then columns, and rounds between: those cut off need no resizing.
      shown = shown.resize((resized[0], height), Image.Resampling.BILINEAR).crop((left, 0, left + self.size, height))
      resized, left = [self.size, resized[1]], 0
    shown = shown.resize(resized, Image.Resampling.BILINEAR)
    return np.array(shown.crop((left, top, left + self.size, top + self.size)))

  def canvas(self, image: np.ndarray) -> np.ndarray:
    """What random crops are cut out of: the picture on its white square, or the picture alone. (H, W, 3), uint8."""
    return pad_square(image) if self.kind == PAD_SQUARE else image

  def cut(self, canvas: np.ndarray, box: Box) -> np.ndarray:
    """A part of the canvas, scaled to (size, size, 3) with antialiasing."""
    resample = Image.Resampling.BICUBIC if self.kind == PAD_SQUARE else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(canvas).resize((self.size, self.size), resample, box=box))


def fit_square(image: np.ndarray, size: int) -> np.ndarray:
  """The whole picture in the middle of a white square. (H, W, 3) uint8 -> (size, size, 3) uint8.

  Nothing is cut off, since a title tells of the whole drawing.
  """
  height, width = image.shape[:2]
  if (height, width) == (size, size):
    return image
  scale = size / max(height, width)
  fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
  small = Image.fromarray(image).resize(fitted, Image.Resampling.BICUBIC)
  return _centre(small, size)


def pad_square(image: np.ndarray) -> np.ndarray:
  """White margins along the short side: (H, W, 3) -> (S, S, 3) with S = max(H, W)."""
  height, width = image.shape[:2]
  return image if height == width else _centre(Image.fromarray(image), max(height, width))


def _centre(image: Image.Image, size: int) -> np.ndarray:
  canvas = Image.new("RGB", (size, size), WHITE)
  canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
  return np.array(canvas)
