import json
import re

import numpy as np
import pytest

from vljepa_jax.tasks import paraphrase

CAPTIONS = ("tabby cat, animal, pet, fur", "tabby cat, animal, pet, fur", "a dog", "red car, wheels", "of the")
TITLES = ("tabby cat", "tabby cat", "a dog", "red car", "of the")
LABELS = (0, 0, 0, 1, 0)


def words(text):
  return re.findall(r"\w+", text)


def test_triplets_reword_everything_and_change_one_word():
  triplets = {t.caption: t for t in paraphrase.make_triplets(CAPTIONS, TITLES, LABELS, seed=0)}
  # One each; the car is alone in its class and "of the" has no content word.
  assert set(triplets) == {"tabby cat, animal, pet, fur", "a dog"}
  cat = triplets["tabby cat, animal, pet, fur"]
  assert cat.reworded.startswith("a picture of tabby cat, ")
  assert sorted(words(cat.reworded)) == sorted(words("a picture of " + cat.caption))
  assert cat.reworded != "a picture of " + cat.caption
  different = [(a, b) for a, b in zip(words(cat.caption), words(cat.changed), strict=True) if a != b]
  assert len(different) == 1 and different[0][1] == "dog"
  assert triplets["a dog"].changed.removeprefix("a ") in {"tabby", "cat", "animal", "pet", "fur"}


@pytest.mark.parametrize("seed", range(20))
def test_keyword_order_always_changes(seed):
  triplets = paraphrase.make_triplets(("cat, a1, b1", "dog, pet"), ("cat", "dog"), (0, 0), seed)
  assert triplets[0].reworded == "a picture of cat, b1, a1"


def test_same_seed_same_triplets():
  make = lambda seed: paraphrase.make_triplets(CAPTIONS, TITLES, LABELS, seed)
  assert make(3) == make(3)
  assert len({make(seed) for seed in range(8)}) > 1


def test_a_plural_is_not_another_word():
  assert not paraphrase.make_triplets(("cat", "cats"), ("cat", "cats"), (0, 0), seed=0)


def test_both_comparisons_must_hold():
  triplets = (paraphrase.Triplet("p1", "p2", "n"),) * 3
  assert paraphrase.triplet_texts(triplets) == ["p1"] * 3 + ["p2"] * 3 + ["n"] * 3
  a, b, near_a = [1, 0], [0, 1], [0.8, 0.6]
  embed = np.array([a, a, near_a, near_a, near_a, a, b, a, b], np.float32)
  # sim(p1, p2), sim(p1, n), sim(p2, n): (.8, 0, .6) counts, (.8, 1, .8) and (.8, .6, 0) by hand below
  numbers, details = paraphrase.score(embed, triplets)
  np.testing.assert_allclose(details.same, [0.8, 0.8, 0.8])
  np.testing.assert_allclose(details.caption_changed, [0, 1, 0.6])
  np.testing.assert_allclose(details.reworded_changed, [0.6, 0.8, 0], atol=1e-6)
  np.testing.assert_array_equal(details.correct, [True, False, True])
  assert numbers == {"accuracy": pytest.approx(2 / 3), "chance": pytest.approx(1 / 3), "triplets": 3}


def test_collapsed_encoder_scores_zero():
  numbers, _ = paraphrase.score(np.ones((3, 2)), (paraphrase.Triplet("p1", "p2", "n"),))
  assert numbers["accuracy"] == 0


def test_no_triplets():
  with pytest.raises(ValueError, match="no triplets"):
    paraphrase.score(np.zeros((0, 2)), ())


def unit(*angles):
  """Unit vectors at angles in degrees, (n, 2)."""
  return np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1)


def test_kinds_count_alike_whatever_their_size():
  triplets = [("a", "b", "c", "swap"), ("d", "e", "f", "replace"), ("g", "h", "i", "swap"), ("j", "k", "l", "swap")]
  # p1 at 0, p2, n: near and far; n nearer to p1; n nearer to p2; near and far
  embed = np.concatenate([unit(0, 0, 0, 0), unit(10, 30, 30, 10), unit(90, -20, 40, -90)])
  assert paraphrase.score_kinds(embed, triplets) == {
      "macro": pytest.approx((2 / 3 + 0) / 2), "micro": 0.5, "chance": pytest.approx(1 / 3), "triplets": 4,
      "kinds": {"swap": {"accuracy": pytest.approx(2 / 3), "triplets": 3}, "replace": {"accuracy": 0, "triplets": 1}}}


def test_blank_negatives_are_told():
  triplets = [("a", "b", " ", "spatial"), ("d", "e", "f", "spatial"), ("g", "h", "i", "generic")]
  embed = np.concatenate([unit(0, 0, 0), unit(10, 30, 10), unit(90, -20, 90)])
  assert paraphrase.score_kinds(embed, triplets)["kinds"] == {
      "spatial": {"accuracy": 0.5, "triplets": 2, "blank_negatives": 1, "accuracy_without_blank": 0},
      "generic": {"accuracy": 1, "triplets": 1}}


ITEM = {"id": 0, "filename": "0.jpg", "caption": "A cat sits.", "caption2": "There sits a cat.",
        "negative_caption": "A dog sits."}
VISLA_TEXTS = {
    "Generic_VISLA.tsv": "filename\tcaption\tsecond positive\tnegative_caption\r\n"
                         '0.jpg\tA "Pub" sign.\tA sign: "Pub".\tA "Bar" sign.\r\n1.jpg\té\x85\tb\tc',
    "Spatial_VISLA.tsv": "image\tsent1\tsent2\tBest reference (Semantically close)\tReference-2\r\n"
                         "0.jpg\tIn.\tWithin.\tOutside.\tThe oven.\r\n1.jpg\tOn.\tAtop.\t\t\r\n",
}


@pytest.fixture
def sugarcrepe(tmp_path):
  for kind in paraphrase.SUGARCREPE:
    (tmp_path / f"{kind}.json").write_text(json.dumps([ITEM, ITEM | {"caption": kind}]))
  return tmp_path


@pytest.fixture
def visla(tmp_path):
  for name, text in VISLA_TEXTS.items():
    (tmp_path / name).write_bytes(text.encode())
  return tmp_path


def test_reading_sugarcrepe(sugarcrepe):
  triplets = paraphrase.read_sugarcrepe(sugarcrepe)
  assert triplets[0] == ("A cat sits.", "There sits a cat.", "A dog sits.", "replace_att")
  assert [t[3] for t in triplets[::2]] == ["replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"]
  assert triplets[-1][0] == "swap_obj" and len(triplets) == 10
  assert paraphrase.triplet_texts(paraphrase.without_kinds(triplets[:1])) == [
      "A cat sits.", "There sits a cat.", "A dog sits."]


def test_reading_visla(visla):
  assert paraphrase.read_visla(str(visla)) == [
      ('A "Pub" sign.', 'A sign: "Pub".', 'A "Bar" sign.', "generic"), ("é\x85", "b", "c", "generic"),
      ("In.", "Within.", "Outside.", "spatial"), ("On.", "Atop.", "", "spatial")]


@pytest.mark.parametrize("content, message", [
    (None, "there is no .*swap_att.json; give the folder of SugarCrepe"),
    ("{", "swap_att.json is not JSON"),
    (json.dumps({"0": ITEM}), "swap_att.json must hold a list of objects with the fields caption, caption2, neg"),
    ("[]", "swap_att.json holds no triplets"),
    (json.dumps([ITEM, {k: v for k, v in ITEM.items() if k != "caption2"}]),
     "swap_att.json, triplet 2: the text 'caption2' is missing or empty"),
    (json.dumps([ITEM | {"negative_caption": " "}]), "triplet 1: the text 'negative_caption' is missing or empty"),
    (json.dumps([ITEM | {"caption": 3}]), "triplet 1: the text 'caption' is missing or empty"),
])
def test_what_is_wrong_with_sugarcrepe_is_named(sugarcrepe, content, message):
  path = sugarcrepe / "swap_att.json"
  path.unlink() if content is None else path.write_text(content)
  with pytest.raises((OSError, ValueError), match=message):
    paraphrase.read_sugarcrepe(sugarcrepe)


@pytest.mark.parametrize("content, message", [
    (None, "there is no .*Spatial_VISLA.tsv; give the folder of VISLA"),
    (b"\xff", "Spatial_VISLA.tsv is not UTF-8 text"),
    (b"image\tsent1\n", "Spatial_VISLA.tsv holds no triplets"),
    (b"image\tsent1\tsentence2\n0.jpg\tIn.\tWithin.", "triplet 1: the text 'sent2' is missing or empty"),
    (VISLA_TEXTS["Spatial_VISLA.tsv"].replace("Within.", "").encode(), "triplet 1: the text 'sent2' is missing or e"),
    (VISLA_TEXTS["Spatial_VISLA.tsv"].replace("\t\t", "").encode(), "triplet 2: the text 'Best reference .* missing"),
])
def test_what_is_wrong_with_visla_is_named(visla, content, message):
  path = visla / "Spatial_VISLA.tsv"
  path.unlink() if content is None else path.write_bytes(content)
  with pytest.raises((OSError, ValueError), match=message):
    paraphrase.read_visla(visla)
