"""Questions about a picture and their answers, made from its class and its words.

Three kinds:
  what        what kind of thing is it?                        one of the class names
  is_there    is there a X?                                    "yes, a X" or "no, a Y"
  which_word  which fits: a, b, c or d?                        one of the four

A word of a picture is one of its keywords, or a word of its title, that several training pictures share. Words common
in any class ("animal" for birds) are not asked for: they follow from the class, and a picture that merely lacks the
keyword would make a wrong "no". "is there" asks for things alone: words in the singular that end the title of several
training pictures, as nouns do. One of X and Y is in the picture, the other is a thing of the same class. Wrong words of
"which_word" are drawn from those of the class, as right ones are, or from all; who knows which words go together finds
the right one a third of the time, without the picture.
"""

import collections
from collections.abc import Collection, Sequence
import dataclasses
import functools
import itertools
import re

import numpy as np

from vljepa_jax.data.sources import Record

KINDS = ("what", "is_there", "which_word")

MIN_PICTURES = 3  # that share a word of the vocabulary
MIN_TITLES = 2  # that end in a word, for it to be a thing
MAX_CLASS_SHARE = 1 / 3  # of the pictures of any class: a more common word is the name of a category
CHOICES = 4
TRIES = 20  # random draws of a wrong word before all are listed

# The first template of a kind is the one that evaluation uses.
TEMPLATES = {
    "what": (
        "what kind of thing is it?", "what is this?", "what does the picture show?", "which category is it?",
    ),
    "is_there": (
        "is there {a} {word}?", "does it show {a} {word}?", "can you see {a} {word}?",
        "is {a} {word} in the picture?",
    ),
    "which_word": ("which fits: {words}?", "is it {words}?", "choose: {words}."),
}

STOP_WORDS = frozenset(
    "a an and are as at black bw by color colour de for from in is it la no not of off on or simple the this to up "
    "white with without".split())


@dataclasses.dataclass(frozen=True)
class Question:
  """A question with its right answer, which is one of the candidates.

  Attributes:
    candidates: what the answer is chosen from; a tuple.
    kind: one of `KINDS`.
    record: index of the picture in its source.
  """

  query: str
  answer: str
  candidates: tuple[str, ...]
  kind: str
  record: int


class Vocabulary:
  """Words that questions ask about; built from the training split.

  Args:
    records: of the training split.
    num_classes: labels are below it.
    held_out: captions of the evaluation split, normalised; a word that is one of them is no answer to train on.

  Attributes:
    words: those that enough pictures share and that are not common in any class.
    things: those of them that name a thing, in the singular.
    class_words: class -> its words, each as often as pictures of the class have it.
    class_things: class -> its things, likewise.
  """

  def __init__(self, records: Sequence[Record], num_classes: int, held_out: Collection[str] = ()):
    rows = [[] for _ in range(num_classes)]
    for record in records:
      rows[record.label].append(sorted(_candidates(record)))
    counts = [collections.Counter(itertools.chain.from_iterable(row)) for row in rows]
    total = sum(counts, collections.Counter())
    common = {_stems(w) for count, row in zip(counts, rows) for w, n in count.items() if n > MAX_CLASS_SHARE * len(row)}
    self.words = frozenset(
        word for word, n in total.items()
        if n >= MIN_PICTURES and _stems(word) not in common and word not in held_out)
    last = collections.Counter(words[-1] for words in map(_title_words, records) if words)
    self.things = frozenset(w for w in self.words if last[w] >= MIN_TITLES and not re.search("[^su]s$", w))
    self.class_words = [[word for words in row for word in words if word in self.words] for row in rows]
    self.class_things = [[word for word in words if word in self.things] for words in self.class_words]

  def words_of(self, record: Record) -> list[str]:
    """The words of a picture that can be asked for, sorted."""
    return sorted(_candidates(record) & self.words)


class QuestionMaker:
  """Makes questions about the pictures of one source.

  Args:
    records: of the source.
    classes: class names.
    vocabulary: of the training split.
  """

  def __init__(self, records: Sequence[Record], classes: Sequence[str], vocabulary: Vocabulary):
    self.records = records
    self.classes = tuple(classes)
    self._vocabulary = vocabulary
    self._all_words = [word for words in vocabulary.class_words for word in words]
    self._distinct_words = sorted(set(self._all_words))
    self._all_things = [word for words in vocabulary.class_things for word in words]
    self._right = [vocabulary.words_of(record) for record in records]
    self._right_things = [[word for word in words if word in vocabulary.things] for words in self._right]
    # What may not be asked for as absent: words of the record in any form, of its class name too.
    self._own = [_stems(" ".join((r.title, *r.keywords, r.caption, classes[r.label]))) for r in records]
    self._kinds = [self._possible(i) for i in range(len(records))]

  def kinds(self, index: int) -> tuple[str, ...]:
    """The kinds that can be asked about a record: always "what", the others if it and its class have the words."""
    return self._kinds[index]

  def make(self, index: int, kind: str, rng: np.random.Generator) -> Question:
    """A question for training: random wording, words and, for "is_there", a yes or a no with equal chance.

    Args:
      index: of the record.
      kind: one of `self.kinds(index)`.
    """
    template = TEMPLATES[kind][rng.integers(len(TEMPLATES[kind]))]
    return self._make(index, kind, template, bool(rng.random() < 0.5), rng)

  def make_fixed(self, index: int, kind: str, yes: bool, seed: int) -> Question:
    """A question for evaluation: fixed wording, words drawn by (seed, index, kind) alone."""
    rng = np.random.default_rng((seed, index, KINDS.index(kind)))
    return self._make(index, kind, TEMPLATES[kind][0], yes, rng)

  def _make(self, index: int, kind: str, template: str, yes: bool, rng: np.random.Generator) -> Question:
    if kind not in self._kinds[index]:
      raise ValueError(f"record {self.records[index].id!r} has no question of kind {kind!r}")
    if kind == "what":
      return Question(template, self.classes[self.records[index].label], self.classes, kind, index)
    if kind == "is_there":
      near = self._vocabulary.class_things[self.records[index].label]
      right = _pick(self._right_things[index], rng)
      wrong = self._wrong(index, near, self._all_things, (), rng)
      asked, other = (right, wrong) if yes else (wrong, right)
      candidates = f"yes, {_article(asked)} {asked}", f"no, {_article(other)} {other}"
      query = template.format(a=_article(asked), word=asked)
      return Question(query, candidates[0 if yes else 1], candidates, kind, index)
    return self._which_word(index, template, rng)

  def _which_word(self, index: int, template: str, rng: np.random.Generator) -> Question:
    answer = _pick(self._right[index], rng)
    words = [answer]
    near = (CHOICES - 1 + int(rng.integers(2))) // 2  # half of the others, 1 or 2 of 3, from the same class
    for i in range(CHOICES - 1):
      pool = self._vocabulary.class_words[self.records[index].label] if i < near else self._all_words
      words.append(self._wrong(index, pool, self._all_words, words, rng))
    words = [words[i] for i in rng.permutation(CHOICES)]
    query = template.format(words=f"{', '.join(words[:-1])} or {words[-1]}")
    return Question(query, answer, tuple(words), "which_word", index)

  def _wrong(
      self, index: int, pool: list[str], wider: list[str], taken: Sequence[str], rng: np.random.Generator) -> str:
    """A word of the pool that is none of the record's and none of those taken; of `wider` if the pool has none."""
    for _ in range(TRIES if pool else 0):
      word = _pick(pool, rng)
      if word not in taken and self._is_wrong(index, word):
        return word
    rest = [word for word in pool if word not in taken and self._is_wrong(index, word)]
    return _pick(rest or [w for w in wider if w not in taken and self._is_wrong(index, w)], rng)

  def _is_wrong(self, index: int, word: str) -> bool:
    return self._own[index].isdisjoint(_stems(word))

  def _possible(self, index: int) -> tuple[str, ...]:
    if not self._right[index]:
      return KINDS[:1]
    things = self._vocabulary.class_things[self.records[index].label]
    is_there = bool(self._right_things[index]) and any(self._is_wrong(index, word) for word in things)
    wrong = (word for word in self._distinct_words if self._is_wrong(index, word))
    which_word = len(list(itertools.islice(wrong, CHOICES - 1))) == CHOICES - 1
    return KINDS[:1] + KINDS[1:2] * is_there + KINDS[2:] * which_word


def evaluation_questions(maker: QuestionMaker, seed: int) -> list[Question]:
  """At most one question of each kind for each record, the same ones every time.

  Of "is_there" exactly half are answered by yes; an odd one out is not asked.
  """
  questions = []
  for kind in KINDS:
    able = [i for i in range(len(maker.records)) if kind in maker.kinds(i)]
    if kind == "is_there":
      order = np.random.default_rng((seed, len(able))).permutation(able)
      half = len(able) // 2
      answers = {int(i): True for i in order[:half]} | {int(i): False for i in order[half : 2 * half]}
      questions += [maker.make_fixed(i, kind, answers[i], seed) for i in sorted(answers)]
    else:
      questions += [maker.make_fixed(i, kind, True, seed) for i in able]
  return questions


def _title_words(record: Record) -> list[str]:
  return re.findall(r"[a-z]{3,}", record.title.lower())


def _candidates(record: Record) -> set[str]:
  """Keywords, and words of the title, that could be asked for."""
  words = {keyword.lower() for keyword in record.keywords} | set(_title_words(record))
  return {word for word in words if word not in STOP_WORDS and re.search("[a-z]", word)}


@functools.lru_cache(maxsize=10_000)
def _stems(text: str) -> frozenset[str]:
  """Words of a text without stop words, plurals as singulars."""
  words = re.findall(r"[a-z0-9']+", text.lower())
  return frozenset(w[:-1] if len(w) > 3 and w.endswith("s") else w for w in words if w not in STOP_WORDS)


def _article(word: str) -> str:
  return "an" if word[0] in "aeiou" else "a"


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
  return words[rng.integers(len(words))]
