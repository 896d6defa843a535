"""The command that scores triplets; the tasks themselves are tested in tests/tasks/."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny_model
from vljepa_jax import api, evaluation, paraphrase
from vljepa_jax.tasks.paraphrase import SUGARCREPE, VISLA, read_sugarcrepe, read_visla
from vljepa_jax.text_encoder import load_text_encoder

pytestmark = pytest.mark.usefixtures("quick_compiler")
FIGURES = {  # of all-MiniLM-L6-v2 by torch, 64 tokens, per cent; they lie beside the data
    "sugarcrepe": {
        "replace_att": 65.0, "replace_obj": 93.9, "replace_rel": 63.9, "swap_att": 22.5, "swap_obj": 14.3},
    "visla": {"generic": 58.9, "spatial": 45.1},
}
MACRO = {"sugarcrepe": 51.9, "visla": 52.0}
STORED = pathlib.Path(__file__).parents[1] / "docs/results/paraphrase_minilm.json"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny_model.save_workdir(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  """Both data sets, two triplets of a kind; a text is longer than the model was trained with."""
  folder = tmp_path_factory.mktemp("data")
  long = "a cat that sits on the mat in front of the door of the house"
  for kind, name in SUGARCREPE.items():
    rows = [{"caption": f"a {kind}", "caption2": f"one {kind}", "negative_caption": "no"},
            {"caption": f"{long} A", "caption2": f"{long} A", "negative_caption": f"{long} B"}]
    (folder / name).write_text(json.dumps(rows))
  for name, fields in VISLA.values():
    (folder / name).write_text("\n".join(["\t".join(fields), "in\twithin\tout", "on\tatop\t "]))
  return folder


def run(*flags):
  command = [sys.executable, "-m", "vljepa_jax.paraphrase", *flags]
  return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def test_the_command(workdir, data):
  done = run(f"--workdir={workdir}", f"--sugarcrepe={data}", f"--visla={data}")
  assert done.returncode == 0, done.stderr
  written = json.loads((workdir / paraphrase.RESULTS).read_text())
  model = paraphrase.load_y_encoder(workdir, 64)
  assert written["sugarcrepe"] == evaluation.score_triplets(model.encode_text, read_sugarcrepe(data))
  assert written["visla"] == evaluation.score_triplets(model.encode_text, read_visla(data))
  assert written["length"] == 64 and written["machine"] and written["command"].endswith(f"--visla={data}")
  lines = done.stdout.splitlines()
  assert lines[0].split() == ["SugarCrepe++", "macro", *SUGARCREPE]
  measured = [f"{100 * kind['accuracy']:.1f}" for kind in written["sugarcrepe"]["kinds"].values()]
  assert lines[1].split() == [str(workdir), f"{100 * written['sugarcrepe']['macro']:.1f}", *measured]
  assert lines[5].split() == ["VL-JEPA", "base", "(paper)", "63.9", "72.2", "90.1", "52.2", "62.9", "42.0"]
  assert "spatial: 1 of 2 changed texts are blank in the file" in done.stdout


def test_a_model_reads_longer_texts_than_in_training(workdir):
  texts = ["x" * 50 + "a", "x" * 50 + "b"]  # trained with 48 tokens
  trained, longer = api.load(workdir).encode_text(texts), paraphrase.load_y_encoder(workdir, 64).encode_text(texts)
  np.testing.assert_array_equal(trained[0], trained[1])
  assert np.abs(longer[0] - longer[1]).max() > 1e-6


def test_equal_texts_tie():
  """Even for an encoder whose embeddings depend on the place in the batch."""
  rows = lambda texts: np.eye(len(texts), 8) + np.arange(len(texts))[:, None]
  assert evaluation.score_triplets(rows, [("a", "b", "b", "x"), ("b", "a", "a", "y")])["macro"] == 0


@pytest.mark.parametrize("model, flags, message", [
    (True, ["--text_encoder=minilm"], "give either --workdir=RUN or --text_encoder=minilm"),
    (True, [], "give --sugarcrepe=DIR, --visla=DIR or both"),
    (True, ["--visla=absent"], "there is no absent/Generic_VISLA.tsv; give the folder of VISLA"),
    (False, ["--text_encoder=minilm", "--weights=absent", "--visla=DATA"], "absent: there is no absent"),
])
def test_what_the_user_gets_wrong_is_one_line(workdir, data, model, flags, message):
  done = run(*([f"--workdir={workdir}"] if model else []), *(flag.replace("DATA", str(data)) for flag in flags))
  assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


def test_the_paper_averages_over_kinds():
  for shares in paraphrase.PAPER.values():
    for macro, *kinds in shares.values():
      assert macro == pytest.approx(np.mean(kinds), abs=0.06)


def check_figures(results):
  for name, kinds in FIGURES.items():
    found = {kind: 100 * numbers["accuracy"] for kind, numbers in results[name]["kinds"].items()}
    assert found == {kind: pytest.approx(share, abs=0.2) for kind, share in kinds.items()}
    assert 100 * results[name]["macro"] == pytest.approx(MACRO[name], abs=0.2)


def test_the_stored_result_is_that_of_the_reference():
  check_figures(json.loads(STORED.read_text()))


@pytest.mark.live
@pytest.mark.skipif(not os.environ.get("VLJEPA_TRIPLETS"), reason="VLJEPA_TRIPLETS: a folder with sugarcrepe_pp, visla")
def test_minilm_gives_the_figures_beside_the_data():
  folder = pathlib.Path(os.environ["VLJEPA_TRIPLETS"])
  encode = load_text_encoder("minilm", paraphrase.MINILM, 64)
  triplets = {"sugarcrepe": read_sugarcrepe(folder / "sugarcrepe_pp"), "visla": read_visla(folder / "visla")}
  check_figures({name: evaluation.score_triplets(encode, found) for name, found in triplets.items()})
