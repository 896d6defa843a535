"""The debug recipe with one layer a tower: --config=tests/multihost_recipe.py:FOLDER, a data set as TFDS stores it."""

from configs import base
from ml_collections import ConfigDict


def get_config(dataset: str) -> ConfigDict:
  config = base.get_config("debug")
  config.model.x_encoder.num_layers = 1
  config.model.predictor.layers = (0, 1)
  config.model.y_encoder.num_layers = 1
  config.data.sources = (dict(name="captions", dataset=dataset, view="caption", weight=1.0),)
  config.eval.update(dataset=dataset, batch_size=64, class_templates=("{}",), report=False)
  config.mesh.update(data=2, fsdp=4)
  config.train.update(steps=12, batch_size=16, log_every=1, eval_every=100, checkpoint_every=6)
  return config
