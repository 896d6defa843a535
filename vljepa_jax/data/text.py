"""Texts to token ids, and the identity of a target text."""

import array
import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers

_LOG = logging.getLogger(__name__)

BYTES = "bytes"
PAD, BOS, EOS = 0, 1, 2
FIRST_BYTE = 3
REMEMBERED = 10_000  # texts whose tokens a tokenizer keeps: those of few words come again and again
SIDES = RIGHT, LEFT = "right", "left"


class Tokenizer:
  """Texts -> token ids.

  Attributes:
    vocab_size: ids are below it.
    truncated: how many texts have been cut so far.
  """

  def __init__(self, source: str | os.PathLike):
    """Loads a tokenizer.

    Args:
      source: "bytes" for UTF-8 bytes between two marks, which needs no file; otherwise a `tokenizer.json` as Hugging
        Face's `tokenizers` writes it, or the folder that holds one. Its own padding and truncation settings are not
        used.

    Raises:
      FileNotFoundError: there is none.
      ValueError: the file is not a tokenizer.
    """
    self.truncated = 0
    self._warned = set()
    self._remembered = {}
    self._model = None
    if source == BYTES:
      self.vocab_size = FIRST_BYTE + 256
      return
    self._model = _load(pathlib.Path(source))
    self.vocab_size = self._model.get_vocab_size(with_added_tokens=True)

  def __getstate__(self):
    return self.__dict__ | {"_remembered": {}}

  def encode(
      self, texts: Sequence[str], length: int, special_tokens: bool = True, cut: str = RIGHT) -> list[Sequence[int]]:
    """Token ids of texts; what does not fit is cut, never a special token.

    The first call that cuts any text logs a warning with the counts; later ones of the same length only count.

    Args:
      texts: n strings; lone surrogates are read as "?".
      length: most tokens of a text, special ones included.
      special_tokens: add the tokenizer's own, such as [CLS] and [SEP].
      cut: "right" cuts the end of a long text, "left" its beginning.

    Returns:
      n sequences of at most `length` ids, not to be changed.
    """
    before = self.truncated
    rows = [self._recall(text, length, special_tokens, cut) for text in texts]
    lost = self.truncated - before
    if lost and length not in self._warned:
      self._warned.add(length)
      _LOG.warning("%d of %d texts are longer than %d tokens and lose their %s",
                   lost, len(texts), length, "end" if cut == RIGHT else "beginning")
    return rows

  def decode(self, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens left out; a byte sequence that is not UTF-8 shows as U+FFFD."""
    if self._model is None:
      return bytes(i - FIRST_BYTE for i in ids if i >= FIRST_BYTE).decode("utf-8", "replace")
    return self._model.decode([int(i) for i in ids], skip_special_tokens=True)

  def _recall(self, *asked: str | int | bool) -> array.array:
    """The ids of a text, kept from the last time where possible; counts those that are cut."""
    known = self._remembered.get(asked)
    if known is None:
      if len(self._remembered) >= REMEMBERED:
        self._remembered.clear()
      known = self._remembered[asked] = self._encode(*asked)
    ids, is_cut = known
    self.truncated += is_cut
    return ids

  def _encode(self, text: str, length: int, special_tokens: bool, cut: str) -> tuple[array.array, bool]:
    """The ids of a text, and whether it is cut."""
    raw = text.encode("utf-8", "replace")
    if self._model is None:
      room = _room(length, 2 * special_tokens)
      kept = raw[:room] if cut == RIGHT else raw[max(0, len(raw) - room):]
      ids = [b + FIRST_BYTE for b in kept]
      return array.array("i", [BOS, *ids, EOS] if special_tokens else ids), len(raw) > room
    encoding = self._model.encode(raw.decode("utf-8"), add_special_tokens=False)
    room = _room(length, special_tokens * self._model.num_special_tokens_to_add(is_pair=False))
    is_cut = len(encoding) > room
    if is_cut:
      encoding.truncate(room, direction=cut)
    return array.array("i", self._model.post_process(encoding, add_special_tokens=special_tokens).ids), is_cut


@dataclasses.dataclass(frozen=True)
class TextInput:
  """How one side of the model reads text.

  Attributes:
    tokenizer: its source.
    length: L of every row.
    prompt: stands before every text.
    special_tokens: whether the tokenizer's own are added.
    cut: "right" cuts the end of a text that is longer than L, "left" its beginning, and with it the prompt.
    pad_side: "right" pads rows at their end, "left" at their beginning. The model's output does not depend on it.
    pad_id: of pads.
    rows: of the model's token table; None does not check that every token has one.
  """

  tokenizer: Tokenizer
  length: int
  prompt: str = ""
  special_tokens: bool = True
  cut: str = RIGHT
  pad_side: str = RIGHT
  pad_id: int = PAD
  rows: int | None = None

  def __post_init__(self):
    for name in ("cut", "pad_side"):
      if getattr(self, name) not in SIDES:
        raise ValueError(f"{name} must be one of {', '.join(SIDES)}, not {getattr(self, name)!r}")
    if not 0 <= self.pad_id < self.tokenizer.vocab_size:
      last = self.tokenizer.vocab_size - 1
      raise ValueError(f"pad_id must be a token of the tokenizer, 0..{last}, not {self.pad_id}")

  def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """ids (n, L) int32 and mask (n, L) bool, True = real token, of n texts."""
    if isinstance(texts, str):
      raise TypeError("give a list of texts, not one text")
    ids = np.full((len(texts), self.length), self.pad_id, np.int32)
    mask = np.zeros((len(texts), self.length), bool)
    prompted = [self.prompt + text for text in texts]
    for row, tokens in enumerate(self.tokenizer.encode(prompted, self.length, self.special_tokens, self.cut)):
      place = slice(len(tokens)) if self.pad_side == RIGHT else slice(self.length - len(tokens), None)
      ids[row, place] = tokens
      mask[row, place] = True
    if self.rows is not None and ids.size and ids.max() >= self.rows:  # JAX would look NaN up
      raise ValueError(
          f"the tokenizer gives token {ids.max()}, but the model's table has {self.rows} rows; the tokenizer must be "
          "the one that the model was made for")
    return ids, mask


def target_id(text: str) -> np.int32:
  """A stable hash of a text without regard to case and spacing: equal texts are one target in the loss."""
  digest = hashlib.blake2b(normalise(text).encode("utf-8", "replace"), digest_size=4).digest()
  return np.frombuffer(digest, "<i4")[0]


def normalise(text: str) -> str:
  """Lower case, single spaces, none at the ends."""
  return " ".join(text.lower().split())


def _load(path: pathlib.Path) -> tokenizers.Tokenizer:
  file = path / "tokenizer.json" if path.is_dir() else path
  if not file.is_file():
    raise FileNotFoundError(f"there is no tokenizer {file}; give a tokenizer.json, its folder, or 'bytes'")
  try:
    model = tokenizers.Tokenizer.from_file(str(file))
  except Exception as error:  # the library raises a bare Exception for a file that it cannot parse
    raise ValueError(f"{file} is not a tokenizer ({error})") from error
  model.no_truncation()
  model.no_padding()
  return model


def _room(length: int, special: int) -> int:
  if length <= special:
    raise ValueError(f"a text length of {length} leaves no room beside {special} special tokens")
  return length - special
