"""What tests of whole runs share."""

import jax
import jax.numpy as jnp

from vljepa_jax import run_log

TIMES = ("seconds", "samples_per_second", "model_tflops_per_second")


def once(make, key):
  """`make` with its results kept by key of the recipe: runs share what is compiled, which no step can tell."""
  made = {}

  def kept(config, *rest):
    name = repr(key(config))
    if name not in made:
      made[name] = make(config, *rest)
    return made[name]

  return kept


def copied(params, seeded):
  """Parameters that may be donated."""
  return jax.tree.map(jnp.copy, params), seeded


def before_step(monkeypatch, train, number, action):
  """Calls `action` before the `number`-th step of the next run of `train`, the module."""
  make_step = train.make_step

  def make(*args):
    step_fn, calls = make_step(*args), []

    def counted(*inputs):
      calls.append(None)
      if len(calls) == number:
        action()
      return step_fn(*inputs)

    return counted

  monkeypatch.setattr(train, "make_step", make)


def numbers(workdir):
  """What was logged, times left out."""
  return [{k: v for k, v in record.items() if k not in TIMES} for record in run_log.read_metrics(workdir)]
