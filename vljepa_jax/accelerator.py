"""What a command sets up before it computes: compiler flags of the TPU at hand, and the cache of compiled programs."""

from collections.abc import Mapping
import os
import pathlib
import sys
import zlib

from vljepa_jax import chips

FLAGS = chips.FLAGS_VARIABLE
CACHE = "JAX_COMPILATION_CACHE_DIR"
# How accelerator types begin ("v5litepod-16"; on GKE also "tpu-v5-lite-podslice"), and the chip that each means.
TYPES = {
    "v4": "v4", "v5litepod": "v5e", "v5-lite": "v5e", "v5e": "v5e", "v5p": "v5p", "v6e": "v6e", "tpu7x": "tpu7x",
}
JAX_S_OWN = "--xla_tpu_use_enhanced_launch_barrier=true"  # `import jax` adds it on a TPU host
CPU_INFO = pathlib.Path("/proc/cpuinfo")


def accelerator_flags(environ: Mapping[str, str]) -> str | None:
  """Flags for LIBTPU_INIT_ARGS, from the accelerator type in the environment of a TPU host.

  None if this is no TPU host, if JAX is told to use another platform, or if the user has set flags.
  """
  kind = environ.get("TPU_ACCELERATOR_TYPE", "").removeprefix("tpu-")
  chip = next((chip for start, chip in TYPES.items() if kind.startswith(start)), None)
  other = environ.get("JAX_PLATFORMS") and "tpu" not in environ["JAX_PLATFORMS"]
  if chip is None or other or set(environ.get(FLAGS, "").split()) - {JAX_S_OWN}:
    return None
  return chips.flags_line(chip)


def use_accelerator_flags() -> None:
  """Sets the flags of this host's TPU and says so; call it before JAX looks for devices, which loads libtpu."""
  flags = accelerator_flags(os.environ)
  if flags is None:
    return
  print(f"flags for {os.environ['TPU_ACCELERATOR_TYPE']}, as {FLAGS} is not set: {flags}", file=sys.stderr, flush=True)
  os.environ[FLAGS] = f"{flags} {os.environ.get(FLAGS, '')}".strip()


def use_compilation_cache() -> None:
  """Keeps compiled programs for the next start; call it once all processes have joined and before the first program.

  They lie in the folder that the environment variable JAX_COMPILATION_CACHE_DIR names (a bucket, too), otherwise in
  `cache_folder`. JAX tells programs apart by code, devices, versions, XLA_FLAGS and LIBTPU_INIT_ARGS.
  """
  import jax  # here, since processes that load data import the commands, too

  if jax.default_backend() == "cpu" and jax.device_count() > 1:
    # A program for several CPU devices that comes from the cache waits for ever in its collectives (jaxlib 0.10.2).
    jax.config.update("jax_enable_compilation_cache", False)
  elif not os.environ.get(CACHE):
    jax.config.update("jax_compilation_cache_dir", str(cache_folder(os.environ)))


def cache_folder(environ: Mapping[str, str]) -> pathlib.Path:
  """The user's cache folder / vljepa_jax/xla / the kind of this host's processor.

  A program for one processor may use instructions that another lacks, and hosts may share a home folder.
  """
  root = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
  return pathlib.Path(root) / "vljepa_jax" / "xla" / _processor()


def _processor() -> str:
  """A short name for the instructions that this host has."""
  lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
  features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
  return f"{os.uname().machine}-{zlib.crc32(features.encode()):08x}"
