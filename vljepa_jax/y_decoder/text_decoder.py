"""A trained Y-decoder to call from Python, and the file that joins it to its model."""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vljepa_jax import checkpoint, decoding, features, sharding
from vljepa_jax.data.text import Tokenizer
from vljepa_jax.data.vocabulary import PAD, Vocabulary
from vljepa_jax.errors import UserError
from vljepa_jax.model.decoder import Decoder
from vljepa_jax.y_decoder import recipe as recipe_lib
from vljepa_jax.y_decoder.step import init_params, next_token_logits

FILE = "y_decoder.json"


@dataclasses.dataclass(frozen=True)
class Bond:
  """What a decoder's workdir says of its model besides the recipe.

  Attributes:
    model_workdir: absolute path of the model's workdir, for messages.
    y_encoder: hash of the parameters of the Y-encoder whose embeddings the decoder knows.
    tokens: of the decoder's vocabulary, by the ids of the model's target tokenizer.
  """

  model_workdir: str
  y_encoder: str
  tokens: tuple[int, ...]

  def write(self, workdir: pathlib.Path) -> None:
    """Stores it, as `y_decoder.json`; whole or not at all."""
    partial = workdir / f"{FILE}.partial"
    partial.write_text(json.dumps(dataclasses.asdict(self)) + "\n", encoding="utf-8")
    partial.replace(workdir / FILE)


def read_bond(workdir: pathlib.Path) -> Bond:
  """What `Bond.write` stored; UserError if it is missing or damaged."""
  path = pathlib.Path(workdir) / FILE
  if not path.is_file():
    raise UserError(f"{workdir} is not the workdir of a Y-decoder: it has no {FILE}; "
                    "train one with python -m vljepa_jax.main --config=configs/decoder.py")
  try:
    plain = json.loads(path.read_text(encoding="utf-8"))
    return Bond(plain["model_workdir"], plain["y_encoder"], tuple(plain["tokens"]))
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is damaged: {error!r}") from error


def check_bond(bond: Bond, y_encoder_params: Any, workdir: pathlib.Path) -> None:
  """UserError if a decoder was trained for another Y-encoder than this."""
  if features.hash_params(y_encoder_params) != bond.y_encoder:
    raise UserError(
        f"the Y-decoder {workdir} was trained for the Y-encoder of {bond.model_workdir}, whose parameters are not "
        "those of this model; give the decoder of this model, or train one into a workdir of its own")


class TextDecoder:
  """Words from embeddings; every method takes any number of rows, in batches padded to a power of two.

  Args:
    decoder: the module.
    params: its parameters.
    vocabulary: of its tokens.
    tokenizer: the model's target tokenizer.
    length: tokens of a text at most, the mark of its end included, as in training.
    batch_size: rows at a time.
  """

  def __init__(
      self, decoder: Decoder, params: Any, vocabulary: Vocabulary, tokenizer: Tokenizer, length: int, batch_size: int
  ):
    self.length = length
    self.vocabulary = vocabulary
    self._decoder = decoder
    self._params = jax.device_put(params)
    self._tokenizer = tokenizer
    self._batch_size = batch_size

  def decode(
      self, embed: np.ndarray, beam: int = 1, max_length: int | None = None, length_penalty: float = 1.0
  ) -> list[str]:
    """A text for every embedding.

    Args:
      embed: (n, E) of unit length, of texts or predicted.
      beam: hypotheses that are kept; 1 is greedy search.
      max_length: most tokens of a text, the mark of its end included; as in training by default.
      length_penalty: hypotheses are ranked by log-probability / length ** length_penalty.

    Returns:
      n texts, as the tokenizer writes its tokens: MiniLM's are lower case, with spaces around hyphens.

    Raises:
      ValueError: an argument is out of its range, or the embeddings are not (n, E).
    """
    return self.texts(self.search(embed, beam, max_length, length_penalty))

  def search(
      self, embed: np.ndarray, beam: int = 1, max_length: int | None = None, length_penalty: float = 1.0
  ) -> np.ndarray:
    """As `decode`; token ids (n, max_length) int32 of the decoder's vocabulary."""
    length = self.length if max_length is None else max_length
    if not 1 <= length <= self.length:
      raise ValueError(f"max_length must be within 1..{self.length}, the length of the training texts, not {length}")
    if beam < 1:
      raise ValueError(f"beam must be 1 (greedy) or more, not {beam}")
    return np.concatenate([
        np.asarray(self._search(rows, beam, length, length_penalty))[:count] for count, rows in self._batches(embed)])

  def texts(self, tokens: np.ndarray) -> list[str]:
    """(n, L) token ids -> n texts."""
    return [self._tokenizer.decode(row) for row in self.vocabulary.decode(tokens)]

  def tokens(self, texts: Sequence[str]) -> np.ndarray:
    """n texts -> (n, L) token ids, as the decoder is trained to give them."""
    return self.vocabulary.encode(tokenize(self._tokenizer, texts, self.length), self.length)

  def next_tokens(self, embed: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The most probable token at every place of true texts, from what stands before it. (n, E), (n, L) -> (n, L)."""
    return np.concatenate([
        np.asarray(_best_next(self._decoder, self._params, *rows))[:count]
        for count, rows in self._batches(embed, tokens)])

  def _search(self, rows: Sequence[jax.Array], beam: int, length: int, length_penalty: float) -> jax.Array:
    if beam == 1:
      return decoding.greedy(self._decoder, self._params, *rows, length=length).tokens
    return decoding.beam(
        self._decoder, self._params, *rows, width=beam, length=length, length_penalty=length_penalty).tokens[:, 0]

  def _batches(self, embed: np.ndarray, *more: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
    embed = np.asarray(embed, np.float32)
    if embed.ndim != 2 or not len(embed) or embed.shape[1] != self._decoder.embed_width:
      raise ValueError(
          f"embeddings must be a non-empty (n, {self._decoder.embed_width}) array, not {embed.shape}")
    for start in range(0, len(embed), self._batch_size):
      rows = [x[start:start + self._batch_size] for x in (embed, *more)]
      count = len(rows[0])
      bucket = min(self._batch_size, 1 << (count - 1).bit_length())
      yield count, [np.concatenate([x, np.repeat(x[-1:], bucket - count, axis=0)]) for x in rows]


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> list[list[int]]:
  """Tokenizer ids of texts without marks, at most length - 1 of each: the mark of the end has the last place."""
  return tokenizer.encode(texts, length - 1, special_tokens=False)


def load(workdir: pathlib.Path, y_encoder_params: Any, embed_width: int, tokenizer: Tokenizer) -> TextDecoder:
  """The decoder of a workdir, beside its model.

  Args:
    workdir: of the decoder.
    y_encoder_params: of the model.
    embed_width: E of the model.
    tokenizer: the model's target tokenizer.

  Raises:
    UserError: there is no such workdir, it holds no checkpoint, or it belongs to another model.
  """
  workdir = pathlib.Path(workdir)
  bond, recipe = read_bond(workdir), recipe_lib.read(workdir)
  check_bond(bond, y_encoder_params, workdir)
  vocabulary = Vocabulary(bond.tokens)
  decoder = Decoder(recipe_lib.decoder_config(recipe), embed_width, len(vocabulary))
  shapes = sharding.unbox(jax.eval_shape(functools.partial(init_params, decoder), jax.random.key(0)))
  params = checkpoint.load_params(workdir, shapes)
  return TextDecoder(decoder, params, vocabulary, tokenizer, recipe.texts.length, recipe.eval.batch_size)


@functools.partial(jax.jit, static_argnames="decoder")
def _best_next(decoder: Decoder, params: Any, embed: jax.Array, tokens: jax.Array) -> jax.Array:
  with nn.logical_axis_rules(()):
    return jnp.argmax(next_token_logits(decoder, params, embed, tokens), axis=-1)


def token_accuracy(given: np.ndarray, tokens: np.ndarray) -> float:
  """Share of the real tokens of texts that `next_tokens` gives rightly."""
  real = tokens != PAD
  return float((given == tokens)[real].mean())
