"""Stage 2 of the paper, questions and answers: python -m vljepa_jax.main --config=configs/vljepa_sft.py

83,000 steps of 3,072 with a cosine schedule (paper section 3), from the end of stage 1:
--config.init_from=runs/vljepa_stage1_32frames. Questions are drawn from data/questions, captions against forgetting
from data/captions, both TFDS ArrayRecord folders with the fields of openclipart.
"""

from configs import vljepa_stage1
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = vljepa_stage1.get_config("32frames")
  config.name = "vljepa_sft"
  config.data.sources = (
      dict(name="captions", dataset="data/captions", view="caption", weight=0.2),
      *(dict(name=kind, dataset="data/questions", view=kind, weight=weight)
        for kind, weight in (("what", 0.2), ("is_there", 0.3), ("which_word", 0.3))),
  )
  config.optim.learning_rate = 5e-5
  config.optim.schedule = "cosine"
  config.optim.final = 0.01
  config.optim.groups = (("x_encoder/.*", None), *config.optim.groups[1:])
  config.loss.micro_batches = 1
  config.train.steps = 83_000
  config.train.batch_size = 3072
  return config
