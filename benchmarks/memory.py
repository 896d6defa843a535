"""Host memory of a run on three sources with two decoding workers: python benchmarks/memory.py [--minutes=30].

Trains nano towers on the mixture of `benchmarks/mixture.py` (videos, pictures, ArrayRecord) as a process of its own, as
fast as it goes, and every ten seconds adds up what the run and its workers hold: PSS, so that shared pages count once, without
pages of files, which other programs share and the kernel takes back. Prints a line a minute, and whether the medians of
the minutes after the warm-up, the first fifth, stay within 5%; more is an error. Linux.
"""

import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import mixture

from vljepa_jax import cli, run_log
from vljepa_jax.errors import UserError

_MINUTES = flags.DEFINE_integer("minutes", 30, "Length of the run.", lower_bound=5)
_LIMIT = flags.DEFINE_float("limit", 5.0, "Allowed range after the warm-up, per cent.")
_FOLDER = flags.DEFINE_string("folder", None, "Where data and run go, an empty one; a temporary folder by default.")
INTERVAL = 10  # seconds
WARM_UP = 0.2  # share of the minutes
MIB = 2**20
HELD = ("Pss_Anon:", "Pss_Shmem:")
STEPS = {"steps": 10**8, "batch_size": 32, "log_every": 100, "eval_every": 2000, "checkpoint_every": 1000}


def tree(root: int) -> list[int]:
  """A process and all that it has started, itself first."""
  children = {}
  for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      parent = int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
      continue
    children.setdefault(parent, []).append(int(stat.parent.name))
  found = [root]
  for process in found:
    found += children.get(process, [])
  return found


def proportional(process: int) -> int:
  """Bytes that a process holds, shared pages in proportion; 0 if it has ended."""
  try:
    lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
  except OSError:
    return 0
  return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(HELD))


def watch(run: subprocess.Popen, workdir: pathlib.Path) -> list[tuple[float, float]]:
  """Medians of each minute, in MiB: of the run itself, of all its children."""
  minutes = []
  while len(minutes) < _MINUTES.value:
    samples, ends = [], time.monotonic() + 60
    while time.monotonic() < ends:
      time.sleep(INTERVAL)
      if run.poll() is not None:
        raise UserError(f"the run has ended with code {run.returncode}; see {workdir}.log")
      main, *others = tree(run.pid)
      samples.append((proportional(main) / MIB, sum(map(proportional, others)) / MIB, len(others)))
    mains, workers, counts = zip(*samples)
    minutes.append((statistics.median(mains), statistics.median(workers)))
    lines = run_log.read_metrics(workdir)
    print(f"{len(minutes):>4} min  step {lines[-1]['step'] if lines else 0:>7,}  run {minutes[-1][0]:7.1f} MiB  "
          f"{max(counts)} children {minutes[-1][1]:7.1f} MiB  together {sum(minutes[-1]):7.1f} MiB", flush=True)
  return minutes


def spread(values: list[float]) -> float:
  """From the lowest to the highest, per cent of the lowest."""
  return 100 * (max(values) / min(values) - 1)


def main() -> None:
  folder = pathlib.Path(_FOLDER.value or tempfile.mkdtemp(prefix="vljepa_jax.memory."))
  environment, workdir = mixture.make(folder), folder / "run"
  command = [sys.executable, "-m", "vljepa_jax.main", f"--config=benchmarks/mixture.py:{folder}",
             f"--workdir={workdir}", *(f"--config.train.{key}={value}" for key, value in STEPS.items())]
  with open(f"{workdir}.log", "wb") as log:
    run = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment, "JAX_PLATFORMS": "cpu"}, stdout=log,
        stderr=subprocess.STDOUT)
  try:
    minutes = watch(run, workdir)
  finally:
    run.send_signal(signal.SIGTERM)
    run.wait()
  warm = minutes[round(WARM_UP * len(minutes)):]
  runs, children = zip(*warm)
  for name, values in (("run", runs), ("children", children), ("together", list(map(sum, warm)))):
    print(f"{name:<9} {values[0]:7.1f} MiB after the warm-up, {values[-1]:7.1f} at the end, "
          f"range {spread(values):.1f}%")
  together = spread(list(map(sum, warm)))
  verdict = "flat" if together <= _LIMIT.value else "NOT flat"
  print(f"{verdict} within {_LIMIT.value:g}% over {len(warm)} minutes")
  if together > _LIMIT.value:
    raise SystemExit(1)


if __name__ == "__main__":
  cli.run(main)
