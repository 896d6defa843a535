"""A profile of some steps of a run, for TensorBoard and Perfetto."""

import contextlib
import importlib.util
import pathlib
from typing import Any

import jax

from vljepa_jax.errors import UserError

FOLDER = "profile"


class Profiler(contextlib.AbstractContextManager):
  """Traces the steps first..last-1 into `WORKDIR/profile`; a run that starts or ends among them traces those it does.

  Args:
    steps: (first, last), or () for no trace.
    workdir: of the run.

  Raises:
    UserError: this process cannot be profiled.
  """

  def __init__(self, steps: tuple[int, ...], workdir: pathlib.Path):
    if steps:
      _check_platform()
    self._steps = range(*steps or (0, 0))
    self._folder = workdir / FOLDER
    self._running = False

  def step(self, number: int) -> contextlib.AbstractContextManager[Any]:
    """To be entered around the dispatch of a step; names it in the trace."""
    if number in self._steps and not self._running:
      jax.profiler.start_trace(self._folder)
      self._running = True
    return jax.profiler.StepTraceAnnotation("train", step_num=number)

  def after(self, number: int, results: Any) -> None:
    """Ends the trace after its last step, once the devices are done with it."""
    if self._running and number + 1 not in self._steps:
      jax.block_until_ready(results)
      self._stop()

  def __exit__(self, *error: Any) -> None:
    if self._running:
      self._stop()

  def _stop(self) -> None:
    self._running = False
    jax.profiler.stop_trace()


def _check_platform() -> None:
  # JAX has then looked for a TPU and left libtpu loaded, whose profiler crashes the process where there is none.
  if jax.default_backend() == "cpu" and not jax.config.jax_platforms and importlib.util.find_spec("libtpu"):
    raise UserError("config.profile: libtpu is installed, but there is no TPU; set the environment variable "
                    "JAX_PLATFORMS=cpu to profile on this machine")
