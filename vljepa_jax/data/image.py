"""Reads pictures of any common kind into plain RGB, or says in one sentence why it cannot."""

from collections.abc import Iterator
import contextlib
import io
import os
import pathlib
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vljepa_jax.errors import MediaError

MAX_PIXELS = 50_000_000
WHITE = (255, 255, 255)

# Bitmap formats only: Pillow would hand EPS to Ghostscript, and others need programs that are not there.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")

# Names of files that hold pictures or animations; anything else is taken for a video.
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".ico", ".tga", ".jp2", ".avif")

# Formats whose wide grey pictures Pillow opens with values of 0..65535.
WIDE_GREY = {"PNG", "PPM"}

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS below is stricter


class ImageError(MediaError):
  """A picture that cannot be read."""


def read_image(source: str | os.PathLike | bytes, name: str | None = None) -> np.ndarray:
  """Decodes one picture.

  EXIF orientation is applied; alpha and transparent palette entries are laid on white; CMYK, grey and palette
  pictures become RGB; 16 bits a channel are scaled to 8; of an animation the first frame counts.

  Args:
    source: a file, or the encoded bytes.
    name: what error messages call it; the file's path by default.

  Returns:
    (H, W, 3) uint8.

  Raises:
    FileNotFoundError: there is no such file.
    ImageError: it is empty, damaged, larger than `MAX_PIXELS`, or of a kind that is not read.
  """
  if isinstance(source, bytes):
    name, data = name or "picture", source
  else:
    name, data = name or os.fspath(source), read_file(source)
  with opened_image(data, name) as image:
    return to_rgb(image, name)


@contextlib.contextmanager
def opened_image(data: bytes, name: str) -> Iterator[Image.Image]:
  """A picture to decode inside; whatever Pillow raises there becomes an ImageError, as `read_image` tells them."""
  if not data:
    raise ImageError(f"{name} is empty (0 bytes)")
  try:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
      _check_size(image.width, image.height, name)
      yield image
  except MediaError:
    raise
  except Image.DecompressionBombError as error:
    raise ImageError(f"{name} has too many pixels; the limit is {MAX_PIXELS:,}") from error
  except UnidentifiedImageError as error:
    raise ImageError(f"{name} is not a picture of a known format ({', '.join(FORMATS)})") from error
  except Exception as error:  # Pillow's decoders raise anything, from SyntaxError to struct.error, on damaged data
    raise ImageError(f"{name} is damaged and cannot be decoded ({error})") from error


def read_file(path: str | os.PathLike) -> bytes:
  """What a file holds; FileNotFoundError if there is none, ImageError if it cannot be read."""
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f"there is no picture {path}")
  try:
    return path.read_bytes()
  except OSError as error:
    raise ImageError(f"{path} cannot be read ({error.strerror})") from error


def _check_size(width: int, height: int, name: str) -> None:
  if width * height > MAX_PIXELS:
    raise ImageError(f"{name} has {width} x {height} pixels; the limit is {MAX_PIXELS:,}, so scale it down")


def to_rgb(image: Image.Image, name: str) -> np.ndarray:
  """The frame that an opened picture is at, (H, W, 3) uint8, as `read_image` tells."""
  wide_grey = image.format in WIDE_GREY
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith("I;16") or (image.mode == "I" and wide_grey):
    grey = _wide_grey(image)
    return np.repeat(grey[:, :, None], 3, axis=2)
  if image.mode in ("I", "F"):
    raise ImageError(f"{name} has 32 bits a pixel (mode {image.mode}); save it with 8 or 16")
  if image.has_transparency_data:
    rgba = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE + (255,)), rgba)
  return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _wide_grey(image: Image.Image) -> np.ndarray:
  """8-bit grey (H, W) of a 16-bit picture; Pillow's own conversion clips at 255 instead of scaling."""
  wide = np.asarray(image).astype(np.uint32)
  transparent = image.info.get("transparency")
  if transparent is not None:
    wide = np.where(wide == transparent, 65535, wide)
  return ((wide * 255 + 32767) // 65535).astype(np.uint8)
