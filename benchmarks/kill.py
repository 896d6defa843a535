"""A run that is killed again and again against one that never was: python benchmarks/kill.py [--kills=5] [--seed=0].

Runs a recipe to its end as a process of its own, and again with a SIGKILL at random moments, uniform over the time of
the first run, followed by the same command. Compares batches, losses and the last checkpoint (parameters, optimizer,
input) bit by bit; of batches a hash of stream and record of every row. Then goes on from the middle of the first run on
2 and on 4 local processes, and compares batches step by step and losses to 1e-5. Workers that outlive a kill are told.

The recipe is the mixture of `benchmarks/mixture.py`: videos, pictures and ArrayRecord by weight, two decoding workers,
unless --recipe gives another. Minutes on two cores.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings

os.environ["JAX_PLATFORMS"] = "cpu"

from absl import flags
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import mixture

from vljepa_jax import checkpoint, cli, config, run_log

_RECIPE = flags.DEFINE_string("recipe", "", "Recipe to run; the mixture by default.")
_STEPS = flags.DEFINE_integer("steps", 24, "Steps of it.", lower_bound=4)
_EVERY = flags.DEFINE_integer("checkpoint_every", 4, "Steps between checkpoints.", lower_bound=1)
_KILLS = flags.DEFINE_integer("kills", 5, "How often a run is killed.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
_FOLDER = flags.DEFINE_string("folder", None, "Where the runs go; a temporary folder by default.")
TIMES = ("seconds", "samples_per_second", "model_tflops_per_second", "mfu")
DATA = "data"
PATIENCE = 30  # seconds that workers have to notice that the process they work for was killed
TOLERANCE = 1e-5  # of losses on another number of processes, which add up in another order


def recipe(folder: pathlib.Path) -> str:
  """What to run, with workdirs in this folder."""
  return _RECIPE.value or f"benchmarks/mixture.py:{folder / DATA}"


def arguments(workdir: pathlib.Path) -> list[str]:
  steps = dict(steps=_STEPS.value, log_every=1, eval_every=10, checkpoint_every=_EVERY.value, keep_checkpoints=999)
  return [f"--config={recipe(workdir.parent)}", f"--workdir={workdir}",
          *(f"--config.train.{key}={value}" for key, value in steps.items())]


def start(command: list[str], workdir: pathlib.Path) -> subprocess.Popen:
  """In a process group of its own."""
  with open(workdir.with_suffix(".log"), "ab") as log:
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, process_group=0)


def left_behind(group: int) -> int:
  """Processes of a group that are still there, after they were given time to end; they are killed."""
  for _ in range(PATIENCE):
    alive = [stat for stat in pathlib.Path("/proc").glob("[0-9]*/stat") if belongs(stat, group)]
    if not alive:
      return 0
    time.sleep(1)
  os.killpg(group, signal.SIGKILL)
  return len(alive)


def belongs(stat: pathlib.Path, group: int) -> bool:
  """Whether the process of /proc/PID/stat runs and is of the group."""
  try:
    state, _, number = stat.read_text().rpartition(")")[2].split()[:3]
  except OSError:  # it has just ended
    return False
  return state != "Z" and int(number) == group


def finish(command: list[str], workdir: pathlib.Path) -> float:
  """Seconds that a run to its end took."""
  began = time.monotonic()
  process = start(command, workdir)
  if process.wait():
    print(workdir.with_suffix(".log").read_text()[-2000:], file=sys.stderr)
    raise SystemExit(f"{' '.join(command)} has ended with code {process.returncode}")
  return time.monotonic() - began


def kill_often(folder: pathlib.Path, seconds: float) -> list[tuple[pathlib.Path, list[str]]]:
  """Workdirs of runs that were killed and then finished, and where each kill hit."""
  rng, runs, left = np.random.default_rng(_SEED.value), [], _KILLS.value
  while left:
    workdir, hits = folder / f"killed{len(runs)}", []
    runs.append((workdir, hits))
    command = [sys.executable, "-m", "vljepa_jax.main", *arguments(workdir)]
    while left:
      process, moment = start(command, workdir), rng.uniform(0, seconds)
      try:
        process.wait(moment)
        break  # it was done before: the next kill hits another run
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        orphans = left_behind(process.pid)
      left -= 1
      lines = run_log.read_metrics(workdir)
      logged, done = lines[-1]["step"] if lines else "none", checkpoint.latest_step(workdir / checkpoint.FOLDER)
      hits.append(f"{moment:5.1f} s: last step logged {logged}, saved {done or 'none'}; {orphans} workers left")
      print(f"  killed after {hits[-1]}", flush=True)
    finish(command, workdir)
  return runs


def numbers(workdir: pathlib.Path) -> dict[int, dict[str, float]]:
  """What was logged of every step, times left out."""
  return {record["step"]: {key: value for key, value in record.items() if key not in TIMES}
          for record in run_log.read_metrics(workdir)}


def saved(workdir: pathlib.Path) -> list[np.ndarray]:
  warnings.filterwarnings("ignore", "Sharding info not provided")  # the run lay on one device, as this process does
  tree = ocp.load_checkpointables(workdir / checkpoint.FOLDER / str(_STEPS.value))
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def compare(mine: pathlib.Path, whole: pathlib.Path) -> list[str]:
  """Cells of a row of the table: steps, batches, losses, the last checkpoint."""
  a, b = numbers(mine), numbers(whole)
  steps = [step for step in b if "loss" in b[step]]  # there is a line from before the first step, too
  same = lambda key: sum(a[step][key] == b[step][key] for step in steps)
  leaves, others = saved(mine), saved(whole)
  equal = sum(x.tobytes() == y.tobytes() for x, y in zip(leaves, others, strict=True))
  return [f"{sum(step in a for step in steps)} of {len(steps)}", f"{same('batch_ids')} same", f"{same('loss')} same",
          f"{'all' if a == b else 'NOT all'} same", f"{equal} of {len(others)} same"]


def go_on(whole: pathlib.Path, folder: pathlib.Path, count: int) -> list[str]:
  """The second half of the run, on so many processes."""
  half, workdir = _STEPS.value // 2 // _EVERY.value * _EVERY.value, folder / f"on{count}"
  shutil.copytree(whole / checkpoint.FOLDER / str(half), workdir / checkpoint.FOLDER / str(half))
  for name in (config.FILE, run_log.METRICS):
    shutil.copy(whole / name, workdir)
  finish(["launch/local.sh", str(count), *arguments(workdir)], workdir)
  a, b = numbers(workdir), numbers(whole)
  later = [step for step in b if step > half]
  done = [step for step in later if step in a]
  ids = sum(a[step]["batch_ids"] == b[step]["batch_ids"] for step in done)
  worst = max(abs(a[step]["loss"] - b[step]["loss"]) for step in done)
  verdict = "within" if worst <= TOLERANCE else "NOT within"
  return [f"{len(done)} of {len(later)}", f"{ids} same", f"{verdict} {TOLERANCE:g}", f"worst {worst:.1e}", "-"]


def main() -> None:
  folder = pathlib.Path(_FOLDER.value or tempfile.mkdtemp(prefix="vljepa_jax.kill."))
  folder.mkdir(parents=True, exist_ok=True)
  if not _RECIPE.value:
    os.environ |= mixture.make(folder / DATA)
  whole = folder / "whole"
  seconds = finish([sys.executable, "-m", "vljepa_jax.main", *arguments(whole)], whole)
  print(f"{recipe(folder)}, {_STEPS.value} steps, a checkpoint every {_EVERY.value}: {seconds:.1f} s; runs in {folder}")
  rows = [("never killed", ["-"] * 5)]
  for workdir, hits in kill_often(folder, seconds):
    rows.append((f"killed {len(hits)} times", compare(workdir, whole)))
  rows += [(f"on {count} processes", go_on(whole, folder, count)) for count in (2, 4)]
  print("".join(f"{name:<20}" for name in ("", "steps", "batch_ids", "losses", "other numbers", "last checkpoint")))
  for name, cells in rows:
    print("".join(f"{cell:<20}" for cell in (name, *cells)))


if __name__ == "__main__":
  cli.run(main)
