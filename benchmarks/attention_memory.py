"""Memory of attention, forward and backward, compiled for one TPU chip: python benchmarks/attention_memory.py.

Needs `pip install -r requirements-aot.txt` and no TPU: nothing runs. Prints the temporary memory of splash attention and
of the plain program.
"""

import pathlib
import sys

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from vljepa_jax import cli
from vljepa_jax.aot import topology

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "Slice of whose chips one is taken.")
_BATCH = flags.DEFINE_integer("batch", 2, "Sequences.", lower_bound=1)
_LENGTH = flags.DEFINE_integer("length", 8192, "Tokens of each.", lower_bound=1)
_HEADS = flags.DEFINE_integer("heads", 16, "Heads.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 64, "Width of a head.", lower_bound=1)

MIB = 2**20


def compiled_bytes(kernel: str, device) -> str:
  """Temporary memory of value and gradients, in words."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import AxisType, NamedSharding
  from jax.sharding import PartitionSpec as P
  import numpy as np

  from vljepa_jax.model.attention import attention

  mesh = jax.sharding.Mesh(np.array([device]), ("data",), axis_types=(AxisType.Auto,))
  whole = NamedSharding(mesh, P())
  shape = (_BATCH.value, _LENGTH.value, _HEADS.value, _WIDTH.value)
  x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=whole)
  real = jax.ShapeDtypeStruct(shape[:2], jnp.bool, sharding=whole)

  def total(q, k, v, real):
    out = attention(q, k, v, _WIDTH.value**-0.5, real=real, kernel=kernel)
    return jnp.sum(jnp.square(out.astype(jnp.float32)))

  with jax.set_mesh(mesh):
    lowered = jax.jit(jax.grad(total, (0, 1, 2)), out_shardings=whole).lower(x, x, x, real)
    try:
      return f"{lowered.compile().memory_analysis().temp_size_in_bytes / MIB:10,.1f} MiB"
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      return "does not fit"


def main() -> None:
  topology.prepare(topology.parse(_TOPOLOGY.value)[0])
  device = topology.describe(_TOPOLOGY.value, 1)[0]
  print(f"{_BATCH.value} x {_LENGTH.value:,} tokens, {_HEADS.value} heads of {_WIDTH.value}, bfloat16, one chip of "
        f"{_TOPOLOGY.value}; compiled, not run")
  for kernel in ("splash", "xla"):
    print(f"  {kernel:<8} {compiled_bytes(kernel, device)}", flush=True)


if __name__ == "__main__":
  cli.run(main)
