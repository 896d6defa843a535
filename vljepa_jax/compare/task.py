"""A data set as all runs on it see it: cut into training, validation and test, and encoded once."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np

from vljepa_jax import start, train
from vljepa_jax.api import Model, make_preprocess, make_text_input
from vljepa_jax.compare.study import LABELS, TaskRecipe
from vljepa_jax.config import Config
from vljepa_jax.data import augment, pipeline
from vljepa_jax.data.captions import held_out_captions, is_held_out
from vljepa_jax.data.clips import ClipSource
from vljepa_jax.data.media import EvaluationFrames
from vljepa_jax.data.sources import AnySource, open_source
from vljepa_jax.data.token_files import Tokens
from vljepa_jax.data.views import Texts, open_texts
from vljepa_jax.errors import UserError
from vljepa_jax.parts import make_parts
from vljepa_jax.y_decoder.texts import training_texts


@dataclasses.dataclass(frozen=True)
class Classes:
  """What is classified.

  Attributes:
    query: what is asked; None asks nothing.
    names: of the classes.
  """

  query: str | None
  names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Held:
  """Records that runs are measured on.

  Attributes:
    frames: (n, T, H, W, 3) uint8, decoded when asked for.
    visual: (n, N, D) float32 tokens of the frozen X-encoder.
    labels: (n,) int, the true class; -1 of none.
    references: of every record, all wordings of its caption.
  """

  frames: EvaluationFrames
  visual: np.ndarray
  labels: np.ndarray
  references: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Task:
  """All that the runs on a data set share.

  Attributes:
    config: the recipe that arms differ from.
    source: training records, those of validation left out.
    hidden: captions that training never shows.
    tokens: of the training records.
    texts: of the training records.
    bank: distinct training captions.
    classes: what is classified.
    validation: to choose learning rates on.
    test: that is reported.
    token_table: (rows, D) word embeddings that the Y-encoder starts from; None where nothing is copied of them.
    embeds: by hash of a frozen Y-encoder, its embeddings (E,) of texts; runs fill it.
  """

  config: Config
  source: AnySource
  hidden: frozenset[str]
  tokens: Tokens
  texts: Texts
  bank: tuple[str, ...]
  classes: Classes
  validation: Held
  test: Held
  token_table: np.ndarray | None
  embeds: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)

  def iterator(self, config: Config) -> Any:
    """The training input of a run at its beginning; its order depends on the seed alone."""
    data = config.data
    return pipeline.make_train_iterator(
        [pipeline.Stream(s.name, self.source, s.view, s.weight, self.tokens, data.feature_tokens)
         for s in data.sources],
        global_batch=config.train.batch_size,
        seed=config.seed,
        query=self.query_input,
        target=self.target_input,
        augment=augment.Augment(**dataclasses.asdict(data.augment)),
        preprocess=make_preprocess(config),
        frames=data.frames,
        held_out=self.hidden,
        max_failures=data.max_failures,
    )

  @functools.cached_property
  def query_input(self):
    """How queries are read."""
    return make_text_input(self.config.tokenizers.query, None)

  @functools.cached_property
  def target_input(self):
    """How targets are read."""
    return make_text_input(self.config.tokenizers.target, None)


def open_task(
    recipe: TaskRecipe, config: Config, workdir: pathlib.Path, report_views: Callable[[int, int], None]
) -> Task:
  """Reads and encodes a data set; what was encoded by an earlier start is read.

  Args:
    recipe: of the task.
    config: the recipe that arms differ from.
    workdir: of the task, for the cache of tokens.
    report_views: called with the number of views done and to do.

  Raises:
    UserError: the data set is too small, or has no such classes.
  """
  whole, test = (open_source(config.eval.dataset, split) for split in ("train", config.eval.split))
  count = min(recipe.records or len(whole), len(whole))
  if recipe.validation >= count:
    raise UserError(f"{whole.name} has {count} training records, too few to keep {recipe.validation} for validation")
  rows, hidden = np.arange(count - recipe.validation), frozenset()
  validation = whole.subset(np.arange(count - recipe.validation, count), "validation")
  if not isinstance(whole, ClipSource):  # whose captions recur in all splits
    hidden = frozenset(validation.captions()) | frozenset(test.captions())
    keys = held_out_captions(hidden)
    rows = np.array([i for i in rows if not is_held_out(whole.records[i].caption, keys)])
  source = whole.subset(rows, "train")
  parts = make_parts(config)
  changes = augment.Augment(**dataclasses.asdict(config.data.augment))
  with jax.set_mesh(parts.mesh):
    state, _ = start.first_state(config, parts)
    tokens = train.make_features(
        config, parts, state.params, {whole.name: source}, workdir, changes, report_views)[whole.name]
    model = Model(config, state.params)
    classes, labels_of = make_classes(recipe.classes, config, source)
    frames = [EvaluationFrames(split, config.data.frames, make_preprocess(config)) for split in (validation, test)]
    held = [
        Held(clips, model.encode_prepared(clips), labels_of(split), tuple(r.wordings for r in split.records))
        for clips, split in zip(frames, (validation, test))]
  texts = open_texts(source, changes, hidden)
  caption = next((s.view for s in config.data.sources if s.view in ("caption", *getattr(source, "fields", ()))), None)
  if caption is None:
    raise UserError("no source of the task has a view of captions, so none could be told")
  table = None
  if config.model.token_init:
    table = np.asarray(state.params["predictor"]["token_embed"]["embedding"])
  return Task(
      config, source, hidden, tokens, texts, training_texts(texts, caption, 0, 0), classes, *held, token_table=table)


def make_classes(kind: str, config: Config, source: AnySource) -> tuple[Classes, Callable[[AnySource], np.ndarray]]:
  """What is classified, and the true classes of the records of a split; UserError if there is no such kind."""
  if kind == LABELS:
    if not source.classes:
      raise UserError(f"{source.name} has no labels")
    return (Classes(config.eval.class_query or None, source.classes),
            lambda split: np.array([record.label for record in split.records]))
  if kind not in getattr(source, "kinds", ()):
    raise UserError(f"{source.name} has no question of the kind {kind!r} for all its records")
  asked = [question for record in source.records for question in record.questions if question.kind == kind]
  names = tuple(sorted({question.answer for question in asked}))

  def labels_of(split: AnySource) -> np.ndarray:
    answers = [next((q.answer for q in record.questions if q.kind == kind), None) for record in split.records]
    return np.array([names.index(answer) if answer in names else -1 for answer in answers])

  return Classes(asked[0].queries[0], names), labels_of


def token_texts(task: Task, views: Sequence[str], draws: int = 3) -> list[str]:
  """Questions and answers of training, and the names of the classes: what a vocabulary is made of."""
  rng = np.random.default_rng(0)
  found = dict.fromkeys((*task.classes.names, *([task.classes.query] if task.classes.query else [])))
  for view in views:
    for index in task.texts.usable(view):
      for _ in range(draws):
        found |= dict.fromkeys(text for text in task.texts.draw(int(index), view, rng) if text)
  return list(found)

