"""Titles, keywords and classes of the pictures, from their SVG files and their paths."""

from collections.abc import Iterable, Mapping
import dataclasses
import html
import pathlib
import re

REVIEWS = pathlib.Path(__file__).parent / "titles.tsv"

# Folder -> class; the longest prefix of a picture's path wins, None drops the folder. Dropped are icons, signs, logos
# and drawings of no thing. Of an unsorted folder only the pictures are kept that titles.tsv gives a class.
UNSORTED = "unsorted"
FOLDERS = {
    "animals": "animal",
    "animals/birds": "bird",
    "animals/bugs": "insect",
    "animals/mammals": "mammal",
    "buildings": "building",
    "buildings/furniture": "household",
    "buildings/homes": "home",
    "computer": UNSORTED,
    "computer/buttons": None,
    "computer/connectors": "electronics",
    "computer/diagrams": None,
    "computer/folders": None,
    "computer/games": "recreation",
    "computer/hardware": "electronics",
    "computer/icons": None,
    "containers": "household",
    "decorations": "decoration",
    "education": "office",
    "education/books": "book",
    "electronics": "electronics",
    "food": "food",
    "food/beverages": "drink",
    "food/breads_and_carbs": "bread",
    "food/desserts": "dessert",
    "food/fruit": "fruit",
    "food/meats_and_eggs": "meat",
    "geography": "map",
    "geography/astronomy": "sky",
    "office": "office",
    "office/telephone": "electronics",
    "people": "person",
    "people/bodypart": "body part",
    "people/clothing": "clothing",
    "people/smilies": "smiley",
    "people/stickmen": "stick figure",
    "plants": "plant",
    "plants/flowers": "flower",
    "plants/trees": "plant",
    "recreation": "recreation",
    "recreation/games": "recreation",
    "recreation/games/cards": "playing card",
    "recreation/holiday": "holiday",
    "recreation/music": "music",
    "recreation/party": "party",
    "recreation/religion": UNSORTED,
    "recreation/sports": "sport",
    "recreation/toys": "toy",
    "science": "science",
    "science/astronomy": "sky",
    "signs_and_symbols": UNSORTED,
    "signs_and_symbols/clocks": "clock",
    "signs_and_symbols/flags": None,
    "signs_and_symbols/flags/africa": "flag",
    "signs_and_symbols/flags/america": "flag",
    "signs_and_symbols/flags/asia": "flag",
    "signs_and_symbols/flags/europe": "flag",
    "signs_and_symbols/flags/oceania": "flag",
    "signs_and_symbols/led": None,
    "signs_and_symbols/map_symbols": None,
    "signs_and_symbols/money": "household",
    "signs_and_symbols/weather": "sky",
    "tools": "tool",
    "tools/toys": "toy",
    "tools/weapons": "weapon",
    "transportation": "vehicle",
    "transportation/aiga-symbols": None,
    "transportation/boating": "watercraft",
    "transportation/roadsigns": None,
    "unsorted": UNSORTED,
}

# Titles of whole collections, given to each of its pictures: the file name says more.
COLLECTIVE = re.compile(
    r"clipart by |various cliparts|etiquette icons|r\d\d |homes clipart|australian maps|svg road signs|road signs|"
    r"chess pieces|pc connectors|balloons-aj|moons$|card$|part of the flat|blueberry|lemon svg|menu clip art|sallite",
    re.I)
SIGNS = re.compile(r"(svg )?road signs|advertising$|aiga|map symbols", re.I)
OTHER_LICENSE = re.compile(r"copyleft|licen[cs]e|^cc$", re.I)  # beside the names of authors
RANKS = {"a": "ace", "j": "jack", "q": "queen", "k": "king"}
SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
FOREIGN_WORDS = frozenset(
    "al alla avec con da dal de degli dei del della der des di die du e ein el et il la las le les los mit per pour "
    "sul sulla un una und une".split())
# Keywords about the file, of one uploader, or not in English.
JUNK_KEYWORDS = frozenset(
    "clip art|clipart|clip-art|public domain|publicdomain|openclipart|svg|png|externalsource|media|hash|unsorted|icon|"
    "icons|symbol|symbols|symboll|sign|signs|theme|signs and symbols|special|miscellany|mapsym|networksym|weathersym|"
    "appicon|mathsym|mathsymbol|musicsym|musicstuff|mimeicon|puntocero|religholiday|roadsign|usholiday|girlsymbol|"
    "image|graphic|device|application|filesystem|flowchart|logo|logos|united nations member|utils|diagrams|"
    "animale|animali|felino|felini|pesce|farfalla|papillon|forbici|rana|utensile|architettura|karetka|pogotowia|"
    "odkurzacz|cochon|piment|automne|accueil|maison|ours|gens|reunion|voiture|pere noel|sapin de noel|bobine|breizh|"
    "elefant|homem|mecanica|engrenagem|pudim|champignon|coraje|cuptazzacolazione|foodfruits|aoste|valle|lotas|kawai|"
    "jalurgemilang|kwaakwaa|brisgeek|squeleton|ebay|en|ea|nox|lumen|dvb|cartooon|dragonly|headohones|magnifing|noze|"
    "maetgrinder|imformation|burnerobject|burnerobjects|vincent|saint|kamal|linex|xmass tree|geagraphy".split("|"))
SPELLING = {
    "bodypart": "body part", "digicam": "digital camera", "eiffeltower": "eiffel tower", "icecream": "ice cream",
    "latinamerica": "latin america", "northamerica": "north america", "softdrink": "soft drink",
    "stickmen": "stick men", "unitedkingdom": "united kingdom", "vegitable": "vegetable", "xmas": "christmas"}
LONGEST_WORD = 17  # longer ones are words run together


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What the SVG of a picture says about it, uncleaned."""
  title: str
  keywords: tuple[str, ...]
  authors: tuple[str, ...]
  public_domain: bool


@dataclasses.dataclass(frozen=True)
class Review:
  """A reviewed title: what it says in English ('' drops the picture), and its class if the folder does not say it."""
  title: str
  class_name: str


class Dropped(Exception):
  """Why a picture is left out."""


def folder_class(picture_id: str) -> str | None:
  """Returns the class of the longest prefix of folders in `FOLDERS`, None if there is none."""
  parts = picture_id.split("/")
  prefixes = ("/".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
  return next((FOLDERS[prefix] for prefix in prefixes if prefix in FOLDERS), None)


def read_metadata(svg: str) -> Metadata:
  """Returns the Metadata of an SVG text; a few files are not well-formed XML, so it is searched, not parsed."""
  match = re.search(r"<(?:\w+:)?Work\b.*?</(?:\w+:)?Work>", svg, re.S)
  work = match[0] if match else ""
  agents = re.compile(r"<dc:(creator|rights|publisher|contributor)\b.*?</dc:\1>", re.S)
  about = agents.sub("", work)
  named = " ".join(m[0] for m in agents.finditer(work))
  title = tag_texts("dc:title", about)
  return Metadata(
      title=title[0] if title else "",
      keywords=tag_texts("rdf:li", about),
      authors=tag_texts("dc:title", named),
      public_domain="PublicDomain" in work)


def tag_texts(tag: str, xml: str) -> tuple[str, ...]:
  """Returns the texts of the elements of a tag; some were escaped twice."""
  texts = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", xml, re.S)
  return tuple(html.unescape(html.unescape(text)).strip() for text in texts)


def read_reviews() -> dict[str, Review]:
  """Returns {cleaned title or picture id: Review} from the lines "key <tab> title [<tab> class]" of titles.tsv."""
  rows = (line.split("\t") for line in REVIEWS.read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#"))
  return {row[0]: Review(row[1], row[2] if len(row) > 2 else "") for row in rows}


def review_title(picture_id: str, metadata: Metadata, reviews: Mapping[str, Review]) -> tuple[str, str]:
  """Returns (title, class or ''), the title cleaned and in English; raises Dropped."""
  stem = picture_id.rsplit("/", 1)[-1]
  own = metadata.title and not COLLECTIVE.match(metadata.title)
  title = clean_title(metadata.title) if own else card_title(stem) or clean_title(stem)
  review = reviews.get(picture_id) or reviews.get(title)
  if review:
    if not review.title:
      raise Dropped("title says nothing (reviewed)")
    return review.title, review.class_name
  if is_foreign(title) or any("ollandin" in author for author in metadata.authors):
    raise Dropped("title not in English")
  if not is_title(title) or title in {author.lower() for author in metadata.authors}:
    raise Dropped("title says nothing")
  return title, ""


def clean_title(title: str) -> str:
  """Returns a title as lower-case words, without markup, e-mail addresses, trailing numbers or name of a collection."""
  title = re.sub(r"^clipart by [^-]* - ", "", title, flags=re.I)
  title = re.sub(r"\S*@\S*|https?:\S+|www\.\S+|\.svg\b|<[^>]*>", " ", title)
  title = title.replace("_", " ")
  title = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", title).lower()
  title = re.sub(r"\b0\d\b|(?<=[a-z])[- ](aj|ganson|md|openclipart|zazou)\b", " ", title)
  title = re.sub(r" - (body part|clothing|rpg map elements)$", "", title)
  title = re.sub(r"\(?\bb ?(and|&) ?w\b\)?|\bbw\b|\bb w\b|\bbn$", " in black and white", title)
  title = re.sub(r"\((\w+)\)$", r"\1", title)
  title = re.sub(r"(?<=\w\w)-(?=\w)", " ", title)
  title = re.sub(r"[^\w' ()&+,:-]", " ", title)
  title = re.sub(r"\s+", " ", title).strip(" -,'")
  black_white = title.endswith(" in black and white")
  title = re.sub(r" in black and white$", "", title)
  title = re.sub(r"(?<=[a-z])[\d -]*\d$", "", title)
  title = re.sub(r"^(an?|the) ", "", title.strip(" -,:"))
  return title + " in black and white" * (black_white and bool(title))


def card_title(stem: str) -> str | None:
  """Returns the name of a playing card, such as 'queen of hearts' for 'simple_h_q'; None for other file names."""
  match = re.fullmatch(r"(?:ornamental|white|simple|bordered)_([cdhs])_(\d+|[ajqk])", stem)
  return match and f"{RANKS.get(match[2], match[2])} of {SUITS[match[1]]}"


def is_foreign(title: str) -> bool:
  """Tells whether a title shows by a letter or a small word that it is not English."""
  return not title.isascii() or bool(FOREIGN_WORDS & set(title.split()))


def is_title(title: str) -> bool:
  """Tells whether a title holds a word: three letters with a vowel in them, at most twelve words in all."""
  words = re.findall(r"[a-z]{3,}", title)
  return any(re.search("[aeiouy]", word) for word in words) and len(title.split()) <= 12


def clean_keywords(keywords: Iterable[str], authors: Iterable[str]) -> list[str]:
  """Returns the keywords that say something, in lower case, each once."""
  junk = JUNK_KEYWORDS | {author.lower() for author in authors}
  keywords = (re.sub(r"[_\s]+", " ", keyword).strip(" .,").lower() for keyword in keywords)
  useful = (SPELLING.get(k, k) for k in keywords if is_keyword(k) and k not in junk)
  return list(dict.fromkeys(useful))


def is_keyword(keyword: str) -> bool:
  """Tells whether a keyword is one to three plain words."""
  return (
      bool(re.fullmatch(r"[a-z][a-z0-9' -]{1,24}", keyword))
      and not re.match(r"hash|.* symbol$|.*rollandin", keyword)
      and len(keyword.split()) <= 3
      and max(map(len, keyword.split())) <= LONGEST_WORD)
