"""Texts to token ids, and the identity of a target text."""

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


class Tokenizer:
  """Texts -> fixed-length rows of token ids.

  Attributes:
    vocab_size: ids are below it.
    truncated: how many texts have been cut so far.
  """

  def __init__(self, source: str | os.PathLike):
    """Loads a tokenizer.

    Args:
      source: "bytes" for UTF-8 bytes between two marks, which needs no file; otherwise a `tokenizer.json` as Hugging
        Face's `tokenizers` writes it, or the folder that holds one. Its own special tokens are added; its own
        padding and truncation settings are not used.

    Raises:
      FileNotFoundError: there is none.
      ValueError: the file is not a tokenizer.
    """
    self.truncated = 0
    self._warned = set()
    self._model = None
    if source == BYTES:
      self.vocab_size = FIRST_BYTE + 256
      return
    self._model = _load(pathlib.Path(source))
    self._special = self._model.num_special_tokens_to_add(is_pair=False)
    self.vocab_size = self._model.get_vocab_size(with_added_tokens=True)

  def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of texts; what does not fit is cut before the closing mark.

    The first call that cuts any text logs a warning with the counts; later ones of the same length only count.

    Args:
      texts: n strings; lone surrogates are read as "?".
      length: L, marks included.

    Returns:
      ids (n, L) int32, padded with 0, and mask (n, L) bool, True = real token.
    """
    if isinstance(texts, str):
      raise TypeError("encode takes a list of texts, not one text")
    ids = np.zeros((len(texts), length), np.int32)
    mask = np.zeros((len(texts), length), bool)
    before = self.truncated
    for row, text in enumerate(texts):
      tokens = self._encode(text.encode("utf-8", "replace"), length)
      ids[row, : len(tokens)] = tokens
      mask[row, : len(tokens)] = True
    cut = self.truncated - before
    if cut and length not in self._warned:
      self._warned.add(length)
      _LOG.warning("%d of %d texts are longer than %d tokens and lose their end", cut, len(texts), length)
    return ids, mask

  def _encode(self, text: bytes, length: int) -> list[int]:
    if self._model is None:
      room = _room(length, 2)
      self.truncated += len(text) > room
      return [BOS, *(b + FIRST_BYTE for b in text[:room]), EOS]
    encoding = self._model.encode(text.decode("utf-8"), add_special_tokens=False)
    room = _room(length, self._special)
    if len(encoding) > room:
      self.truncated += 1
      encoding.truncate(room)
    return self._model.post_process(encoding).ids


@dataclasses.dataclass(frozen=True)
class TextInput:
  """How one side of the model reads text: the tokenizer, and the length L of every row."""

  tokenizer: Tokenizer
  length: int

  def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """ids (n, L) int32 and mask (n, L) bool of n texts."""
    return self.tokenizer.encode(texts, self.length)


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
