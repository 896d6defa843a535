"""A trained model to call from Python: NumPy in, NumPy out.

  model = vljepa_jax.load("runs/base")
  model.classify(["cat.jpg"], ["cat", "dog", "car"])         # [[("cat", 0.61), ("dog", 0.22), ("car", 0.08)]]
  model.answer(["cat.jpg"], "what is this?", ["animal", "vehicle", "food"])

  model = vljepa_jax.load("runs/base", decoder="runs/base_decoder")
  model.describe(["cat.jpg"])                                # ["cat, animal, pet"]

Any number of pictures and texts may be given: they run in batches of `config.eval.batch_size`, the last one padded to a
power of two, so that every function is compiled once per batch shape and never again in the process. Texts are sorted
by length and cut to a power of two of tokens.
"""

import collections
from collections.abc import Callable, Sequence
import functools
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from vljepa_jax import checkpoint
from vljepa_jax import config as config_lib
from vljepa_jax import sharding
from vljepa_jax import step
from vljepa_jax.batches import embed_texts, in_batches
from vljepa_jax.config import Config, model_config
from vljepa_jax.data.image import read_image
from vljepa_jax.data.media import EvaluationFrames
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.data.text import BYTES, TextInput, Tokenizer
from vljepa_jax.errors import INPUT_ERRORS, as_user_error
from vljepa_jax.model.vljepa import VLJepa, VLJepaConfig
from vljepa_jax.tasks import classification
from vljepa_jax.weights.sources import resolve
from vljepa_jax.y_decoder import text_decoder
from vljepa_jax.y_decoder.text_decoder import TextDecoder

Picture = str | os.PathLike | np.ndarray
Ranked = list[tuple[str, float]]

SPELLED, NEAREST = "decoder", "nearest"  # ways to a text


class Forward:
  """The jitted forward passes of one model config, shared by every `Model` that has it.

  Attributes:
    config: as given.
    traces: how often each function was traced, by (name, shapes); more than once for a shape is a bug.
  """

  def __init__(self, config: VLJepaConfig):
    self.config = config
    self.traces = collections.Counter()
    self._module = VLJepa(config)
    self.encode_video = self._jit(VLJepa.encode_video)
    self.encode_text = self._jit(VLJepa.encode_text)
    self.predict = self._jit(VLJepa.predict)

  def _jit(self, method: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def run(params, *inputs):
      self.traces[method.__name__, tuple(x.shape for x in inputs)] += 1
      # Without rules: a batch of one picture cannot be cut over the devices that training pins it to.
      with nn.logical_axis_rules(()):
        return self._module.apply({"params": params}, *inputs, method=method)

    return jax.jit(run)


@functools.lru_cache(maxsize=8)
def forward_passes(config: VLJepaConfig) -> Forward:
  """The one `Forward` of a config in this process."""
  return Forward(config)


class Model:
  """VL-JEPA with its tokenizers and preprocessing. Embeddings are float32 of unit length.

  Args:
    config: the recipe that the parameters belong to.
    params: unboxed parameter tree, of NumPy arrays or of live arrays of a training run; a training step that
      donates them makes this object unusable, so build a new one after it (nothing is compiled again).
    decoder: words from embeddings; None where the model need not spell anything out.

  Attributes:
    config: as given.
    decoder: as given.
    forward: the compiled functions.
    params: on the devices.
  """

  def __init__(self, config: Config, params: Any, decoder: TextDecoder | None = None):
    self.config = config
    self.decoder = decoder
    self.forward = forward_passes(model_config(config.model))
    self._preprocess = make_preprocess(config)
    towers = self.forward.config
    self._query = _shared_text_input(config.tokenizers.query, towers.predictor.vocab_size)
    self._target = _shared_text_input(config.tokenizers.target, towers.y_encoder.vocab_size)
    self.params = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jax.device_put(x), params)
    placed = jax.tree.leaves(self.params)[0].sharding
    self._mesh = placed.mesh if isinstance(placed, NamedSharding) else None

  @property
  def target_tokenizer(self) -> Tokenizer:
    """Of the texts that the Y-encoder reads."""
    return self._target.tokenizer

  def encode_image(self, images: Sequence[Picture] | np.ndarray) -> np.ndarray:
    """Visual tokens of pictures.

    Args:
      images: n paths or (H, W, 3) uint8 arrays of any size, or one (n, H, W, 3) uint8 array. They become
        squares of `config.data.image_size` as `config.data.preprocess` says.

    Returns:
      (n, N, D) float32.

    Raises:
      ValueError: there is no picture, or one is not RGB uint8 or cannot be read.
    """
    return self.encode_prepared(prepare_pictures(images, self._preprocess)[:, None])

  def encode_video(self, videos: np.ndarray) -> np.ndarray:
    """Visual tokens of clips. videos: (n, T, H, W, 3) uint8, T as in training -> (n, N, D) float32."""
    videos = np.asarray(videos)
    if videos.ndim != 5 or videos.shape[-1] != 3 or videos.dtype != np.uint8 or not videos.size:
      raise ValueError(
          f"clips must be a non-empty (n, T, H, W, 3) uint8 array, not {videos.shape} {videos.dtype}")
    frames = prepare_pictures(videos.reshape(-1, *videos.shape[2:]), self._preprocess)
    return self.encode_prepared(frames.reshape(*videos.shape[:2], *frames.shape[1:]))

  def encode_prepared(self, frames: np.ndarray | EvaluationFrames) -> np.ndarray:
    """Visual tokens of clips from `prepare_pictures`, which must not run twice: each time it would cut margins off.

    Args:
      frames: (n, T, size, size, 3) uint8; those of a split are decoded batch by batch.

    Returns:
      (n, N, D) float32.
    """
    size = self._preprocess.size
    if frames.ndim != 5 or frames.shape[2:] != (size, size, 3) or frames.dtype != np.uint8 or not frames.size:
      raise ValueError(
          f"prepared clips must be a non-empty (n, T, {size}, {size}, 3) uint8 array, not {frames.shape} {frames.dtype}"
          "; give others to encode_image or encode_video")
    return self._run(self.forward.encode_video, frames)

  def encode_text(self, texts: Sequence[str]) -> np.ndarray:
    """Embeddings of texts by the Y-encoder. n texts -> (n, E)."""
    _check_texts(texts, "texts")
    run = functools.partial(self._run_batch, self.forward.encode_text)
    return embed_texts(run, texts, self._target, self.config.eval.batch_size)

  def predict(self, visual: np.ndarray, query: str | Sequence[str] | None = None) -> np.ndarray:
    """Predicted embeddings of the answer.

    Args:
      visual: (n, N, D) from `encode_image` or `encode_video`.
      query: one query for all, n queries, or None for what the picture shows.

    Returns:
      (n, E).
    """
    visual = np.asarray(visual, np.float32)
    if visual.ndim != 3 or not len(visual):
      raise ValueError(f"visual must be non-empty (n, N, D) tokens from encode_image, not {visual.shape}")
    if query is None:
      tokens, mask = np.zeros((len(visual), 0), np.int32), np.zeros((len(visual), 0), bool)
    else:
      queries = [query] * len(visual) if isinstance(query, str) else query
      _check_texts(queries, "queries")
      if len(queries) != len(visual):
        raise ValueError(f"{len(queries)} queries do not go with {len(visual)} pictures")
      tokens, mask = self._query(queries)
    return self._run(self.forward.predict, visual, tokens, mask)

  def encode_labels(self, labels: Sequence[str], templates: Sequence[str] | None = None) -> np.ndarray:
    """Embeddings of labels, averaged over templates.

    Args:
      labels: m names.
      templates: texts with `{}` for the name; `config.eval.class_templates` by default.

    Returns:
      (m, E).
    """
    _check_texts(labels, "labels")
    templates = self.config.eval.class_templates if templates is None else templates
    texts = classification.fill_templates(templates, labels)
    return classification.average_templates(self.encode_text(texts), len(labels))

  def classify(
      self, images: Sequence[Picture] | np.ndarray, labels: Sequence[str], templates: Sequence[str] | None = None
  ) -> list[Ranked]:
    """Labels of every picture, the best first, each with its cosine similarity to the query-free prediction."""
    _check_texts(labels, "labels")
    return self.rank_labels(self.predict(self.encode_image(images)), labels, templates)

  def rank(self, pred_embed: np.ndarray, texts: Sequence[str]) -> list[Ranked]:
    """Texts for every prediction (n, E), the best first, each with its cosine similarity."""
    return _ranked(pred_embed, self.encode_text(texts), texts)

  def rank_labels(
      self, pred_embed: np.ndarray, labels: Sequence[str], templates: Sequence[str] | None = None
  ) -> list[Ranked]:
    """As `rank`, with the embeddings of `encode_labels`."""
    return _ranked(pred_embed, self.encode_labels(labels, templates), labels)

  def answer(
      self,
      images: Sequence[Picture] | np.ndarray,
      query: str | Sequence[str],
      candidates: Sequence[str],
  ) -> list[Ranked]:
    """Candidate answers to a question about every picture, the best first, each with its cosine similarity.

    Args:
      images: n pictures, as `encode_image` takes them.
      query: one question for all, or n.
      candidates: possible answers.
    """
    _check_texts(candidates, "candidates")
    return self.rank(self.predict(self.encode_image(images), query), candidates)

  def decode(
      self, pred_embed: np.ndarray, decode: str = SPELLED, *, bank: Sequence[str] | None = None, beam: int = 1,
      max_length: int | None = None, length_penalty: float = 1.0,
  ) -> list[str]:
    """A text for every prediction (n, E).

    Args:
      pred_embed: from `predict`, or embeddings of texts.
      decode: "decoder" spells it out, token by token, by the Y-decoder that `load` was given; "nearest" gives the
        nearest text of `bank` and needs no decoder.
      bank: texts to choose from.
      beam: hypotheses of the decoder's search; 1 is greedy.
      max_length: most tokens of a spelled-out text, the mark of its end included; as in training by default.
      length_penalty: hypotheses are ranked by log-probability / length ** length_penalty.

    Raises:
      ValueError: there is no decoder, or no bank; or an argument has no use.
    """
    if decode == NEAREST:
      _check_texts(() if bank is None else bank, "texts in the bank")
      return [ranked[0][0] for ranked in self.rank(pred_embed, bank)]
    if decode != SPELLED:
      raise ValueError(f"decode must be {SPELLED!r} or {NEAREST!r}, not {decode!r}")
    if bank is not None:
      raise ValueError(f"a bank is for decode={NEAREST!r}")
    if self.decoder is None:
      raise ValueError(
          "this model has no decoder: load it with vljepa_jax.load(workdir, decoder=DECODER_WORKDIR), or choose among "
          f"texts with decode={NEAREST!r} and bank=[...]")
    return self.decoder.decode(pred_embed, beam, max_length, length_penalty)

  def describe(
      self, images: Sequence[Picture] | np.ndarray, query: str | Sequence[str] | None = None, **choices: Any
  ) -> list[str]:
    """A text for every picture: `decode` of its prediction, with the choices of `decode`."""
    return self.decode(self.predict(self.encode_image(images), query), **choices)

  def _run(self, function: Callable[..., jax.Array], *inputs: np.ndarray) -> np.ndarray:
    """`function` of rows of inputs, batch by batch."""
    return in_batches(functools.partial(self._run_batch, function), inputs, self.config.eval.batch_size)

  def _run_batch(self, function: Callable[..., jax.Array], *rows: np.ndarray) -> np.ndarray:
    return self._fetch(function(self.params, *map(self._put, rows)))

  def _put(self, rows: np.ndarray) -> jax.Array:
    if self._mesh is None:
      return jax.device_put(rows)
    split = len(rows) % self._mesh.size == 0
    return sharding.put_same(rows, NamedSharding(self._mesh, P(self._mesh.axis_names if split else None)))

  def _fetch(self, rows: jax.Array) -> np.ndarray:
    if self._mesh is not None:  # gathers what other hosts hold
      rows = jax.device_put(rows, NamedSharding(self._mesh, P()))
    return jax.device_get(rows)


def load(workdir: str | os.PathLike, decoder: str | os.PathLike | None = None) -> Model:
  """The model of a workdir: its config and its newest checkpoint, the averaged weights where the run keeps them.

  Args:
    workdir: of the model.
    decoder: workdir of a Y-decoder that was trained for it; None reads none.

  Raises:
    UserError: there is no such workdir, it holds no checkpoint, the two do not fit together, or the decoder belongs to
      another model.
  """
  workdir = pathlib.Path(workdir)
  config = config_lib.read(workdir)
  model = Model(config, checkpoint.load_params(workdir, abstract_params(config)))
  if decoder is not None:
    model.decoder = text_decoder.load(
        pathlib.Path(decoder), model.params["y_encoder"], config.model.embed_width, model.target_tokenizer)
  return model


def abstract_params(config: Config) -> Any:
  """Unboxed shapes of the parameters of a recipe."""
  tokenizers = config.tokenizers
  batch = step.abstract_batch(
      1, config.data.frames, config.data.image_size, tokenizers.query.length, tokenizers.target.length)
  module = VLJepa(model_config(config.model))
  return sharding.unbox(jax.eval_shape(lambda: step.init_params(module, batch, jax.random.key(0))))


def make_preprocess(config: Config) -> Preprocess:
  """How the model of a recipe sees pictures."""
  return Preprocess(config.data.preprocess, config.data.image_size)


def make_text_input(side: config_lib.Tokenizer, rows: int) -> TextInput:
  """How one side of the model of a recipe reads texts; its token table has so many rows."""
  source = side.source if side.source == BYTES else resolve(side.source)
  return TextInput(
      Tokenizer(source), side.length, side.prompt, side.special_tokens, side.cut, side.pad_side, side.pad_id, rows)


def prepare_pictures(images: Sequence[Picture] | np.ndarray, preprocess: Preprocess) -> np.ndarray:
  """Pictures as the model sees them: n paths or (H, W, 3) uint8 arrays -> (n, size, size, 3) uint8."""
  if isinstance(images, (str, os.PathLike)):
    raise ValueError(f"give a list of pictures, not the single path {os.fspath(images)!r}")
  if not len(images):
    raise ValueError("there are no pictures: the list is empty")
  return np.stack([_prepare(image, preprocess) for image in images])


def _prepare(image: Picture, preprocess: Preprocess) -> np.ndarray:
  pixels = read_image(image) if isinstance(image, (str, os.PathLike)) else np.asarray(image)
  if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not pixels.size:
    raise ValueError(f"a picture must be a path or an (H, W, 3) uint8 array, not {pixels.shape} {pixels.dtype}")
  return preprocess(pixels)


def _check_texts(texts: Sequence[str], what: str) -> None:
  if isinstance(texts, str):
    raise ValueError(f"give a list of {what}, not the single text {texts!r}")
  if not len(texts):
    raise ValueError(f"there are no {what}: the list is empty")


def _ranked(pred_embed: np.ndarray, embed: np.ndarray, texts: Sequence[str]) -> list[Ranked]:
  pred_embed = np.asarray(pred_embed)
  if pred_embed.ndim != 2 or not len(pred_embed):
    raise ValueError(f"predictions must be a non-empty (n, E) array, not {pred_embed.shape}")
  order = lambda scores: np.argsort(-scores, kind="stable")
  return [[(texts[i], float(scores[i])) for i in order(scores)] for scores in pred_embed @ embed.T]


@functools.lru_cache(maxsize=8)
def _shared_text_input(side: config_lib.Tokenizer, rows: int) -> TextInput:
  with as_user_error(*INPUT_ERRORS):
    return make_text_input(side, rows)
