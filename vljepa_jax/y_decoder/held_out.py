"""How well held-out texts are told again: from their own embeddings, and from those that the predictor gives."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np

from vljepa_jax import evaluation
from vljepa_jax.api import Model
from vljepa_jax.data.sources import open_source
from vljepa_jax.data.vocabulary import UNK
from vljepa_jax.errors import INPUT_ERRORS, as_user_error
from vljepa_jax.tasks import captioning
from vljepa_jax.y_decoder import recipe as recipe_lib
from vljepa_jax.y_decoder import texts
from vljepa_jax.y_decoder.recipe import Eval
from vljepa_jax.y_decoder.text_decoder import TextDecoder, token_accuracy

FROM = {"from_target": "true embedding", "from_pred": "predicted embedding"}


@dataclasses.dataclass(frozen=True)
class Details:
  """What became of every text.

  Attributes:
    captions: n true texts.
    decoded: "from_target" and "from_pred" -> n texts.
    nearest: n texts of the bank, each the nearest to a prediction.
  """

  captions: tuple[str, ...]
  decoded: dict[str, list[str]]
  nearest: list[str]


def evaluate(model: Model, workdir: pathlib.Path, split: str = "") -> dict[str, Any]:
  """What `measure` gives for a trained decoder on a split.

  Args:
    model: with its decoder.
    workdir: of the decoder.
    split: of the data set that the model is evaluated on; "" for the model's own.

  Raises:
    UserError: there is no such split, or the data set cannot be read.
  """
  recipe = recipe_lib.read(workdir)
  with as_user_error(*INPUT_ERRORS):
    captioning.require()
    held_out = evaluation.open_held_out(model.config, split)
    sources = {s.dataset: open_source(s.dataset, "train") for s in model.config.data.sources}
    bank = texts.bank(model, sources, held_out.hidden, recipe)
  pred = model.predict(model.encode_prepared(held_out.frames))
  captions, references = held_out.captions()
  return measure(model, model.decoder, captions, references, pred, bank, recipe.eval)[0]


def measure(
    model: Model, decoder: TextDecoder, captions: Sequence[str], references: captioning.References, pred: np.ndarray,
    bank: Sequence[str], search: Eval
) -> tuple[dict[str, Any], Details]:
  """The "decoder" part of `results.json`.

  Args:
    model: of the embeddings.
    decoder: to measure.
    captions: n held-out texts.
    references: n lists of their wordings, for the scores of captioning.
    pred: (n, E) predictions for their pictures.
    bank: training texts, for what the nearest of them gives.
    search: how to decode.

  Returns:
    Numbers and details. Under "from_target" and "from_pred": `exact_match`, texts whose tokens are all those of the
    truth (as far as the decoder's length goes); `token_accuracy`, of the next token behind the true ones; `round_trip`,
    mean cosine of the decoded text's embedding and the one it was decoded from; `to_truth`, and of the true text's.
    And `cider`, `bleu4` of `tasks/captioning.py`, against the references.
    `known`: texts all of whose tokens are in the vocabulary; no exact match is possible beyond. `trained_on`: texts
    that are in the bank. Under "nearest": exact_match, to_truth, cider and bleu4 of the nearest training text.
  """
  target, truth = model.encode_text(captions), decoder.tokens(captions)
  numbers: dict[str, Any] = {
      "texts": len(captions), "known": float((truth != UNK).all(axis=1).mean()),
      "trained_on": float(np.isin(captions, bank).mean())}
  decoded = {}
  for name, embed in (("from_target", target), ("from_pred", pred)):
    tokens = decoder.search(embed, search.beam, length_penalty=search.length_penalty)
    decoded[name] = decoder.texts(tokens)
    again = model.encode_text(decoded[name])
    numbers[name] = {
        "exact_match": exact_match(tokens, truth),
        "token_accuracy": token_accuracy(decoder.next_tokens(embed, truth), truth),
        "round_trip": _mean_cosine(again, embed),
        "to_truth": _mean_cosine(again, target),
        **_captioning(decoded[name], references),
    }
  nearest = model.decode(pred, decode="nearest", bank=bank)
  numbers["nearest"] = {
      "exact_match": exact_match(decoder.tokens(nearest), truth),
      "to_truth": _mean_cosine(model.encode_text(nearest), target),
      **_captioning(nearest, references),
  }
  return numbers, Details(tuple(captions), decoded, nearest)


def exact_match(tokens: np.ndarray, truth: np.ndarray) -> float:
  """Share of rows of token ids that are equal; one with a token that the vocabulary lacks never is."""
  return float((tokens == truth).all(axis=1).mean())


def table(numbers: dict[str, Any]) -> str:
  """The numbers as lines of text, in per cent, cosines as they are."""
  lines = [f"{'':22}{'exact match':>12}{'next token':>12}{'round trip':>12}{'to truth':>10}{'CIDEr':>8}{'BLEU-4':>8}"]
  captioning_of = lambda n: f"{n['cider']:8.1f}{n['bleu4']:8.1f}"
  for name, words in FROM.items():
    n = numbers[name]
    lines.append(f"{words:22}{100 * n['exact_match']:12.1f}{100 * n['token_accuracy']:12.1f}"
                 f"{n['round_trip']:12.3f}{n['to_truth']:10.3f}{captioning_of(n)}")
  n = numbers["nearest"]
  lines.append(
      f"{'nearest training text':22}{100 * n['exact_match']:12.1f}{'':24}{n['to_truth']:10.3f}{captioning_of(n)}")
  lines.append(f"{numbers['texts']} held-out texts: {100 * numbers['known']:.1f}% have known tokens alone, "
               f"{100 * numbers['trained_on']:.1f}% are training texts, too")
  return "\n".join(lines)


def _captioning(texts: Sequence[str], references: captioning.References) -> dict[str, float]:
  numbers = captioning.score(texts, references)
  return {name: numbers[name] for name in ("cider", "bleu4")}


def _mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
  return float(np.sum(a * b, axis=1).mean())
