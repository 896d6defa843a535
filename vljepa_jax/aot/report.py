"""A plan as text."""

from collections.abc import Iterator, Mapping

from vljepa_jax.aot.compiler import Exchange
from vljepa_jax.aot.plan import HEADROOM, Plan
from vljepa_jax.aot.roofline import seconds
from vljepa_jax.aot.topology import parse

GIB, MIB = 2**30, 2**20
TOP = 12  # collectives that are listed one by one


def text(plan: Plan) -> str:
  """The whole plan, one section after another."""
  return "\n".join(_lines(plan))


def table(plans: Mapping[str, Plan]) -> str:
  """One line for every plan, by its name."""
  head = ("", "chips", "GiB a chip", "to spare", "step at best", "limit", "MFU at most", "samples/s", "chip-days")
  rows = [head] + [
      (name, f"{p.derived['chips']}", f"{p.compiled.needed / GIB:.1f} of {p.derived['memory']['chip'] / GIB:.0f}",
       f"{p.derived['memory']['headroom']:.0%}", f"{1e3 * p.derived['seconds']['step']:,.0f} ms", p.derived["limit"],
       f"{p.derived['mfu']:.1%}", f"{p.derived['samples_per_second']:,.0f}", f"{p.derived['chip_days']:,.0f}")
      for name, p in plans.items()]
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in rows]
  return "\n".join(line.rstrip() for line in lines)


def _lines(plan: Plan) -> Iterator[str]:
  d, made = plan.derived, plan.compiled
  slices = f"{plan.slices} slices of " if plan.slices > 1 else ""
  yield f"{plan.recipe} on {slices}{plan.topology}: compiled, not run"
  for key, value in plan.changes.items():
    yield f"  with config.{key} = {value}"
  mesh = " x ".join(f"{axis} {size}" for axis, size in d["mesh"].items())
  tokens = d["tokens"]
  yield (f"  {d['chips']} chips on {d['hosts']} host(s), mesh {mesh}; "
         f"batch {d['batch']:,} in {d['micro_batches']} part(s), {d['loss']}; "
         f"tokens: {tokens['visual']:,} visual, {tokens['query']} query, {tokens['target']} target")
  if not made.fits:
    yield f"DOES NOT FIT: {made.message}"
    return
  yield from _memory(plan)
  yield from _flops(plan)
  yield from _exchanges(plan)
  yield from _times(plan)


def _memory(plan: Plan) -> Iterator[str]:
  d, made = plan.derived, plan.compiled
  memory = d["memory"]
  verdict = "fits" if plan.fits else f"leaves less than the {HEADROOM:.0%} to spare that a plan asks for"
  yield (f"memory of a chip: {made.needed / GIB:.2f} of {memory['chip'] / GIB:.0f} GiB, "
         f"{memory['headroom']:.0%} to spare: {verdict}")
  state = ", ".join(f"{name} {size / MIB:,.0f}" for name, size in memory["state"].items() if size)
  yield (f"  state and batch {made.arguments / MIB:,.0f} MiB "
         f"({d['parameters_per_chip']:,} parameters a chip; MiB: {state}), "
         f"temporary {made.temporary / MIB:,.0f} MiB, program {made.code / MIB:,.0f} MiB")
  yield "  largest temporary arrays:"
  for size, what in made.consumers:
    yield f"    {size / MIB:8,.0f} MiB  {what}"


def _flops(plan: Plan) -> Iterator[str]:
  work = plan.derived["flops"]
  yield "arithmetic of a step, TFLOP:   forward   backward     beside"
  for name, (forward, backward) in work["model"].items():
    yield f"  {name:<26} {forward / 1e12:10,.1f} {backward / 1e12:10,.1f} {work['recomputed'][name] / 1e12:10,.1f}"
  yield (f"  model {work['model_total'] / 1e12:,.1f}, all {work['total'] / 1e12:,.1f}; beside: what remat and "
         "micro-batches compute again, and rotations as products")


def _exchanges(plan: Plan) -> Iterator[str]:
  chip, shape = parse(plan.topology)
  exchanges = plan.compiled.exchanges
  yield f"collectives of a chip in a step: {sum(e.bytes for e in exchanges) / MIB:,.0f} MiB"
  for e in exchanges[:TOP]:
    ici, dcn = seconds(chip, shape, e)
    yield (f"  {e.bytes / MIB:8,.1f} MiB {1e3 * (ici + dcn):7.2f} ms  {e.times:4}x {e.op:<18} {_axes(e):<16} "
           f"{e.chips:4} chips  {e.part}")
  if exchanges[TOP:]:
    yield f"  {sum(e.bytes for e in exchanges[TOP:]) / MIB:8,.1f} MiB in {len(exchanges) - TOP} smaller ones"


def _axes(exchange: Exchange) -> str:
  return "+".join(exchange.axes)


def _times(plan: Plan) -> Iterator[str]:
  d, (chip, _) = plan.derived, parse(plan.topology)
  t, work = d["seconds"], d["flops"]
  yield "at best, each at its peak and all overlapping:"
  yield (f"  compute {1e3 * t['compute']:8.1f} ms  {work['total'] / 1e12:,.1f} TFLOP / {d['chips']} chips / "
         f"{chip.peak_flops / 1e12:,.0f} TFLOP/s")
  yield (f"  memory  {1e3 * t['hbm']:8.1f} ms  {plan.compiled.hbm_bytes / 1e9:,.1f} GB a chip / "
         f"{chip.hbm_bytes_per_second / 1e9:,.0f} GB/s")
  yield f"  links   {1e3 * t['ici']:8.1f} ms  within slices"
  if plan.slices > 1:
    yield f"  network {1e3 * t['dcn']:8.1f} ms  between slices, {chip.dcn_bytes_per_second / 1e9:g} GB/s a chip"
  yield (f"  step    {1e3 * t['step']:8.1f} ms, limited by {d['limit']}: MFU at most {d['mfu']:.1%} "
         f"= {work['model_total'] / 1e12:,.1f} TFLOP / {d['chips']} / {chip.peak_flops / 1e12:,.0f} / "
         f"{1e3 * t['step']:.1f} ms (arithmetic alone would allow {d['mfu_of_compute']:.1%})")
  yield (f"  {d['samples_per_second']:,.0f} samples/s, "
         f"{d['clips_per_second_per_host']:,.0f} clips/s to decode on each host; "
         f"the recipe in {d['recipe_days']:.1f} days, {d['chip_days']:,.0f} chip-days")
