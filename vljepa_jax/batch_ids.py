"""What a step has trained on, in one number that does not depend on how many hosts there are."""

import dataclasses
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np

from vljepa_jax import sharding

NAME = "batch_ids"  # in metrics.jsonl


@dataclasses.dataclass(frozen=True)
class Rows:
  """The rows of a batch that this process loads.

  Attributes:
    record_id: (b,) int32, index of the record in its source.
    stream: (b,) int32, number of its stream.
  """

  record_id: np.ndarray
  stream: np.ndarray

  @classmethod
  def take(cls, batch: dict[str, np.ndarray]) -> "Rows":
    """Takes them out of a batch of the pipeline, which then holds only what the step reads."""
    return cls(batch.pop("record_id"), batch.pop("stream"))


class Fingerprint:
  """Adds up a hash of every row of the global batch, (record, stream) -> uint32, on the devices.

  The sum wraps around, so that neither the order of the rows nor the number of hosts changes it. It comes with the
  numbers of the step: nothing waits for it.

  Args:
    rows: sharding of batches.
  """

  def __init__(self, rows: NamedSharding):
    self._rows = rows
    self._sum = jax.jit(jnp.sum, out_shardings=sharding.replicated(rows.mesh))

  def __call__(self, rows: Rows) -> jax.Array:
    """() uint32."""
    return self._sum(sharding.put_batch({NAME: hashes(rows)}, self._rows)[NAME])


def hashes(rows: Rows) -> np.ndarray:
  """(b,) uint32: the finaliser of splitmix64 (Steele et al. 2014) of both numbers, its upper half."""
  x = rows.stream.astype(np.uint64) << np.uint64(32) | rows.record_id.astype(np.uint64)
  x = x + np.uint64(0x9E3779B97F4A7C15)
  x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
  return ((x ^ x >> np.uint64(31)) >> np.uint64(32)).astype(np.uint32)


def gather(rows: Rows, batch_rows: NamedSharding) -> Rows:
  """The rows of the global batch in their order, in every process; all have to ask together."""
  share, shares = sharding.process_share(batch_rows)
  mine = np.stack([np.full_like(rows.record_id, share), rows.record_id, rows.stream])
  found: Any = mine[None]
  if jax.process_count() > 1:
    found = multihost_utils.process_allgather(mine)
  by_share = {int(part[0, 0]): part for part in found}
  whole = np.concatenate([by_share[i] for i in range(shares)], axis=1)
  return Rows(whole[1], whole[2])
