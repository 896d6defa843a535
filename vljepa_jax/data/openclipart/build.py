"""Builds the openclipart data set from Debian's packages openclipart-png and openclipart-svg.

  apt-get download openclipart-png openclipart-svg
  python -m vljepa_jax.data.openclipart.build --png=openclipart-png_*.deb --svg=openclipart-svg_*.deb --out=DIR

writes DIR/1.0.0 in two or three minutes. The SVG of a picture holds its title, keywords and license, the PNG its
pixels; both have the same path. Two builds from the same packages write the same records in the same order.
"""

import argparse
import collections
from collections.abc import Iterator, Mapping, Sequence
import hashlib
import io
import itertools
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

from array_record.python.array_record_module import ArrayRecordWriter
import numpy as np
from PIL import Image, ImageOps
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from vljepa_jax.data import openclipart
from vljepa_jax.data.openclipart.metadata import (
    Dropped, Metadata, OTHER_LICENSE, Review, SIGNS, UNSORTED, clean_keywords, folder_class, read_metadata,
    read_reviews, review_title)

TEST_FRACTION = 0.2
FLAG_FRACTION = 0.3  # of the flags of members of the United Nations
MAX_SAME_CAPTION = 16
WEBP = dict(format="WEBP", quality=75, method=6)
MIN_INK = 0.01  # pictures with fewer pixels off white than this count as blank
MIN_SOURCE = 32  # pixels; what is smaller would be blurred
MAX_SOURCE = 1024
THUMBNAIL = 16  # side of the thumbnails that near-identical pictures are told by
MAX_DIFFERENCE = 0.16  # of the ink (distance from white) in the thumbnails of near-identical pictures

# Images are bytes, as the Image feature needs TensorFlow to encode them.
FEATURES = tfds.features.FeaturesDict({
    **{name: tfds.features.Text() for name in ("id", "image", "title", "keywords", "caption")},
    "label": tfds.features.ClassLabel(names=openclipart.CLASSES)})
FILENAME = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def main(argv: Sequence[str] | None = None) -> None:
  """The command: builds the data set of the packages that the flags name; exits with a line if one is not there."""
  warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # some maps have 168 million pixels
  parser = argparse.ArgumentParser(description="Builds the openclipart data set.")
  parser.add_argument("--png", required=True, help="openclipart-png: the .deb file or the folder it was extracted to")
  parser.add_argument("--svg", required=True, help="openclipart-svg: likewise")
  parser.add_argument("--out", required=True, help="folder to write 1.0.0 into")
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as scratch:
    png = find_pictures(args.png, "png", pathlib.Path(scratch))
    svg = find_pictures(args.svg, "svg", pathlib.Path(scratch))
    records, dropped = make_records(png, svg)
  splits, moved = split_records(records)
  write_dataset(splits, pathlib.Path(args.out))
  report(splits, dropped, moved)


def find_pictures(source: str, kind: str, scratch: pathlib.Path) -> pathlib.Path:
  """Returns the folder of pictures of a kind ('png' or 'svg') in a package, extracting a .deb file first."""
  folder = pathlib.Path(source)
  if not folder.exists():
    sys.exit(f"--{kind}: {source} does not exist; get it with: apt-get download openclipart-{kind}")
  if folder.is_file():
    if not shutil.which("dpkg-deb"):
      sys.exit(f"--{kind}: dpkg-deb is needed to extract {source}; or give the folder it was extracted to")
    target = scratch / kind
    if subprocess.run(["dpkg-deb", "-x", folder, target]).returncode:
      sys.exit(f"--{kind}: {source} is not a Debian package")
    folder = target
  for pictures in (folder / "usr/share/openclipart" / kind, folder / kind, folder):
    if any(pictures.glob(f"animals/*.{kind}")):
      return pictures
  sys.exit(f"--{kind}: no animals/*.{kind} under {source}; is it openclipart-{kind}?")


def make_records(png: pathlib.Path, svg: pathlib.Path) -> tuple[list[dict], collections.Counter]:
  """Returns the records in the order of their paths, and the number of pictures left out by reason."""
  reviews = read_reviews()
  records, seen = [], set()
  same_caption, dropped = collections.Counter(), collections.Counter()
  for path in sorted(svg.rglob("*.svg")):
    picture_id = path.relative_to(svg).with_suffix("").as_posix()
    try:
      record = make_record(picture_id, path, png / f"{picture_id}.png", reviews)
      if record["pixels"].tobytes() in seen:
        raise Dropped("same pixels as another")
      seen.add(record["pixels"].tobytes())
      same_caption[record["caption"]] += 1
      if same_caption[record["caption"]] > MAX_SAME_CAPTION:
        raise Dropped(f"more than {MAX_SAME_CAPTION} of the same caption")
      records.append(record)
    except Dropped as reason:
      dropped[str(reason)] += 1
  return records, dropped


def make_record(picture_id: str, svg: pathlib.Path, png: pathlib.Path, reviews: Mapping[str, Review]) -> dict:
  """Returns the record of one picture, with its 'pixels' and without its 'image'; raises Dropped."""
  class_name = folder_class(picture_id)
  if not class_name:
    raise Dropped("folder of symbols, icons or shapes")
  if svg.is_symlink() or not png.exists():
    raise Dropped("link to another picture")
  metadata = read_metadata(svg.read_text(encoding="utf-8", errors="replace"))
  if not metadata.public_domain:
    raise Dropped("no public domain tag")
  if any(OTHER_LICENSE.search(author) for author in metadata.authors):
    raise Dropped("names another license too")
  if SIGNS.match(metadata.title):
    raise Dropped("road or safety sign")
  if class_name == "flag" and not keep_flag(picture_id, metadata):
    raise Dropped("flag beyond a few")
  title, reviewed_class = review_title(picture_id, metadata, reviews)
  title = f"flag of {title}" if class_name == "flag" else title
  class_name = reviewed_class or class_name
  if class_name == UNSORTED:
    raise Dropped("unsorted folder, no class by review")
  pixels = draw(png)
  if np.mean(pixels.min(axis=-1) < 250) < MIN_INK:
    raise Dropped("blank or tiny")
  keywords = clean_keywords(metadata.keywords, metadata.authors)
  return {
      "id": picture_id,
      "pixels": pixels,
      "title": title,
      "keywords": "\n".join(keywords),
      "caption": openclipart.caption(title, keywords),
      "label": class_name,
  }


def keep_flag(picture_id: str, metadata: Metadata) -> bool:
  """Tells whether a flag is one of the few that are kept, at random but the same at each build."""
  return "united_nations_member" in metadata.keywords and hash_fraction(picture_id) < FLAG_FRACTION


def draw(path: pathlib.Path) -> np.ndarray:
  """Returns a PNG without its margins on a white square: (IMAGE_SIZE, IMAGE_SIZE, 3) uint8; raises Dropped if blank."""
  size = openclipart.IMAGE_SIZE
  with Image.open(path) as png:
    picture = png.convert("RGBA")
  picture = picture.reduce(max(1, max(picture.size) // MAX_SOURCE))
  picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
  box = ink_box(picture)
  if not box or max(box[2] - box[0], box[3] - box[1]) < MIN_SOURCE:
    raise Dropped("blank or tiny")
  picture = ImageOps.contain(picture.crop(box), (size, size), Image.Resampling.LANCZOS)
  square = ImageOps.pad(picture, (size, size), color="white")
  return np.asarray(square)


def ink_box(picture: Image.Image) -> tuple[int, int, int, int] | None:
  """Returns the smallest box around all that is not near white, None if there is nothing."""
  darkness = ImageOps.invert(picture.convert("L"))
  return darkness.point(lambda level: 255 * (level > 8)).getbbox()


def encode(pixels: np.ndarray) -> bytes:
  """Returns pixels as WebP."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, **WEBP)
  return buffer.getvalue()


def split_records(records: Sequence[dict]) -> tuple[dict[str, list[dict]], int]:
  """Splits records by a hash of their caption, and counts those that follow another's.

  Pictures of one caption, of one title or near-identical ones form a group, which goes where the hash of its smallest
  caption says: no test caption is trained on. Copies in very different colors, or mirrored, may lie on both sides.

  Returns:
    {'train': [...], 'test': [...]} and the number of records that their own caption would have sent elsewhere.
  """
  splits, moved = {split: [] for split in openclipart.SPLITS}, 0
  for group in group_records(records):
    split = caption_split(min(record["caption"] for record in group))
    splits[split].extend(group)
    moved += sum(caption_split(record["caption"]) != split for record in group)
  return splits, moved


def caption_split(caption: str) -> str:
  """Returns the split of a caption, 'train' or 'test', by its hash alone: the same at each build."""
  return "test" if hash_fraction(caption) < TEST_FRACTION else "train"


def hash_fraction(text: str) -> float:
  """Returns a number in [0, 1) that depends on the text alone."""
  return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def group_records(records: Sequence[dict]) -> list[list[dict]]:
  """Returns lists of records that must stay together: connected by caption, title or near-identical pixels."""
  parent = list(range(len(records)))

  def find(i):
    while parent[i] != i:
      parent[i] = i = parent[parent[i]]
    return i

  for a, b in itertools.chain(same_words(records), near_identical(records)):
    parent[find(a)] = find(b)
  groups = collections.defaultdict(list)
  for i, record in enumerate(records):
    groups[find(i)].append(record)
  return list(groups.values())


def same_words(records: Sequence[dict]) -> Iterator[tuple[int, int]]:
  """Yields pairs of indices of records with the same caption, or the same title but for 'in black and white'."""
  first = {}
  for i, record in enumerate(records):
    for words in (record["caption"], record["title"].removesuffix(" in black and white")):
      yield i, first.setdefault(words, i)


def near_identical(records: Sequence[dict]) -> list[list[int]]:
  """Returns pairs of indices of records whose thumbnails differ by little of the ink they hold."""
  side = openclipart.IMAGE_SIZE // THUMBNAIL
  pixels = np.stack([record["pixels"] for record in records]).astype(np.float32)
  ink = 255 - pixels.reshape(-1, THUMBNAIL, side, THUMBNAIL, side, 3).mean(axis=(2, 4))
  ink = ink.reshape(len(records), -1)
  square = np.sum(ink**2, axis=1)
  difference = square[:, None] + square - 2 * ink @ ink.T
  near = difference < MAX_DIFFERENCE**2 * np.maximum(square[:, None], square)
  return np.argwhere(np.triu(near, 1)).tolist()


def write_dataset(splits: Mapping[str, list[dict]], out: pathlib.Path) -> None:
  """Writes splits to out/1.0.0 as a TFDS data set of one ArrayRecord file each, replacing what is there."""
  folder = out / openclipart.PATH.name
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  infos = [write_split(split, records, folder) for split, records in splits.items()]
  tfds.folder_dataset.write_metadata(
      data_dir=folder, features=FEATURES, split_infos=infos, filename_template=FILENAME, check_data=False,
      homepage="https://openclipart.org",
      description="Public domain pictures of the Open Clip Art Library 0.18, 128 x 128, with captions. See NOTICE.")


def write_split(split: str, records: Sequence[dict], folder: pathlib.Path) -> tfds.core.SplitInfo:
  """Writes the records of a split, in an order that mixes the folders and is the same at each build."""
  template = tfds.core.ShardedFileTemplate(
      data_dir=folder, dataset_name="openclipart", split=split, filetype_suffix="array_record", template=FILENAME)
  writer = ArrayRecordWriter(str(template.sharded_filepath(shard_index=0, num_shards=1)), "group_size:1")
  examples = [serialize(record) for record in sorted(records, key=lambda record: hash_fraction(record["id"]))]
  for example in examples:
    writer.write(example)
  writer.close()
  return tfds.core.SplitInfo(
      name=split, shard_lengths=[len(examples)], num_bytes=sum(map(len, examples)), filename_template=template)


def serialize(record: dict) -> bytes:
  """Returns a record as a tf.train.Example whose fields are in one order, which TFDS's own writer leaves open."""
  features = {name: value for name, value in record.items() if name != "pixels"}
  example = FEATURES.encode_example({**features, "image": encode(record["pixels"])})
  serializer = ExampleSerializer(FEATURES.get_serialized_info())
  return serializer.get_tf_example(example).SerializeToString(deterministic=True)


def report(splits: Mapping[str, list[dict]], dropped: collections.Counter, moved: int) -> None:
  """Prints counts by split, class and reason to drop."""
  for split, records in splits.items():
    captions = len({record["caption"] for record in records})
    print(f"{split}: {len(records)} pictures, {captions} captions")
  counts = {split: collections.Counter(r["label"] for r in records) for split, records in splits.items()}
  for name in openclipart.CLASSES:
    print(f"  {name}: " + ", ".join(f"{counts[split][name]} {split}" for split in splits))
  print(f"moved to the split of a like picture: {moved}")
  for reason, count in dropped.most_common():
    print(f"dropped, {reason}: {count}")


if __name__ == "__main__":
  main()
