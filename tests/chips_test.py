import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest

from vljepa_jax import chips

ROOT = pathlib.Path(__file__).parents[1]
TPUS = {  # chip -> a small topology that libtpu can compile for, and the accelerator type it belongs to
    "v4": ("v4:2x2x2", "v4-16"),
    "v5e": ("v5e:2x4", "v5litepod-8"),
    "v5p": ("v5p:2x2x2", "v5p-16"),
    "v6e": ("v6e:2x4", "v6e-8"),
    "tpu7x": ("tpu7x:2x2x1", "tpu7x-8"),
}
COMPILE = """
import sys
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec as P

name = sys.argv[1]
megacore = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
topology = topologies.get_topology_desc(name, platform="tpu", **megacore)
mesh = topologies.make_mesh(topology, (len(topology.devices),), ("fsdp",))
put = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P("fsdp")))
loss = lambda w, x: jnp.mean(jnp.square(jnp.tanh(x @ w) @ w).astype(jnp.float32))
jax.jit(jax.grad(loss)).lower(put(1024, 1024), put(1024, 1024)).compile()
print("compiled for", topology.devices[0].device_kind)
"""


def compile_for(name, flags):
  topology, kind = TPUS[name]
  environ = os.environ | {
      "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
      "TPU_ACCELERATOR_TYPE": kind, "LIBTPU_INIT_ARGS": flags}
  return subprocess.run(
      [sys.executable, "-c", COMPILE, topology], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.aot
@pytest.mark.parametrize("name", TPUS)
def test_libtpu_takes_the_flags(name):
  pytest.importorskip("libtpu")
  done = compile_for(name, chips.flags_line(name))
  assert done.stdout == f"compiled for {chips.CHIPS[name].device_kind}\n", done.stderr[-2000:]


@pytest.mark.aot
def test_libtpu_refuses_an_unknown_flag():
  pytest.importorskip("libtpu")
  done = compile_for("v5e", "--xla_tpu_no_such_flag=true")
  assert done.returncode != 0 and "xla_tpu_no_such_flag" in done.stderr


def test_every_tpu_has_flags_once():
  for name in TPUS:
    names = [flag.partition("=")[0] for flag in chips.CHIPS[name].xla_flags]
    assert names and len(names) == len(set(names))


@pytest.mark.parametrize("kind, name", [
    ("TPU v6 lite", "v6e"), ("TPU v5 lite", "v5e"), ("TPU v5e", "v5e"), ("TPU v5", "v5p"), ("TPU v5p", "v5p"),
    ("TPU7x", "tpu7x"), ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"),
])
def test_devices_by_the_name_that_jax_gives_them(kind, name):
  assert chips.chip_of_device(kind) is chips.CHIPS[name]


@pytest.mark.parametrize("kind", ["cpu", "TPU v99", "NVIDIA H100 PCIe", ""])
def test_unknown_devices(kind):
  assert chips.chip_of_device(kind) is None


@pytest.mark.parametrize("name, topology, rings", [
    ("v6e", (16, 16), (True, True)), ("v6e", (8, 16), (False, True)), ("v5e", (4, 4), (False, False)),
    ("v5p", (4, 4, 8), (True, True, True)), ("v5p", (2, 4, 4), (False, False, False)),
])
def test_rings(name, topology, rings):
  assert chips.CHIPS[name].wraps(topology) == rings


def test_a_slice_of_the_wrong_shape():
  with pytest.raises(ValueError, match="a slice of v5p has 3 axes, not 2"):
    chips.CHIPS["v5p"].wraps((4, 4))


def test_two_devices_share_a_chip():
  chip = chips.CHIPS["tpu7x"]
  assert chip.peak_flops_per_device * 2 == chip.peak_flops
  assert dataclasses.replace(chip, devices_per_chip=1).peak_flops_per_device == chip.peak_flops


@pytest.mark.parametrize("args, code, out, err", [
    (["v6e"], 0, chips.flags_line("v6e") + "\n", ""),
    (["v9"], 2, "", "error: no flags for the chip 'v9'; there are v4, v5e, v5p, v6e, tpu7x\n"),
    (["h100"], 2, "", "error: no flags for the chip 'h100'; there are v4, v5e, v5p, v6e, tpu7x\n"),
    (["v6e", "v5e"], 2, "", "error: give one chip, or none for the table\n"),
])
def test_the_command(capsys, args, code, out, err):
  assert chips.main(args) == code
  assert capsys.readouterr() == (out, err)


def test_the_table_has_every_chip(capsys):
  assert chips.main([]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == ["chip", *chips.CHIPS]
