"""A debug-sized model with fresh weights, and stand-ins for what is measured on it."""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

from configs import base
import jax
import jax.numpy as jnp
import numpy as np

from vljepa_jax import api, checkpoint
from vljepa_jax import config as config_lib
from vljepa_jax import evaluation, sharding, step
from vljepa_jax.data import openclipart
from vljepa_jax.data.sources import Source
from vljepa_jax.model.vljepa import VLJepa

BATCH_SIZE = 4


@functools.cache
def debug_config() -> config_lib.Config:
  """`configs/base.py:debug`, evaluated in batches of four."""
  config = config_lib.parse(base.get_config("debug"))
  return dataclasses.replace(config, eval=dataclasses.replace(config.eval, batch_size=BATCH_SIZE))


@functools.cache
def debug_params() -> Any:
  """Parameters from the seed."""
  config = debug_config()
  tokenizers = config.tokenizers
  batch = step.abstract_batch(
      1, 1, config.data.image_size, tokenizers.query.length, tokenizers.target.length)
  module = VLJepa(config_lib.model_config(config.model))
  return jax.jit(lambda key: sharding.unbox(step.init_params(module, batch, key)))(jax.random.key(0))


def debug_model() -> api.Model:
  return api.Model(debug_config(), debug_params())


def save_workdir(workdir: pathlib.Path) -> pathlib.Path:
  """Writes the debug model as a finished run would leave it."""
  config_lib.write(debug_config(), workdir)
  state = step.TrainState(
      step=jnp.int32(8), params=debug_params(), opt_state=(), rng=jax.random.key_data(jax.random.key(0)), ema=None)
  with checkpoint.Checkpoints(workdir / checkpoint.FOLDER, keep=1) as checkpoints:
    checkpoints.save(8, state, {"global_next_index": 0})
  return workdir


@functools.cache
def small_held_out(count: int = 24) -> evaluation.HeldOut:
  """The first pictures of openclipart's test split."""
  part = lambda split, n: Source(
      "openclipart", split, [openclipart.data_source(split)[i] for i in range(n)], openclipart.CLASSES)
  return evaluation.read_held_out(part("test", count), part("train", 1200), api.make_preprocess(debug_config()))


class Oracle:
  """Answers every question rightly: texts have random embeddings, pictures that of their truth."""

  config = debug_config()

  def __init__(self, held_out: evaluation.HeldOut):
    self._captions = [record.caption for record in held_out.records]
    self._answers = {(q.record, q.query): q.answer for q in held_out.questions}

  def encode_prepared(self, frames):
    return np.arange(len(frames), dtype=np.float32)[:, None, None]

  def encode_text(self, texts):
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
    embed = np.stack([np.random.default_rng(seed).normal(size=64) for seed in seeds]).astype(np.float32)
    return embed / np.linalg.norm(embed, axis=1, keepdims=True)

  def encode_labels(self, labels):
    return self.encode_text([f"class {label}" for label in labels])

  def predict(self, visual, query=None):
    index = visual[:, 0, 0].astype(int)
    if query is None:
      return self.encode_text([self._captions[i] for i in index])
    return self.encode_text([self._answers[i, text] for i, text in zip(index, query, strict=True)])
