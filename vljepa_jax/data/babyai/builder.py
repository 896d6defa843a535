"""The TFDS builder of the babyai data set."""

from collections.abc import Iterator, Sequence
import concurrent.futures
import functools
import itertools
import multiprocessing
import os

import numpy as np
import tensorflow_datasets as tfds

from vljepa_jax.data.babyai.questions import ACTIONS
from vljepa_jax.data.babyai.reading import ATLAS, HELD_OUT_PAIRS, NAME, SPLITS, VERSION
from vljepa_jax.data.babyai.tiles import draw_atlas

DESCRIPTION = "Videos of sub-goals in a room of MiniGrid, with captions and questions."
CLIPS = 12_000
EVALUATION_SHARE, MOST_EVALUATED = 24, 500  # clips of training for each one of another split, and the most of those
BATCH = 250  # clips that a worker makes at a time


class BabyAI(tfds.core.GeneratorBasedBuilder):
  """TFDS builder.

  Args:
    clips: of the training split; the others have a 24th of that each, at least 8 and at most 500: the same ones.
    seed: of everything.
    **kwargs: of TFDS's builders, such as data_dir.
  """

  name = NAME
  VERSION = tfds.core.Version(VERSION)
  code_path = None  # where checksums of downloads would be; TFDS needs importlib_resources to find it out

  def __init__(self, clips: int = CLIPS, seed: int = 0, **kwargs):
    self._clips, self._seed = clips, seed
    super().__init__(file_format="array_record", **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    texts = {name: tfds.features.Text() for name in ("id", "codes", "subject", "other", "captions", "questions")}
    numbers = {name: tfds.features.Scalar(np.int32) for name in ("start", "end")}
    label = tfds.features.ClassLabel(names=ACTIONS)
    return self.dataset_info_from_configs(
        features=tfds.features.FeaturesDict({**texts, **numbers, "label": label}),
        homepage="https://minigrid.farama.org", description=DESCRIPTION)

  def _split_generators(self, dl_manager):
    np.save(self.data_path / ATLAS, draw_atlas())
    others = min(max(len(ACTIONS), self._clips // EVALUATION_SHARE), MOST_EVALUATED)
    sizes = {split: self._clips if split == "train" else others for split in SPLITS}
    return {split: self._generate_examples(split, size) for split, size in sizes.items()}

  def _generate_examples(self, split: str, size: int) -> Iterator[tuple[str, dict]]:
    for record in make_records(split, size, self._seed):
      yield record["id"], record


def make_records(split: str, size: int, seed: int) -> Iterator[dict]:
  """The records of a split in order, made by as many processes as there are cores to fill."""
  starts = range(0, size, BATCH)
  batches = [range(start, min(start + BATCH, size)) for start in starts]
  make = functools.partial(make_batch, split, seed)
  workers = min(cores(), len(batches))
  if workers == 1:
    yield from itertools.chain.from_iterable(map(make, batches))
    return
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
    yield from itertools.chain.from_iterable(pool.map(make, batches))


def cores() -> int:
  """Cores that this process may use."""
  return len(os.sched_getaffinity(0))


def make_batch(split: str, seed: int, indices: Sequence[int]) -> list[dict]:
  """Some records of a split."""
  from vljepa_jax.data.babyai.chain import make_record  # imports minigrid

  key = seed, SPLITS.index(split)
  about = split == "test_pairs"
  return [make_record(f"{split}-{i:05d}", key, i, HELD_OUT_PAIRS, about) for i in indices]
