"""What results say about a claim: differences by seed, outcomes, where a curve arrives, and numbers as words."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import math
import textwrap
from typing import Any

from vljepa_jax.compare import results as results_lib
from vljepa_jax.errors import UserError

Arm = Mapping[str, Any]

HOLDS, FAILS, MIXED, UNKNOWN = "holds", "does not hold", "mixed", "cannot tell"
NAMES = {"top1": "top-1", "top5": "top-5", "cider": "CIDEr", "recall1": "R@1"}
WIDTH = 140  # of the page's lines


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean and half the width of its 95% interval, which is NaN for one seed."""

  mean: float
  half: float

  @property
  def low(self) -> float:
    """The lower end."""
    return self.mean - self.half

  @property
  def high(self) -> float:
    """The upper end."""
    return self.mean + self.half


@dataclasses.dataclass(frozen=True)
class Section:
  """A claim: its row of the head table, and the paragraphs below its title."""

  title: str
  paper: str
  ours: str
  verdict: str
  blocks: tuple[str, ...]


def by_seed(arm: Arm, metric: str, place: int = -1) -> dict[int, float]:
  """A metric of every run at a point, as the page shows it: shares in per cent, CIDEr as it is."""
  scale = 1 if metric.startswith("cider") else 100
  try:
    return {run["seed"]: scale * run["points"][place][metric] for run in arm["runs"]}
  except KeyError as error:
    raise UserError(f"a run of {arm['words']!r} in the results has no {error}") from error


def level(arm: Arm, metric: str, place: int = -1) -> Estimate:
  """Mean over the seeds."""
  return Estimate(*results_lib.interval(list(by_seed(arm, metric, place).values())))


def difference(ours: Arm, other: Arm, metric: str, than: str = "", place: int = -1) -> Estimate:
  """Of two arms, paired by seed. `than` is the other arm's metric, where it is another one."""
  return _paired(ours, other, metric, than or metric, place, lambda a, b: a - b)


def ratio(ours: Arm, other: Arm, metric: str) -> Estimate | None:
  """Of each seed, at the end; None where the other arm has a seed with nothing to divide by."""
  if min(by_seed(other, metric).values()) <= 0:
    return None
  return _paired(ours, other, metric, metric, -1, lambda a, b: a / b)


def _paired(ours, other, metric, than, place, combine) -> Estimate:
  a, b = by_seed(ours, metric, place), by_seed(other, than, place)
  shared = sorted(a.keys() & b.keys())
  if not shared:
    raise UserError(f"{ours['words']!r} and {other['words']!r} share no seed in the results")
  return Estimate(*results_lib.interval([combine(a[seed], b[seed]) for seed in shared]))


def outcome(estimate: Estimate | None, sign: int = 1, than: float = 0.0) -> str:
  """Whether the whole interval lies above `than`, for a negative sign below it."""
  if estimate is None:
    return UNKNOWN
  if estimate.low > than:
    return HOLDS if sign > 0 else FAILS
  if estimate.high < than:
    return FAILS if sign > 0 else HOLDS
  return UNKNOWN


def verdict(outcomes: Iterable[str]) -> str:
  """What all outcomes are; "mixed" where they are not all the same."""
  kinds = set(outcomes)
  return UNKNOWN if not kinds else kinds.pop() if len(kinds) == 1 else MIXED


def counted(outcomes: Sequence[str]) -> str:
  """The verdict, with how many of each where it is mixed."""
  found = verdict(outcomes)
  if found != MIXED:
    return found
  kinds = [f"{kind} {outcomes.count(kind)}" for kind in (HOLDS, FAILS, UNKNOWN) if kind in outcomes]
  return f"{MIXED} (of {len(outcomes)}: {', '.join(kinds)})"


def crossing(samples: Sequence[float], values: Sequence[float], target: float) -> float | None:
  """Samples at which a curve first has the target, linear between its points; None if it never has."""
  for i, value in enumerate(values):
    if value >= target:
      if i == 0:
        return float(samples[0])
      share = (target - values[i - 1]) / (value - values[i - 1])
      return float(samples[i - 1] + share * (samples[i] - samples[i - 1]))
  return None


def told(parts: Sequence[tuple[str, str]], holds: str, fails: str, unknown: str) -> str:
  """One sentence of labels with their outcomes; each group begins with its words. Many of one kind are only counted."""
  groups = []
  for kind, words in ((HOLDS, holds), (FAILS, fails), (UNKNOWN, unknown)):
    labels = [label for label, found in parts if found == kind]
    if labels:
      groups.append(f"{words} {f'all {len(labels)}' if len(labels) == len(parts) > 4 else join(labels)}")
  text = "; ".join(groups)
  return f"{text[:1].upper()}{text[1:]}."


def join(words: Sequence[str]) -> str:
  """a, b and c."""
  return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def fixed(value: float, digits: int = 1, sign: bool = False) -> str:
  """A number without a negative zero."""
  return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def plus_minus(estimate: Estimate, sign: bool = False) -> str:
  """Mean and half the interval."""
  half = "?" if math.isnan(estimate.half) else fixed(estimate.half)
  return f"{fixed(estimate.mean, sign=sign)} ± {half}"


def times(estimate: Estimate | None) -> str:
  """A ratio and its interval."""
  if estimate is None:
    return "no ratio"
  ends = "" if math.isnan(estimate.half) else f" ({fixed(estimate.low, 2)} to {fixed(estimate.high, 2)})"
  return f"{fixed(estimate.mean, 2)}x{ends}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """In Markdown."""
  line = lambda cells: f"| {' | '.join(cells)} |"
  return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def paragraph(text: str) -> str:
  """Wrapped; a line never begins with what Markdown takes for a list."""
  return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def origin(found: Mapping[str, Any]) -> str:
  """How to repeat it."""
  commit = f"commit `{found['commit']}`, " if found["commit"] else ""
  return f"Repeat: `{found['command']}` ({commit}{found['machine']})."
