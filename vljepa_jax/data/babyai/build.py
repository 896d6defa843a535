"""Generates the babyai data set.

  pip install minigrid
  python -m vljepa_jax.data.babyai.build [--out=DIR] [--clips=12000]

writes DIR/babyai/1.0.0, DIR being TFDS's data folder unless given, in less than a minute on two cores. The same seed
and number of clips give the same records in the same order.
"""

import argparse
from collections.abc import Sequence
import sys

from vljepa_jax.data.babyai.builder import CLIPS, BabyAI
from vljepa_jax.data.babyai.questions import ACTIONS
from vljepa_jax.data.babyai.reading import NAME, set_folder
from vljepa_jax.data.babyai.tiles import require_minigrid
from vljepa_jax.errors import UserError, one_line


def main(argv: Sequence[str] | None = None) -> None:
  """The command; exits with one line for what the caller can put right."""
  parser = argparse.ArgumentParser(description="Generates the babyai data set.")
  parser.add_argument("--out", help="TFDS's data folder; without it, TFDS's own")
  parser.add_argument("--clips", type=int, default=CLIPS, help="clips of the training split")
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args(argv)
  try:
    builder = build(args.out, args.clips, args.seed)
  except (UserError, OSError) as error:
    sys.exit(one_line(error))
  sizes = ", ".join(f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items())
  print(f"{NAME}: {sizes} clips in {builder.data_path}")


def build(out: str | None, clips: int, seed: int) -> BabyAI:
  """Generates the data set in out/babyai/1.0.0; UserError if it is there already."""
  require_minigrid()
  if clips < len(ACTIONS):
    raise UserError(f"--clips={clips} is too few: give at least {len(ACTIONS)}, one for each action")
  folder = set_folder(out)
  if folder.exists():
    raise UserError(f"{folder} exists; delete it to generate the data set again")
  builder = BabyAI(clips=clips, seed=seed, data_dir=folder.parents[1])
  builder.download_and_prepare()
  return builder


if __name__ == "__main__":
  main()
