"""Token rows, masks, truncation, and the identity of targets."""

import logging
import pickle

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from vljepa_jax.data.text import TextInput, Tokenizer, target_id


@pytest.fixture
def word_file(tmp_path):
  """A small word-level tokenizer with [CLS] and [SEP], and padding and truncation settings that must not be used."""
  words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "cat"]
  model = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
  model.pre_tokenizer = pre_tokenizers.Whitespace()
  model.post_processor = processors.TemplateProcessing(
      single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
  model.enable_padding(length=50)
  model.enable_truncation(3)
  model.save(str(tmp_path / "tokenizer.json"))
  return tmp_path


def test_word_tokenizer(word_file):
  tokenizer = Tokenizer(word_file)
  ids, mask = tokenizer.encode(["a red cat", "cat dog", ""], 6)
  np.testing.assert_array_equal(ids, [[1, 4, 5, 6, 2, 0], [1, 6, 3, 2, 0, 0], [1, 2, 0, 0, 0, 0]])
  np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])
  assert ids.dtype == np.int32 and mask.dtype == bool
  assert tokenizer.vocab_size == 7 and tokenizer.truncated == 0
  np.testing.assert_array_equal(Tokenizer(word_file / "tokenizer.json").encode(["a red cat"], 6)[0], ids[:1])


def test_truncation_keeps_the_closing_mark(word_file):
  tokenizer = Tokenizer(word_file)
  ids, mask = tokenizer.encode(["a red cat cat", "a red cat", "a"], 4)
  np.testing.assert_array_equal(ids, [[1, 4, 5, 2], [1, 4, 5, 2], [1, 4, 2, 0]])
  assert mask.sum() == 11 and tokenizer.truncated == 2


def test_bytes():
  tokenizer = Tokenizer("bytes")
  ids, mask = tokenizer.encode(["ab", "é", "", "abcdef"], 5)
  np.testing.assert_array_equal(
      ids, [[1, 100, 101, 2, 0], [1, 0xC3 + 3, 0xA9 + 3, 2, 0], [1, 2, 0, 0, 0], [1, 100, 101, 102, 2]])
  np.testing.assert_array_equal(mask.sum(axis=1), [4, 4, 2, 5])
  assert tokenizer.vocab_size == 259 and tokenizer.truncated == 1
  assert tokenizer.encode(["\xff\U0001F600"], 20)[0].max() < tokenizer.vocab_size


def test_truncation_is_warned_of_once_with_counts(caplog):
  tokenizer = Tokenizer("bytes")
  with caplog.at_level(logging.WARNING):
    tokenizer.encode(["abc"], 5)
    assert not caplog.records
    tokenizer.encode(["abcd", "abcde", "a"], 5)
    tokenizer.encode(["abcd"], 5)
    pickle.loads(pickle.dumps(tokenizer)).encode(["abcd"], 5)
  assert [r.getMessage() for r in caplog.records] == ["2 of 3 texts are longer than 5 tokens and lose their end"]
  assert tokenizer.truncated == 3


def test_lone_surrogates_are_read(word_file):
  for source in ("bytes", word_file):
    tokenizer = Tokenizer(source)
    np.testing.assert_array_equal(tokenizer.encode(["a\udcff"], 6)[0], tokenizer.encode(["a?"], 6)[0])
  assert target_id("a\udcff") == target_id("a?")


def test_bad_sources_and_arguments(tmp_path):
  with pytest.raises(FileNotFoundError, match="there is no tokenizer .*tokenizer.json; give"):
    Tokenizer(tmp_path)
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(ValueError, match="tokenizer.json is not a tokenizer"):
    Tokenizer(tmp_path)
  with pytest.raises(ValueError, match="a text length of 2 leaves no room beside 2 special tokens"):
    Tokenizer("bytes").encode(["a"], 2)
  with pytest.raises(TypeError, match="a list of texts"):
    Tokenizer("bytes").encode("cat", 5)


def test_text_input():
  ids, mask = TextInput(Tokenizer("bytes"), 7)(["a", "b"])
  assert ids.shape == mask.shape == (2, 7)


def test_target_id_ignores_case_and_spacing_only():
  assert target_id("Red  cat\n") == target_id("red cat")
  assert target_id("red cat") != target_id("redcat")
  assert target_id("red cat").dtype == np.int32
  assert (target_id("yes"), target_id("no")) == (1027397001, 793466571)  # the same on every machine
  assert len({int(target_id(str(i))) for i in range(5000)}) == 5000
