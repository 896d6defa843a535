"""A whole model as one safetensors file, under our own names."""

import pathlib
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from vljepa_jax.weights.safetensors_file import save_safetensors
from vljepa_jax.weights.tensors import read_tensors


def save_all(path: pathlib.Path, params: Any) -> None:
  """Writes every parameter, called by its path such as "predictor/head/kernel"; OSError if the disk is full."""
  save_safetensors(path, traverse_util.flatten_dict(params, sep="/"))


def load_all(path: pathlib.Path, shapes: Any) -> Any:
  """The parameters of a file from `save_all`.

  Args:
    shapes: the tree that it must hold, as ShapeDtypeStructs.

  Returns:
    The tree with arrays of the default device.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a damaged file, or a parameter missing, unexpected, mis-shaped or of another type.
  """
  found, leaves = read_tensors(path), traverse_util.flatten_dict(shapes, sep="/")
  for name in sorted(set(found) ^ set(leaves)):
    raise ValueError(f"{found.where(name)} is {'missing' if name in leaves else 'unexpected'}")
  params = {}
  for name, leaf in leaves.items():
    value = found[name]
    if (value.shape, value.dtype) != (tuple(leaf.shape), leaf.dtype):
      expected = f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
      raise ValueError(f"{found.where(name)} is {value.dtype.name}{list(value.shape)}, expected {expected}")
    params[name] = jax.device_put(value)
  return traverse_util.unflatten_dict(params, sep="/")
