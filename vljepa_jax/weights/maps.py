"""How a table between our parameters and the tensors of a published file is written.

Each family of weights has a module with
  name_map(config) -> list[Entry]    one row per tensor, per layer (`layers_3/...`, also for a scanned tower);
  FRESH                              regexes of our leaves that no file holds and that stay initialised;
  rules(found, config) -> Rules      for `tensors.rename`: how other spellings of the names become those of the table,
                                     and which tensors are known and have no use here;
  hf_config(config) -> dict          the config.json of a folder with these weights;
  stated(hf, config) -> dict         what a config.json, in any version's spelling, says about the function;
  FIELDS                             names in `stated` -> our field of the same meaning, for messages.
Every tensor that neither the table nor the rules name is an error when weights are loaded.
"""

from collections.abc import Callable
import dataclasses

import numpy as np


def keep(x: np.ndarray) -> np.ndarray:
  """The same layout on both sides."""
  return x


def transpose(x: np.ndarray) -> np.ndarray:
  """A matrix that PyTorch stores as (out, in) and we as (in, out), and back."""
  return x.T


@dataclasses.dataclass(frozen=True)
class Entry:
  """One tensor under its two names.

  Attributes:
    ours: path below the tower, such as "backbone/layers_0/query/kernel".
    theirs: name in the file.
    to_ours: layout change from the file to us.
    to_theirs: its inverse.
  """

  ours: str
  theirs: str
  to_ours: Callable[[np.ndarray], np.ndarray] = keep
  to_theirs: Callable[[np.ndarray], np.ndarray] = keep


def gated_layer(ours: str, theirs: str) -> list[Entry]:
  """The matrices of a Llama or Gemma layer: attention and gated MLP, no biases."""
  parts = {
      "query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj", "out": "self_attn.o_proj",
      "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
  }
  return [row for part, name in parts.items() for row in linear(f"{ours}/{part}", f"{theirs}.{name}", bias=False)]


def linear(ours: str, theirs: str, bias: bool = True) -> list[Entry]:
  """The rows of a dense layer: `weight` (out, in) as `kernel` (in, out), and `bias` where it has one."""
  kernel = Entry(f"{ours}/kernel", f"{theirs}.weight", transpose, transpose)
  return [kernel, Entry(f"{ours}/bias", f"{theirs}.bias")] if bias else [kernel]


def norm(ours: str, theirs: str, bias: bool = True) -> list[Entry]:
  """The rows of a LayerNorm, or of an RMSNorm when it has no bias."""
  scale = Entry(f"{ours}/scale", f"{theirs}.weight")
  return [scale, Entry(f"{ours}/bias", f"{theirs}.bias")] if bias else [scale]
