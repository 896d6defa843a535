"""Eight CPU devices for every test; set before anything can use JAX."""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"

from absl import flags  # noqa: E402
import chex  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
flags.FLAGS(sys.argv[:1])  # grain reads absl flags in its workers


@pytest.fixture(scope="module")
def quick_compiler():
  """Compiling is most of the time of tests that train; what XLA leaves out changes no sum but its rounding."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def small_babyai(tmp_path_factory):
  """96 training clips of the babyai world, where TFDS looks for them; the folder."""
  from vljepa_jax.data.babyai import build

  folder = tmp_path_factory.mktemp("tfds")
  build.main([f"--out={folder}", "--clips=96"])
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("TFDS_DATA_DIR", str(folder))
    yield folder


@pytest.fixture(autouse=True)
def fresh_trace_counters():
  """`chex.assert_max_traces` counts by function name over the whole process; every test starts at zero."""
  chex.clear_trace_counter()
