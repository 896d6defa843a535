"""Several texts about one picture: the same as the picture once for each, at the cost of one X-encoder pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vljepa_jax import flops, throughput
from vljepa_jax.model.vljepa import VLJepa
from vljepa_jax import sharding

K = 3
TEXTS = ("query", "query_mask", "target", "target_mask", "target_id")
STILL = {"model.predictor.dropout": 0.0, "train.batch_size": 8}


def shared(config):
  """(B, K) texts for B pictures."""
  pictures, texts = tiny.batch(0, config), tiny.batch(1, tiny.recipe(**STILL | {"train.batch_size": 8 * K}))
  return {"video": pictures["video"]} | {name: texts[name].reshape(8, K, *texts[name].shape[1:]) for name in TEXTS}


def one_step(shape, batch, **changes):
  trainer = tiny.Trainer(tiny.recipe(**STILL | changes), shape)
  with trainer.context():
    state, metrics = trainer.step(trainer.state, sharding.put_batch(batch, trainer.parts.rows))
  return jax.device_get((state.params, metrics))


@pytest.fixture(scope="module")
def whole():
  return one_step((1, 1, 1), shared(tiny.recipe(**STILL)))


def test_embeddings_are_those_of_repeated_pictures():
  trainer = tiny.Trainer(tiny.recipe(**STILL))
  batch = shared(trainer.config)
  repeated = {name: x.reshape(8 * K, *x.shape[2:]) for name, x in batch.items() if name != "video"}
  repeated["video"] = np.repeat(batch["video"], K, axis=0)
  embed = jax.jit(lambda params, batch: trainer.parts.model.apply({"params": params}, batch, method=VLJepa.embed))
  for together, apart in zip(embed(trainer.state.params, batch), embed(trainer.state.params, repeated), strict=True):
    assert together.shape == (8, K, 32)
    np.testing.assert_allclose(jnp.reshape(together, apart.shape), apart, atol=1e-6)


@pytest.mark.parametrize("shape, parts", [((4, 1, 1), 1), ((1, 1, 1), 4)])
def test_devices_and_micro_batches_do_not_change_the_step(whole, shape, parts):
  params, metrics = one_step(shape, shared(tiny.recipe(**STILL)), **{"loss.micro_batches": parts})
  np.testing.assert_allclose(metrics["loss"], whole[1]["loss"], rtol=1e-6)
  np.testing.assert_allclose(metrics["grad_norm"], whole[1]["grad_norm"], rtol=1e-5)
  np.testing.assert_allclose(metrics["batch_recall"], whole[1]["batch_recall"])


def test_arithmetic_counts_every_text_and_the_picture_once():
  trainer = tiny.Trainer(tiny.recipe(**STILL))
  cost = lambda texts: flops.step_flops(trainer.config, trainer.parts.frozen, 48, 1, texts).model
  for tower in ("predictor", "y_encoder"):
    assert cost(K)[tower] == tuple(K * n for n in cost(1)[tower])
  assert cost(K)["x_encoder"] == cost(1)["x_encoder"]
  meter = throughput.Throughput(trainer.config, trainer.parts)
  meter.count(shared(trainer.config))
  assert meter.take() == sum(map(sum, cost(K).values()))
