"""What a Y-decoder learns from: the texts of its model's own training, and the size of the predictor's error.

Texts are encoded once by the frozen Y-encoder. In training an embedding t is turned away from itself: it becomes
cos(angle) t + sin(angle) n. The angle is one of those measured between predictions and their targets on training
records, times a random share. The unit vector n is the part at right angles to t of a random mixture of measured
errors (prediction - target), with normal weights: noise of the shape that errors have, as even noise would not be, which in
hundreds of dimensions hardly ever leads from one text to another. What is disturbed stays of unit length, and has
exactly the cosines that predictions have.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses

import grain
import numpy as np

from vljepa_jax.api import Model, make_preprocess
from vljepa_jax.data.augment import Augment
from vljepa_jax.data.media import EvaluationFrames
from vljepa_jax.data.sources import AnySource
from vljepa_jax.data.views import CAPTION, Texts, open_texts
from vljepa_jax.y_decoder.recipe import Recipe


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
    model: Model, sources: Mapping[str, AnySource], held_out: Collection[str], recipe: Recipe
) -> tuple[Stream, ...]:
  """The streams of a model's recipe, one for each view of each of its sources.

  Args:
    model: the finished model.
    sources: training split of every data set of its recipe, by name.
    held_out: captions of its evaluation split, which no text about pictures is.
    recipe: of the decoder.

  Raises:
    ValueError: nothing is left to train on.
  """
  measured = {
      name: _Measured(model, source, _texts_of(model, source, held_out), recipe) for name, source in sources.items()}
  streams = []
  for source in model.config.data.sources:
    for view in source.views:
      data = measured[source.dataset]
      texts = training_texts(data.texts, view, recipe.texts.variants, recipe.seed)
      if not texts:
        raise ValueError(f"{source.dataset} has no text of the view {view!r} to train a Y-decoder on")
      name = source.name if len(source.views) == 1 else f"{source.name}/{view}"
      streams.append(Stream(name, source.weight / len(source.views), texts, *data.pairs(view)))
  return tuple(streams)


def bank(
    model: Model, sources: Mapping[str, AnySource], held_out: Collection[str], recipe: Recipe
) -> tuple[str, ...]:
  """The texts of all streams of `collect`, whose arguments these are, without measuring any error."""
  opened = {name: _texts_of(model, source, held_out) for name, source in sources.items()}
  return tuple(
      text for source in model.config.data.sources for view in source.views
      for text in training_texts(opened[source.dataset], view, recipe.texts.variants, recipe.seed))


def _texts_of(model: Model, source: AnySource, held_out: Collection[str]) -> Texts:
  return open_texts(source, Augment(**dataclasses.asdict(model.config.data.augment)), held_out)


def training_texts(texts: Texts, view: str, variants: int, seed: int) -> tuple[str, ...]:
  """The distinct targets of one view: canonical captions and random wordings of them, or answers.

  Args:
    texts: of the training split.
    view: one of its views.
    variants: texts that are drawn for every record, besides the canonical one.
    seed: of what is random.
  """
  rng = np.random.default_rng(seed)
  usable = [int(i) for i in texts.usable(view)]
  found = [texts.first(i, view, rng)[1] for i in usable]
  found += [texts.draw(i, view, rng)[1] for _ in range(variants) for i in usable]
  return tuple(dict.fromkeys(text for text in found if text.strip()))


class _Measured:
  """The predictor's error on some training records of one data set, which are encoded once."""

  def __init__(self, model: Model, source: AnySource, texts: Texts, recipe: Recipe):
    self.texts = texts
    self._model, self._seed = model, recipe.seed
    usable = texts.usable(CAPTION)
    if not len(usable):
      raise ValueError(f"every caption of {source.name} is in the evaluation split: nothing is left to train on")
    chosen = np.random.default_rng(recipe.seed).permutation(usable)[:recipe.texts.error_records]
    self._chosen = [int(i) for i in np.sort(chosen)]
    frames = EvaluationFrames(source, model.config.data.frames, make_preprocess(model.config), self._chosen)
    self._visual = model.encode_prepared(frames)

  def pairs(self, view: str) -> tuple[np.ndarray, np.ndarray]:
    """(m, E) predictions for a view, and their targets."""
    usable, rng = set(self.texts.usable(view).tolist()), np.random.default_rng(self._seed)
    able = [place for place, i in enumerate(self._chosen) if i in usable]
    if not able:
      raise ValueError(
          f"none of {len(self._chosen)} records has the view {view!r}; raise config.texts.error_records")
    queries, answers = zip(*(self.texts.first(self._chosen[place], view, rng) for place in able))
    pred = self._model.predict(self._visual[able], None if queries[0] is None else queries)
    return pred, self._model.encode_text(answers)


def make_iterator(
    streams: Sequence[Stream], embeds: Sequence[np.ndarray], tokens: Sequence[np.ndarray], recipe: Recipe,
    shard_index: int = 0, shard_count: int = 1,
) -> grain.experimental.ElasticIterator:
  """An endless iterator over the batches of one host; what a step trains on depends on the seed and the step alone.

  A batch has embed (b, E) float32, disturbed, tokens (b, L) int32, record_id (b,) int32, the index of the text in its
  stream, and stream (b,) int32, b = batch size / shard_count.

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
    examples = _Examples(number, embeds[number], tokens[number], stream, recipe.texts.noise)
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

  def __init__(
      self, number: int, embed: np.ndarray, tokens: np.ndarray, stream: Stream, noise: tuple[float, float]):
    self._number = np.int32(number)
    self._embed, self._tokens, self._noise = embed, tokens, noise
    self._angles = np.arccos(np.clip(stream.cosines, -1.0, 1.0))
    self._errors = stream.pred - stream.target

  def random_map(self, element: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    angle = rng.choice(self._angles) * rng.uniform(*self._noise)
    direction = rng.standard_normal(len(self._errors), np.float32) @ self._errors
    return {
        "embed": turn(self._embed[element], angle, direction), "tokens": self._tokens[element],
        "record_id": np.int32(element), "stream": self._number}


def turn(embed: np.ndarray, angle: float, direction: np.ndarray) -> np.ndarray:
  """A unit vector turned by an angle (radians) towards a direction. (E,) -> (E,) float32, of unit length."""
  across = direction - (direction @ embed) * embed
  across /= max(np.linalg.norm(across), 1e-9)
  return (np.cos(angle) * embed + np.sin(angle) * across).astype(np.float32)
