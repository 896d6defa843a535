"""Sub-goals with the state of minigrid before and after each, and a small data set."""

import numpy as np
import pytest

from tests.data.babyai import truth
from vljepa_jax.data.babyai import build, chain
from vljepa_jax.data.babyai.tiles import THINGS

CLIPS = 240


@pytest.fixture(scope="session")
def told():
  """500 sub-goals of one chain: (part, state before, state after)."""
  found = []
  walk = chain.Chain(np.random.default_rng(5), THINGS)
  while len(found) < 500:
    walk.new_room()
    for _ in range(12):
      before = truth.state(walk.world)
      part = walk.go_anywhere()
      if part is None:
        break
      found.append((part, before, truth.state(walk.world)))
  return found


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """A data folder with 240 clips for training and 10 in each other split."""
  folder = tmp_path_factory.mktemp("tfds")
  build.build(str(folder), CLIPS, seed=0)
  return folder
