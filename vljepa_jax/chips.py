"""What the chips can do: python -m vljepa_jax.chips prints a table, python -m vljepa_jax.chips v6e its compiler flags.

Sources: the pages of each generation in the Google Cloud TPU documentation (docs.cloud.google.com/tpu/docs/v6e and so
on) for peak, memory, network and hosts; the table in part 2 of "How to Scale Your Model"
(jax-ml.github.io/scaling-book) for one link in one direction and for wrap-around links; NVIDIA's data sheets for the
SXM boards. The scaling book gives a v4 link 45 GB/s; those of the others are the documented bandwidth of a chip over
its links and two directions.
"""

import dataclasses
import sys

GIB = 2**30
FLAGS_VARIABLE = "LIBTPU_INIT_ARGS"  # read when libtpu is loaded

# Overlap of collectives and computation, as MaxText sets it (configs/v5e, configs/v5p, configs/trillium, and
# benchmarks/xla_flags_library.py); openxla.org/xla/flags_guidance explains them. What stands here, libtpu 0.0.52 takes.
_OVERLAP = (
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
    "--xla_enable_async_all_gather=true",
    "--xla_enable_async_collective_permute=true",
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
)
# MaxText sets it everywhere; on all but v5e libtpu 0.0.52 refuses it beside async all-gathers: results may be wrong.
_FUSE_ALL_GATHER = ("--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",)
# Chips of two cores that work as one (MaxText, configs/v5p).
_MEGACORE = (
    "--xla_tpu_megacore_fusion_allow_ags=false",
    "--xla_tpu_enable_ag_backward_pipelining=true",
)
# Collectives on the sparse cores (AI-Hypercomputer/tpu-recipes, training/ironwood, llama3.1-70b).
_IRONWOOD = (
    "--xla_tpu_scoped_vmem_limit_kib=61440",
    "--xla_tpu_bf16_emission_mode=NATIVE_EMISSION",
    "--xla_tpu_enable_sparse_core_collective_offload_all_reduce=true",
    "--xla_tpu_use_single_sparse_core_for_all_gather_offload=true",
)


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of accelerator; bandwidths in bytes per second.

  Attributes:
    name: as in accelerator types and `CHIPS`.
    device_kind: as JAX reports it.
    generation: as in names of topologies ("v6e:4x4"), and "" for what has none.
    peak_flops: bfloat16, of a chip.
    hbm_bytes: of a chip, as the documentation gives it; the system keeps some of it.
    hbm_bytes_per_second: of a chip.
    ici_link_bytes_per_second: one link, one direction; for a GPU all its NVLinks together, one direction.
    torus_dims: axes of a slice, 2 or 3; 0 where every chip reaches every other one.
    dcn_bytes_per_second: a chip's share of the data-centre network between slices, one direction. v4 has no documented
      figure: the scaling book's 25 GB/s of a host. GPUs: one 400 Gb/s adapter each, as in an HGX machine.
    chips_per_host: of a slice of several hosts; one host may hold a v5e or v6e slice of eight, too.
    devices_per_chip: JAX devices; the two cores of a TPU7x chip are two, those of v4 and v5p work as one (megacore).
    xla_flags: for LIBTPU_INIT_ARGS.
  """

  name: str
  device_kind: str
  generation: str
  peak_flops: float
  hbm_bytes: int
  hbm_bytes_per_second: float
  ici_link_bytes_per_second: float
  torus_dims: int
  dcn_bytes_per_second: float
  chips_per_host: int
  devices_per_chip: int = 1
  xla_flags: tuple[str, ...] = ()

  @property
  def peak_flops_per_device(self) -> float:
    """Of what JAX calls a device."""
    return self.peak_flops / self.devices_per_chip

  def wraps(self, topology: tuple[int, ...]) -> tuple[bool, ...]:
    """Which axes of a slice are rings.

    On 2D tori those of 16 chips, the side of a whole pod; on 3D tori all, once each is a multiple of 4 (whole cubes).

    Args:
      topology: chips along every axis.
    """
    if len(topology) != self.torus_dims:
      raise ValueError(f"a slice of {self.name} has {self.torus_dims} axes, not {len(topology)}")
    if self.torus_dims == 2:
      return tuple(size == 16 for size in topology)
    return (all(size % 4 == 0 for size in topology),) * self.torus_dims


CHIPS = {chip.name: chip for chip in (
    Chip("v4", "TPU v4", "v4", 275e12, 32 * GIB, 1.2e12, 45e9, 3, 6.25e9, 4, xla_flags=_OVERLAP + _MEGACORE),
    Chip("v5e", "TPU v5 lite", "v5e", 197e12, 16 * GIB, 0.819e12, 50e9, 2, 3.125e9, 4,
         xla_flags=_OVERLAP + _FUSE_ALL_GATHER),
    Chip("v5p", "TPU v5", "v5p", 459e12, 95 * GIB, 2.765e12, 100e9, 3, 6.25e9, 4, xla_flags=_OVERLAP + _MEGACORE),
    Chip("v6e", "TPU v6 lite", "v6e", 918e12, 32 * GIB, 1.638e12, 100e9, 2, 12.5e9, 4, xla_flags=_OVERLAP),
    Chip("tpu7x", "TPU7x", "tpu7x", 2307e12, 192 * GIB, 7.38e12, 100e9, 3, 12.5e9, 4, 2, xla_flags=_IRONWOOD),
    Chip("h100", "NVIDIA H100 80GB HBM3", "", 989.4e12, 80 * GIB, 3.35e12, 450e9, 0, 50e9, 8),
    Chip("h200", "NVIDIA H200", "", 989.4e12, 141 * GIB, 4.8e12, 450e9, 0, 50e9, 8),
)}

_OTHER_KINDS = {"TPU v5e": "v5e", "TPU v5p": "v5p", "TPU v6e": "v6e"}  # what other versions of libtpu say


def chip_of_device(device_kind: str) -> Chip | None:
  """The chip whose devices JAX reports as `device_kind`; None for what is not in the table, such as a CPU."""
  if device_kind in _OTHER_KINDS:
    return CHIPS[_OTHER_KINDS[device_kind]]
  return next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)


def flags_line(name: str) -> str:
  """The XLA flags of a chip as LIBTPU_INIT_ARGS takes them; ValueError if there is no such TPU."""
  known = [chip.name for chip in CHIPS.values() if chip.xla_flags]
  if name not in known:
    raise ValueError(f"no flags for the chip {name!r}; there are {', '.join(known)}")
  return " ".join(CHIPS[name].xla_flags)


def table() -> str:
  """All chips, one a line."""
  head = ("chip", "device kind", "TFLOP/s", "HBM GiB", "HBM GB/s", "link GB/s", "torus", "DCN GB/s", "chips/host")
  rows = [head] + [
      (c.name, c.device_kind, f"{c.peak_flops / 1e12:,.0f}", f"{c.hbm_bytes / GIB:.0f}",
       f"{c.hbm_bytes_per_second / 1e9:,.0f}", f"{c.ici_link_bytes_per_second / 1e9:.0f}",
       f"{c.torus_dims}D" if c.torus_dims else "-", f"{c.dcn_bytes_per_second / 1e9:g}", str(c.chips_per_host))
      for c in CHIPS.values()]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def main(args: list[str]) -> int:
  """The command; returns its exit code."""
  try:
    if len(args) > 1:
      raise ValueError("give one chip, or none for the table")
    print(flags_line(args[0]) if args else table())
  except ValueError as error:
    print("error:", error, file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
