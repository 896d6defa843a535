"""Compares: python -m vljepa_jax.compare --config=configs/compare.py [--workdir=runs/compare] [--only=openclipart].

Makes the runs of a study that are not finished yet, and then one file of them all, --out. Stopped or killed, the same
command goes on. Two processes may share a workdir, each with its own tasks (--only).
"""

import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from vljepa_jax import accelerator, cli

_CONFIG = config_flags.DEFINE_config_file("config", "configs/compare.py", "Recipe of a study.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where its runs live; runs/<config.name> by default.")
_ONLY = flags.DEFINE_list("only", [], "Tasks to run, and nothing is collected; all by default.")
_OUT = flags.DEFINE_string("out", None, "File of the results; WORKDIR/results.json by default.")


def main() -> None:
  """The command."""
  plain = cli.read_recipe(_CONFIG.value)
  from vljepa_jax.compare import results, study as study_lib, sweep
  from vljepa_jax.progress import say
  from vljepa_jax.tasks import captioning

  study = study_lib.parse(plain)
  captioning.require()
  workdir = pathlib.Path(_WORKDIR.value or f"runs/{study.name}")
  accelerator.use_compilation_cache()
  if not sweep.run(study, workdir, _ONLY.value or list(study.tasks)) or _ONLY.value:
    return
  out = pathlib.Path(_OUT.value) if _OUT.value else workdir / "results.json"
  command = f"python -m vljepa_jax.compare {shlex.join(sys.argv[1:])}"
  say(results.table(results.write(study, workdir, out, command)))
  say(f"  {out}")


if __name__ == "__main__":
  cli.run(main)
