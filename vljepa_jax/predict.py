"""Asks a trained model about pictures of one's own.

  python -m vljepa_jax.predict --workdir=runs/base --input=cat.jpg --candidates="cat,dog,car"
  python -m vljepa_jax.predict --workdir=runs/base --input=cat.jpg --query="what is this?" --candidates="animal,food"
  python -m vljepa_jax.predict --workdir=runs/base --input=pictures/ --texts=wanted.txt
  python -m vljepa_jax.predict --workdir=runs/base --input=cat.jpg --decoder=runs/base_decoder [--beam=4]

The first two rank the candidates for every picture, the third one finds for every line of a file its five pictures in
a folder, or with a single picture its five lines; none of them needs a decoder. The last one spells the prediction
out. Scores are cosine similarities, those of words that were spelled out to the prediction that they came from. `--json` prints one JSON object.
"""

from collections.abc import Sequence
import json
import pathlib
import sys

from absl import flags
import numpy as np

from vljepa_jax import accelerator, api, cli
from vljepa_jax.data.image import ENDINGS, read_image
from vljepa_jax.data.preprocess import Preprocess
from vljepa_jax.errors import UserError, one_line

FOUND = 5  # results of a search

Rows = dict[str, list[tuple[str, float]]]


def split_candidates(text: str) -> list[str]:
  """Candidates without duplicates and surrounding space; UserError if there is none."""
  candidates = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
  if not candidates:
    raise UserError('--candidates is empty; give some, such as --candidates="cat,dog,car"')
  return candidates


def read_texts(path: pathlib.Path) -> list[str]:
  """The lines of a file that hold something; UserError if there is none."""
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
    raise UserError(f"--texts={path} cannot be read: {reason}") from error
  texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
  if not texts:
    raise UserError(f"--texts={path} is empty; it needs a text on each line")
  return texts


def read_pictures(path: pathlib.Path, preprocess: Preprocess) -> tuple[list[str], np.ndarray]:
  """Names and pixels of a picture, or of the pictures in a folder and below it.

  In a folder, what cannot be read is named on stderr and left out.

  Returns:
    n names, and (n, size, size, 3) uint8 as the model sees them.

  Raises:
    UserError: there is no picture that can be read.
  """
  if not path.exists():
    raise UserError(f"--input={path} does not exist")
  if not path.is_dir():
    try:
      return [str(path)], api.prepare_pictures([read_image(path)], preprocess)
    except (ValueError, OSError) as error:
      raise UserError(one_line(error)) from error
  names, pictures = [], []
  files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in ENDINGS)
  for file in files:
    try:
      pictures.append(api.prepare_pictures([read_image(file)], preprocess)[0])
      names.append(str(file.relative_to(path)))
    except (ValueError, OSError) as error:
      print("skipped:", one_line(error), file=sys.stderr)
  if not names:
    what = "none of its pictures can be read" if files else f"it holds no picture ({', '.join(ENDINGS)})"
    raise UserError(f"--input={path}: {what}")
  return names, np.stack(pictures)


def rank_candidates(
    model: api.Model, names: Sequence[str], visual: np.ndarray, query: str, candidates: Sequence[str]
) -> Rows:
  """The candidates of every picture, the best first; without a query they are labels, told by the templates."""
  pred = model.predict(visual, query or None)
  ranked = model.rank(pred, candidates) if query else model.rank_labels(pred, candidates)
  return dict(zip(names, ranked, strict=True))


def search(
    model: api.Model, names: Sequence[str], visual: np.ndarray, query: str, texts: Sequence[str], by_picture: bool
) -> Rows:
  """The nearest texts of every picture, or the nearest pictures of every text."""
  scores = model.predict(visual, query or None) @ model.encode_text(texts).T
  asked, offered = (names, texts) if by_picture else (texts, names)
  rows = scores if by_picture else scores.T
  best = np.argsort(-rows, axis=1, kind="stable")[:, :FOUND]
  return {
      name: [(offered[i], float(row[i])) for i in order]
      for name, row, order in zip(asked, rows, best, strict=True)}


def spell_out(model: api.Model, names: Sequence[str], visual: np.ndarray, query: str, beam: int) -> Rows:
  """The words of every prediction, and how near to it they are when they are encoded again."""
  pred = model.predict(visual, query or None)
  texts = model.decode(pred, beam=beam)
  scores = np.sum(model.encode_text(texts) * pred, axis=1)
  return {name: [(text, float(score))] for name, text, score in zip(names, texts, scores, strict=True)}


def run(
    workdir: pathlib.Path, source: pathlib.Path, query: str, candidates: str | None, texts: str | None,
    decoder: str | None = None, beam: int = 1,
) -> Rows:
  """Ranked answers or words by picture, or search results by text; UserError for all that the arguments get wrong."""
  if [candidates, texts, decoder].count(None) != 2:
    raise UserError(
        "give either --candidates (to rank answers) or --texts (to search) or --decoder (to spell the answer out)")
  if texts is not None:
    offered = read_texts(pathlib.Path(texts))
  elif candidates is not None:
    offered = split_candidates(candidates)
  model = api.load(workdir, decoder)
  names, pictures = read_pictures(source, api.make_preprocess(model.config))
  visual = model.encode_prepared(pictures[:, None])
  if decoder is not None:
    return spell_out(model, names, visual, query, beam)
  if texts is None:
    return rank_candidates(model, names, visual, query, offered)
  return search(model, names, visual, query, offered, by_picture=not source.is_dir())


def print_rows(rows: Rows) -> None:
  """Every key, and below it its results with their scores."""
  for name, ranked in rows.items():
    print(name)
    width = max(len(text) for text, _ in ranked)
    for text, score in ranked:
      print(f"  {text.ljust(width)}  {score:6.3f}")


def to_json(rows: Rows) -> str:
  """One object: key -> list of {"text", "score"}."""
  results = {name: [{"text": text, "score": score} for text, score in ranked] for name, ranked in rows.items()}
  return json.dumps(results, indent=2, ensure_ascii=False)


def define_flags() -> None:
  """The flags of the command; not at import, where they would meet those of other commands."""
  flags.DEFINE_string("workdir", "runs/base", "Folder of the run.")
  flags.DEFINE_string("input", None, "A picture, or a folder of pictures.")
  flags.DEFINE_string("query", "", "A question about the picture; without one, what it shows.")
  flags.DEFINE_string("candidates", None, "Possible answers, separated by commas.")
  flags.DEFINE_string("texts", None, "A file of texts to search for, one a line.")
  flags.DEFINE_string("decoder", None, "Workdir of the model's Y-decoder, to spell the answer out.")
  flags.DEFINE_integer("beam", 1, "Hypotheses of the decoder's search; 1 is greedy.", lower_bound=1)
  flags.DEFINE_bool("json", False, "Print JSON.")


def main() -> None:
  """The command: ranks or searches, and prints."""
  given = flags.FLAGS
  if not given.input:
    raise UserError("give a picture or a folder of pictures: --input=picture.jpg")
  accelerator.use_compilation_cache()
  rows = run(
      pathlib.Path(given.workdir), pathlib.Path(given.input), given.query, given.candidates, given.texts, given.decoder,
      given.beam)
  if given.json:
    print(to_json(rows))
  else:
    print_rows(rows)


if __name__ == "__main__":
  define_flags()
  cli.run(main)
