"""What the runs of a study gave, together: every seed, means and intervals, as one file."""

from collections.abc import Mapping, Sequence
import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
from typing import Any

import numpy as np

from vljepa_jax.compare import run as run_lib
from vljepa_jax.compare.study import Study, TaskRecipe
from vljepa_jax.errors import UserError
from vljepa_jax.evaluation import read_results, write_json

SWEEP, REPORTED, DECODER, COST = "sweep", "seeds", "decoder", "cost.json"

LEVEL = 0.95  # of intervals
# What a learning rate is chosen by: the two numbers that the paper compares, neither of which can make up for the other.
SCORE = "geometric mean of top-5 and CIDEr in validation; VL-JEPA tells the nearest training caption there"


def score(point: Mapping[str, float]) -> float:
  """What a learning rate is chosen by. VL-JEPA's captions are the nearest of training there."""
  return math.sqrt(100 * point["top5"] * point["cider"])


def best_rate(runs: Mapping[float, Mapping[str, Any]]) -> float:
  """The learning rate whose run scores best at its end; of equal ones the smallest."""
  return max(sorted(runs), key=lambda rate: score(runs[rate]["points"][-1]))


def interval(values: Sequence[float]) -> tuple[float, float]:
  """Mean and half the width of its 95% interval by Student's t: values +- t s / sqrt(n). Half is NaN for one value."""
  from scipy import stats  # comes with JAX; takes half a second

  values = np.asarray(values, np.float64)
  if len(values) < 2:
    return float(values.mean()), math.nan
  t = stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1)
  return float(values.mean()), float(t * values.std(ddof=1) / math.sqrt(len(values)))


def read_cost(workdir: pathlib.Path, recipe: TaskRecipe) -> dict[str, Any] | None:
  """What `cost.measure` wrote of a task; None if it has not, or not of all arms.

  It measures tasks with a decoder. Of others, such as ablations, there is nothing to be known.
  """
  path = workdir / COST
  if not recipe.decoder_of:
    return {"steps": dict.fromkeys(recipe.arms, {})}
  try:
    cost = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"steps": {}}
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}); remove it, and it is measured again") from error
  return cost if cost["steps"].keys() == recipe.arms.keys() else None


def folder(workdir: pathlib.Path, study: Study, task: str, arm: str, rate: float, seed: int) -> pathlib.Path:
  """Of a run."""
  kind = SWEEP if seed == study.sweep_seed else REPORTED
  return workdir / task / kind / arm / f"rate-{rate:g}-seed-{seed}"


def collect(study: Study, workdir: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
  """All that the finished runs gave, and the names of tasks that are not finished.

  Args:
    study: the recipe.
    workdir: of the study.
  """
  tasks, missing = {}, []
  for name, recipe in study.tasks.items():
    sweeps = {
        arm: {rate: run_lib.finished(folder(workdir, study, name, arm, rate, study.sweep_seed)) for rate in study.rates}
        for arm in recipe.arms}
    cost = read_cost(workdir / name, recipe)
    reported = {}
    if cost is not None and all(run is not None for runs in sweeps.values() for run in runs.values()):
      reported = {
          arm: [run_lib.finished(folder(workdir, study, name, arm, best_rate(swept), seed)) for seed in study.seeds]
          for arm, swept in sweeps.items()}
    if not reported or any(run is None for runs in reported.values() for run in runs):
      missing.append(name)
      continue
    arms = {}
    for arm, swept in sweeps.items():
      rate, runs = best_rate(swept), reported[arm]
      arms[arm] = _arm(recipe.arms[arm], swept, rate, runs, cost["steps"][arm])
    tasks[name] = {
        "dataset": recipe.config["eval"]["dataset"], "records": recipe.records, "validation": recipe.validation,
        "batch_size": recipe.config["train"]["batch_size"], "classes": recipe.classes, "points": recipe.points,
        "same_data": all(
            len({arm["runs"][i]["data"] for arm in arms.values()}) == 1 for i in range(len(study.seeds))),
        "decoder": _decoder(workdir / name), **{key: value for key, value in cost.items() if key != "steps"},
        "arms": arms}
  return {
      "study": study.name, "score": SCORE, "rates": study.rates, "seeds": study.seeds,
      "tasks": tasks}, missing


def _decoder(workdir: pathlib.Path) -> dict[str, Any]:
  """What the Y-decoder of a task cost; empty if there is none."""
  made = read_results(workdir / DECODER)
  return {"trained": made["params"]["trained"], **made["train"]} if made else {}


def _arm(arm, swept, rate, runs, cost) -> dict[str, Any]:
  metrics = [name for name in runs[0]["points"][0] if name not in ("step", "samples", "seconds")]
  curves = {}
  for metric in metrics:
    places = [interval([run["points"][i][metric] for run in runs]) for i in range(len(runs[0]["points"]))]
    curves[metric] = {"mean": [mean for mean, _ in places], "half": [half for _, half in places]}
  return {
      **dataclasses.asdict(arm), **runs[0]["params"], **cost, "learning_rate": rate,
      "sweep": {f"{rate:g}": {**run["points"][-1], "score": score(run["points"][-1])} for rate, run in swept.items()},
      "seconds": float(np.mean([run["seconds"] for run in runs])),
      "samples": [point["samples"] for point in runs[0]["points"]], "curves": curves, "runs": runs}


def write(study: Study, workdir: pathlib.Path, path: pathlib.Path, command: str) -> dict[str, Any]:
  """Collects a study into one file, with the command, the commit and the machine that made it.

  Raises:
    UserError: some task is not finished, or the file cannot be written.
  """
  found, missing = collect(study, workdir)
  if missing:
    raise UserError(
        f"{workdir} has not all runs of {', '.join(missing)}; the same command without --only makes those that are "
        "missing")
  versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax")}
  origin = {
      "command": command, "commit": _commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
      "versions": versions}
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, origin | found)
  except OSError as error:
    raise UserError(f"--out={path} cannot be written: {error.strerror}; give another file") from error
  return found


def _commit() -> str:
  """The commit of the source, or "" where there is no repository."""
  if shutil.which("git") is None:
    return ""
  found = subprocess.run(
      ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
      cwd=pathlib.Path(__file__).parent)
  return found.stdout.strip()


def table(found: Mapping[str, Any]) -> str:
  """The end of every curve as lines of text: mean and half the interval over the seeds."""
  lines = []
  for name, task in found["tasks"].items():
    lines.append(f"{name:<24}  {'trained':>10}  {'MFLOP':>7}  {'ms':>6}  {'rate':>7}  {'top-1':>12}  {'top-5':>12}  "
                 f"{'CIDEr':>14}")
    for arm, numbers in task["arms"].items():
      ends = {metric: (curve["mean"][-1], curve["half"][-1]) for metric, curve in numbers["curves"].items()}
      cell = lambda metric, factor: "{:.1f} +- {:.1f}".format(*(factor * x for x in ends[metric]))
      lines.append(
          f"{arm:<24}  {numbers['trained']:>10,}  {numbers.get('flops_per_sample', math.nan) / 1e6:>7.1f}  "
          f"{numbers.get('ms_per_sample', math.nan):>6.2f}  {numbers['learning_rate']:>7g}  {cell('top1', 100):>12}  "
          f"{cell('top5', 100):>12}  {cell('cider', 1):>14}")
  return "\n".join(lines)
