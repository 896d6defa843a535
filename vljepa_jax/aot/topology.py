"""Slices that can be had, described without having them: "v6e:16x16", one or several."""

from collections.abc import Sequence
import itertools
import math
import os
import re

import jax

from vljepa_jax.chips import CHIPS, FLAGS_VARIABLE, Chip, flags_line
from vljepa_jax.errors import UserError

# Slices on offer (Google Cloud TPU documentation): those of 2D tori as they stand, of 3D tori blocks up to a pod.
FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
SMALL_BLOCKS = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
PODS = {"v4": (12, 16, 16), "v5p": (16, 16, 24), "tpu7x": (16, 24, 24)}
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # nobody to ask about this host
    "TPU_ACCELERATOR_TYPE": "v5p-16",  # libtpu wants one, whatever is compiled for
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
  """The chip and the shape of a slice named as "v6e:16x16"; UserError names the nearest that there are."""
  found = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", name)
  tpus = {chip.generation: chip for chip in CHIPS.values() if chip.generation}
  if not found or found[1] not in tpus:
    raise UserError(f"--topology={name} is no slice of a TPU; give one as v6e:16x16, of {', '.join(tpus)}")
  chip, shape = tpus[found[1]], tuple(map(int, found[2].split("x")))
  known = shapes(chip)
  if shape not in known:
    count = math.prod(shape)
    near = sorted(known, key=lambda s: (abs(math.log(math.prod(s) / max(count, 1))), s))[:3]
    raise UserError(f"--topology={name} does not exist; nearest: {', '.join(slice_name(chip, s) for s in near)}")
  return chip, shape


def shapes(chip: Chip) -> tuple[tuple[int, ...], ...]:
  """All slices of a chip, the smallest first."""
  if chip.torus_dims == 2:
    return FLAT
  pod = PODS[chip.name]
  blocks = itertools.product(*(range(4, size + 1, 4) for size in pod))
  blocks = {tuple(sorted(block)) for block in blocks}
  return SMALL_BLOCKS + tuple(sorted(blocks, key=lambda block: (math.prod(block), block)))


def slice_name(chip: Chip, shape: Sequence[int]) -> str:
  """The inverse of `parse`."""
  return f"{chip.generation}:{'x'.join(map(str, shape))}"


def prepare(chip: Chip) -> None:
  """Sets the environment that libtpu reads when it is loaded; once in a process, before the first `describe`."""
  os.environ.update(ENVIRONMENT)
  os.environ.setdefault(FLAGS_VARIABLE, flags_line(chip.name))
  jax.config.update("jax_platforms", "cpu")


def describe(name: str, slices: int) -> list[jax.Device]:
  """Devices of so many slices that are not there, to compile for; UserError without libtpu."""
  from jax.experimental import topologies

  parse(name)
  several = {"num_slices": slices} if slices > 1 else {}
  try:
    return list(topologies.get_topology_desc(name, platform="tpu", **several).devices)
  except (ImportError, RuntimeError) as error:
    if "libtpu" not in str(error).lower():
      raise
    raise UserError("compiling for a TPU needs its compiler: pip install libtpu") from error
