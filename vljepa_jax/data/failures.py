"""Training goes on without a file that cannot be read, but not without many."""

import logging

import grain
import numpy as np

from vljepa_jax.errors import UserError

_LOG = logging.getLogger(__name__)

KEY = "failures"  # of a batch: why records of an example could not be read, one a line
TRIES = 8  # records that are tried for one example
CHECKED_FROM = 100  # examples
NAMED = 3  # failures that the error tells


class Failures:
  """Counts examples that were replaced, and tells of each file once.

  Args:
    most: largest share of them.
  """

  def __init__(self, most: float):
    self._most = most
    self._drawn = self._replaced = 0
    self._reasons = {}  # in order

  def count(self, batch: np.ndarray) -> None:
    """Takes the failures of a batch, (b,) str; UserError if the share of them is too large."""
    self._drawn += len(batch)
    self._replaced += int(np.count_nonzero(batch != ""))
    for reason in (line for lines in batch[batch != ""] for line in str(lines).split("\n")):
      if reason not in self._reasons:
        self._reasons[reason] = None
        _LOG.warning("left out in training: %s", reason)
    if self._drawn >= CHECKED_FROM and self._replaced > self._most * self._drawn:
      named = "; ".join(list(self._reasons)[:NAMED])
      raise UserError(
          f"{self._replaced:,} of {self._drawn:,} training examples could not be read, more than "
          f"config.data.max_failures={self._most:g} allows: {named}")


class CountingIterator(grain.experimental.ElasticIterator):
  """An iterator over batches that counts their failures, in the process that trains, and takes them out."""

  def __init__(self, *args, failures: Failures, **options):
    super().__init__(*args, **options)
    self._failures = failures

  def __iter__(self):
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    batch = super().__next__()
    self._failures.count(batch.pop(KEY))
    return batch
