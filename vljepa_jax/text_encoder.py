"""A text encoder by itself, with the weights that it was published with: what the Y-encoder knows before training."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vljepa_jax import sharding, weights
from vljepa_jax.batches import embed_texts
from vljepa_jax.data.text import TextInput, Tokenizer
from vljepa_jax.model import presets
from vljepa_jax.model.layers import unit
from vljepa_jax.model.text import YEncoder

BATCH_SIZE = 128


def load_text_encoder(preset: str, source: str, length: int, prompt: str = "") -> Callable[[Sequence[str]], np.ndarray]:
  """A pretrained text encoder as a function of texts, without the projection that VL-JEPA adds.

  Args:
    preset: a Y-encoder of `model/presets.py`, such as "minilm".
    source: of weights and tokenizer, see `weights.resolve`; a folder.
    length: most tokens of a text, prompt and special tokens included; what is longer loses its end.
    prompt: stands before every text.

  Returns:
    n texts -> (n, D) float32 of unit length.

  Raises:
    OSError: there is no such folder, or no tokenizer in it.
    ValueError: no such preset, other weights than it asks for, or a length that it cannot read.
  """
  config = presets.y_encoder(preset)
  module = YEncoder(config, embed_width=None)
  tokens, mask = jnp.zeros((1, min(length, 8)), jnp.int32), jnp.ones((1, min(length, 8)), bool)
  shapes = jax.eval_shape(module.init, jax.random.key(0), tokens, mask)["params"]
  params = jax.device_put(weights.load_tower(source, config, sharding.unbox(shapes)))
  text_input = TextInput(Tokenizer(weights.resolve(source)), length, prompt, rows=config.vocab_size)
  encode = jax.jit(lambda params, tokens, mask: unit(module.apply({"params": params}, tokens, mask)))
  run = lambda tokens, mask: jax.device_get(encode(params, tokens, mask))
  return lambda texts: embed_texts(run, texts, text_input, BATCH_SIZE)
