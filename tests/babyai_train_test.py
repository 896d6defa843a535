"""Training on clips, from generated data to results and report."""

import json

from configs import babyai as recipe
import numpy as np
import pytest

from vljepa_jax import api, config as config_lib, evaluate, train
from vljepa_jax.data import babyai
from vljepa_jax.data.sources import open_source


@pytest.fixture(scope="module")
def workdir(small_babyai, tmp_path_factory):
  config = recipe.get_config("debug")
  config.train.steps = 4
  folder = tmp_path_factory.mktemp("runs") / "clips"
  train.run(config_lib.parse(config), folder)
  return folder


def test_a_run_on_clips_scores_every_task(workdir):
  results = json.loads((workdir / "results.json").read_text())
  assert results["media"] == "clip" and results["classification"]["classes"] == len(babyai.ACTIONS)
  assert set(babyai.KINDS) <= set(results["vqa"]) | {"where"}
  assert results["paraphrase"]["triplets"] > 0
  page = (workdir / "report.html").read_text()
  assert "Clip → caption, R@1" in page and "data:image/webp" in page


def test_other_splits_are_evaluated_beside_it(workdir):
  before = (workdir / "results.json").read_text()
  results = evaluate.run(workdir, "test_pairs")
  assert json.loads((workdir / "results-test_pairs.json").read_text()) == results
  assert (workdir / "results.json").read_text() == before
  assert "params" not in results  # of the training itself the other file tells


def test_clips_of_the_source_are_what_the_world_shows(small_babyai):
  source = open_source("babyai", "test")
  clip = babyai.decode(babyai.data_source("test")[0])
  frames = source.frames(0, 4)
  assert frames.shape == (4, 64, 64, 3)
  np.testing.assert_array_equal(frames[-1], babyai.render(babyai.load_atlas(), clip.codes[clip.end]))
  drawn = {source.frames(0, 4, np.random.default_rng(i)).tobytes() for i in range(20)}
  assert len(drawn) > 3


def test_the_model_takes_clips(workdir, small_babyai):
  model = api.load(workdir)
  source = open_source("babyai", "test")
  clips = np.stack([source.frames(i, 4) for i in range(2)])
  ranked = model.rank(model.predict(model.encode_video(clips), "what does the agent do?"), babyai.ACTIONS)
  assert [sorted(text for text, _ in row) for row in ranked] == [sorted(babyai.ACTIONS)] * 2
