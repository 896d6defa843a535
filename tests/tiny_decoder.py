"""A decoder's debug recipe, and the workdir of a small finished model, for tests of its training."""

import dataclasses
import pathlib
from typing import Any

from configs import decoder
import jax
import jax.numpy as jnp

from tests import tiny_model
from vljepa_jax import checkpoint, step
from vljepa_jax import config as config_lib
from vljepa_jax.data import openclipart
from vljepa_jax.data.sources import Source
from vljepa_jax.y_decoder import recipe as recipe_lib

RECORDS = 48
CHANGES = {
    "texts.length": 24, "texts.error_records": 12, "train.log_every": 1, "train.eval_every": 5,
    "eval.batch_size": 8, "mesh.data": 8,
}


def recipe(model_workdir, **changes) -> recipe_lib.Recipe:
  """`configs/decoder.py:debug` with single values changed."""
  config = decoder.get_config("debug")
  config.update_from_flattened_dict({"model_workdir": str(model_workdir), **CHANGES, **changes})
  return recipe_lib.parse(config)


def train_source(dataset: str = "openclipart", split: str = "train") -> Source:
  """The first training pictures of openclipart."""
  return Source(dataset, split, [openclipart.data_source(split)[i] for i in range(RECORDS)], openclipart.CLASSES)


def save_model(workdir: pathlib.Path, params: Any = None, done: int = 8) -> pathlib.Path:
  """The debug model after so many of its 8 steps, trained on captions and "what"; with its own parameters or others."""
  config = tiny_model.debug_config()
  config = dataclasses.replace(
      config, data=dataclasses.replace(config.data, sources=config.data.sources[:2]),
      eval=dataclasses.replace(config.eval, batch_size=64))
  workdir.mkdir(exist_ok=True)
  config_lib.write(config, workdir)
  state = step.TrainState(
      step=jnp.int32(done), params=tiny_model.debug_params() if params is None else params, opt_state=(),
      rng=jax.random.key_data(jax.random.key(0)), ema=None)
  with checkpoint.Checkpoints(workdir / checkpoint.FOLDER, keep=1) as checkpoints:
    checkpoints.save(done, state, {"global_next_index": 0})
  return workdir
