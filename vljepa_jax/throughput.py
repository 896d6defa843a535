"""How much arithmetic a run gets done, and what share of the chips' peak that is (MFU)."""

from collections.abc import Mapping
import functools

import numpy as np

from vljepa_jax import flops, sharding
from vljepa_jax.chips import chip_of_device
from vljepa_jax.config import Config
from vljepa_jax.parts import Parts


class Throughput:
  """Adds up the operations of the steps of a run; batches of different streams cost differently.

  Only what the model asks for counts, forward and backward, not what is computed twice to save memory.
  """

  def __init__(self, config: Config, parts: Parts):
    devices = sharding.batch_parts(parts.mesh, config.mesh.rules)
    self._cost = functools.cache(
        lambda query_length, texts: flops.step_flops(config, parts.frozen, query_length, devices, texts).model_total)
    chip = chip_of_device(parts.mesh.devices.flat[0].device_kind)
    self._peak = chip.peak_flops_per_device * parts.mesh.size if chip else None
    self._steps, self._total = 0, 0

  def count(self, batch: Mapping[str, np.ndarray]) -> None:
    """A step on this batch, of which every process holds its rows, is under way."""
    self._steps += 1
    *several, query_length = batch["query"].shape[1:]
    self._total += self._cost(query_length, *(several or [1]))

  def take(self) -> float:
    """Operations of a step, on average over those since the last call."""
    mean, self._steps, self._total = self._total / max(self._steps, 1), 0, 0
    return mean

  def numbers(self, step_flops: float, steps_per_second: float) -> dict[str, float]:
    """For the log: `model_tflops_per_second` of all devices together, and `mfu` (0 to 1) where their peak is known."""
    speed = step_flops * steps_per_second
    numbers = {"model_tflops_per_second": speed / 1e12}
    return numbers | ({"mfu": speed / self._peak} if self._peak else {})
