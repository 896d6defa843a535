"""Generates the babyai data set.

  pip install minigrid
  python -m vljepa_jax.data.babyai.build [--out=DIR] [--clips=12000]

writes DIR/babyai/1.0.0, DIR being TFDS's data folder unless given, in less than a minute on two cores. The same seed and
number of clips give the same records in the same order.
"""

import argparse
from collections.abc import Sequence
import sys

from vljepa_jax.data.babyai.builder import CLIPS, BabyAI
from vljepa_jax.data.babyai.questions import ACTIONS
from vljepa_jax.data.babyai.reading import NAME


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description="Generates the babyai data set.")
  parser.add_argument("--out", help="TFDS's data folder; without it, TFDS's own")
  parser.add_argument("--clips", type=int, default=CLIPS, help="clips of the training split")
  parser.add_argument("--seed", type=int, default=0)
  args = parser.parse_args(argv)
  if args.clips < len(ACTIONS):
    sys.exit(f"--clips={args.clips}: give at least {len(ACTIONS)}, one for each action")
  try:
    import minigrid  # noqa: F401
  except ModuleNotFoundError:
    sys.exit("minigrid is not installed, and videos are generated with it: pip install minigrid")
  builder = BabyAI(clips=args.clips, seed=args.seed, data_dir=args.out)
  builder.download_and_prepare()
  sizes = ", ".join(f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items())
  print(f"{NAME}: {sizes} clips in {builder.data_path}")


if __name__ == "__main__":
  main()
