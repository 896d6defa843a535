import numpy as np
import pytest

from vljepa_jax.data.vocabulary import BOS, EOS, FIRST, PAD, UNK, Vocabulary


def test_tokens_there_and_back():
  rows = [[900, 7, 30000], [7], [55, 55]]
  vocabulary = Vocabulary.of(rows)
  assert vocabulary.tokens == (7, 55, 900, 30000) and len(vocabulary) == FIRST + 4
  ids = vocabulary.encode(rows, 5)
  assert ids.tolist() == [[6, 4, 7, EOS, PAD], [4, EOS, PAD, PAD, PAD], [5, 5, EOS, PAD, PAD]]
  assert vocabulary.decode(ids) == rows


def test_what_does_not_fit_is_cut_and_still_ends():
  assert Vocabulary((3, 4)).encode([[3, 4, 3, 4]], 3).tolist() == [[FIRST, FIRST + 1, EOS]]


def test_unknown_tokens_are_marked_and_not_told():
  vocabulary = Vocabulary((3, 9))
  ids = vocabulary.encode([[1, 3, 5, 9, 10]], 8)
  assert ids.tolist() == [[UNK, 4, UNK, 5, UNK, EOS, PAD, PAD]]
  assert vocabulary.decode(ids) == [[3, 9]]


def test_a_row_ends_at_its_first_end():
  assert Vocabulary((3, 9)).decode(np.array([[BOS, 4, EOS, 5, EOS], [5, 4, 4, 4, 4]])) == [[3], [9, 3, 3, 3, 3]]


def test_texts_without_tokens_are_refused():
  with pytest.raises(ValueError, match="no token"):
    Vocabulary.of([[], []])
