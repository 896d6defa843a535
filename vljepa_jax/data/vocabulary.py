"""The Y-decoder's own vocabulary: the tokens that its training texts use, and four marks.

A tokenizer of 30,522 word pieces would spend nearly all of a small decoder on rows that its texts never touch.
"""

from collections.abc import Iterable, Sequence
import dataclasses

import numpy as np

PAD, BOS, EOS, UNK = range(4)  # no text, its beginning, its end, a token that is not in the vocabulary
FIRST = 4  # id of the first token


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Ids 0..3 are the marks, id 4 + i is the tokenizer's token `tokens[i]`.

  Attributes:
    tokens: the tokenizer's ids, sorted.
  """

  tokens: tuple[int, ...]

  @classmethod
  def of(cls, rows: Iterable[Sequence[int]]) -> "Vocabulary":
    """The vocabulary of tokenized texts; ValueError if they have no token."""
    tokens = tuple(sorted({int(token) for row in rows for token in row}))
    if not tokens:
      raise ValueError("the texts have no token: there is no vocabulary to make of them")
    return cls(tokens)

  def __len__(self) -> int:
    return FIRST + len(self.tokens)

  def encode(self, rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Rows of tokenizer ids -> (n, length) int32: at most length - 1 tokens, EOS, then PAD; unknown tokens are UNK."""
    table = np.array(self.tokens)
    ids = np.full((len(rows), length), PAD, np.int32)
    for place, row in enumerate(rows):
      row = np.asarray(row[:length - 1], np.int64)
      found = np.minimum(np.searchsorted(table, row), len(table) - 1)
      ids[place, :len(row)] = np.where(table[found] == row, found + FIRST, UNK)
      ids[place, len(row)] = EOS
    return ids

  def decode(self, ids: np.ndarray) -> list[list[int]]:
    """(n, length) ids -> n rows of tokenizer ids; a row ends at its first EOS, and marks are left out."""
    rows = []
    for row in np.asarray(ids):
      ends = np.flatnonzero(row == EOS)
      row = row[:ends[0]] if len(ends) else row
      rows.append([self.tokens[i - FIRST] for i in row if i >= FIRST])
    return rows
