"""What a Y-decoder learns from: the texts of its model's own training, and the size of the predictor's error.

Texts are encoded once by the frozen Y-encoder. In training an embedding t is turned away from itself: it becomes
cos(angle) t + sin(angle) n. The angle is one of those measured between predictions and their targets on training
pictures, times a random share. The unit vector n is the part at right angles to t of a random mixture of measured errors
(prediction - target), with normal weights: noise of the shape that errors have, as even noise would not be, which in
hundreds of dimensions hardly ever leads from one text to another. What is disturbed stays of unit length, and has
exactly the cosines that predictions have.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses

import grain
import numpy as np

from vljepa_jax.api import Model
from vljepa_jax.config import Config
from vljepa_jax.data.augment import Augment
from vljepa_jax.data.captions import caption_variant, held_out_captions, is_held_out
from vljepa_jax.data.questions import QuestionMaker, Vocabulary
from vljepa_jax.data.sources import Source
from vljepa_jax.y_decoder.recipe import Recipe

CAPTION = "caption"
ASKED = 4  # answers that are drawn for every record and kind of question


@dataclasses.dataclass(frozen=True)
class Stream:
  """The texts of one source of the model's mixture.

  Attributes:
    name: of the source.
    weight: of the source.
    texts: n distinct ones.
    pred: (m, E) predictions for training records.
    target: (m, E), what they should have been.
  """

  name: str
  weight: float
  texts: tuple[str, ...]
  pred: np.ndarray
  target: np.ndarray

  @property
  def cosines(self) -> np.ndarray:
    """(m,) float32, of predictions and their targets."""
    return np.sum(self.pred * self.target, axis=1)


def collect(
    model: Model, sources: Mapping[str, Source], held_out: Collection[str], recipe: Recipe
) -> tuple[Stream, ...]:
  """The streams of a model's recipe, one for each of its sources.

  Args:
    model: the finished model.
    sources: training split of every data set of its recipe, by name.
    held_out: captions of its evaluation split, which no text here is.
    recipe: of the decoder.

  Raises:
    ValueError: nothing is left to train on.
  """
  held_out = held_out_captions(held_out)
  measured = {name: _Measured(model, source, held_out, recipe) for name, source in sources.items()}
  return tuple(
      Stream(
          s.name, s.weight,
          training_texts(model.config, sources[s.dataset], s.view, held_out, recipe.texts.variants, recipe.seed),
          *measured[s.dataset].pairs(s.view))
      for s in model.config.data.sources)


def training_texts(
    config: Config, source: Source, view: str, held_out: frozenset[str], variants: int, seed: int
) -> tuple[str, ...]:
  """The distinct targets of one source: canonical captions and random variants of them, or answers.

  Args:
    config: of the model.
    view: "caption" or a kind of question.
    held_out: from `held_out_captions`.
    variants: random captions of every record.
    seed: of what is random.
  """
  rng = np.random.default_rng(seed)
  usable = _usable(source, held_out)
  if view == CAPTION:
    augment = Augment(**dataclasses.asdict(config.data.augment))
    records = [source.records[i] for i in usable]
    texts = [record.caption for record in records]
    texts += [caption_variant(record, augment, held_out, rng) for _ in range(variants) for record in records]
  else:
    maker = _question_maker(source, held_out)
    texts = [maker.make(i, view, rng).answer for _ in range(ASKED) for i in usable if view in maker.kinds(i)]
  texts = tuple(dict.fromkeys(text for text in texts if text.strip()))
  if not texts:
    raise ValueError(f"{source.name} has no text of the view {view!r} to train a Y-decoder on")
  return texts


class _Measured:
  """The predictor's error on some training records of one data set, their pictures encoded once."""

  def __init__(self, model: Model, source: Source, held_out: frozenset[str], recipe: Recipe):
    self._model, self._source, self._held_out, self._seed = model, source, held_out, recipe.seed
    usable = _usable(source, held_out)
    chosen = np.random.default_rng(recipe.seed).permutation(usable)[:recipe.texts.error_records]
    self._chosen = [int(i) for i in np.sort(chosen)]
    self._visual = model.encode_image([source.image(i) for i in self._chosen])

  def pairs(self, view: str) -> tuple[np.ndarray, np.ndarray]:
    """(m, E) predictions for a view, and their targets."""
    if view == CAPTION:
      pred = self._model.predict(self._visual)
      return pred, self._model.encode_text([self._source.records[i].caption for i in self._chosen])
    maker, rng = _question_maker(self._source, self._held_out), np.random.default_rng(self._seed)
    able = [place for place, i in enumerate(self._chosen) if view in maker.kinds(i)]
    if not able:
      raise ValueError(
          f"none of {len(self._chosen)} records has a question of the kind {view!r}; raise config.texts.error_records")
    questions = [maker.make(self._chosen[place], view, rng) for place in able]
    pred = self._model.predict(self._visual[able], [question.query for question in questions])
    return pred, self._model.encode_text([question.answer for question in questions])


def _usable(source: Source, held_out: frozenset[str]) -> list[int]:
  usable = [i for i, record in enumerate(source.records) if not is_held_out(record.caption, held_out)]
  if not usable:
    raise ValueError(f"every caption of {source.name} is in the evaluation split: nothing is left to train on")
  return usable


def _question_maker(source: Source, held_out: frozenset[str]) -> QuestionMaker:
  return QuestionMaker(source.records, source.classes, Vocabulary(source.records, len(source.classes), held_out))


def make_iterator(
    streams: Sequence[Stream], embeds: Sequence[np.ndarray], tokens: Sequence[np.ndarray], recipe: Recipe,
    shard_index: int = 0, shard_count: int = 1,
) -> grain.experimental.ElasticIterator:
  """An endless iterator over the batches of one host; what a step trains on depends on the seed and the step alone.

  A batch has embed (b, E) float32, disturbed, and tokens (b, L) int32, b = batch size / shard_count.

  Args:
    streams: they are mixed by their weights.
    embeds: of every stream, (n, E) of its texts.
    tokens: of every stream, (n, L).
    recipe: of the decoder.
    shard_index: this host.
    shard_count: number of hosts.
  """
  parts = []
  for number, stream in enumerate(streams):
    order = np.random.SeedSequence((recipe.seed, number)).generate_state(1)[0]
    examples = _Examples(embeds[number], tokens[number], stream, recipe.texts.noise)
    rows = np.arange(len(stream.texts))
    parts.append(grain.MapDataset.source(rows).seed(int(order)).shuffle().repeat(None).random_map(examples))
  return grain.experimental.ElasticIterator(
      grain.MapDataset.mix(parts, [stream.weight for stream in streams]),
      recipe.train.batch_size,
      grain.sharding.ShardOptions(shard_index=shard_index, shard_count=shard_count),
      read_options=grain.ReadOptions(num_threads=1, prefetch_buffer_size=2),  # more only fight for the GIL
  )


class _Examples(grain.transforms.RandomMap):
  """Row -> one training example of a stream."""

  def __init__(self, embed: np.ndarray, tokens: np.ndarray, stream: Stream, noise: tuple[float, float]):
    self._embed, self._tokens, self._noise = embed, tokens, noise
    self._angles = np.arccos(np.clip(stream.cosines, -1.0, 1.0))
    self._errors = stream.pred - stream.target

  def random_map(self, element: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    angle = rng.choice(self._angles) * rng.uniform(*self._noise)
    direction = rng.standard_normal(len(self._errors), np.float32) @ self._errors
    return {"embed": turn(self._embed[element], angle, direction), "tokens": self._tokens[element]}


def turn(embed: np.ndarray, angle: float, direction: np.ndarray) -> np.ndarray:
  """A unit vector turned by an angle (radians) towards a direction. (E,) -> (E,) float32, of unit length."""
  across = direction - (direction @ embed) * embed
  across /= max(np.linalg.norm(across), 1e-9)
  return (np.cos(angle) * embed + np.sin(angle) * across).astype(np.float32)
