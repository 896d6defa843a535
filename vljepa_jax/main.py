"""Trains: python -m vljepa_jax.main --config=configs/base.py [--workdir=runs/NAME] [--config.train.steps=400 ...].

With configs/decoder.py it trains the Y-decoder of a finished model. With --replay=DUMP it looks into a step whose loss
or gradients were not finite, and changes nothing.

Kept short on purpose: what a run does can be imported from `train` and tested. Processes that load data import this
file again, so JAX is imported only once it runs.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from vljepa_jax import accelerator, cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe: FILE or FILE:VARIANT.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; runs/<config.name> by default.")
_REPLAY = flags.DEFINE_string("replay", None, "Dump of a step that was not finite, to run again and look into.")
_HOST_SECONDS = flags.DEFINE_float(
    "host_seconds", 60.0, "Seconds without a word from a process after which it counts as lost.", lower_bound=0.5)
_STEP_SECONDS = flags.DEFINE_float(
    "step_seconds", 1800.0, "Seconds in which no step comes to its end, compiling included, after which a run hangs.",
    lower_bound=0.5)


def main() -> None:
  """The command: reads the recipe and runs it."""
  recipe = cli.read_recipe(_CONFIG.value)
  from vljepa_jax import config as config_lib
  from vljepa_jax import hosts, replay, train, watch
  if config_lib.DECODER_KEY in recipe:
    from vljepa_jax.y_decoder import recipe as config_lib, train

  config = config_lib.parse(recipe)
  workdir = pathlib.Path(_WORKDIR.value or f"runs/{config.name}")
  with hosts.joined(watch.Limits(_HOST_SECONDS.value, _STEP_SECONDS.value)):
    accelerator.use_compilation_cache()
    if _REPLAY.value:
      replay.run(config, workdir, pathlib.Path(_REPLAY.value), train.set_stage)
    else:
      train.run(config, workdir)


if __name__ == "__main__":
  cli.run(main)
