"""VL-JEPA in JAX.

  model = vljepa_jax.load("runs/base")
"""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
  if name == "load":  # on demand: processes that load data import this package, and must not import JAX
    return importlib.import_module("vljepa_jax.api").load
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
