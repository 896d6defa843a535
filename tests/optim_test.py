import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tiny
from vljepa_jax import optim
from vljepa_jax.errors import UserError

GROUPS = (("frozen/.*", None), ("slow/.*", 0.05), (".*", 1.0))


def tree(*parts):
  """The same parameters under every one of these names."""
  rng = np.random.default_rng(0)
  part = {
      "up": {"kernel": rng.normal(size=(6, 4)), "bias": rng.normal(size=4)},
      "norm": {"scale": rng.normal(size=4)},
      "token_embed": {"embedding": rng.normal(size=(9, 4))},
  }
  copy = lambda: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), part)
  return {name: copy() for name in parts}


def settings(**changes):
  return dataclasses.replace(tiny.recipe().optim, **{"groups": GROUPS, **changes})


def update(optim_config, params, steps=3):
  """Updates of the last of some steps in which every part gets the same gradients."""
  tx = optim.make_optimizer(optim_config, 10, params)
  state = tx.init(params)
  for i in range(steps):
    rng = np.random.default_rng(i)
    one = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), next(iter(params.values())))
    updates, state = tx.update({name: one for name in params}, state, params)
  return updates, state


def test_first_matching_pattern_counts():
  params = tree("frozen", "slow", "fast")
  labels = optim.label_params(params, GROUPS)
  assert labels["frozen"]["up"]["kernel"] == "frozen"
  assert labels["slow"]["norm"]["scale"] == "x0.05"
  assert labels["fast"]["up"]["bias"] == "x1.0"
  assert optim.frozen_mask(labels)["frozen"]["up"]["bias"] is True


def test_a_parameter_without_a_pattern_is_named():
  with pytest.raises(UserError, match="'fast/norm/scale'|'fast/token_embed/embedding'|'fast/up/bias'"):
    optim.label_params(tree("frozen", "fast"), (("frozen/.*", None),))


@pytest.mark.parametrize("groups", [(("nothing/.*", 1.0), (".*", 1.0)), ((".*", 1.0), ("slow/.*", 0.05))])
def test_a_pattern_that_decides_nothing_is_named(groups):
  unused = "nothing" if groups[0][0].startswith("nothing") else "slow"
  with pytest.raises(UserError, match=unused):
    optim.label_params(tree("slow"), groups)


def test_slow_group_moves_at_exactly_its_share():
  updates, _ = update(settings(), tree("frozen", "slow", "fast"))

  def check(slow, fast):
    assert np.all(fast != 0)
    np.testing.assert_allclose(slow, np.float32(0.05) * fast, rtol=3e-7)  # two roundings of float32

  jax.tree.map(check, updates["slow"], updates["fast"])
  assert all(not np.any(u) for u in jax.tree.leaves(updates["frozen"]))


def test_frozen_parameters_hold_no_moments():
  params = tree("frozen", "slow", "fast")
  state = optim.make_optimizer(settings(), 10, params).init(params)
  moments = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
  assert moments == 2 * sum(x.size for x in jax.tree.leaves({k: params[k] for k in ("slow", "fast")}))


def test_weight_decay_is_on_kernels_alone():
  params = {"fast": tree("fast")["fast"], "log_scale": jnp.float32(2.0)}
  config = settings(groups=((".*", 1.0),), weight_decay=0.5)
  tx = optim.make_optimizer(config, 10, params)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  rate = optim.make_schedule(config, 10)(0)
  np.testing.assert_allclose(
      updates["fast"]["up"]["kernel"], -rate * 0.5 * params["fast"]["up"]["kernel"], rtol=1e-6)
  updates["fast"]["up"].pop("kernel")
  assert all(not np.any(u) for u in jax.tree.leaves(updates))


def test_gradients_are_clipped_before_the_groups():
  params = tree("slow", "fast")
  config = settings(groups=(("slow/.*", 0.05), (".*", 1.0)), clip_norm=1e-3)
  tx = optim.make_optimizer(config, 10, params)
  grads = jax.tree.map(jnp.ones_like, params)
  _, state = tx.update(grads, tx.init(params), params)
  mu = optax.tree.get(state, "mu", filtering=lambda path, _: "x1.0" in str(path))["fast"]["up"]["kernel"]
  np.testing.assert_allclose(mu, (1 - config.b1) * 1e-3 / optax.tree.norm(grads), rtol=1e-4)


@pytest.mark.parametrize("schedule, step, expected", [
    ("constant", 0, 0.25), ("constant", 3, 1.0), ("constant", 99, 1.0),
    ("cosine", 0, 0.25), ("cosine", 3, 1.0), ("cosine", 4, 1.0), ("cosine", 52, 0.55), ("cosine", 100, 0.1),
])
def test_schedule(schedule, step, expected):
  config = settings(schedule=schedule, warmup_steps=4, final=0.1, learning_rate=2.0)
  np.testing.assert_allclose(optim.make_schedule(config, 100)(step), 2.0 * expected, rtol=1e-6)
