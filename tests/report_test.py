import dataclasses
import html.parser
import re

import pytest

from tests import tiny_model
from vljepa_jax import config as config_lib
from vljepa_jax import evaluation, report

pytestmark = pytest.mark.usefixtures("quick_compiler")
HISTORY = [
    {"step": 0, "eval/image_to_text/r1": 0.0},
    {"step": 10, "loss": 3.0, "loss/captions": 3.0, "temperature": 0.07, "batch_recall/captions": 0.1},
    {"step": 20, "loss/captions": float("nan"), "temperature": 0.06, "loss/what": 1.0},
    {"step": 30, "loss/captions": 2.0, "temperature": 0.05, "batch_recall/captions": 0.3, "eval/image_to_text/r1": 0.5},
]


class Checker(html.parser.HTMLParser):
  """Collects tags, and fails on one that is closed out of order."""

  VOID = {"meta", "img", "line", "polyline", "circle", "br"}

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.links = [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.links += [value for name, value in attrs if name in ("src", "href")]
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def check(page):
  checker = Checker()
  checker.feed(page)
  assert not checker.open
  return checker


@pytest.fixture(scope="module")
def evaluated():
  held_out = tiny_model.small_held_out()
  return evaluation.evaluate(tiny_model.debug_model(), held_out, paraphrase_before=0.5)


def make(results, details, history=HISTORY):
  return report.make_report(results, details, history, config_lib.to_dict(tiny_model.debug_config()))


def test_the_page_is_whole_and_needs_nothing_else(evaluated):
  page = make(*evaluated)
  checker = check(page)
  assert checker.links and all(link.startswith("data:image/webp;base64,") for link in checker.links)
  assert "script" not in checker.tags and "link" not in checker.tags and "http" not in page
  assert "@import" not in page and not re.search(r"url\(", page)
  assert len(page) < 3_000_000


def test_headline_numbers_and_curves_are_those_given(evaluated):
  results, details = evaluated
  results = results | {"params": {"trained": 2_500_000, "frozen": 300_000},
                       "train": {"samples": 51_200, "seconds": 90.0, "samples_per_second": 568.9}}
  page = make(results, details)
  assert f"{100 * results['image_to_text']['r10']:.1f}<small>%" in page
  assert "2.5 M trained and 0.3 M frozen" in page and "51,200 examples in 90 s" in page
  assert "captions <b>2</b>" in page and "what <b>1</b>" in page  # the last finite loss of each
  assert not re.search(r"\bnan\b", re.sub(r"data:[^\"]+", "", page))


def test_ranks_are_shown_beside_the_truth(evaluated):
  results, details = evaluated
  page = make(results, details)
  for rank in details.retrieval.image_ranks:
    tone = "good" if rank == 1 else "near" if rank <= 10 else "bad"
    assert f'<span class="badge {tone}" title="rank of the truth">{rank}</span>' in page


def test_texts_cannot_break_the_page(evaluated):
  results, details = evaluated
  evil = '<script>alert("x")</script>'
  records = tuple(dataclasses.replace(r, caption=evil, title=evil) for r in details.held_out.records)
  found = dataclasses.replace(details.retrieval, texts=(evil,) * len(details.retrieval.texts))
  details = dataclasses.replace(
      details, held_out=dataclasses.replace(details.held_out, records=records), retrieval=found)
  assert "script" not in check(make(results, details)).tags


def test_a_perfect_model_without_a_log(evaluated):
  held_out = tiny_model.small_held_out()
  page = make(*evaluation.evaluate(tiny_model.Oracle(held_out), held_out), history=[])
  check(page)
  assert "nothing was logged" in page and "<p class=quiet>none</p>" in page  # no wrong answer to show


def test_writing_replaces_the_page(evaluated, tmp_path):
  results, details = evaluated
  config = config_lib.to_dict(tiny_model.debug_config())
  for history in ([], HISTORY):
    path = report.write_report(tmp_path, results, details, history, config)
  assert path == tmp_path / "report.html" and list(tmp_path.iterdir()) == [path]
  assert path.read_text(encoding="utf-8") == make(results, details)
