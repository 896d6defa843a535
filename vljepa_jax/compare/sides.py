"""The two ways to learn, behind one interface: predict an embedding of the answer, or spell its words out."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any, Protocol

import grain
import jax
import jax.numpy as jnp
import numpy as np

from vljepa_jax import decoding, features, parts as parts_lib, sharding, start, step
from vljepa_jax.api import Model
from vljepa_jax.batches import in_batches
from vljepa_jax.compare import token_step
from vljepa_jax.compare.study import EMBEDDINGS
from vljepa_jax.compare.task import Held, Task, token_texts
from vljepa_jax.config import Config
from vljepa_jax.data.text import RIGHT, target_id
from vljepa_jax.data.vocabulary import BOS, EOS, FIRST, PAD, UNK, Vocabulary
from vljepa_jax.errors import UserError
from vljepa_jax.model.vljepa import VLJepa
from vljepa_jax.parts import Parts
from vljepa_jax.step import TrainState
from vljepa_jax.tasks import captioning, retrieval
from vljepa_jax.y_decoder.text_decoder import TextDecoder

Batches = grain.experimental.ElasticIterator
Numbers = dict[str, float]

ERROR_RECORDS = 256  # of training, on which the mean error is measured


class Side(Protocol):
  """A model of an arm and how it learns.

  Attributes:
    parts: model, optimizer, shapes.
    step: the jitted training step.
  """

  parts: Parts
  step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]

  def first_state(self) -> TrainState:
    """The state before the first step."""

  def batches(self, iterator: Batches, state: TrainState) -> Any:
    """The batches of the common input, as `step` takes them."""

  def measure(self, state: TrainState, held: Held) -> Numbers:
    """Top-1 and top-5 accuracy and CIDEr on held-out records."""


@dataclasses.dataclass(frozen=True)
class Speller:
  """A Y-decoder, and the hash of the Y-encoder whose embeddings it knows."""

  decoder: TextDecoder
  y_encoder: str


def make_side(kind: str, config: Config, task: Task, speller: Speller | None) -> Side:
  """The side of an arm.

  Args:
    kind: "embeddings" or "tokens".
    config: its recipe.
    task: what it learns from.
    speller: spells out embeddings of a frozen Y-encoder; used where the arm has this very Y-encoder.
  """
  return EmbeddingSide(config, task, speller) if kind == EMBEDDINGS else TokenSide(config, task)


class EmbeddingSide:
  """VL-JEPA: classes by cosine similarity, captions by the nearest of training and, given a decoder, by that."""

  def __init__(self, config: Config, task: Task, speller: Speller | None):
    self._config, self._task, self._speller = config, task, speller
    self.parts = parts_lib.make_parts(config)
    self.step = parts_lib.make_step(config, self.parts)
    self._error = None  # of a model
    self._fixed_texts = all(jax.tree.leaves(self.parts.frozen["y_encoder"]))
    self._hash, self._known = None, None  # of the Y-encoder, and embeddings of texts, where it never changes

  def first_state(self) -> TrainState:
    """See `Side`."""
    return start.first_state(self._config, self.parts)[0]

  def batches(self, iterator: Batches, state: TrainState) -> Any:
    """See `Side`. A frozen Y-encoder encodes every text once, and for all runs that have the same."""
    if not self._fixed_texts:
      return iterator
    views = tuple(source.view for source in self._config.data.sources)
    texts = token_texts(self._task, views)
    known = {int(target_id(text)): row for text, row in zip(texts, self._embed_texts(self.model(state), texts))}
    fixed = {name: part for name, part in state.params.items() if name not in ("x_encoder", "predictor")}
    params = jax.tree.map(jnp.copy, fixed)  # the step takes the state over
    model = self.parts.model
    encode = jax.jit(lambda params, *texts: model.apply({"params": params}, *texts, method=VLJepa.encode_text))
    put = lambda rows: sharding.put_same(rows, self.parts.whole)
    return FrozenTargets(iterator, known, lambda *texts: jax.device_get(encode(params, *map(put, texts))))

  def model(self, state: TrainState) -> Model:
    """To call."""
    return Model(self._config, step.averaged_params(state.params, state.ema))

  def measure(self, state: TrainState, held: Held) -> Numbers:
    """See `Side`; `cider_nearest` is that of the nearest training captions, `cider` that of the decoder's words.

    Predictions keep to a cone of their own beside that of the targets (the modality gap, arXiv 2203.02053), which no
    ranking minds. Before they are spelled out, the mean error on some training captions is taken off them;
    `cider_uncentred` is without that.
    `recall1` is the share of held-out captions whose nearest record is theirs.
    """
    model, classes = self.model(state), self._task.classes
    names = self._embed_texts(model, classes.names)
    scores = model.predict(held.visual, classes.query) @ names.T
    plain = model.predict(held.visual)
    bank = self._embed_texts(model, self._task.bank)
    nearest = captioning.nearest_baseline(plain, bank, self._task.bank)
    captions, own = retrieval.distinct_texts([wordings[0] for wordings in held.references])
    found, _ = retrieval.score(plain, self._embed_texts(model, captions), captions, own)
    numbers = top_k(scores, held.labels) | {
        "recall1": found["text_to_image"]["r1"], "cider_nearest": cider(nearest, held)}
    decoder = self.decoder_of(model)
    if decoder is None:
      return numbers | {"cider": numbers["cider_nearest"]}
    return numbers | {
        "cider": cider(decoder.decode(self.centred(model, plain)), held),
        "cider_uncentred": cider(decoder.decode(plain), held)}

  def decoder_of(self, model: Model) -> TextDecoder | None:
    """The decoder, if it is one of the model's Y-encoder."""
    if self._speller is None or not self._fixed_texts:
      return None
    self._embed_texts(model, self._task.classes.names)  # knows the hash afterwards
    return self._speller.decoder if self._speller.y_encoder == self._hash else None

  def centred(self, model: Model, pred: np.ndarray) -> np.ndarray:
    """Predictions less their mean error, of unit length. (n, E) -> (n, E)."""
    if self._error is None or self._error[0] is not model:
      self._error = model, self._mean_error(model)
    return unit(pred - self._error[1])

  def _mean_error(self, model: Model) -> np.ndarray:
    """Predictions less their targets on average, (E,), on captions of training."""
    task = self._task
    rows = np.random.default_rng(0).permutation(len(task.source))[:ERROR_RECORDS]
    visual = np.stack([task.tokens[int(row), 0] for row in rows]).astype(np.float32)
    captions = [task.source.records[row].caption for row in rows]
    return (model.predict(visual) - self._embed_texts(model, captions)).mean(axis=0)

  def _embed_texts(self, model: Model, texts: Sequence[str]) -> np.ndarray:
    """(n, E) of n texts."""
    if not self._fixed_texts:
      return model.encode_text(texts)
    if self._known is None:
      self._hash = features.hash_params(model.params["y_encoder"])
      self._known = self._task.embeds.setdefault(self._hash, {})
    new = [text for text in dict.fromkeys(texts) if text not in self._known]
    if new:
      self._known |= zip(new, model.encode_text(new))
    return np.stack([self._known[text] for text in texts])


class TokenSide:
  """The token model: classes by the perplexity of their names, captions word by word."""

  def __init__(self, config: Config, task: Task):
    self._config, self._task = config, task
    self.words = Words(task, tuple(dict.fromkeys(source.view for source in config.data.sources)))
    self.parts = token_step.make_parts(
        config, len(self.words.vocabulary), task.test.visual.shape[-1], task.token_table is not None)
    self.step = token_step.make_step(config, self.parts)

  def first_state(self) -> TrainState:
    """See `Side`."""
    table, width = self._task.token_table, self.parts.shapes["token_embed"]["embedding"].shape[1]

    def make_state(key):
      params = sharding.unbox(self.parts.init(key))
      if table is not None:
        params = params | {"token_embed": {"embedding": self.words.rows(table)}}
      return parts_lib.first_state(self._config, self.parts.tx, self.parts.frozen, params)

    if table is not None and table.shape[1] != width:
      raise UserError(f"the token table has {table.shape[1]} columns, but the model's token_width is {width}")
    return jax.jit(make_state, out_shardings=self.parts.shardings)(jax.random.key(self._config.seed))

  def batches(self, iterator: Batches, state: TrainState) -> Any:
    """See `Side`."""
    del state
    return OwnIds(iterator, self.words)

  def measure(self, state: TrainState, held: Held) -> Numbers:
    """See `Side`; `top1_likelihood` takes the whole log-probability of a name instead of its mean over the tokens."""
    params, words = jax.device_get(state.params), self.words
    likelihood = self.score_classes(params, held.visual)
    lengths = (words.targets(self._task.classes.names) != PAD).sum(axis=1)
    total = top_k(likelihood, held.labels)
    return top_k(likelihood / lengths, held.labels) | {
        "top1_likelihood": total["top1"], "top5_likelihood": total["top5"],
        "cider": cider(self.describe(params, held.visual), held)}

  def score_classes(self, params: Any, visual: np.ndarray) -> np.ndarray:
    """Log-probability of the name of every class. (n, N, D) -> (n, C)."""
    query = self._task.classes.query
    names = self.words.targets(self._task.classes.names)
    names = names[:, :int((names != PAD).sum(axis=1).max())]
    run = lambda *prompt: np.asarray(decoding.log_likelihood(self.parts.model, params, prompt, names))
    return in_batches(run, self.words.prompts(visual, query), self._config.eval.batch_size)

  def describe(self, params: Any, visual: np.ndarray) -> list[str]:
    """A caption of every record, word by word. (n, N, D) -> n texts."""
    length = self.words.target.length - 1
    run = lambda *prompt: np.asarray(decoding.greedy(self.parts.model, params, prompt, length=length).tokens)
    return self.words.texts(in_batches(run, self.words.prompts(visual, None), self._config.eval.batch_size))


class Words:
  """Texts as ids of the token model's own vocabulary: the tokens that training and class names use.

  Args:
    task: whose texts they are.
    views: that are trained on.

  Attributes:
    vocabulary: of the tokens.
    target: how answers are read.

  Raises:
    UserError: a tokenizer that does not mark where a text begins and ends.
  """

  def __init__(self, task: Task, views: Sequence[str]):
    self.target, self._query = task.target_input, task.query_input
    self._check(task.config)
    self._begin, self._end = (int(i) for i in self._marks())
    texts = token_texts(task, views)
    rows = self.target.tokenizer.encode(texts, max(self.target.length, self._query.length), special_tokens=False)
    self.vocabulary = Vocabulary.of(rows)
    self._table = np.full(self.target.tokenizer.vocab_size, UNK, np.int32)
    self._table[list(self.vocabulary.tokens)] = np.arange(FIRST, len(self.vocabulary))
    self._table[[self._begin, self._end]] = BOS, EOS

  def _check(self, config: Config) -> None:
    for side in (config.tokenizers.query, config.tokenizers.target):
      if side.source != config.tokenizers.target.source or side.pad_side != RIGHT or side.prompt:
        raise UserError(
            "a token model needs one tokenizer for queries and targets, without prompts, padded at the right")
      if not side.special_tokens:
        raise UserError("a token model needs special_tokens, which mark where a text begins and ends")

  def _marks(self) -> Sequence[int]:
    marks = self.target.tokenizer.encode([""], self.target.length)[0]
    if len(marks) != 2:
      raise UserError("a token model needs a tokenizer with one mark before and one behind every text")
    return marks

  def query_ids(self, query: np.ndarray) -> np.ndarray:
    """(n, Q) ids of the tokenizer -> (n, Q) ids of the vocabulary."""
    return self._table[query]

  def target_ids(self, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n, L) ids of the tokenizer, marks included -> (n, L - 1): tokens, EOS, then PAD."""
    return np.where(mask, self._table[target], PAD)[:, 1:]

  def targets(self, texts: Sequence[str]) -> np.ndarray:
    """n texts -> (n, L - 1) ids."""
    return self.target_ids(*self.target(texts))

  def prompts(self, visual: np.ndarray, query: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What stands before the answers of records (n, N, D) to one question, or to none."""
    if query is None:
      return visual, np.zeros((len(visual), 0), np.int32), np.zeros((len(visual), 0), bool)
    ids, mask = self._query([query] * len(visual))
    return visual, self.query_ids(ids), mask

  def texts(self, tokens: np.ndarray) -> list[str]:
    """(n, L) ids -> n texts."""
    return [self.target.tokenizer.decode(row) for row in self.vocabulary.decode(tokens)]

  def rows(self, table: np.ndarray) -> np.ndarray:
    """The rows of the tokenizer's embeddings that belong to the vocabulary; UNK gets their mean. -> (V, D)."""
    rows = np.zeros((len(self.vocabulary), table.shape[1]), table.dtype)
    rows[PAD], rows[BOS], rows[EOS] = table[self.target.pad_id], table[self._begin], table[self._end]
    rows[UNK] = table.mean(axis=0)
    rows[FIRST:] = table[list(self.vocabulary.tokens)]
    return rows


class _Changed:
  """Batches of another iterator, changed; their place is that of the other."""

  def __init__(self, batches: Batches):
    self._batches = batches

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    return self

  def get_state(self) -> Any:
    """The place in the input."""
    return self._batches.get_state()

  def set_state(self, state: Any) -> None:
    """Goes on from a place."""
    self._batches.set_state(state)

  def close(self) -> None:
    """Ends what reads ahead."""
    self._batches.close()


class OwnIds(_Changed):
  """Batches for the token model: ids of its own vocabulary."""

  def __init__(self, batches: Batches, words: Words):
    super().__init__(batches)
    self._words = words

  def __next__(self) -> dict[str, np.ndarray]:
    batch = next(self._batches)
    return {
        "visual": batch["visual"], "query": self._words.query_ids(batch["query"]), "query_mask": batch["query_mask"],
        "tokens": self._words.target_ids(batch["target"], batch["target_mask"]),
        "record_id": batch["record_id"], "stream": batch["stream"]}


class FrozenTargets(_Changed):
  """Batches with the embeddings that a frozen Y-encoder gives for their targets; every text is encoded once.

  Args:
    batches: with `target`, `target_mask` and `target_id`.
    known: embeddings (E,) by `target_id`.
    encode: for other texts, tokens (b, L) and mask -> (b, E).
  """

  def __init__(
      self, batches: Batches, known: dict[int, np.ndarray], encode: Callable[[np.ndarray, np.ndarray], np.ndarray]):
    super().__init__(batches)
    self._known, self._encode = known, encode

  def __next__(self) -> dict[str, np.ndarray]:
    batch = next(self._batches)
    ids = batch["target_id"].tolist()
    if not self._known.keys() >= set(ids):  # the whole batch, so that there is one compiled shape
      self._known |= zip(ids, self._encode(batch["target"], batch["target_mask"]))
    return batch | {"target_embed": np.stack([self._known[i] for i in ids])}


def unit(embeds: np.ndarray) -> np.ndarray:
  """Of unit length. (n, E) -> (n, E)."""
  return embeds / np.maximum(np.linalg.norm(embeds, axis=1, keepdims=True), 1e-9)


def top_k(scores: np.ndarray, labels: np.ndarray) -> Numbers:
  """Share of records whose true class is the best, or among the five best; of equal scores, true ones come last.

  Args:
    scores: (n, C).
    labels: (n,) int; records of -1 do not count.
  """
  rows = labels >= 0
  if not rows.any():
    raise UserError("no held-out record has one of the classes")
  true = np.take_along_axis(scores[rows], labels[rows, None], axis=1)
  rank = (scores[rows] >= true).sum(axis=1)  # at least 1: itself
  return {f"top{k}": float((rank <= k).mean()) for k in (1, 5)}


def cider(hypotheses: Sequence[str], held: Held) -> float:
  """CIDEr-D, 0..1000; document frequencies of the held-out references."""
  return captioning.cider(hypotheses, held.references)[0]
