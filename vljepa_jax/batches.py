"""Any number of rows through a function that is compiled once per shape: batches, padded to a power of two."""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import functools
from typing import Any

import numpy as np

from vljepa_jax.data.text import LEFT, TextInput

MIN_TEXT_LENGTH = 8  # tokens; shorter rows save nothing


def in_batches(run: Callable[..., np.ndarray], inputs: Sequence[np.ndarray], limit: int) -> np.ndarray:
  """What `run` gives for n rows of every input, (n, ...), in batches of at most `limit`.

  The last batch is filled up to a power of two by repeating its last row; what comes of these pads is left out.
  Inputs may be anything that a slice makes an array of: while `run` works on a batch, the next one is read.
  """
  outputs = []
  for rows in _one_ahead(functools.partial(_slice, inputs, limit), range(0, len(inputs[0]), limit)):
    count = len(rows[0])
    pads = min(limit, _power_of_two(count)) - count
    outputs.append(run(*(np.concatenate([x, np.repeat(x[-1:], pads, axis=0)]) for x in rows))[:count])
  return np.concatenate(outputs)


def _slice(inputs: Sequence[np.ndarray], limit: int, start: int) -> list[np.ndarray]:
  return [x[start:start + limit] for x in inputs]


def _one_ahead(read: Callable[[int], Any], starts: Sequence[int]) -> Iterator[Any]:
  """What `read` gives for every start; the next one is read in another thread while this one is in use."""
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    waiting = [pool.submit(read, start) for start in starts[:1]]
    for start in starts[1:]:
      rows = waiting.pop().result()
      waiting.append(pool.submit(read, start))
      yield rows
    yield from (last.result() for last in waiting)


def embed_texts(
    run: Callable[[np.ndarray, np.ndarray], np.ndarray], texts: Sequence[str], text_input: TextInput, limit: int
) -> np.ndarray:
  """Embeddings of texts: short ones together in short rows, a power of two of tokens long.

  Args:
    run: token ids (b, l) int32 and mask (b, l) bool -> (b, E).
    texts: n of them, n > 0.
    text_input: how they are read.
    limit: rows of a batch.

  Returns:
    (n, E) in the order of the texts.
  """
  tokens, mask = text_input(texts)
  order = np.argsort(mask.sum(axis=1), kind="stable")
  left = text_input.pad_side == LEFT
  parts = []
  for rows in (order[start:start + limit] for start in range(0, len(order), limit)):
    length = min(mask.shape[1], _power_of_two(max(MIN_TEXT_LENGTH, int(mask[rows].sum(axis=1).max()))))
    columns = slice(-length, None) if left else slice(length)
    parts.append(in_batches(run, (tokens[rows, columns], mask[rows, columns]), limit))
  return np.concatenate(parts)[np.argsort(order)]


def _power_of_two(count: int) -> int:
  """The smallest one that is at least `count`."""
  return 1 << (count - 1).bit_length()
