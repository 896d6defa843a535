import numpy as np
import pytest

from vljepa_jax.batches import embed_texts, in_batches
from vljepa_jax.data.text import TextInput, Tokenizer


@pytest.mark.parametrize("count, limit, shapes", [
    (1, 8, [1]), (5, 8, [8]), (8, 8, [8]), (11, 4, [4, 4, 4]), (7, 6, [6, 1]), (9, 6, [6, 4])])
def test_rows_run_in_few_shapes(count, limit, shapes):
  seen = []

  def run(x, y):
    seen.append(len(x))
    assert len(y) == len(x)
    return x * y[:, None]

  x, y = np.random.default_rng(0).normal(size=(count, 3)), np.arange(1.0, count + 1)
  np.testing.assert_array_equal(in_batches(run, (x, y), limit), x * y[:, None])
  assert seen == shapes


@pytest.mark.parametrize("side", ["left", "right"])
def test_short_texts_run_together_and_come_back_in_their_order(side):
  texts = ["a" * n for n in (30, 1, 14, 3, 40, 2, 15)]
  shapes = []

  def run(tokens, mask):
    shapes.append(tokens.shape)
    return np.where(mask, tokens, 0).sum(axis=1, keepdims=True)

  found = embed_texts(run, texts, TextInput(Tokenizer("bytes"), 40, pad_side=side), 3)
  expected = [3 + min(len(text), 38) * (ord("a") + 3) for text in texts]  # two marks, and what is too long is cut
  np.testing.assert_array_equal(found[:, 0], expected)
  assert shapes == [(3, 8), (3, 32), (1, 40)]
