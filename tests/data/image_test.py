"""Pictures of every kind come out as plain RGB, or give one error that names them."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
from PIL import Image
import pytest

from vljepa_jax.data.image import ImageError, read_image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def two_halves(mode: str, left, right, size: int = 16) -> Image.Image:
  image = Image.new(mode, (2 * size, size), left)
  image.paste(right, (size, 0, 2 * size, size))
  return image


def assert_halves(pixels: np.ndarray, left, right, tolerance: int = 0):
  assert pixels.dtype == np.uint8 and pixels.shape == (16, 32, 3)
  np.testing.assert_allclose(pixels[2:-2, 2:14].astype(int), np.broadcast_to(left, (12, 12, 3)), atol=tolerance)
  np.testing.assert_allclose(pixels[2:-2, 18:30].astype(int), np.broadcast_to(right, (12, 12, 3)), atol=tolerance)


def png_header(width: int, height: int) -> bytes:
  """A tiny PNG that claims to be huge."""

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind, options, tolerance", [
    ("PNG", {}, 0), ("BMP", {}, 0), ("TIFF", {}, 0), ("PPM", {}, 0), ("WEBP", {"lossless": True}, 0),
    ("JPEG", {"quality": 95}, 6),
])
def test_common_formats(kind, options, tolerance):
  assert_halves(read_image(encode(two_halves("RGB", RED, BLUE), kind, **options)), RED, BLUE, tolerance)


def test_file_and_bytes_agree(tmp_path):
  path = tmp_path / "a.png"
  path.write_bytes(encode(two_halves("RGB", GREEN, BLUE)))
  np.testing.assert_array_equal(read_image(path), read_image(path.read_bytes()))
  np.testing.assert_array_equal(read_image(str(path)), read_image(path))


def test_cmyk_jpeg():
  data = encode(two_halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "JPEG", quality=95)
  assert Image.open(io.BytesIO(data)).mode == "CMYK"
  assert_halves(read_image(data), RED, BLUE, tolerance=12)


def test_grey_and_bilevel():
  assert_halves(read_image(encode(two_halves("L", 7, 200))), (7, 7, 7), (200, 200, 200))
  assert_halves(read_image(encode(two_halves("1", 0, 1))), BLACK, WHITE)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
  wide = np.linspace(0, 65535, 512).astype(np.uint16).reshape(16, 32)
  pixels = read_image(encode(Image.fromarray(wide), kind))
  np.testing.assert_array_equal(pixels, np.repeat(np.rint(wide / 257.0).astype(np.uint8)[..., None], 3, axis=2))


def test_16_bit_colour_is_scaled():
  rows = np.array([[[0, 0x8080, 0xFFFF]] * 4] * 4, ">u2")
  raw = b"".join(b"\0" + row.tobytes() for row in rows)

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
  data += chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
  np.testing.assert_array_equal(read_image(data), np.broadcast_to(np.array([0, 128, 255]), (4, 4, 3)))


def test_16_bit_transparent_grey_is_white():
  wide = np.full((16, 32), 1000, np.uint16)
  wide[:, 16:] = 30000
  data = encode(Image.fromarray(wide), transparency=1000)
  assert_halves(read_image(data), WHITE, (117, 117, 117))


def test_32_bit_is_refused():
  data = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
  with pytest.raises(ImageError, match="depth.tif has 32 bits a pixel"):
    read_image(data, "depth.tif")


def test_alpha_lies_on_white():
  assert_halves(read_image(encode(two_halves("RGBA", (255, 0, 0, 128), (0, 0, 255, 0)))), (255, 127, 127), WHITE)
  assert_halves(read_image(encode(two_halves("LA", (0, 255), (0, 0)))), BLACK, WHITE)


def test_palette_with_and_without_transparency():
  image = two_halves("P", 0, 1)
  image.putpalette([*RED, *BLUE])
  assert_halves(read_image(encode(image)), RED, BLUE)
  assert_halves(read_image(encode(image, transparency=1)), RED, WHITE)
  assert_halves(read_image(encode(image, transparency=bytes([127, 255]))), (255, 128, 128), BLUE)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind):
  frames = [two_halves("RGB", RED, BLUE), two_halves("RGB", GREEN, GREEN)]
  options = {"lossless": True} if kind == "WEBP" else {}
  data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
  assert Image.open(io.BytesIO(data)).n_frames == 2
  assert_halves(read_image(data), RED, BLUE)


@pytest.mark.parametrize("mode, colours, left, right", [
    ("RGB", (RED, BLUE), RED, BLUE), ("I;16", (0, 65535), BLACK, WHITE)])
def test_exif_orientation(mode, colours, left, right):
  exif = Image.Exif()
  exif[0x0112] = 8  # stored turned by 90 degrees clockwise: to be turned back
  upright = two_halves("I" if mode == "I;16" else mode, *colours)
  if mode == "I;16":
    upright = Image.fromarray(np.asarray(upright).astype(np.uint16))
  stored = upright.transpose(Image.Transpose.ROTATE_270)
  assert stored.size == (16, 32)
  assert_halves(read_image(encode(stored, exif=exif)), left, right)


def test_empty_missing_and_foreign_files(tmp_path):
  (tmp_path / "empty.png").write_bytes(b"")
  (tmp_path / "note.png").write_text("not a picture")
  with pytest.raises(ImageError, match=r"empty.png is empty \(0 bytes\)"):
    read_image(tmp_path / "empty.png")
  with pytest.raises(ImageError, match="note.png is not a picture of a known format"):
    read_image(tmp_path / "note.png")
  with pytest.raises(FileNotFoundError, match="there is no picture .*gone.png"):
    read_image(tmp_path / "gone.png")
  with pytest.raises(ImageError, match=f"{tmp_path.name} cannot be read"):
    read_image(tmp_path)


def test_postscript_is_refused():
  data = encode(two_halves("RGB", RED, BLUE), "EPS")
  with pytest.raises(ImageError, match="not a picture of a known format"):
    read_image(data)


@pytest.mark.parametrize("width, height", [(10_000, 10_000), (60_000, 60_000), (50_001, 1_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest undoes the module's own filter
def test_too_many_pixels(width, height):
  with pytest.raises(ImageError, match="huge.png has .*the limit is 50,000,000"):
    read_image(png_header(width, height), "huge.png")


def test_too_many_pixels_give_one_message(tmp_path):
  path = tmp_path / "huge.png"
  path.write_bytes(png_header(10_000, 10_000))
  code = "\n".join([
      "import sys", "from vljepa_jax.data import image",
      "try: image.read_image(sys.argv[1])", "except ValueError as error: print(error)"])
  done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
  assert done.stdout == f"{path} has 10000 x 10000 pixels; the limit is 50,000,000, so scale it down\n"
  assert done.stderr == ""


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged tags
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_damaged_data_is_an_image_error_or_a_picture(kind):
  rng = np.random.default_rng(0)
  whole = encode(Image.fromarray(rng.integers(0, 255, (24, 24, 3), np.uint8)), kind)
  with pytest.raises(ImageError, match="cut.img is damaged"):
    read_image(whole[: len(whole) * 2 // 3], "cut.img")
  refused = 0
  for _ in range(150):
    data = bytearray(whole)
    for place in rng.integers(0, len(data), 8):
      data[place] = rng.integers(256)
    try:
      assert read_image(bytes(data)).shape[2] == 3
    except ImageError as error:
      refused += 1
      assert str(error).startswith("picture ")
  assert refused
