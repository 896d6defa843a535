import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from vljepa_jax import batch_ids

MASK = 2**64 - 1


def reference(record, stream):
  """splitmix64 of both numbers, upper half, in Python's own integers."""
  x = ((stream << 32 | record) + 0x9E3779B97F4A7C15) & MASK
  x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
  x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
  return (x ^ x >> 31) >> 32


def rows(records, streams):
  return batch_ids.Rows(np.array(records, np.int32), np.array(streams, np.int32))


def fingerprint(batch, devices):
  mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
  return int(jax.device_get(batch_ids.Fingerprint(NamedSharding(mesh, P("data")))(batch)))


RECORDS, STREAMS = [5, 0, 12345678, 5, 7, 2**31 - 1, 3, 1], [0, 0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_the_sum_of_hashes_wraps_around_and_is_the_same_on_any_mesh(devices):
  expected = sum(map(reference, RECORDS, STREAMS)) % 2**32
  assert fingerprint(rows(RECORDS, STREAMS), devices) == expected
  assert fingerprint(rows(RECORDS[::-1], STREAMS[::-1]), devices) == expected


@pytest.mark.parametrize("place", range(8))
def test_every_row_counts(place):
  whole = batch_ids.hashes(rows(RECORDS, STREAMS)).astype(int).sum() % 2**32
  for change in (np.eye(8, dtype=int)[place], 0), (0, np.eye(8, dtype=int)[place]):
    other = rows(np.array(RECORDS) - change[0], np.array(STREAMS) + change[1])
    assert batch_ids.hashes(other).astype(int).sum() % 2**32 != whole


def test_rows_are_taken_out_of_the_batch_and_gathered_in_order():
  batch = {"record_id": np.arange(4, dtype=np.int32), "stream": np.zeros(4, np.int32), "query": np.zeros((4, 2))}
  taken = batch_ids.Rows.take(batch)
  assert list(batch) == ["query"]
  mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
  whole = batch_ids.gather(taken, NamedSharding(mesh, P("data")))
  assert whole.record_id.tolist() == [0, 1, 2, 3] and whole.stream.tolist() == [0] * 4
