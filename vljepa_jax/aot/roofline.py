"""How fast a compiled step can be at best: the slowest of arithmetic, main memory and network, each at its peak.

A bound and not a forecast: it takes all three to overlap wholly and each to reach its peak. Rings and tori as in "How
to Scale Your Model" (jax-ml.github.io/scaling-book), part 3.
"""

from collections.abc import Sequence
import dataclasses
import math

from vljepa_jax.aot.compiler import Exchange
from vljepa_jax.chips import Chip

DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds of a step, by what would limit it.

  Attributes:
    compute: all arithmetic, what is computed twice included, at the peak of bfloat16.
    hbm: all main-memory traffic.
    ici: links between the chips of a slice.
    dcn: the network between slices.
    mfu: share of the peak that the model's own arithmetic would have.
  """

  compute: float
  hbm: float
  ici: float
  dcn: float
  mfu: float

  @property
  def step(self) -> float:
    return max(self.compute, self.hbm, self.ici, self.dcn)

  @property
  def limit(self) -> str:
    """What the step waits for."""
    return max(("compute", "hbm", "ici", "dcn"), key=lambda name: getattr(self, name))


def roofline(
    chip: Chip, topology: tuple[int, ...], chips: int, model_flops: int, total_flops: int, hbm_bytes: int,
    exchanges: Sequence[Exchange],
) -> Roofline:
  """The bound of one step.

  Args:
    chip: of the slices.
    topology: of one slice.
    chips: of all slices.
    model_flops: forward and backward of the global batch.
    total_flops: what is computed twice included.
    hbm_bytes: of one chip.
    exchanges: of one chip.
  """
  compute = total_flops / chips / chip.peak_flops
  times = [seconds(chip, topology, exchange) for exchange in exchanges]
  hbm = hbm_bytes / chip.hbm_bytes_per_second
  bound = Roofline(compute, hbm, sum(t[0] for t in times), sum(t[1] for t in times), 0.0)
  return dataclasses.replace(bound, mfu=model_flops / chips / chip.peak_flops / bound.step)


def seconds(chip: Chip, topology: tuple[int, ...], exchange: Exchange) -> tuple[float, float]:
  """Time on the links of a slice and on the network between slices.

  A ring of n chips sends (n - 1) / n of the data past every chip, an all-reduce twice; every axis of the torus that a
  group spans adds its links, two where it is closed, one where it is not. An all-to-all travels a quarter of each ring.
  Over several slices, each chip exchanges its own share with its likes in the other slices.
  """
  inside, across = exchange.chips // exchange.slices, exchange.slices
  twice = 2 if exchange.op == "all-reduce" else 1
  share = lambda n: (n - 1) / n
  ici = dcn = 0.0
  if inside > 1:
    links = link_count(chip, topology, exchange.torus)
    volume = twice * exchange.bytes * share(inside)
    if exchange.op == "all-to-all":
      volume = exchange.bytes * max(1.0, max(exchange.torus) / 4)
    if exchange.op == "collective-permute":
      volume, links = exchange.bytes, 1
    ici = volume / (links * chip.ici_link_bytes_per_second)
  if across > 1:
    part = exchange.bytes if exchange.op == "all-gather" else exchange.bytes / inside
    dcn = twice * part * share(across) / chip.dcn_bytes_per_second
  return ici, dcn


def link_count(chip: Chip, topology: tuple[int, ...], spanned: tuple[int, ...]) -> int:
  """Links of one chip, in one direction each, along the axes of the torus that a group spans."""
  closed = {size for size, wraps in zip(topology, chip.wraps(topology)) if wraps}
  return sum(2 if size in closed else 1 for size in spanned) or 1


def chip_days(step_seconds: float, steps: int, chips: int) -> float:
  """Days of one chip that a whole recipe takes."""
  return step_seconds * steps * chips / DAY


def hosts(chip: Chip, chips: int) -> int:
  """Machines that feed so many chips."""
  return math.ceil(chips / chip.chips_per_host)
