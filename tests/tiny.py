"""The debug recipe on some mesh, and batches of noise, for tests of training."""

import contextlib
import dataclasses
import math

from configs import base
from flax.linen import logical_axis_rules
import jax
import numpy as np

from vljepa_jax import config as config_lib
from vljepa_jax import parts as parts_lib
from vljepa_jax import sharding

# What is compiled takes half the time, and training is training.
ONE_LAYER = {"model.x_encoder.num_layers": 1, "model.predictor.layers": (0, 1), "model.y_encoder.num_layers": 1}


def recipe(**changes):
  """`configs/base.py:debug` with single values changed: recipe(**{"optim.ema": 0.9})."""
  config = base.get_config("debug")
  config.update_from_flattened_dict(changes)
  return config_lib.parse(config)


def batch(index, config):
  """A batch of noise with the shapes of the pipeline; a quarter of the targets are the same."""
  rng = np.random.default_rng(index)
  b, size, tokens = config.train.batch_size, config.data.image_size, config.tokenizers
  ids = lambda length: rng.integers(3, 259, (b, length)).astype(np.int32)
  mask = lambda length: np.arange(length) < rng.integers(2, length, (b, 1))
  return {
      "video": rng.integers(0, 256, (b, config.data.frames, size, size, 3)).astype(np.uint8),
      "query": ids(tokens.query.length),
      "query_mask": mask(tokens.query.length),
      "target": ids(tokens.target.length),
      "target_mask": mask(tokens.target.length),
      "target_id": np.where(np.arange(b) % 4 == 1, 0, np.arange(b)).astype(np.int32),
  }


class Trainer:
  """State and step of a recipe on a (data, fsdp, tensor[, slice]) mesh; `losses` collects what the steps give.

  It starts from the recipe's seed, or from a given state.
  """

  def __init__(self, config, shape=(1, 1, 1), state=None):
    sizes = dict(zip(("data", "fsdp", "tensor", "slice"), shape))
    self.config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **sizes))
    self.parts = parts_lib.make_parts(self.config, jax.devices()[: math.prod(shape)])
    self.losses = []
    self.step = parts_lib.make_step(self.config, self.parts)
    with self.context():
      self.state = self._first_state() if state is None else jax.device_put(state, self.parts.shardings)

  def _first_state(self):
    init = lambda key: parts_lib.first_state(
        self.config, self.parts.tx, self.parts.frozen, sharding.unbox(self.parts.init(key)))
    return jax.jit(init, out_shardings=self.parts.shardings)(jax.random.key(0))

  @contextlib.contextmanager
  def context(self):
    with jax.set_mesh(self.parts.mesh), logical_axis_rules(self.config.mesh.rules):
      yield

  def run(self, first, last):
    """Steps first..last-1."""
    with self.context(), jax.transfer_guard("disallow"):
      for i in range(first, last):
        self.state, self.metrics = self.step(self.state, sharding.put_batch(batch(i, self.config), self.parts.rows))
        self.losses.append(float(jax.device_get(self.metrics["loss"])))
    return self
