"""A step that is not finite, run again: a few spoiled tokens in the feature cache of a real run."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import tiny, tiny_model
from vljepa_jax import batch_ids, dump, evaluation, replay, train
from vljepa_jax.data import token_files
from vljepa_jax.errors import UserError

RECIPE = tiny.ONE_LAYER | {
    "train.log_every": 1, "train.checkpoint_every": 2, "train.eval_every": 99, "train.steps": 5,
    "data.feature_views": 1}
RECORDS = 1836
BAD = 4  # step whose batch is spoiled

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module", autouse=True)
def small():
  held_out = tiny_model.small_held_out()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation, "open_held_out", lambda *_, **__: held_out)
    patch.setattr(train.Evaluator, "measure", lambda *_: {"eval/nothing": 0.0})
    patch.setattr(train, "conclude", lambda *_: None)
    yield


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
  """Workdir of a run that has stopped at step BAD, and rows of its batch that are spoiled."""
  workdir, batches = tmp_path_factory.mktemp("run"), []
  with pytest.MonkeyPatch.context() as patch:
    take = batch_ids.Rows.take
    patch.setattr(batch_ids.Rows, "take", lambda batch: batches.append(take(batch)) or batches[-1])
    train.run(tiny.recipe(**RECIPE), workdir)
  for name in ("checkpoints", "metrics.jsonl"):  # the cache stays
    subprocess.run(["rm", "-r", str(workdir / name)], check=True)
  before, batch = {int(i) for rows in batches[:BAD - 1] for i in rows.record_id}, batches[BAD - 1]
  rows = [i for i, record in enumerate(batch.record_id) if int(record) not in before][:2]
  spoil(workdir / "features", batch.record_id[rows])
  with pytest.raises(UserError, match=f"is nan at step {BAD}; .* --replay="):
    train.run(tiny.recipe(**RECIPE), workdir)
  return workdir, rows


def spoil(folder, records):
  """Writes infinities into the cached tokens of some records."""
  files = sorted(folder.iterdir())
  layout = token_files.Layout(folder, files[0].name.partition("-")[0], RECORDS, 1)
  tokens = token_files.Tokens(layout)
  for path, numbers in zip(layout.paths, layout.ranges, strict=True):
    rows = [tokens[number, 0].copy() for number in numbers]
    for record in set(records.tolist()).intersection(numbers):
      rows[record - numbers.start][1, 3] = np.inf
    token_files.write(path, rows)


def listing(workdir):
  return {str(path): path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}


def test_the_dump_holds_what_a_replay_needs(spoiled):
  workdir, rows = spoiled
  found = dump.read(workdir / f"dump-{BAD}")
  assert (found.step, found.checkpoint) == (BAD, 2) and len(found.record_ids) == 16
  assert found.config["train"]["batch_size"] == 16 and found.metrics["batch_ids"] > 0
  assert not (workdir / "checkpoints" / str(BAD)).exists() and rows


def test_a_replay_names_rows_and_parameters_and_writes_nothing(spoiled, capsys):
  workdir, rows = spoiled
  before = listing(workdir)
  findings = replay.run(tiny.recipe(**RECIPE), workdir, workdir / f"dump-{BAD}", train.set_stage)
  assert listing(workdir) == before
  assert np.flatnonzero(~findings["rows"]["input"]).tolist() == rows
  assert np.flatnonzero(~findings["rows"]["prediction"]).tolist() == rows
  assert findings["rows"]["target"].all() and not np.isfinite(findings["loss"])
  assert all(jax.tree.leaves(findings["params"]))
  assert not findings["grads"]["predictor"]["head"]["kernel"]
  printed = capsys.readouterr().out
  record = dump.read(workdir / f"dump-{BAD}").record_ids[rows[0]]
  assert f"from step 2 to step {BAD}, on the batches of the run" in printed
  assert f"first not finite: the input of {len(rows)} of 16 rows: {rows[0]} (record {record} of captions)" in printed
  assert "gradients of predictor, group x1.0: " in printed and "gradient of x_encoder    0   frozen" in printed


@pytest.mark.parametrize("change, message", [
    ({"seed": 7}, "is of a run with config.seed 0, not 7; give the --config of that run"), ({}, "holds other records")])
def test_a_replay_of_another_run_is_refused(spoiled, tmp_path, change, message):
  workdir, _ = spoiled
  words = json.loads((workdir / f"dump-{BAD}" / dump.FILE).read_text())
  (tmp_path / dump.FILE).write_text(json.dumps(words | {"record_ids": words["record_ids"][::-1]}))
  with pytest.raises(UserError, match=message):
    replay.run(tiny.recipe(**RECIPE, **change), workdir, tmp_path, train.set_stage)


@pytest.mark.parametrize("content, message", [(None, "cannot be read: No such file"), ("{", "is damaged")])
def test_no_dump(tmp_path, content, message):
  if content:
    (tmp_path / dump.FILE).write_text(content)
  with pytest.raises(UserError, match=message):
    dump.read(tmp_path)


def test_the_command_replays(tmp_path):
  done = subprocess.run(
      [sys.executable, "-m", "vljepa_jax.main", "--config=configs/base.py:debug", f"--replay={tmp_path}"],
      capture_output=True, text=True, timeout=300)
  assert done.returncode == 2 and f"error: --replay={tmp_path} is not the dump of a step" in done.stderr
