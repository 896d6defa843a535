"""The page of claims: its rules on synthetic results, whatever these say."""

import copy
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("scipy")

from benchmarks import claims_ablate, claims_compare, claims_figures
from benchmarks.claims_numbers import (
    FAILS, HOLDS, MIXED, UNKNOWN, Estimate, counted, crossing, difference, fixed, outcome, plus_minus, ratio, told,
    verdict)
from vljepa_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
SEEDS, POINTS = (1, 2, 3), (5, 10, 20, 40, 60, 90, 120, 150)
# Ends of top-1 and CIDEr, by arm.
ENDS = {"vljepa": (0.30, 80.0), "tokens": (0.20, 30.0), "vljepa_large": (0.33, 90.0), "tokens_small": (0.17, 25.0)}
TRAINED = {"vljepa": 480_000, "tokens": 1_000_000, "vljepa_large": 1_000_300, "tokens_small": 480_100}


def make_arm(side, end, trained=1000, noise=0.01, points=POINTS):
  """An arm whose curves rise evenly to `end`: top-1 and CIDEr."""
  runs = []
  for seed in SEEDS:
    rows = []
    for step in points:
      share = step / points[-1] * (1 + noise * (seed - 2))
      top1, cider = end[0] * share, end[1] * share
      row = {"step": step, "samples": 128 * step, "seconds": 1.0, "top1": top1, "top5": 2 * top1, "cider": cider}
      if side == "embeddings":
        row |= {"recall1": top1 / 2, "cider_nearest": 0.9 * cider, "cider_uncentred": 0.8 * cider}
      else:
        row |= {"top1_likelihood": 0.8 * top1, "top5_likelihood": 1.7 * top1}
      rows.append(row)
    runs.append({"seed": seed, "points": rows, "data": "d"})
  return {
      "side": side, "words": side, "trained": trained, "frozen": 1, "flops_per_sample": 2e6, "ms_per_sample": 0.5,
      "learning_rate": 3e-3, "seconds": 60.0, "samples": [128 * step for step in points], "runs": runs}


def make_study(tasks, points=POINTS):
  return {
      "command": "python -m vljepa_jax.compare --config=c", "commit": "abc1234", "machine": "x86_64, 2 cores",
      "rates": [1e-3, 3e-3], "seeds": list(SEEDS), "tasks": {
          name: {"records": 0, "validation": 200, "batch_size": 128, "points": list(points), "same_data": True,
                 "encoder_flops": 3e8, "y_encoder_flops": 4e8, "arms": arms}
          for name, arms in tasks.items()}}


def make_compare(ends=None):
  ends = ends or ENDS
  side = {arm: "embeddings" if arm.startswith("vljepa") else "tokens" for arm in ends}
  arms = {arm: make_arm(side[arm], end, TRAINED[arm]) for arm, end in ends.items()}
  found = make_study({"openclipart": arms, "babyai": copy.deepcopy(arms)})
  answers = {
      "encoder": {"encoder": 2.0}, "windows": 80, "events": 20,
      "vljepa": {"predictor": 1.0, "words": 5.0, "class": 1.1, "every window told": 600.0, "every event told": 320.0},
      "tokens": {"words": 9.0, "class": 8.0, "every window told": 900.0, "every event told": 350.0}}
  for task in found["tasks"].values():
    task["answers"] = answers
    task["decoder"] = {"trained": 123_456, "seconds": 20.0, "samples": 51_200}
  return found


def make_ablate(ends=None):
  """`ends`: of top-1 by arm; 0.3 for those that are not named."""
  arms = lambda study: {
      row.arm: make_arm("embeddings", ((ends or {}).get(row.arm, 0.3), 80.0), points=(25, 50, 100))
      for row in claims_ablate.ROWS if row.study == study}
  return make_study({"openclipart": arms(""), "babyai": arms(""), "openclipart_y": arms("_y")}, points=(25, 50, 100))


@pytest.fixture
def folder(tmp_path):
  """Results, two of them synthetic."""
  results = tmp_path / "docs" / "results"
  results.mkdir(parents=True)
  (results / "compare.json").write_text(json.dumps(make_compare()))
  (results / "ablate.json").write_text(json.dumps(make_ablate({"l2": 0.1, "causal": 0.35})))
  for kind in claims_ablate.STREAMS:
    (results / f"streams_{kind}.json").write_bytes((ROOT / f"docs/results/streams_{kind}.json").read_bytes())
  return results


def run(results, *options, path=""):
  command = [sys.executable, "benchmarks/claims.py", f"--results={results}", f"--out={results.parent}", *options]
  return subprocess.run(
      command, cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": str(path)})


@pytest.mark.parametrize("mean, half, sign, than, expected", [
    (2.0, 1.0, 1, 0.0, HOLDS), (2.0, 1.0, -1, 0.0, FAILS), (-2.0, 1.0, 1, 0.0, FAILS), (-2.0, 1.0, -1, 0.0, HOLDS),
    (1.0, 1.0, 1, 0.0, UNKNOWN), (0.0, 0.0, 1, 0.0, UNKNOWN), (5.0, math.nan, 1, 0.0, UNKNOWN),
    (1.5, 0.2, 1, 2.0, FAILS), (1.9, 0.2, 1, 2.0, UNKNOWN), (2.5, 0.2, 1, 2.0, HOLDS)])
def test_an_outcome_is_where_the_whole_interval_lies(mean, half, sign, than, expected):
  assert outcome(Estimate(mean, half), sign, than) == expected


def test_no_estimate_tells_nothing():
  assert outcome(None) == UNKNOWN


@pytest.mark.parametrize("outcomes, expected", [
    ([HOLDS, HOLDS], HOLDS), ([FAILS, FAILS], FAILS), ([UNKNOWN, UNKNOWN], UNKNOWN), ([], UNKNOWN),
    ([HOLDS, FAILS], MIXED), ([HOLDS, UNKNOWN], MIXED), ([FAILS, UNKNOWN], MIXED)])
def test_the_verdict_of_many(outcomes, expected):
  assert verdict(outcomes) == expected


def test_mixed_says_how_many():
  assert counted([HOLDS, HOLDS, UNKNOWN]) == "mixed (of 3: holds 2, cannot tell 1)"
  assert counted([HOLDS]) == HOLDS


def test_a_crossing_is_linear_between_points():
  assert crossing([10, 20, 40], [0.0, 1.0, 3.0], 2.0) == 30.0
  assert crossing([10, 20, 40], [0.0, 1.0, 3.0], 1.0) == 20.0
  assert crossing([10, 20, 40], [5.0, 1.0, 3.0], 2.0) == 10.0
  assert crossing([10, 20, 40], [0.0, 1.0, 3.0], 3.1) is None


def test_differences_and_ratios_are_paired_by_seed():
  ours, other = make_arm("embeddings", (0.3, 60.0)), make_arm("tokens", (0.2, 30.0))
  other["runs"].reverse()
  gap = difference(ours, other, "top1")
  assert gap.mean == pytest.approx(10.0)
  assert gap.half == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-4)
  assert ratio(ours, other, "cider").mean == pytest.approx(2.0)
  assert ratio(ours, other, "cider").half == pytest.approx(0.0, abs=1e-9)
  assert ratio(ours, make_arm("tokens", (0.2, 0.0)), "cider") is None
  for run_ in other["runs"]:
    run_["seed"] += 10
  with pytest.raises(UserError, match="share no seed"):
    difference(ours, other, "top1")


def test_a_metric_that_is_not_there_is_named():
  with pytest.raises(UserError, match="recall1"):
    difference(make_arm("tokens", (0.1, 1.0)), make_arm("tokens", (0.1, 1.0)), "recall1")


def test_numbers_as_words():
  assert fixed(-0.01) == "0.0" and fixed(-0.01, sign=True) == "+0.0" and fixed(1.25, 2, sign=True) == "+1.25"
  assert plus_minus(Estimate(1.0, math.nan)) == "1.0 ± ?"
  assert told([("a", HOLDS), ("b", FAILS), ("c", HOLDS)], "up in", "down in", "?") == "Up in a and c; down in b."
  assert told([(label, HOLDS) for label in "abcde"], "up in", "down in", "?") == "Up in all 5."


def test_arrival_by_seed():
  ours, other = make_arm("embeddings", (0.4, 60.0)), make_arm("tokens", (0.2, 80.0))
  mean, shares, last = claims_compare.arrival(ours, other, "top5")
  assert last == 150 * 128 and mean == pytest.approx(last / 2) and len(shares) == 3
  assert claims_compare.reached_early(shares) == HOLDS
  mean, shares, _ = claims_compare.arrival(ours, other, "cider")
  assert mean is None and shares == [None] * 3 and claims_compare.reached_early(shares) == FAILS
  assert claims_compare.reached_early([0.5, None, 0.6]) == UNKNOWN
  assert claims_compare.reached_early([0.1, 0.9, 1.0]) == UNKNOWN


def test_who_is_ahead_follows_the_numbers():
  better = claims_compare.advantage(make_compare(), "p")
  assert better.verdict == "factor 2: holds; direction: holds"
  assert seen(better) == ["VL-JEPA is ahead in"]
  swapped = {arm: ENDS[arm.replace("vljepa", "x").replace("tokens", "vljepa").replace("x", "tokens").replace(
      "tokens_large", "tokens").replace("vljepa_small", "vljepa_large")] for arm in ENDS}
  worse = claims_compare.advantage(make_compare(swapped), "p")
  assert worse.verdict == "factor 2: does not hold; direction: does not hold"
  assert seen(worse) == ["Behind in"]
  same = claims_compare.advantage(make_compare(dict.fromkeys(ENDS, (0.2, 30.0))), "p")
  assert same.verdict == "factor 2: does not hold; direction: cannot tell"
  assert seen(same) == ["No difference can be told in"]
  some = claims_compare.advantage(make_compare(ENDS | {"vljepa": (0.3, 20.0)}), "p")
  assert "direction: mixed (of 4: holds 2, does not hold 2)" in some.verdict
  assert seen(some) == ["VL-JEPA is ahead in", "behind in"]
  text = "\n".join(some.blocks)
  assert re.search(r"behind in CIDEr on openclipart and CIDEr on babyai\.", text)


def seen(section):
  """The groups of the sentence that says what was seen."""
  text = next(block for block in section.blocks if "The verdict is about" in block)
  return re.findall(r"(?i)vl-jepa is ahead in|behind in|no difference can be told in", text)


def test_more_than_half_the_parameters_is_flagged():
  found = make_compare()
  assert "more than half" not in "\n".join(claims_compare.advantage(found, "p").blocks)
  found["tasks"]["babyai"]["arms"]["vljepa"]["trained"] = 600_000
  text = "\n".join(claims_compare.advantage(found, "p").blocks)
  assert "60% (more than half)" in text and "On babyai (60%) VL-JEPA has more than half" in text


def test_decoders_stand_apart_or_are_missed():
  found = make_compare()
  assert "123,456 parameters on openclipart" in claims_compare.decoders(found)
  for task in found["tasks"].values():
    del task["decoder"]
  assert "do not tell" in claims_compare.decoders(found)


def test_causes_are_told_apart():
  section = claims_compare.causes(make_compare(), make_ablate({"untrained_y": 0.1}))
  text = "\n".join(section.blocks)
  assert section.verdict == HOLDS
  assert "MiniLM's language knowledge in the targets: better in 2 and not told in 2 of 4" in text
  swapped = ENDS | {"vljepa": (0.1, 10.0), "vljepa_large": (0.12, 12.0)}
  assert claims_compare.causes(make_compare(swapped), make_ablate()).verdict == FAILS


def test_times_within_the_margin_are_not_told_apart():
  assert claims_compare.faster(1.0, 2.0) == HOLDS and claims_compare.faster(2.0, 1.0) == FAILS
  assert claims_compare.faster(1.0, 1.05) == UNKNOWN and claims_compare.faster(1.05, 1.0) == UNKNOWN
  section = claims_compare.inference(make_compare())
  assert section.verdict == HOLDS and "3.10 | 10.00" in "\n".join(section.blocks)


def test_signs_against_the_paper():
  assert claims_ablate.sign(Estimate(-2.0, 1.0), -6.8) == "same sign"
  assert claims_ablate.sign(Estimate(2.0, 1.0), -6.8) == "other sign"
  assert claims_ablate.sign(Estimate(2.0, 1.0), 2.3) == "same sign"
  assert claims_ablate.sign(Estimate(2.0, 3.0), 2.3) == UNKNOWN
  assert claims_ablate.sign(Estimate(2.0, 1.0), 0.0) == "no sign"


def test_differences_of_the_paper():
  gaps = lambda arm: [claims_ablate.paper_gap(claims_ablate.BY_ARM[arm], i) for i in range(3)]
  assert gaps("cosine") == [-6.8, -10.1, 2.3] and gaps("y_1") == [-3.6, -1.4, -1.8]
  assert gaps("layers_1") == [-2.1, -0.4, 0.2] and gaps("layers_4") == [0.2, 1.7, 2.1]
  assert gaps("sigmoid") == [None] * 3


@pytest.mark.parametrize("ends, losses, causal", [
    ({}, UNKNOWN, UNKNOWN), ({"cosine": 0.1, "l1": 0.1, "l2": 0.1, "causal": 0.1}, HOLDS, HOLDS),
    ({"cosine": 0.5, "l1": 0.5, "l2": 0.5, "causal": 0.5}, FAILS, FAILS),
    ({"cosine": 0.5, "l1": 0.1, "l2": 0.1}, "mixed (of 6: holds 4, does not hold 2)", UNKNOWN)])
def test_ablations_follow_the_numbers(ends, losses, causal):
  found = make_ablate(ends)
  section = claims_ablate.losses(found)
  assert section.verdict == losses
  text = "\n".join(section.blocks)
  assert ("orse than the reference:" in text) == any(value < 0.3 for value in ends.values())
  assert ("etter than the reference:" in text) == any(value > 0.3 for value in ends.values())
  assert claims_ablate.predictor(found).verdict == f"depth: {UNKNOWN}; causal: {causal}"


def test_the_best_rate_of_the_y_encoder_is_the_one_of_the_numbers():
  section = claims_ablate.rates(make_ablate({"y_1": 0.5}))
  assert section.ours == "highest mean at x 1 in top-1 on openclipart and x 1 in R@1 on openclipart"
  assert section.verdict == "mixed (of 4: does not hold 2, cannot tell 2)"


def test_streams_are_read_where_the_paper_reads():
  found = {kind: json.loads((ROOT / f"docs/results/streams_{kind}.json").read_text()) for kind in claims_ablate.STREAMS}
  section = claims_ablate.selective(found, {})
  text = "\n".join(section.blocks)
  assert "| slide-shows | `ward`, means | single windows | 2.6 (1.9 to 2.9) |" in text
  assert "| BabyAI | `ward`, single windows | means | 2.6 (2.4 to 2.8) |" in text
  assert section.verdict.endswith("direction: holds") and section.verdict.startswith("factor 2.85: mixed")


def test_labels_are_spread():
  places = claims_figures.spread([0.5, 0.5, 0.9, 0.51], 0.1)
  assert all(b - a >= 0.1 - 1e-9 for a, b in zip(sorted(places), sorted(places)[1:]))
  assert sum(places) == pytest.approx(2.41)
  assert claims_figures.spread([0.1, 0.9], 0.1) == [0.1, 0.9]


def test_the_page_is_written_and_checked(folder, tmp_path):
  pytest.importorskip("matplotlib")
  page = folder.parent / "claims.md"
  stale = run(folder, "--check")
  assert stale.returncode == 1 and stale.stderr.startswith("error:") and stale.stderr.count("\n") == 1
  assert not page.exists()
  written = run(folder)
  assert written.returncode == 0, written.stderr
  text = page.read_text()
  assert text.count("\n## ") == 12 and "results/compare.png" in text and "nan" not in text
  for picture in ("compare.png", "ablate.png"):
    assert 1000 < (folder / picture).stat().st_size < 100_000
  (tmp_path / "matplotlib.py").write_text("raise ImportError")
  whole = run(folder, "--check", path=tmp_path)  # needs no matplotlib
  assert whole.returncode == 0 and not whole.stderr, whole.stderr
  page.write_text(text.replace("holds", "hold", 1))
  changed = run(folder, "--check")
  assert changed.returncode == 1 and str(page) in changed.stderr and "ablate.png" not in changed.stderr
  assert page.read_text() != text
  page.write_text(text)
  (folder / "ablate.json").write_text(json.dumps(make_ablate(), indent=1))
  newer = run(folder, "--check")
  assert newer.returncode == 1 and str(page) in newer.stderr and "ablate.png" in newer.stderr
  assert "compare.png" not in newer.stderr


@pytest.mark.parametrize("name, part", [
    ("compare.json", "--config=configs/compare.py"), ("streams_babyai.json", "--kind=babyai")])
def test_a_missing_file_is_named_with_its_command(folder, name, part):
  (folder / name).unlink()
  done = run(folder)
  assert done.returncode == 2 and not (folder.parent / "claims.md").exists()
  assert done.stderr.count("\n") == 1 and str(folder / name) in done.stderr and part in done.stderr


def test_a_missing_arm_is_named(folder):
  found = make_ablate()
  del found["tasks"]["babyai"]["arms"]["l1"]
  (folder / "ablate.json").write_text(json.dumps(found))
  done = run(folder, "--check")
  assert done.returncode == 2 and "has no l1 of babyai" in done.stderr


def test_the_page_in_docs_is_of_the_results_in_docs():
  done = subprocess.run(
      [sys.executable, "benchmarks/claims.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
