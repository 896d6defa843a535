"""Your own pictures and videos: python -m vljepa_jax.main --config=configs/folder.py:my/clips.jsonl

The variant is a manifest (docs/data.md). Towers and schedule are those of configs/base.py: a frozen MobileNetV2, whose
tokens of four views of every file are kept, and MiniLM. Of videos show more than their middle frame:
--config.data.frames=4 --config.data.feature_tokens=56. Where a cache would be too large:
--config.data.feature_views=0 --config.data.feature_tokens=0.
"""

import pathlib

from configs import base
from ml_collections import ConfigDict


def get_config(manifest: str = "") -> ConfigDict:
  if not manifest:
    raise ValueError("configs/folder.py needs a manifest: --config=configs/folder.py:my/clips.jsonl")
  config = base.get_config("base")
  config.name = pathlib.Path(manifest).parent.name if _is_listed(manifest) else pathlib.Path(manifest).stem
  config.data.sources = (dict(name="captions", dataset=manifest, view="caption", weight=1.0),)
  config.eval.dataset = manifest
  return config


def _is_listed(manifest: str) -> bool:
  """Whether it has the name that `data/list_folder.py` gives, which says nothing; its folder's does."""
  path = pathlib.Path(manifest)
  return path.name == "manifest.jsonl" and path.parent.name not in ("", "..")
