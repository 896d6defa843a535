"""What a run prints: the plan, a line now and then, where things are."""

from collections.abc import Mapping
import dataclasses
import pathlib
import time
from typing import Any

import jax
import numpy as np

from vljepa_jax.config import Config
from vljepa_jax.data.sources import AnySource
from vljepa_jax.evaluation import HeldOut
from vljepa_jax.optim import FROZEN


def say(text: str) -> None:
  """Prints once, however many hosts run."""
  if jax.process_index() == 0:
    print(text, flush=True)


def count_by_label(params: Any, labels: Any) -> dict[str, int]:
  """Numbers in each group of `optim.label_params`, the largest learning rate first, frozen last."""
  counts = {}
  for x, label in zip(jax.tree.leaves(params), jax.tree.leaves(labels), strict=True):
    counts[label] = counts.get(label, 0) + int(np.prod(x.shape))
  rank = lambda label: float("inf") if label == FROZEN else -float(label[1:])
  return {label: counts[label] for label in sorted(counts, key=rank)}


def trained_and_frozen(params: Any, labels: Any) -> dict[str, int]:
  """The "params" part of `results.json`."""
  counts = count_by_label(params, labels)
  return {"trained": sum(n for label, n in counts.items() if label != FROZEN), "frozen": counts.get(FROZEN, 0)}


def print_plan(
    config: Config, workdir: pathlib.Path, mesh: jax.sharding.Mesh, params: Any, labels: Any, loss: str,
    sources: Mapping[str, AnySource], held_out: HeldOut,
) -> None:
  """Says what is about to happen.

  Args:
    loss: its kind.
    params: unboxed shapes.
    labels: their groups.
    sources: training sources, by name.
    held_out: the evaluation split.
  """
  say(f"{config.name}: VL-JEPA in {workdir}")
  rows = []
  for part in ("x_encoder", "predictor", "y_encoder"):
    tower = getattr(config.model, part)
    counts = count_by_label(params[part], labels[part])
    shares = ", ".join(f"{n:,} {_group_words(label)}" for label, n in counts.items())
    rows.append((part, tower.preset, shares + f"; {tower.weights or 'no pretrained weights'}"))
  rows += [
      (f"data {s.name}", f"weight {s.weight:g}",
       f"{len(sources[s.name]):,} {sources[s.name].media}s of {s.dataset}, {' + '.join(s.views)}")
      for s in config.data.sources]
  rows.append((
      "evaluation", config.eval.split,
      f"{len(held_out.records):,} {held_out.media}s of {config.eval.dataset}, held out"))
  devices = mesh.devices.flat[0]
  shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
  shape += f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
  rows.append(("devices", f"{mesh.size}", f"{devices.device_kind} ({devices.platform}), mesh {shape}"))
  parts = f" in {config.loss.micro_batches} parts" if config.loss.micro_batches > 1 else ""
  rows.append(("training", f"{config.train.steps:,} steps", f"of {config.train.batch_size:,} examples{parts}"))
  extra = f"and {config.loss.regularizer_weight:g} {config.loss.regularizer}" if config.loss.regularizer else ""
  rows.append(("loss", loss, extra))
  for name, short, rest in rows:
    say(f"  {name:<16} {short:<14} {rest}".rstrip())


def _group_words(label: str) -> str:
  if label == FROZEN:
    return FROZEN
  return "trained" if label == "x1.0" else f"trained at learning rate {label}"


@dataclasses.dataclass
class Clock:
  """Time spent on training steps, pauses for evaluation left out.

  Attributes:
    seconds: so far, in this and earlier starts of the run.
    steps: so far, in this and earlier starts of the run.
  """

  seconds: float
  steps: int

  def __post_init__(self):
    self._last = time.monotonic()
    self._lap = (self.seconds, self.steps)

  def resume(self) -> None:
    """Leaves out the time since the last call of this clock."""
    self._last = time.monotonic()

  def tick(self, step: int) -> None:
    """Training has reached `step`."""
    now = time.monotonic()
    self.seconds += now - self._last
    self._last, self.steps = now, step

  def lap(self) -> float:
    """Steps per second since the last lap."""
    seconds, steps = self.seconds - self._lap[0], self.steps - self._lap[1]
    self._lap = (self.seconds, self.steps)
    return steps / max(seconds, 1e-9)


class FeatureLine:
  """Tells how the feature cache comes along, every ten seconds and at the end; called with views done and to do."""

  def __init__(self):
    self._began = self._last = time.monotonic()

  def __call__(self, done: int, total: int) -> None:
    now = time.monotonic()
    if done < total and now - self._last < 10:
      return
    self._last = now
    per_second = done / max(now - self._began, 1e-9)
    left = f"{duration((total - done) / max(per_second, 1e-9))} left"
    left = left if done < total else f"in {duration(now - self._began)}"
    say(f"  tokens of the frozen X-encoder: {done:,} of {total:,} views, {per_second:,.0f} a second, {left}")


def print_step(
    step: int, steps: int, stream: str, numbers: Mapping[str, float], steps_per_second: float
) -> None:
  """The progress line; loss and recall are those of a batch of this stream."""
  left = (steps - step) / max(steps_per_second, 1e-9)
  mfu = f"MFU {100 * numbers['mfu']:.1f}%  " if "mfu" in numbers else ""  # where the peak of the chip is known
  say(
      f"step {step:>{len(str(steps))}}/{steps}  {stream:<10}  loss {numbers['loss']:.4f}  "
      f"temperature {numbers['temperature']:.4f}  "
      f"batch R@1 {100 * numbers['batch_recall']:5.1f}%  {numbers['samples_per_second']:,.0f} samples/s  "
      f"{mfu}{duration(left)} left")


def print_evaluation(step: int, results: Mapping[str, Any]) -> None:
  """One line of the quick evaluation while training."""
  image_to_text = results["image_to_text"]
  classes = f"  class top-1 {100 * results['classification']['top1']:.1f}%" if "classification" in results else ""
  say(
      f"  held out after step {step}: image -> text R@1 {100 * image_to_text['r1']:.1f}%  "
      f"R@10 {100 * image_to_text['r10']:.1f}%{classes}")


def duration(seconds: float) -> str:
  """1:05 or 2:03:09."""
  minutes, seconds = divmod(int(seconds + 0.5), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
