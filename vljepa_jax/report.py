"""`report.html`: one self-contained page about a trained model. No script, no other file, no other host.

Examples are picked by a fixed stride through the held-out split, not by how well they went; sections that show the
best or the worst say so.
"""

import base64
from collections.abc import Iterable, Sequence
import html
import io
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from vljepa_jax.curves import Line, draw_chart
from vljepa_jax.evaluation import Details, question_kinds
from vljepa_jax.report_style import CSS
from vljepa_jax.tasks.vqa import Answer

REPORT = "report.html"
SHEET, SEARCHES, ANSWERS, WORST, CONFUSIONS = 36, 12, 6, 12, 10
NEAR_RANK = 10  # up to here a rank is amber, beyond it red
THUMBNAIL = 96  # pixels
FRAME_TIME = 250  # milliseconds of a frame of a clip
TITLE_LENGTH = 70


def write_report(
    workdir: pathlib.Path, results: dict[str, Any], details: Details, history: Sequence[dict[str, Any]],
    config: dict[str, Any],
) -> pathlib.Path:
  """Writes the page into the workdir, whole or not at all, and returns its path."""
  path = pathlib.Path(workdir) / REPORT
  partial = path.with_suffix(".partial")
  partial.write_text(make_report(results, details, history, config), encoding="utf-8")
  return partial.replace(path)


def make_report(
    results: dict[str, Any], details: Details, history: Sequence[dict[str, Any]], config: dict[str, Any]
) -> str:
  """The page as text.

  Args:
    results: as in `results.json`.
    details: of the same evaluation.
    history: lines of `metrics.jsonl`, each with "step".
    config: resolved, as in `config.json`.
  """
  page = _Page(details)
  name = html.escape(str(config["name"]))
  sections = [
      _header(name, results, details.held_out),
      _tiles(results),
      _curves(history, results),
      _contact_sheet(page),
      _searches(page),
      _answers(page, results["vqa"]) if "vqa" in results else "",
      _failures(page),
      _paraphrases(details.paraphrase, results["paraphrase"]) if "paraphrase" in results else "",
      _config(config),
  ]
  return (
      f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
      f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>VL-JEPA · {name}</title>'
      f'<style>{CSS}</style></head>\n<body><main>\n' + "\n".join(sections) + "\n</main></body></html>\n")


class _Page:
  """The details, and pictures as tags; each is encoded once.

  Attributes:
    word: "picture" or "clip".
  """

  def __init__(self, details: Details):
    self.details = details
    self.records = details.held_out.records
    self.word = details.held_out.media
    self._tags = {}

  def image(self, index: int, hit: bool = False) -> str:
    if index not in self._tags:
      self._tags[index] = _data_uri(self.details.held_out.frames[index])
    alt = html.escape(self.records[index].title, quote=True)
    return f'<img src="{self._tags[index]}" alt="{alt}" loading="lazy"{" class=hit" if hit else ""}>'

  def guesses(self, index: int, count: int = 3) -> str:
    """The captions nearest to a picture."""
    found = self.details.retrieval
    best = np.argsort(-found.scores[index], kind="stable")[:count]
    items = (f'<li{" class=hit" if text == found.own[index] else ""}>{html.escape(found.texts[text])}</li>'
             for text in best)
    return f'<ol class="guesses">{"".join(items)}</ol>'

  def shot(self, index: int) -> str:
    """A picture with its caption, the rank of it, and the captions the model puts first."""
    rank = int(self.details.retrieval.image_ranks[index])
    caption = html.escape(self.records[index].caption)
    return (f'<div class="card shot">{self.image(index)}<div class="words"><div class="head">{_badge(rank)}'
            f'<span class="truth">{caption}</span></div>{self.guesses(index)}</div></div>')


def _header(name, results, held_out):
  text = f"{len(held_out.records):,} held-out {held_out.media}s"
  text += ", none of whose captions was trained on." if held_out.hidden else "."
  if "params" in results and "train" in results:
    params, train = results["params"], results["train"]
    text += (f" {_millions(params['trained'])} trained and {_millions(params['frozen'])} frozen parameters; "
             f"{train['samples']:,} examples in {_duration(train['seconds'])} "
             f"({train['samples_per_second']:,.0f} a second).")
  return f'<header><h1>VL-JEPA · {name}</h1><p class="lead">{text}</p></header>'


def _tiles(results):
  to_text, to_image = results["image_to_text"], results["text_to_image"]
  word = results["media"]
  tiles = [
      _tile(f"{word.capitalize()} → caption, R@1", to_text["r1"], to_text["chance"], f"of {to_text['pool']}"),
      _tile(f"{word.capitalize()} → caption, R@10", to_text["r10"], to_text["chance_r10"], f"of {to_text['pool']}"),
      _tile(f"Caption → {word}, R@1", to_image["r1"], to_image["chance"], f"of {to_image['pool']}"),
      _tile(f"Caption → {word}, R@10", to_image["r10"], to_image["chance_r10"], f"of {to_image['pool']}"),
  ]
  if "classification" in results:
    classes = results["classification"]
    tiles += [
        _tile("Class, top-1", classes["top1"], classes["chance"], f"majority {_percent(classes['majority'])}"),
        _tile("Class, top-5", classes["top5"], classes["chance_top5"], f"of {classes['classes']}")]
  if "vqa" in results:
    answered = results["vqa"]
    tiles.append(
        _tile("Questions", answered["accuracy"], answered["chance"], f"majority {_percent(answered['majority'])}"))
  if "paraphrase" in results:
    reworded = results["paraphrase"]
    beside = f"untrained {_percent(reworded['before'])}" if "before" in reworded else f"{reworded['triplets']} triplets"
    tiles.append(_tile("Paraphrases", reworded["accuracy"], reworded["chance"], beside))
  return f'<section class="grid tiles">{"".join(tiles)}</section>'


def _tile(name, value, chance, beside):
  return (f'<div class="card tile"><div class="name">{html.escape(name)}</div>'
          f'<div class="value">{100 * value:.1f}<small>%</small></div>{_meter(value, chance)}'
          f'<div class="against">chance {_percent(chance)} · {html.escape(beside)}</div></div>')


def _curves(history, results):
  word = results["media"]

  def line(name, key):
    return Line(name, [(row["step"], row[key]) for row in history if isinstance(row.get(key), (int, float))])

  def by_stream(key):
    names = dict.fromkeys(name.partition("/")[2] for row in history for name in row if name.startswith(f"{key}/"))
    lines = [line(name, f"{key}/{name}") for name in names]
    return sorted(lines, key=lambda line: -len(line.points))[:4]

  charts = [
      draw_chart("Loss, by kind of batch", by_stream("loss")),
      draw_chart("Found in the batch, recall@1", by_stream("batch_recall"), percent=True, from_zero=True),
      draw_chart("Temperature", [line("one over the scale", "temperature")]),
  ]
  held_out = [
      ("Held out, R@1", (f"{word} → caption", "image_to_text/r1"), (f"caption → {word}", "text_to_image/r1")),
      ("Held out, R@10", (f"{word} → caption", "image_to_text/r10"), (f"caption → {word}", "text_to_image/r10"))]
  if "classification" in results:
    held_out.append(("Held out, class", ("top-1", "classification/top1"), ("top-5", "classification/top5")))
  for title, *named in held_out:
    lines = [line(name, f"eval/{key}") for name, key in named]
    charts.append(draw_chart(title, lines, percent=True, from_zero=True))
  return _section("Training", "By training step.", f'<div class="grid charts">{"".join(charts)}</div>')


def _contact_sheet(page):
  shots = "".join(page.shot(i) for i in _stride(len(page.records), SHEET))
  return _section(
      "What it sees",
      f"Every {page.word} beside its true caption and the three held-out captions that the model puts first. The number "
      "is the rank of the true one: green is first, amber within ten. Picked by a fixed stride.",
      f'<div class="grid sheet">{shots}</div>')


def _searches(page):
  found = page.details.retrieval
  cards = []
  for text in _stride(len(found.texts), SEARCHES):
    best = np.argsort(-found.scores[:, text], kind="stable")[:5]
    images = "".join(page.image(int(i), hit=bool(found.own[i] == text)) for i in best)
    cards.append(f'<div class="card search"><div class="asked"><span>{_short(found.texts[text])}</span>'
                 f'{_badge(int(found.text_ranks[text]))}</div><div class="row">{images}</div></div>')
  return _section(
      f"Asked for a {page.word}",
      f"Held-out captions and the five nearest of all {len(page.records)} {page.word}s, framed in green where they "
      "carry the caption. The number is the rank of the first that does. Picked by a fixed stride.",
      f'<div class="grid searches">{"".join(cards)}</div>')


def _answers(page, numbers):
  head = ("kind", "accuracy", "", "majority", "chance", "questions")
  rows = [(html.escape(kind.replace("_", " ")), _percent(n["accuracy"]), _meter(n["accuracy"], n["majority"]),
           _percent(n["majority"]), _percent(n["chance"]), f"{n['questions']}")
          for kind, n in ((kind, numbers[kind]) for kind in question_kinds(numbers))]
  columns = []
  for name, correct in (("Right", True), ("Wrong", False)):
    answers = [answer for answer in page.details.vqa if answer.correct == correct]
    cards = "".join(_answer(page, answer) for answer in _spread_over_kinds(answers, ANSWERS))
    columns.append(f'<div><h3>{name}</h3><div class="stack">{cards or "<p class=quiet>none</p>"}</div></div>')
  return _section(
      "Questions",
      f"The answer is the candidate nearest to the prediction for {page.word} and question. The mark in a bar is what "
      "comes of always giving the most frequent answer. In the examples green is the truth and red a wrong answer.",
      _table(head, rows) + f'<div class="grid two">{"".join(columns)}</div>')


def _answer(page, answer: Answer):
  question, scores = answer.question, answer.scores
  order = np.argsort(-scores, kind="stable")
  truth = question.candidates.index(question.answer)
  shown = [int(i) for i in order[:4]]
  shown += [] if truth in shown else [truth]
  low, high = float(scores.min()), float(scores.max())
  bars = "".join(
      f'<span class="{"right" if i == truth else ""}{" given" if i == order[0] else ""}">'
      f'{html.escape(question.candidates[i])}</span>'
      f'{_meter(0.04 + 0.96 * (float(scores[i]) - low) / max(high - low, 1e-9))}'
      f'<span class="quiet">{scores[i]:.2f}</span>'
      for i in shown)
  return (f'<div class="card shot">{page.image(question.record)}<div class="words">'
          f'<span class="truth">{html.escape(question.query)}</span><div class="bars">{bars}</div></div></div>')


def _failures(page):
  found = page.details.classification
  tables = "" if found is None else (
      f'<div class="grid two"><div><h3>Worst classes</h3>{_worst_classes(found)}</div>'
      f'<div><h3>Most frequent confusions</h3>{_confusions(found)}</div></div>')
  worst = np.argsort(-page.details.retrieval.image_ranks, kind="stable")[:WORST]
  shots = "".join(page.shot(int(i)) for i in worst)
  about = f"{'' if found is None else 'Classes; then the'} {page.word}s whose own caption ranks last.".strip()
  return _section("Where it fails", about[0].upper() + about[1:],
                  f'{tables}<h3>Worst-ranked {page.word}s</h3><div class="grid sheet">{shots}</div>')


def _worst_classes(found):
  rows = []
  for label, name in enumerate(found.classes):
    mine = found.labels == label
    if mine.any():
      wrong = found.predicted[mine & (found.predicted != label)]
      mistaken = found.classes[np.bincount(wrong).argmax()] if len(wrong) else "–"
      rows.append((float(np.mean(found.ranks[mine] == 1)), -int(mine.sum()), name, mistaken))
  head = ("class", "top-1", "", "held out", "mostly taken for")
  return _table(head, [(html.escape(name), _percent(share), _meter(share), f"{-count}", html.escape(mistaken))
                       for share, count, name, mistaken in sorted(rows)[:CONFUSIONS]])


def _confusions(found):
  count = len(found.classes)
  pairs = np.bincount(found.labels * count + found.predicted, minlength=count * count).reshape(count, count)
  np.fill_diagonal(pairs, 0)
  order = [divmod(int(i), count) for i in np.argsort(-pairs, axis=None, kind="stable")[:CONFUSIONS]]
  rows = [(html.escape(found.classes[true]), html.escape(found.classes[said]), f"{pairs[true, said]}",
           f"{int((found.labels == true).sum())}") for true, said in order if pairs[true, said]]
  return _table(("is a", "taken for", "times", "held out"), rows)


def _paraphrases(found, numbers):
  before = f"; before training {_percent(numbers['before'])}" if "before" in numbers else ""
  wrong = np.flatnonzero(~found.correct)
  rows = [(_short(t.caption), _short(t.reworded), f"{found.same[i]:.2f}", _short(t.changed),
           f"{max(found.caption_changed[i], found.reworded_changed[i]):.2f}")
          for i, t in ((int(wrong[j]), found.triplets[int(wrong[j])]) for j in _stride(len(wrong), 8))]
  table = _table(("caption", "the same in other words", "similarity", "one word changed", "similarity"), rows)
  return _section(
      "Other words, or another thing?",
      f"The text encoder alone: of {numbers['triplets']} captions it finds the rewording nearer than the caption with "
      f"one word replaced in {_percent(numbers['accuracy'])} (chance {_percent(numbers['chance'])}{before}). "
      "Some of those that it gets wrong:", table if rows else "<p>None.</p>")


def _config(config):
  text = html.escape(json.dumps(config, indent=2))
  return (f'<h2>Config</h2><details class="card"><summary>Everything that made this run</summary><pre>{text}</pre>'
          '</details><footer>Shares are of held-out data; chance is what a random order gives. Scores are cosine '
          'similarities.</footer>')


def _section(title: str, text: str, body: str) -> str:
  return f'<section><h2>{title}</h2><p class="quiet">{text}</p>{body}</section>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table of HTML cells; columns of numbers are set to the right."""
  rows = list(rows)
  kind = [' class="number"' if rows and rows[0][i][:1].isdigit() else "" for i in range(len(head))]
  top = "".join(f"<th{kind[i]}>{cell}</th>" for i, cell in enumerate(head))
  body = "".join("<tr>" + "".join(f"<td{kind[i]}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows)
  return f'<div class="card panel"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _meter(share: float, mark: float | None = None) -> str:
  """A bar of a share, with a mark at what it is measured against."""
  tick = f'<b style="left:{100 * mark:.1f}%"></b>' if mark is not None else ""
  return f'<div class="meter"><i style="width:{100 * min(max(share, 0), 1):.1f}%"></i>{tick}</div>'


def _badge(rank: int) -> str:
  tone = "good" if rank == 1 else "near" if rank <= NEAR_RANK else "bad"
  return f'<span class="badge {tone}" title="rank of the truth">{rank}</span>'


def _data_uri(frames: np.ndarray) -> str:
  """A picture, or a clip that moves. (T, H, W, 3) uint8."""
  images = [Image.fromarray(frame) for frame in frames]
  for image in images:
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
  buffer = io.BytesIO()
  moving = dict(save_all=True, append_images=images[1:], duration=FRAME_TIME, loop=0) if len(images) > 1 else {}
  images[0].save(buffer, format="WEBP", quality=72, method=4, **moving)
  return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _stride(count: int, wanted: int) -> list[int]:
  """`wanted` indices below `count`, evenly apart."""
  return [int(i) for i in np.unique(np.linspace(0, count - 1, min(wanted, count)).round())] if count else []


def _spread_over_kinds(answers: Sequence[Answer], wanted: int) -> list[Answer]:
  """`wanted` answers, the kinds in turn, each by a fixed stride, and no picture twice where there are others."""
  kinds = {}
  for answer in answers:
    kinds.setdefault(answer.question.kind, []).append(answer)
  share = -(-wanted // max(len(kinds), 1))
  picked, seen = [], set()
  for turn in range(share):
    for mine in kinds.values():
      starts = _stride(len(mine), share)
      if turn < len(starts):
        rest = mine[starts[turn]:]
        picked.append(next((answer for answer in rest if answer.question.record not in seen), rest[0]))
        seen.add(picked[-1].question.record)
  return picked[:wanted]


def _short(text: str) -> str:
  return html.escape(text if len(text) <= TITLE_LENGTH else text[:TITLE_LENGTH - 1].rstrip() + "…")


def _percent(share: float) -> str:
  return f"{100 * share:.1f}%"


def _millions(count: int) -> str:
  return f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count:,}"


def _duration(seconds: float) -> str:
  if seconds < 120:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
