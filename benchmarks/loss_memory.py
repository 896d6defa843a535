"""Memory of InfoNCE, forward and backward, compiled for a TPU slice: python benchmarks/loss_memory.py [--batch=24576].

Needs `pip install -r requirements-aot.txt` and no TPU: nothing runs. Prints the temporary memory per chip of the plain table, of chunks
and of the ring.
"""

import pathlib
import sys

from absl import flags
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from vljepa_jax import cli
from vljepa_jax import loss
from vljepa_jax.aot import topology

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "Slice to compile for.")
_BATCH = flags.DEFINE_integer("batch", 24_576, "Global batch.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 1536, "Width of an embedding.", lower_bound=1)
_KINDS = flags.DEFINE_list("kinds", ["info_nce", "info_nce_chunked", "info_nce_ring"], "Losses, by name.")

AXIS = "data"
MIB = 2**20


def temporary_bytes(kind: str, mesh: jax.sharding.Mesh, batch: int, width: int) -> int:
  """Temporary memory per chip of value and gradients."""
  rows, whole = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
  embed = jax.ShapeDtypeStruct((batch, width), jnp.float32, sharding=rows)
  number = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
  ids = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=rows)
  function = loss.make_loss(kind, "", 0.0, (AXIS,))
  value = lambda pred, target, log_scale, ids: function(pred, target, {"log_scale": log_scale}, ids, None)[0]
  grad = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)), out_shardings=(whole, (rows, rows, whole)))
  with jax.set_mesh(mesh):
    return grad.lower(embed, embed, number, ids).compile().memory_analysis().temp_size_in_bytes


def main() -> None:
  topology.prepare(topology.parse(_TOPOLOGY.value)[0])
  devices = topology.describe(_TOPOLOGY.value, 1)
  mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
  print(f"{_TOPOLOGY.value}, batch {_BATCH.value:,}, width {_WIDTH.value:,}, float32; compiled, not run")
  for kind in _KINDS.value:
    print(f"  {kind:<17} {temporary_bytes(kind, mesh, _BATCH.value, _WIDTH.value) / MIB:9,.1f} MiB", flush=True)


if __name__ == "__main__":
  cli.run(main)
