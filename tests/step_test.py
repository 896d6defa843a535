import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from vljepa_jax import loss, sharding, step
from vljepa_jax.parts import make_parts, make_step

pytestmark = pytest.mark.usefixtures("quick_compiler")
EMA = tiny.ONE_LAYER | {"optim.ema": 0.99}


@pytest.fixture(scope="module")
def single():
  """Five steps on one device: `before` is the state before and `first` after the first, `compiled` what came after."""
  trainer = tiny.Trainer(tiny.recipe(**EMA))
  trainer.before, trainer.compiled = jax.device_get(trainer.state), []
  trainer.first = trainer.run(0, 1).state

  def count(event, duration, **_):
    if event.endswith("backend_compile_duration"):
      trainer.compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(count)
  trainer.run(1, 5)
  jax.monitoring.unregister_event_duration_listener(count)
  return trainer


def one_step(trainer, index, **changes):
  """The state and metrics of one step from the trainer's state, which stays as it is."""
  state = jax.device_put(jax.device_get(trainer.state.replace(**changes)), trainer.parts.shardings)
  with trainer.context():
    rows = sharding.put_batch(tiny.batch(index, trainer.config), trainer.parts.rows)
    return jax.device_get(trainer.step(state, rows))


def groups(tree, labels):
  """Leaves by group."""
  found = {}
  jax.tree.map(lambda x, label: found.setdefault(label, []).append(x), jax.device_get(tree), labels)
  return found


def test_frozen_parameters_keep_every_bit_and_all_others_move(single):
  old, new = (groups(tree, single.parts.labels) for tree in (single.before.params, single.state.params))
  assert all(a.tobytes() == b.tobytes() for a, b in zip(old["frozen"], new["frozen"], strict=True))
  for label in ("x0.05", "x1.0"):
    assert all(np.any(a != b) for a, b in zip(old[label], new[label], strict=True))


def test_metrics_are_finite_and_named(single):
  metrics = jax.device_get(single.metrics)
  assert set(metrics) == {
      "loss", "temperature", "batch_recall", "duplicate_rate", "grad_norm", "learning_rate"}
  assert all(np.isfinite(x) for x in metrics.values())
  assert metrics["duplicate_rate"] == 5 / 16


@pytest.mark.parametrize("shape", [
    (8, 1, 1), pytest.param((4, 2, 1), marks=pytest.mark.slow), (2, 2, 2), (1, 8, 1), (1, 2, 2, 2),
])
def test_mesh_does_not_change_training(single, shape):
  many = tiny.Trainer(tiny.recipe(**EMA), shape).run(0, 5)
  np.testing.assert_allclose(many.losses, single.losses, atol=1e-5, rtol=0)
  chex.assert_trees_all_close(jax.device_get(many.state.params), jax.device_get(single.state.params), atol=1e-4)
  kernel = many.state.params["predictor"]["layers_0"]["up"]["kernel"]
  assert kernel.sharding.mesh.shape["fsdp"] == shape[1]
  assert kernel.addressable_shards[0].data.size == kernel.size // (shape[1] * shape[2])


def test_nothing_is_compiled_after_the_first_step_and_states_are_donated(single):
  assert not single.compiled, "a weakly typed or misplaced initial state compiles the step twice"
  assert all(x.is_deleted() for x in jax.tree.leaves(single.first))


def test_dropout_depends_on_the_step_alone(single):
  losses = [one_step(single, 9, step=np.int32(n))[1]["loss"] for n in (3, 3, 4)]
  assert losses[0] == losses[1] != losses[2]


def test_backward_pass_of_frozen_parameters_is_not_built():
  def is_built(part, frozen):
    groups = ((f"{part}/.*", None), (".*", 1.0)) if frozen else ((".*", 1.0),)
    config = tiny.recipe(**tiny.ONE_LAYER, **{"optim.groups": groups})
    parts = make_parts(config, jax.devices()[:1])
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tiny.batch(0, config))
    program = make_step(config, parts).lower(parts.state, batch).as_text(debug_info=True)
    return re.search(rf"transpose\(.*/{part}/", program) is not None

  assert is_built("x_encoder", frozen=False)
  assert not is_built("x_encoder", frozen=True)


def test_averages_follow_the_warmed_up_decay():
  params, frozen = {"a": jnp.array([1.0]), "b": jnp.array([5.0])}, {"a": False, "b": True}
  mean = step.without_frozen(params, frozen)
  assert mean["b"] is None
  expected = 1.0
  for t, value in enumerate([2.0, 4.0, 3.0]):
    decay = min(0.2, (1 + t) / (10 + t))
    expected = decay * expected + (1 - decay) * value
    mean = step.average(mean, {"a": jnp.array([value]), "b": params["b"]}, jnp.int32(t), 0.2)
  np.testing.assert_allclose(mean["a"], expected, rtol=1e-6)
  merged = step.averaged_params(params, mean)
  assert merged["a"] is mean["a"] and merged["b"] is params["b"]
  assert step.averaged_params(params, None) is params


def test_step_averages_the_trained_parameters_only(single):
  state = jax.device_get(single.state)
  assert jax.tree.leaves(state.ema["x_encoder"]) == []
  key = lambda tree: tree["predictor"]["head"]["kernel"]
  assert np.all(key(state.ema) != key(state.params)) and np.all(key(state.ema) != key(single.before.params))


def test_temperature_comes_back_to_the_clamp(single):
  params = single.state.params | {"log_scale": single.state.params["log_scale"] + 9.0}
  state, metrics = one_step(single, 9, params=params)
  assert state.params["log_scale"] <= np.float32(loss.MAX_LOG_SCALE)
  np.testing.assert_allclose(metrics["temperature"], 0.01, rtol=1e-6)


STILL = tiny.ONE_LAYER | {"model.predictor.dropout": 0.0, "optim.ema": 0.0}


@pytest.mark.parametrize("kind, count, shape", [
    pytest.param("info_nce", 2, (1, 1, 1), marks=pytest.mark.slow), ("info_nce", 4, (1, 1, 1)),
    pytest.param("info_nce", 8, (1, 1, 1), marks=pytest.mark.slow), ("sigmoid_ring", 2, (4, 2, 1)),
])
def test_micro_batches_keep_all_negatives(kind, count, shape):
  changes = STILL | {"loss.kind": kind, "model.logit_bias": kind.startswith("sigmoid")}
  whole = tiny.Trainer(tiny.recipe(**changes), shape)
  parts = tiny.Trainer(tiny.recipe(**changes, **{"loss.micro_batches": count}), shape, jax.device_get(whole.state))
  whole.run(0, 1), parts.run(0, 1)
  np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-6)
  np.testing.assert_allclose(parts.metrics["grad_norm"], whole.metrics["grad_norm"], rtol=1e-5)
  # Adam's moments after one step are the clipped gradients; its first update is their sign, which rounding may turn.
  moments = lambda trainer: [x for x in jax.tree.leaves(jax.device_get(trainer.state.opt_state)) if x.ndim]
  largest = max(np.linalg.norm(x) for x in moments(whole))
  for a, b in zip(moments(parts), moments(whole), strict=True):
    # Key biases have no gradient but rounding: softmax does not see them.
    assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b) + 1e-9 * largest
