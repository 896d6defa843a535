"""Training on one's own videos, from a manifest to results and report."""

import json

from configs import base, folder
import numpy as np
import pytest

from tests import tiny
from tests.tiny_video import write_video
from vljepa_jax import config as config_lib
from vljepa_jax import evaluation, train
from vljepa_jax.data import convert

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
  folder = tmp_path_factory.mktemp("mine")
  rows = []
  for i in range(20):
    write_video(folder / f"{i}.mp4", np.random.default_rng(i).integers(0, 255, (4, 3)), size=(32, 32))
    rows.append({"path": f"{i}.mp4", "captions": {"brief": f"clip {i}", "detailed": f"this is clip {i}"},
                 "query": "which?", "answer": f"number {i % 2}", "split": "train" if i < 16 else "test"})
  (folder / "3.mp4").write_bytes(b"broken")
  (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return str(folder / "m.jsonl")


def recipe(manifest, **changes):
  config = base.get_config("debug")
  dataset = dict(path=manifest, fields=(), queries=(("question", ("which one?",)),))
  config.data.sources = (
      dict(name="captions", dataset=manifest, view="brief:0.7,detailed:0.3", weight=0.5),
      dict(name="answers", dataset=dataset, view="answer", weight=0.5))
  config.eval.dataset = manifest
  config.data.frames = 2
  config.update_from_flattened_dict({**tiny.ONE_LAYER, "train.steps": 2, "train.eval_every": 2, **changes})
  return config_lib.parse(config)


def test_videos_train_although_one_is_broken(manifest, tmp_path, caplog):
  train.run(recipe(manifest), tmp_path)
  results = evaluation.read_results(tmp_path)
  assert set(results) == {"media", "image_to_text", "text_to_image", "vqa", "params", "train"}
  assert results["media"] == "clip" and results["vqa"]["question"]["questions"] == 4
  assert results["vqa"]["chance"] == 0.5
  page = (tmp_path / "report.html").read_text()
  assert "Clip → caption, R@1" in page and "data:image/webp" in page and "Class, top-1" not in page
  told = [record.getMessage() for record in caplog.records if "left out in training" in record.getMessage()]
  assert len(told) == 1 and "3.mp4 cannot be read as a video" in told[0]


def test_shards_train_as_their_manifest(manifest, tmp_path):
  """The recipe names the folder of a conversion; the broken clip is not in it."""
  pytest.importorskip("apache_beam", reason="conversion needs Apache Beam: see requirements-convert.txt")
  shards = tmp_path / "shards"
  assert convert.main([f"--manifest={manifest}", f"--out={shards}"]) == convert.QUARANTINED
  train.run(recipe(str(shards)), tmp_path / "run")
  results = evaluation.read_results(tmp_path / "run")
  assert results["media"] == "clip" and results["vqa"]["question"]["questions"] == 4
  assert folder.get_config(str(shards)).data.sources[0]["dataset"] == str(shards)
