import os
import pathlib
import subprocess
import sys

import jax
import pytest

from vljepa_jax import accelerator, chips

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("kind, chip", [
    ("v6e-8", "v6e"), ("v5litepod-16", "v5e"), ("v5p-16", "v5p"), ("v4-8", "v4"), ("tpu7x-8", "tpu7x"),
    ("tpu-v6e-slice", "v6e"), ("tpu-v5-lite-podslice", "v5e"), ("tpu-v5p-slice", "v5p"),
])
def test_flags_of_the_generation(kind, chip):
  assert accelerator.accelerator_flags({"TPU_ACCELERATOR_TYPE": kind}) == chips.flags_line(chip)


@pytest.mark.parametrize("environ", [
    {}, {"TPU_ACCELERATOR_TYPE": ""}, {"TPU_ACCELERATOR_TYPE": "v99-8"},
    {"TPU_ACCELERATOR_TYPE": "v6e-8", "JAX_PLATFORMS": "cpu"},
    {"TPU_ACCELERATOR_TYPE": "v6e-8", "LIBTPU_INIT_ARGS": "--xla_enable_async_all_gather=false"},
    {"TPU_ACCELERATOR_TYPE": "v6e-8", "LIBTPU_INIT_ARGS": f"--x=1 {accelerator.JAX_S_OWN}"},
])
def test_no_flags(environ):
  assert accelerator.accelerator_flags(environ) is None


@pytest.mark.parametrize("environ", [
    {"JAX_PLATFORMS": "tpu,cpu"}, {"LIBTPU_INIT_ARGS": ""}, {"LIBTPU_INIT_ARGS": f" {accelerator.JAX_S_OWN}"},
])
def test_nothing_speaks_against_flags(environ):
  assert accelerator.accelerator_flags({"TPU_ACCELERATOR_TYPE": "v6e-8"} | environ) == chips.flags_line("v6e")


def test_flags_are_set_and_told(monkeypatch, capsys):
  monkeypatch.delenv("JAX_PLATFORMS")
  monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-8")
  monkeypatch.setenv("LIBTPU_INIT_ARGS", f" {accelerator.JAX_S_OWN}")
  accelerator.use_accelerator_flags()
  assert os.environ["LIBTPU_INIT_ARGS"].split() == [*chips.CHIPS["v6e"].xla_flags, accelerator.JAX_S_OWN]
  out, err = capsys.readouterr()
  assert out == "" and err.startswith("flags for v6e-8") and err.count("\n") == 1


def test_where_the_cache_lies():
  name = accelerator.cache_folder({"HOME": "/home/x"})
  assert name.parent == pathlib.Path("/home/x/.cache/vljepa_jax/xla")
  assert accelerator.cache_folder({"HOME": "/home/x", "XDG_CACHE_HOME": "/c"}) == pathlib.Path(
      "/c/vljepa_jax/xla", name.name)


def test_another_processor_has_another_folder(tmp_path, monkeypatch):
  names = []
  for features in ("flags : avx2", "flags : avx2 avx512f"):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{features}\n")
    monkeypatch.setattr(accelerator, "CPU_INFO", tmp_path / "cpuinfo")
    names.append(accelerator.cache_folder({"HOME": "/"}).name)
  assert names[0] != names[1]


PROGRAM = """
import jax, jax.numpy as jnp
from vljepa_jax import accelerator
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None)
accelerator.use_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(len(hits) > 0)
"""


def start(tmp_path, **environ):
  """Whether a fresh process finds its programs in the cache."""
  environ = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": "", "JAX_COMPILATION_CACHE_DIR": ""} | environ
  done = subprocess.run(
      [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environ, capture_output=True, text=True, check=True, timeout=120)
  return done.stdout.strip() == "True"


def test_a_second_start_finds_the_programs_unless_flags_differ(tmp_path):
  assert [start(tmp_path), start(tmp_path)] == [False, True]
  assert list((tmp_path / ".cache" / "vljepa_jax" / "xla").iterdir()) == [
      accelerator.cache_folder({"HOME": str(tmp_path)})]
  assert not start(tmp_path, XLA_FLAGS="--xla_cpu_enable_fast_min_max=true")


def test_the_user_s_own_folder(tmp_path):
  assert not start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
  assert any((tmp_path / "own").iterdir()) and not (tmp_path / ".cache").exists()


def test_several_simulated_devices_keep_nothing(monkeypatch):
  before = jax.config.jax_enable_compilation_cache, jax.config.jax_compilation_cache_dir
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "anywhere")
  try:
    accelerator.use_compilation_cache()
    assert jax.device_count() == 8 and not jax.config.jax_enable_compilation_cache
    assert jax.config.jax_compilation_cache_dir == before[1]
  finally:
    jax.config.update("jax_enable_compilation_cache", before[0])


@pytest.mark.parametrize("command", ["main", "evaluate", "predict"])
def test_every_command_that_computes_uses_the_cache(command):
  source = (ROOT / "vljepa_jax" / f"{command}.py").read_text(encoding="utf-8")
  assert source.count("  accelerator.use_compilation_cache()\n") == 1
