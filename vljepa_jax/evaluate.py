"""Repeats the evaluation of a trained model: python -m vljepa_jax.evaluate --workdir=runs/base [--split=NAME]
[--decoder=runs/base_decoder]

Prints the table and writes `results.json` and `report.html` in the workdir; what the earlier `results.json` says of the
training itself is kept. Of another split than the recipe's it writes `results-NAME.json` alone. With --decoder it
measures the words of that Y-decoder instead, and writes into the decoder's workdir. On several hosts each evaluates on
a device of its own, and the first one writes.
"""

import pathlib

from absl import flags

import jax

from vljepa_jax import accelerator, api, cli, evaluation, hosts, report
from vljepa_jax import config as config_lib
from vljepa_jax.errors import INPUT_ERRORS, as_user_error
from vljepa_jax.progress import say
from vljepa_jax.run_log import read_metrics
from vljepa_jax.y_decoder import held_out as held_out_lib

KEPT = ("params", "train")  # parts of the results that only the training knows


def run(workdir: pathlib.Path, split: str = "") -> dict[str, object]:
  """Evaluates the newest checkpoint, writes what there is to write, and returns the results.

  Args:
    workdir: of the run.
    split: of the data set that the recipe evaluates on; "" for the recipe's own.

  Raises:
    UserError: there is no such workdir, checkpoint or split, or the data set cannot be read.
  """
  model = api.load(workdir)
  with as_user_error(*INPUT_ERRORS):
    held_out = evaluation.open_held_out(model.config, split)
  if split and split != model.config.eval.split:
    results, _ = evaluation.evaluate(model, held_out)
    write(workdir / f"results-{split}.json", results)
    return results
  earlier = evaluation.read_results(workdir)
  before = earlier["paraphrase"]["before"] if "before" in earlier.get("paraphrase", {}) else None
  results, details = evaluation.evaluate(model, held_out, paraphrase_before=before)
  results |= {part: earlier[part] for part in KEPT if part in earlier}
  write(workdir / evaluation.RESULTS, results)
  with hosts.together(), as_user_error(OSError):
    if model.config.eval.report and jax.process_index() == 0:
      config = config_lib.to_dict(model.config)
      report.write_report(workdir, results, details, read_metrics(workdir), config)
  return results


def run_decoder(workdir: pathlib.Path, decoder: pathlib.Path, split: str = "") -> dict[str, object]:
  """Measures the newest checkpoint of a Y-decoder, writes its results, and returns their part "decoder".

  Args:
    workdir: of the model.
    decoder: of its Y-decoder.
    split: as of `run`.

  Raises:
    UserError: as `run`, or the decoder is not one of this model.
  """
  numbers = held_out_lib.evaluate(api.load(workdir, decoder=decoder), decoder, split)
  name = f"results-{split}.json" if split else evaluation.RESULTS
  earlier = {} if split else evaluation.read_results(decoder)
  write(decoder / name, {**earlier, "decoder": numbers})
  return numbers


def write(path: pathlib.Path, results: dict[str, object]) -> None:
  """The first process writes the file; UserError on all where it cannot."""
  with hosts.together(), as_user_error(OSError):
    if jax.process_index() == 0:
      evaluation.write_json(path, results)


def main() -> None:
  """The command: evaluates and prints the table."""
  with hosts.joined():
    accelerator.use_compilation_cache()
    workdir, split, decoder = pathlib.Path(flags.FLAGS.workdir), flags.FLAGS.split, flags.FLAGS.decoder
    if decoder:
      say(held_out_lib.table(run_decoder(workdir, pathlib.Path(decoder), split)))
    else:
      say(evaluation.table(run(workdir, split)))


if __name__ == "__main__":
  flags.DEFINE_string("workdir", "runs/base", "Folder of the run.")
  flags.DEFINE_string("split", "", "Another split of the data set than the recipe's.")
  flags.DEFINE_string("decoder", "", "Folder of its Y-decoder, to measure that one's words.")
  cli.run(main)
