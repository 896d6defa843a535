"""The pictures of docs/claims.md. Each knows the results that it was made of, by a digest in its text."""

from collections.abc import Mapping, Sequence
import io
import math
import pathlib
from typing import Any

import numpy as np

from benchmarks.claims_ablate import COLUMNS, ROWS, gap, paper_gap
from benchmarks.claims_numbers import NAMES, by_seed, level

Found = Mapping[str, Any]

DIGEST = "Source digest"  # key of the PNG's text
# Of Okabe and Ito, which the colour-blind can tell apart.
ARMS = {
    "vljepa": ("VL-JEPA", "#0072B2", "-"), "vljepa_large": ("VL-JEPA large", "#56B4E9", "--"),
    "tokens": ("tokens", "#D55E00", "-"), "tokens_small": ("tokens small", "#E69F00", "--")}
METRICS = ("top5", "cider")
GREY = "#555555"
APART = 0.075  # of the height of a panel, from label to label


def compare(found: Found, path: pathlib.Path, digest: str) -> None:
  """Curves of every arm: tasks by metrics."""
  from matplotlib.figure import Figure

  tasks = found["tasks"]
  figure = Figure(figsize=(9, 3.3 * len(tasks)), dpi=100, layout="constrained")
  panels = figure.subplots(len(tasks), len(METRICS), squeeze=False)
  for (name, task), row in zip(tasks.items(), panels):
    for metric, axes in zip(METRICS, row):
      _curves(axes, task["arms"], metric)
      axes.set_title(f"{name}: {NAMES[metric]}{'' if metric == 'cider' else ', %'}", fontsize=10, loc="left")
      axes.set_xlabel("samples seen", fontsize=9)
  _save(figure, path, digest)


def _curves(axes, arms: Found, metric: str) -> None:
  ends = {}
  for arm, (_, colour, style) in ARMS.items():
    numbers = arms[arm]
    samples, places = numbers["samples"], range(len(numbers["samples"]))
    levels = [level(numbers, metric, i) for i in places]
    seeds = [by_seed(numbers, metric, i) for i in places]
    for seed in seeds[0]:
      axes.plot(samples, [values[seed] for values in seeds], color=colour, linewidth=0.5, alpha=0.5)
    axes.fill_between(samples, [e.low for e in levels], [e.high for e in levels], color=colour, alpha=0.15, linewidth=0)
    axes.plot(samples, [e.mean for e in levels], color=colour, linestyle=style, linewidth=1.8)
    if arm == "vljepa" and metric == "cider":
      nearest = [level(numbers, "cider_nearest", i).mean for i in places]
      axes.plot(samples, nearest, color=colour, linestyle=":", linewidth=1.4)
    ends[arm] = levels[-1].mean
  axes.set_xscale("log")
  axes.grid(alpha=0.25)
  axes.tick_params(labelsize=8)
  axes.set_xticks([samples[0], samples[3], samples[-1]])
  axes.minorticks_off()
  axes.xaxis.set_major_formatter("{x:,.0f}")
  axes.set_ylim(bottom=0.0, top=axes.get_ylim()[1] if metric == "cider" else min(102.0, axes.get_ylim()[1]))
  low, high = axes.get_ylim()
  places = spread([(end - low) / (high - low) for end in ends.values()], APART)
  for arm, place in zip(ends, places):
    axes.annotate(ARMS[arm][0], (1.02, place), xycoords="axes fraction", color=ARMS[arm][1], fontsize=8, va="center")


def spread(places: Sequence[float], apart: float) -> list[float]:
  """The places, moved up until any two are at least that far apart, then all back by what they moved on average."""
  order = np.argsort(places, kind="stable")
  moved = np.array(places, float)
  for before, after in zip(order, order[1:]):
    moved[after] = max(moved[after], moved[before] + apart)
  return list(moved - (moved - np.array(places)).mean())


def ablate(found: Found, path: pathlib.Path, digest: str) -> None:
  """Differences from the reference: a panel for each metric, a line for each arm."""
  from matplotlib.figure import Figure

  rows = [row for row in ROWS if row.arm != row.reference]
  figure = Figure(figsize=(9, 4.4), dpi=100, layout="constrained")
  for i, axes in enumerate(figure.subplots(1, len(COLUMNS), sharey=True)):
    for y, row in enumerate(rows):
      ours, paper = gap(found, row, i), paper_gap(row, i)
      if paper is not None and ours is not None:
        axes.plot([paper], [y], "D", markerfacecolor="none", color="#D55E00", markersize=6)
      if ours is not None:
        half = 0.0 if math.isnan(ours.half) else ours.half
        axes.errorbar([ours.mean], [y], xerr=[half], fmt="o", color="#0072B2", capsize=3, markersize=5)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.words for row in rows])
    axes.invert_yaxis() if i == 0 else None
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.set_title(COLUMNS[i][2], fontsize=10, loc="left")
  figure.supxlabel("difference from the reference, points: ours with 95% interval (dots), the paper's (diamonds)",
                   fontsize=9)
  _save(figure, path, digest)


def _save(figure, path: pathlib.Path, digest: str) -> None:
  """As a PNG of few colours, which is small."""
  from PIL import Image, PngImagePlugin

  drawn, info = io.BytesIO(), PngImagePlugin.PngInfo()
  figure.savefig(drawn, format="png")
  info.add_text(DIGEST, digest)
  Image.open(drawn).convert("RGB").quantize(128).save(path, format="PNG", optimize=True, pnginfo=info)


def digest_of(path: pathlib.Path) -> str:
  """Of the results that a picture was made of; "" if it is not there or does not tell."""
  from PIL import Image

  try:
    with Image.open(path) as picture:
      return getattr(picture, "text", {}).get(DIGEST, "")
  except OSError:
    return ""
