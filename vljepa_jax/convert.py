r"""Pretrained parts in, trained models out.

  python -m vljepa_jax.convert --config=configs/vljepa_stage1.py --x_encoder=DIR --predictor=DIR --y_encoder=DIR \
      --out=WORKDIR
  python -m vljepa_jax.convert --from=WORKDIR --to=DIR --format=hf
  python -m vljepa_jax.convert --from=DIR --out=WORKDIR

The first makes a model of published parts, any of the three: folders, files, `hf://org/name[@revision]` or
`pkg://package/path`. What none of them holds starts from the config's seed. The result is a workdir that
`--config.init_from=WORKDIR` starts training from and that evaluation reads.

The second writes a model into a folder: config.json, model.safetensors and tokenizers/ hold all of it, and with
`--format=hf` the folders x_encoder/, predictor/ and y_encoder/ beside them hold each part as the libraries that it came
from load it. The third reads such a folder back.
"""

from collections.abc import Collection
import dataclasses
import pathlib
import shutil
from typing import Any

from absl import flags
from flax import traverse_util
import jax
from ml_collections import config_flags

from vljepa_jax import api, checkpoint, cli, start, weights
from vljepa_jax import config as config_lib
from vljepa_jax.config import Config
from vljepa_jax.data.text import BYTES
from vljepa_jax.errors import INPUT_ERRORS, UserError, as_user_error
from vljepa_jax.model.vljepa import VLJepaConfig
from vljepa_jax.parts import make_parts

FORMATS = ("hf", "whole")
SIDES = {"predictor": "query", "y_encoder": "target"}  # tower -> the texts that it reads
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"

Path = tuple[str, ...]


def import_parts(config: Config, out: pathlib.Path) -> None:
  """Makes the workdir `out` of the weights that the config names; UserError, and nothing written, if one is bad."""
  _check_new(out)
  with as_user_error(*INPUT_ERRORS):
    parts = make_parts(_on_one_device(config), jax.devices()[:1])
    _check_tokenizers(config, parts.model.config)
    with jax.set_mesh(parts.mesh):
      params, seeded = start.pretrained_params(config, parts)
  _write_workdir(config, params, out)
  for name in start.TOWERS:
    print(f"  {name:<10} {_origin(config, name, traverse_util.flatten_dict(params[name]), seeded)}")
  for side in config_lib.TEXTS:
    print(f"  {side:<10} tokenizer of {getattr(config.tokenizers, side).source}")
  print(f"{out} is ready; train from it with --config.init_from={out}")


def _on_one_device(config: Config) -> Config:
  """The recipe with a mesh of one; its own may ask for a slice."""
  mesh = dataclasses.replace(config.mesh, slice=1, data=1, fsdp=1, tensor=1)
  return dataclasses.replace(config, mesh=mesh)


def import_whole(folder: pathlib.Path, out: pathlib.Path) -> None:
  """Makes the workdir `out` of a folder that `export` wrote; UserError, and nothing written, if it is at fault."""
  _check_new(out)
  config = config_lib.read(folder)
  with as_user_error(*INPUT_ERRORS):
    _check_tokenizers(config, config_lib.model_config(config.model))
    params = weights.load_all(folder / WEIGHTS, api.abstract_params(config))
  _write_workdir(config, params, out)
  print(f"{out} is ready; it holds the model of {folder}")


def export(workdir: pathlib.Path, to: pathlib.Path, form: str) -> None:
  """Writes the model of a workdir into a new folder in one of `FORMATS`; the averaged weights where the run has them.

  Raises:
    UserError: there is no model, the folder is not empty, a part is of a kind that nothing else loads, a full disk.
  """
  if to.exists() and (not to.is_dir() or any(to.iterdir())):
    raise UserError(f"--to={to} is not an empty folder; give another one")
  config = config_lib.read(workdir)
  params = checkpoint.load_params(workdir, api.abstract_params(config))
  towers = config_lib.model_config(config.model)
  with as_user_error(*INPUT_ERRORS):
    to.mkdir(parents=True, exist_ok=True)
    for tower, side in SIDES.items():
      _copy_tokenizer(config, side, [to / config_lib.TOKENIZERS / side] + [to / tower] * (form == "hf"))
    weights.save_all(to / WEIGHTS, params)
    config_lib.write(config, to)
    if form == "hf":
      for name in start.TOWERS:
        weights.export_folder(to / name, getattr(towers, name), params[name])
  print(f"{to} is ready: {', '.join(sorted(p.name + '/' * p.is_dir() for p in to.iterdir()))}")


def with_sources(config: Config, sources: dict[str, str]) -> Config:
  """The recipe with other weights for some towers, and with the tokenizers that lie beside them."""
  plain = config_lib.to_dict(config)
  tokenizers = {}
  for name, spec in sources.items():
    plain["model"][name]["weights"] = spec
    path = weights.resolve(spec)
    if name in SIDES and (path / TOKENIZER).is_file():
      tokenizers[SIDES[name]] = spec
  return config_lib.with_tokenizers(config_lib.parse(plain), tokenizers)


def _check_tokenizers(config: Config, towers: VLJepaConfig) -> None:
  """Opens both tokenizers; ValueError if one is damaged or not of this model."""
  api.make_text_input(config.tokenizers.query, towers.predictor.vocab_size)(["a"])
  api.make_text_input(config.tokenizers.target, towers.y_encoder.vocab_size)(["a"])


def _origin(config: Config, tower: str, leaves: dict[Path, Any], seeded: Collection[Path]) -> str:
  """Where the parameters of a tower are from, in words."""
  fresh = [path for path in leaves if (tower, *path) in seeded]
  given = sum(leaf.size for path, leaf in leaves.items() if path not in fresh)
  source = getattr(config.model, tower).weights
  words = [f"{given:,} parameters " + (f"of {source}" if source else "that follow from other parts")] if given else []
  if fresh:
    names = ", ".join(dict.fromkeys(path[0] for path in fresh)) if given else "all"
    words.append(f"{sum(leaves[path].size for path in fresh):,} from seed {config.seed} ({names})")
  return "; ".join(words)


def _copy_tokenizer(config: Config, side: str, places: list[pathlib.Path]) -> None:
  """Copies the tokenizer.json of a side into folders; bytes need none."""
  source = getattr(config.tokenizers, side).source
  if source == BYTES:
    return
  path = weights.resolve(source)
  for folder in places:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path / TOKENIZER if path.is_dir() else path, folder / TOKENIZER)


def _check_new(out: pathlib.Path) -> None:
  if checkpoint.latest_step(out / checkpoint.FOLDER) is not None:
    raise UserError(f"--out={out} holds a run already; give another folder")


def _write_workdir(config: Config, params: Any, out: pathlib.Path) -> None:
  """The config first: a folder without a checkpoint is no run yet, and can be written to again."""
  with as_user_error(OSError):
    out.mkdir(parents=True, exist_ok=True)
    for side in config_lib.TEXTS:
      _copy_tokenizer(config, side, [out / config_lib.TOKENIZERS / side])
    config_lib.write(config, out)
  checkpoint.save_params(out / checkpoint.FOLDER, params)


def define_flags() -> None:
  """The flags of the command; not at import, where they would meet those of other commands."""
  config_flags.DEFINE_config_file("config", None, "Recipe of the model: FILE or FILE:VARIANT.", lock_config=True)
  for name in start.TOWERS:
    flags.DEFINE_string(name, None, f"Weights of the {name}: a folder, a file, hf://org/name or pkg://package/path.")
  flags.DEFINE_string("out", None, "Workdir to make.")
  flags.DEFINE_string("from", None, "Workdir to export, or exported folder to read back.")
  flags.DEFINE_string("to", None, "Folder to export to.")
  flags.DEFINE_enum("format", "hf", FORMATS, "whole: one folder for all; hf: folders of the parts beside it.")


def main() -> None:
  """The command: imports or exports, by the flags given."""
  given = flags.FLAGS
  source = given["from"].value
  sources = {name: given[name].value for name in start.TOWERS if given[name].value}
  if source and given.to and not (given.out or sources or given.config):
    export(pathlib.Path(source), pathlib.Path(given.to), given.format)
  elif source and given.out and not (given.to or sources or given.config):
    import_whole(pathlib.Path(source), pathlib.Path(given.out))
  elif given.config and given.out and not (source or given.to):
    with as_user_error(*INPUT_ERRORS):
      config = with_sources(config_lib.parse(cli.read_recipe(given.config)), sources)
    import_parts(config, pathlib.Path(given.out))
  else:
    raise UserError("give --config and --out (with --x_encoder, --predictor, --y_encoder), --from and --to, or "
                    "--from and --out")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
