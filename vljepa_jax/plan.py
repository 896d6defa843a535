"""Plans a run on TPUs that are not there: python -m vljepa_jax.plan --config=configs/vljepa_stage1.py:8frames
--topology=v6e:16x16 [--slices=2] [--search] [--json=FILE] [--config.mesh.fsdp=16 ...].

Compiles the training step that `main` runs, with libtpu (pip install -r requirements-aot.txt), and says whether it
fits, what it computes and moves, and how fast it could be at best. Nothing runs on a TPU.
"""

import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from vljepa_jax import cli
from vljepa_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe: FILE or FILE:VARIANT.", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", "v6e:16x16", "Slice: generation and chips along each axis.")
_SLICES = flags.DEFINE_integer("slices", 1, "Slices, joined by the data-centre network.", lower_bound=1)
_SEARCH = flags.DEFINE_bool("search", False, "Try meshes, remat policies and micro-batches; the fastest that fits.")
_CERTIFICATES = flags.DEFINE_string("certificates", None, "Print a table of the plans in this folder, and no more.")
_JSON = flags.DEFINE_string("json", None, "Also write the plan to this file.")


def main() -> None:
  """The command."""
  if _CERTIFICATES.value:
    return print_table(pathlib.Path(_CERTIFICATES.value))
  recipe = cli.read_recipe(_CONFIG.value)
  from vljepa_jax.aot import topology

  chip, _ = topology.parse(_TOPOLOGY.value)
  topology.prepare(chip)
  from vljepa_jax import config as config_lib
  from vljepa_jax.aot import plan, report, search

  flag = flags.FLAGS["config"]
  name, changes = config_flags.get_config_filename(flag), dict(config_flags.get_override_values(flag))
  if _SLICES.value > 1 and recipe["mesh"]["slice"] != _SLICES.value:
    changes["mesh.slice"] = recipe["mesh"]["slice"] = _SLICES.value
  if _SEARCH.value:
    made = search.search(name, recipe, changes, _TOPOLOGY.value, _SLICES.value)
  else:
    made = plan.make_plan(name, config_lib.parse(recipe), changes, _TOPOLOGY.value, _SLICES.value)
  print(report.text(made))
  if _JSON.value:
    made.write(pathlib.Path(_JSON.value))
  sys.exit(0 if made.fits else 1)


def print_table(folder: pathlib.Path) -> None:
  """A line for every plan in a folder."""
  from vljepa_jax.aot import plan, report

  paths = sorted(folder.glob("*.json"))
  if not paths:
    raise UserError(f"--certificates={folder} holds no plans; --json=FILE writes one")
  print(report.table({path.stem: plan.read(path) for path in paths}))


if __name__ == "__main__":
  cli.run(main)
