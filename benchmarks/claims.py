"""What of the paper holds at this scale: python benchmarks/claims.py [--check].

Writes docs/claims.md and its pictures from the results in docs/results/; every number, verdict and sentence about them
follows from these files by rules. --check writes nothing and exits with 1 if the page or a picture is not of them.
"""

import hashlib
import importlib.util
import json
import os
import pathlib
import sys
from typing import Any

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import claims_ablate, claims_compare, claims_figures
from benchmarks.claims_numbers import Section, paragraph, table
from vljepa_jax import cli
from vljepa_jax.errors import UserError

_RESULTS = flags.DEFINE_string("results", "docs/results", "Folder of the results; pictures are written there.")
_OUT = flags.DEFINE_string("out", "docs", "Folder of claims.md.")
_CHECK = flags.DEFINE_bool("check", False, "Only look whether the page and its pictures are of the results.")

PAGE = "claims.md"
STUDY = "python -m vljepa_jax.compare --config=configs/{0}.py --out=docs/results/{0}.json"
COMMANDS = {
    "compare.json": STUDY.format("compare"),
    "ablate.json": STUDY.format("ablate"),
    "streams_slideshow.json": "python benchmarks/streams.py",
    "streams_babyai.json": "python benchmarks/streams.py --workdir=runs/babyai --kind=babyai",
}
NEEDED = {
    "compare.json": {task: tuple(claims_figures.ARMS) for task in ("openclipart", "babyai")},
    "ablate.json": {
        task: tuple(row.arm for row in claims_ablate.ROWS if row.study == study)
        for task, study in (("openclipart", ""), ("babyai", ""), ("openclipart_y", "_y"))},
}
DRAWERS = {"compare.png": claims_figures.compare, "ablate.png": claims_figures.ablate}

INTRO = """# What of the paper holds here

Written by `python benchmarks/claims.py` from `docs/results/`, not by hand; `--check` finds a page that is not of its
numbers.

Claims of VL-JEPA (arXiv 2512.10942), tested at small scale with frozen encoders. ± is half a 95% interval over seeds
(Student's t), of differences and ratios after pairing by seed; shares are in per cent, their differences in points.
Verdicts follow from intervals, which are not corrected for their number:

- **holds**: all intervals lie on the claimed side, for everything that the claim names;
- **does not hold**: all lie on the other side;
- **cannot tell**: all include zero (of a factor: the factor);
- **mixed**: not all are the same; how many of each is said."""

UNTESTED = """## What cannot be tested at this scale

- Zero-shot averages over eight classification and eight retrieval sets against CLIP, SigLIP2 and Perception Encoder
  (4.1): these need a model trained on billions of samples.
- Answers to questions against models of 7B parameters and more (4.2): GQA, TallyQA, POPE.
- WorldPrediction against large language models (4.3) and action anticipation on EPIC-KITCHENS and COIN (4.4).

## Caveats

- Scale: thousands of samples where the paper has millions, two layers where it has eight, pictures of a small set and
  clips of a toy world. What holds here need not hold there, nor the other way round.
- Few seeds: an interval by Student's t over three is wide, and "cannot tell" is the likely verdict for small effects.
- Targets are frozen in all but (b), whose arms train one layer; the paper trains its Y-encoder.
- Predictors begin from scratch, where the paper has layers of Llama-3.2-1B."""


def read(folder: pathlib.Path) -> dict[str, Any]:
  """All results by file name; UserError for one that is missing, damaged or has not what is needed."""
  found = {}
  for name, command in COMMANDS.items():
    path = folder / name
    try:
      found[name] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
      raise UserError(f"there is no {path}; this makes it: {command}") from error
    except ValueError as error:
      raise UserError(f"{path} is damaged ({error}); this makes it: {command}") from error
    for task, arms in NEEDED.get(name, {}).items():
      missing = [arm for arm in arms if arm not in found[name]["tasks"].get(task, {}).get("arms", {})]
      if missing:
        raise UserError(f"{path} has no {', '.join(missing)} of {task}; this makes it: {command}")
  return found


def make_page(found: dict[str, Any], pictures: str) -> str:
  """The page.

  Args:
    found: from `read`.
    pictures: folder of the pictures as seen from the page.
  """
  compared, ablated = found["compare.json"], found["ablate.json"]
  kinds = {kind: found[f"streams_{kind}.json"] for kind in claims_ablate.STREAMS}
  curves, streams = f"{pictures}/compare.png", {kind: f"{pictures}/streams_{kind}.png" for kind in kinds}
  before = [
      claims_compare.advantage(compared, curves), claims_compare.efficiency(compared, curves),
      claims_compare.causes(compared, ablated), claims_compare.inference(compared),
      claims_ablate.selective(kinds, streams)]
  after = [make(ablated) for make in (
      claims_ablate.rates, claims_ablate.losses, claims_ablate.predictor, claims_ablate.pretrained)]
  rows = [[f"{i}. {s.title}", s.paper, s.ours, s.verdict] for i, s in enumerate(before + after, 1)]
  middle = ["## Ablations: all arms", *claims_ablate.all_arms(ablated, f"{pictures}/ablate.png")]
  blocks = [
      INTRO, table(["claim", "paper", "here", "verdict"], rows), *_sections(before, 1), *map(_block, middle),
      *_sections(after, 1 + len(before)), UNTESTED]
  return "\n\n".join(blocks) + "\n"


def _sections(sections: list[Section], first: int) -> list[str]:
  return [text for i, section in enumerate(sections, first)
          for text in (f"## {i}. {section.title}", *map(_block, section.blocks))]


def _block(text: str) -> str:
  """A paragraph is wrapped; a table, a title or a picture stays as it is."""
  return text if "\n" in text or text.startswith(("|", "#", "!")) else paragraph(text)


def digests(folder: pathlib.Path) -> dict[str, str]:
  """Of the results that each picture is made of."""
  source = lambda picture: (folder / picture).with_suffix(".json")
  return {picture: hashlib.sha256(source(picture).read_bytes()).hexdigest()[:16] for picture in DRAWERS}


def drifted(page: str, path: pathlib.Path, folder: pathlib.Path) -> list[str]:
  """Files that are not of the results."""
  stale = [str(path)] if not path.is_file() or path.read_text(encoding="utf-8") != page else []
  return stale + [str(folder / picture) for picture, digest in digests(folder).items()
                  if claims_figures.digest_of(folder / picture) != digest]


def main() -> None:
  """The command."""
  folder, out = pathlib.Path(_RESULTS.value), pathlib.Path(_OUT.value)
  found = read(folder)
  page, path = make_page(found, pathlib.Path(os.path.relpath(folder, out)).as_posix()), out / PAGE
  if _CHECK.value:
    stale = drifted(page, path, folder)
    if stale:
      sys.exit(f"error: not of the results in {folder}: {', '.join(stale)}; python benchmarks/claims.py writes it anew")
    return
  if importlib.util.find_spec("matplotlib") is None:
    raise UserError("pictures need matplotlib: pip install -r benchmarks/requirements.txt")
  for picture, draw in DRAWERS.items():
    draw(found[str(pathlib.Path(picture).with_suffix(".json"))], folder / picture, digests(folder)[picture])
  out.mkdir(parents=True, exist_ok=True)
  path.write_text(page, encoding="utf-8")
  print(f"wrote {path}, {' and '.join(str(folder / picture) for picture in DRAWERS)}")


if __name__ == "__main__":
  cli.run(main)
