import types

import jax
import numpy as np
import pytest

from tests import tiny
from vljepa_jax import flops, parts, throughput
from vljepa_jax.chips import CHIPS


@pytest.fixture(scope="module")
def run():
  config = tiny.recipe()
  return config, parts.make_parts(config, jax.devices()[:1])


def batch(query_length):
  return {"query": np.zeros((16, query_length), np.int32)}


def on_chips(monkeypatch, run, chip, count):
  """The same run as if it had `count` devices of a chip."""
  config, own = run
  device = types.SimpleNamespace(device_kind=chip.device_kind)
  mesh = types.SimpleNamespace(devices=np.array([device]), size=count, shape=own.mesh.shape)
  return throughput.Throughput(config, types.SimpleNamespace(frozen=own.frozen, mesh=mesh))


def test_batches_count_by_their_own_shapes(run):
  config, own = run
  meter = throughput.Throughput(config, own)
  costs = [flops.step_flops(config, own.frozen, length).model_total for length in (0, 48)]
  assert costs[0] < costs[1]
  for length in (0, 48, 0):
    meter.count(batch(length))
  assert meter.take() == pytest.approx((2 * costs[0] + costs[1]) / 3)
  meter.count(batch(48))
  assert meter.take() == costs[1]


def test_a_cpu_has_a_speed_and_no_mfu(run):
  assert throughput.Throughput(*run).numbers(3e12, 2.0) == {"model_tflops_per_second": 6.0}


@pytest.mark.parametrize("name, count, peak", [("v6e", 4, 4 * 918e12), ("tpu7x", 2, 2307e12), ("h100", 1, 989.4e12)])
def test_mfu_is_a_share_of_the_peak_of_all_devices(monkeypatch, run, name, count, peak):
  meter = on_chips(monkeypatch, run, CHIPS[name], count)
  numbers = meter.numbers(0.4 * peak, 1.0)
  assert numbers["mfu"] == pytest.approx(0.4)
  assert numbers["model_tflops_per_second"] == pytest.approx(0.4 * peak / 1e12)
