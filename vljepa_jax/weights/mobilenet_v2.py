"""MobileNetV2 as torchvision saves it (`mobilenet_v2-b0353104.pth`), or timm (`mobilenetv2_100`)."""

import re
from typing import Any

import numpy as np

from vljepa_jax.model import presets
from vljepa_jax.model.vision import MOBILENET_STAGES, mobilenet_blocks
from vljepa_jax.weights.maps import Entry
from vljepa_jax.weights.tensors import Rules, Tensors

FRESH = ()
FIELDS = {"width_multiplier": "width_multiplier", "norm_eps": "norm_eps"}


def rules(found: Tensors, config: presets.MobileNetV2Config) -> Rules:
  """torchvision's names, or timm's, which counts blocks by stage and numbers the norms of a block."""
  del found
  last = len(mobilenet_blocks(config)) + 1
  parts = {
      "conv_stem": "features.0.0", "bn1": "features.0.1",
      "conv_head": f"features.{last}.0", "bn2": f"features.{last}.1",
  }
  block = 0
  for stage, (expansion, _, count, _) in enumerate(MOBILENET_STAGES):
    if expansion == 1:
      names = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
    else:
      names = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"}
    for i in range(count):
      block += 1
      parts |= {f"blocks.{stage}.{i}.{timm}": f"features.{block}.conv.{name}" for timm, name in names.items()}
  return [
      (r"classifier\..*",),  # ImageNet's 1,000 classes; we keep the feature map before it
      (r".*\.num_batches_tracked",),  # counts training steps of the batch norms
      *((rf"{re.escape(timm)}\.(\w+)", rf"{name}.\1") for timm, name in parts.items()),
  ]


def hf_config(config: presets.MobileNetV2Config) -> dict[str, Any]:
  """A config.json in the manner of timm; torchvision has none."""
  return {"architecture": "mobilenet_v2"} | {name: getattr(config, ours) for name, ours in FIELDS.items()}


def stated(hf: dict[str, Any], config: presets.MobileNetV2Config) -> dict[str, Any]:
  """The architecture and its width; timm's `mobilenetv2_050` says both in one word."""
  del config
  found = {name: hf[name] for name in ("architecture", *FIELDS) if name in hf}
  timm = re.fullmatch(r"mobilenetv2_(\d{3})", str(found.get("architecture")))
  if timm:
    found |= {"architecture": "mobilenet_v2", "width_multiplier": int(timm[1]) / 100}
  return found


def conv_to_ours(x: np.ndarray) -> np.ndarray:
  """(out, in, row, column) to (row, column, in, out)."""
  return x.transpose(2, 3, 1, 0)


def conv_to_theirs(x: np.ndarray) -> np.ndarray:
  """(row, column, in, out) to (out, in, row, column)."""
  return x.transpose(3, 2, 0, 1)


def pointwise_to_ours(x: np.ndarray) -> np.ndarray:
  """(out, in, 1, 1) to (in, out)."""
  return x[:, :, 0, 0].T


def pointwise_to_theirs(x: np.ndarray) -> np.ndarray:
  """(in, out) to (out, in, 1, 1)."""
  return x.T[:, :, None, None]


def depthwise_to_ours(x: np.ndarray) -> np.ndarray:
  """(channel, 1, row, column) to (row, column, channel)."""
  return x[:, 0].transpose(1, 2, 0)


def depthwise_to_theirs(x: np.ndarray) -> np.ndarray:
  """(row, column, channel) to (channel, 1, row, column)."""
  return x.transpose(2, 0, 1)[:, None]


CONV = (conv_to_ours, conv_to_theirs)
POINTWISE = (pointwise_to_ours, pointwise_to_theirs)
DEPTHWISE = (depthwise_to_ours, depthwise_to_theirs)


def name_map(config: presets.MobileNetV2Config) -> list[Entry]:
  """Rows of everything up to the last feature map."""
  blocks = mobilenet_blocks(config)
  rows = _conv_norm("stem", "features.0.0", "features.0.1", CONV)
  for i, (expansion, _, _) in enumerate(blocks):
    ours, theirs = f"blocks_{i}", f"features.{i + 1}.conv"
    parts = [("depthwise", DEPTHWISE)] if expansion == 1 else [("expand", POINTWISE), ("depthwise", DEPTHWISE)]
    for j, (part, layout) in enumerate(parts):
      rows += _conv_norm(f"{ours}/{part}", f"{theirs}.{j}.0", f"{theirs}.{j}.1", layout)
    last = len(parts)  # the narrowing convolution has no activation, so torchvision does not nest it
    rows += _conv_norm(f"{ours}/project", f"{theirs}.{last}", f"{theirs}.{last + 1}", POINTWISE)
  head = f"features.{len(blocks) + 1}"
  return rows + _conv_norm("head", f"{head}.0", f"{head}.1", POINTWISE)


def _conv_norm(ours: str, conv: str, norm: str, layout: tuple) -> list[Entry]:
  to_ours, to_theirs = layout
  return [
      Entry(f"{ours}/kernel", f"{conv}.weight", to_ours, to_theirs),
      Entry(f"{ours}/norm/scale", f"{norm}.weight"),
      Entry(f"{ours}/norm/bias", f"{norm}.bias"),
      Entry(f"{ours}/norm/mean", f"{norm}.running_mean"),
      Entry(f"{ours}/norm/var", f"{norm}.running_var"),
  ]
