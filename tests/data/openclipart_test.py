"""Tests of the embedded data set, as stored and as built."""

import io
import re

import numpy as np
from PIL import Image
import pytest

from vljepa_jax.data import openclipart
from vljepa_jax.data.openclipart import build, metadata

WORK = """<svg><metadata><rdf:RDF><cc:Work>
<dc:title>{title}</dc:title>
<dc:subject><rdf:Bag><rdf:li>animal</rdf:li><rdf:li>HASH(0x86459b4)</rdf:li></rdf:Bag></dc:subject>
<dc:creator><cc:Agent><dc:title>Jane Doe</dc:title></cc:Agent></dc:creator>
<cc:license rdf:resource="{license}"/></cc:Work></rdf:RDF></metadata></svg>"""
PUBLIC_DOMAIN = "http://web.resource.org/cc/PublicDomain"


@pytest.fixture(name="splits", scope="module")
def fixture_splits():
  return {split: list(openclipart.data_source(split)) for split in openclipart.SPLITS}


def make_package(root, pictures):
  """Writes pictures {id: (title, license, gray level)} as the Debian packages would."""
  for picture_id, (title, license_url, level) in pictures.items():
    svg = root / "svg" / f"{picture_id}.svg"
    png = root / "png" / f"{picture_id}.png"
    for path in (svg, png):
      path.parent.mkdir(parents=True, exist_ok=True)
    svg.write_text(WORK.format(title=title, license=license_url))
    Image.new("RGBA", (60, 40), (level, 0, 0, 255)).save(png)


def test_counts(splits):
  assert {split: len(records) for split, records in splits.items()} == {"train": 1836, "test": 563}
  assert len({record["caption"] for record in splits["test"]}) == 427


def test_splits_share_no_words_and_no_picture(splits):
  for field in ("caption", "title", "image", "id"):
    train, test = ({record[field] for record in splits[split]} for split in openclipart.SPLITS)
    assert not train & test, field


def test_images_are_small_rgb_squares_with_something_on_them(splits):
  for record in splits["train"] + splits["test"]:
    image = Image.open(io.BytesIO(record["image"]))
    assert (image.format, image.mode, image.size) == ("WEBP", "RGB", (128, 128))
    assert np.asarray(image).min() < 250


def test_every_class_has_pictures_to_train_on(splits):
  labels = np.array([record["label"] for record in splits["train"] + splits["test"]])
  counts = np.bincount(labels, minlength=len(openclipart.CLASSES))
  assert len(counts) == len(openclipart.CLASSES)
  assert counts.min() >= 19


def test_captions_follow_from_titles_and_keywords(splits):
  for record in splits["train"] + splits["test"]:
    title, keywords = record["title"].decode(), record["keywords"].decode().split("\n")
    assert record["caption"].decode() == openclipart.caption(title, keywords)
    assert re.fullmatch(r"[a-z0-9][a-z0-9' ()&+,:-]*", record["caption"].decode())


def test_random_access():
  source = openclipart.data_source("test")
  assert source[7]["id"] == list(source)[7]["id"]


def test_stored_files_are_small_and_name_no_machine():
  files = sorted(openclipart.PATH.iterdir())
  assert sum(file.stat().st_size for file in files) < 8e6
  assert sum("array_record" in file.name for file in files) == 2
  for file in files:
    if "array_record" not in file.name:
      assert not re.search(r"/(home|root|tmp|work|usr|mnt)\b|__main__|localhost", file.read_text()), file.name


def test_stored_labels_are_the_classes():
  names = (openclipart.PATH / "label.labels.txt").read_text().splitlines()
  assert tuple(names) == openclipart.CLASSES


@pytest.mark.parametrize("title, keywords, expected", [
    ("tabby cat", ["cat", "animal", "pet"], "tabby cat, animal, pet"),
    ("tabby cats", ["cat", "tabby cat"], "tabby cats"),
    ("bus", ["bu", "public transport", "transport"], "bus, bu, public transport"),
    ("x", list("abcdefgh"), "x, a, b, c, d, e, f"),
    ("dog", [""], "dog"),
])
def test_caption(title, keywords, expected):
  assert openclipart.caption(title, keywords) == expected


@pytest.mark.parametrize("title, expected", [
    ("Clipart by Nicu Buculei - beer", "beer"),
    ("RedCar", "red car"),
    ("pink_cake", "pink cake"),
    ("cat 01", "cat"),
    ("BlueMan#101", "blue man"),
    ("45 rpm record", "45 rpm record"),
    ("t-shirt", "t-shirt"),
    ("bass-guitar", "bass guitar"),
    ("Baseball (B and W)", "baseball in black and white"),
    ("glace_06_bw", "glace in black and white"),
    ("Violin (Colour)", "violin colour"),
    ("A teapot", "teapot"),
    ("Grampa'n Gramma", "grampa'n gramma"),
    ("large_braces.svg", "large braces"),
    ("ralf@ark.in-berlin.de", ""),
    ("What's Up, Doc?", "what's up, doc"),
])
def test_clean_title(title, expected):
  assert metadata.clean_title(title) == expected


@pytest.mark.parametrize("title, expected", [
    ("casa in campagna", False), ("casa con giardino", True), ("danger général", True), ("tabby cat", False)])
def test_is_foreign(title, expected):
  assert metadata.is_foreign(title) == expected


@pytest.mark.parametrize("title, expected", [("cat", True), ("", False), ("12", False), ("md", False), ("xbx", False)])
def test_is_title(title, expected):
  assert metadata.is_title(title) == expected


def test_clean_keywords():
  keywords = [
      "Ice_Cream", "HASH(0x8752194)", "hash", "", "2600", "jane doe", "http://a.org", "icecream", "folder symbol"]
  assert metadata.clean_keywords(keywords, ["Jane Doe"]) == ["ice cream"]


@pytest.mark.parametrize("author, expected", [
    ("Jane Doe", False), ("copyleft", True), ("Licence art libre", True), ("CC", True), ("Public Domain", False)])
def test_other_license(author, expected):
  assert bool(metadata.OTHER_LICENSE.search(author)) == expected


@pytest.mark.parametrize("stem, expected", [
    ("simple_h_q", "queen of hearts"), ("white_c_10", "10 of clubs"), ("simple_jk_b", None)])
def test_card_title(stem, expected):
  assert metadata.card_title(stem) == expected


@pytest.mark.parametrize("picture_id, expected", [
    ("animals/birds/crow", "bird"), ("animals/amphibian/frog", "animal"), ("shapes/stars/star", None),
    ("people/clothing/hats/hat", "clothing"), ("transportation/roadsigns/bambi", None)])
def test_folder_class(picture_id, expected):
  assert metadata.folder_class(picture_id) == expected


def test_reviews_name_known_classes():
  classes = {review.class_name for review in metadata.read_reviews().values()}
  assert classes - {""} <= set(openclipart.CLASSES)


def test_draw_fits_the_content_on_white(tmp_path):
  picture = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
  picture.paste((255, 0, 0, 255), (50, 100, 150, 150))
  picture.save(tmp_path / "a.png")
  pixels = build.draw(tmp_path / "a.png")
  assert pixels.shape == (128, 128, 3)
  np.testing.assert_array_equal(pixels[64, [0, 64, 127]], [[255, 0, 0]] * 3)
  np.testing.assert_array_equal(pixels[[10, 118], 64], [[255, 255, 255]] * 2)


def test_draw_drops_a_blank_picture(tmp_path):
  Image.new("RGBA", (200, 200), (0, 0, 0, 0)).save(tmp_path / "a.png")
  with pytest.raises(build.Dropped, match="blank"):
    build.draw(tmp_path / "a.png")


def test_groups_join_captions_titles_and_near_identical_pictures():
  red, blue = (np.full((128, 128, 3), 255, np.uint8) for _ in range(2))
  red[32:96, 32:96] = (200, 0, 0)
  blue[:, 64:] = (0, 0, 200)
  like_red = red.copy()
  like_red[32:34, 32:34] = 255
  words_and_pixels = [
      ("cat", "cat, animal", blue), ("cat in black and white", "cat in black and white", red), ("dog", "dog", like_red),
      ("cow", "cow", blue[:, ::-1])]
  records = [dict(title=title, caption=caption, pixels=pixels) for title, caption, pixels in words_and_pixels]
  groups = build.group_records(records)
  assert sorted([record["title"] for record in group] for group in groups) == [
      ["cat", "cat in black and white", "dog"], ["cow"]]


def test_build_is_repeatable_and_keeps_what_it_should(tmp_path, capsys):
  make_package(tmp_path, {
      "animals/cat": ("Cat", PUBLIC_DOMAIN, 10), "animals/dog": ("Dog", PUBLIC_DOMAIN, 90),
      "animals/copy_of_dog": ("Dog", PUBLIC_DOMAIN, 90), "animals/owned": ("Owned", "", 120),
      "animals/nameless": ("02", PUBLIC_DOMAIN, 150), "shapes/star": ("Star", PUBLIC_DOMAIN, 200)})
  for out in ("a", "b"):
    build.main([f"--png={tmp_path}", f"--svg={tmp_path}", f"--out={tmp_path / out}"])
  first, second = (sorted((tmp_path / out / "1.0.0").iterdir()) for out in ("a", "b"))
  assert [file.name for file in first] == [file.name for file in second]
  assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
  report = capsys.readouterr().out
  for line in ("same pixels as another: 1", "no public domain tag: 1", "title says nothing: 1", "icons or shapes: 1"):
    assert line in report


@pytest.mark.parametrize("make, message", [
    (lambda path: None, "does not exist"),
    (lambda path: path.mkdir(), "no animals"),
    (lambda path: path.write_text("x"), "not a Debian package|dpkg-deb is needed"),
])
def test_missing_input_is_one_clear_line(tmp_path, make, message):
  make(tmp_path / "input")
  with pytest.raises(SystemExit, match=message):
    build.main([f'--png={tmp_path / "input"}', f"--svg={tmp_path}", f"--out={tmp_path}"])
