"""Trains: python -m vljepa_jax.main --config=configs/base.py [--workdir=runs/NAME] [--config.train.steps=400 ...].

With configs/decoder.py it trains the Y-decoder of a finished model.

Kept short on purpose: what a run does can be imported from `train` and tested. Processes that load data import this
file again, so JAX is imported only once it runs.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from vljepa_jax import accelerator, cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe: FILE or FILE:VARIANT.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; runs/<config.name> by default.")


def main() -> None:
  """The command: reads the recipe and runs it."""
  recipe = cli.read_recipe(_CONFIG.value)
  from vljepa_jax import config as config_lib
  from vljepa_jax import hosts, train
  if config_lib.DECODER_KEY in recipe:
    from vljepa_jax.y_decoder import recipe as config_lib, train

  config = config_lib.parse(recipe)
  with hosts.joined():
    accelerator.use_compilation_cache()
    train.run(config, pathlib.Path(_WORKDIR.value or f"runs/{config.name}"))


if __name__ == "__main__":
  cli.run(main)
