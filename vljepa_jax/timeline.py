"""A picture of a stream: similarity over time, borders of segments, texts and key frames."""

import io
import pathlib

import numpy as np
from PIL import Image

from vljepa_jax.selective import Thinned
from vljepa_jax.streaming import Event

# A page has room for no more; of longer streams they are taken at equal distances.
POINTS, BORDERS, TEXTS, PICTURES = 4096, 1024, 32, 12
TEXT_LENGTH = 48
SIZE = (16.0, 8.0)  # inches
DPI = 100
COLOURS = ("#4c78a8", "#a8c5e2")  # of segments, in turns


class Timeline:
  """Collects what a stream gives, in bounded memory, and draws it.

  Args:
    title: above the picture.
  """

  def __init__(self, title: str):
    self._title = title
    self._points: Thinned[tuple[float, float, float]] = Thinned(POINTS)
    self._segments: Thinned[tuple[float, float]] = Thinned(BORDERS)
    self._events: Thinned[Event] = Thinned(TEXTS)

  def watch(self, time: float, before: float | None, mean: float | None) -> None:
    """One window: seconds, similarity to the window before, and to the mean of the open segment."""
    self._points.append((time, *(np.nan if value is None else value for value in (before, mean))))

  def add(self, event: Event) -> None:
    self._segments.append((event.start, event.end))
    self._events.append(event)

  def draw(self, path: pathlib.Path) -> None:
    """Writes the picture as PNG."""
    from matplotlib.figure import Figure  # a second; only those who draw pay for it

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    pictures, lines, texts = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 4))
    pictures.set_title(self._title, parse_math=False)
    self._draw_pictures(pictures)
    self._draw_lines(lines)
    self._draw_texts(texts)
    ends = [end for _, end in self._segments.items] + [time for time, _, _ in self._points.items]
    texts.set_xlim(0, max([*ends, 1e-3]))
    texts.set_xlabel("seconds")
    figure.savefig(path, format="png")

  def _draw_pictures(self, axes) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    axes.axis("off")
    axes.set_ylim(-1, 1)
    events = self._events.items
    for event in events[::-(-len(events) // PICTURES) or 1]:
      with Image.open(io.BytesIO(event.picture)) as image:
        pixels = np.asarray(image.convert("RGB"))
      axes.add_artist(AnnotationBbox(
          OffsetImage(pixels, zoom=100 / max(pixels.shape[:2])), (event.time, 0), frameon=False, annotation_clip=False))

  def _draw_lines(self, axes) -> None:
    time, before, mean = np.array(self._points.items or [(np.nan,) * 3]).T
    axes.plot(time, before, color="#999999", linewidth=0.8, label="similarity to the window before")
    if np.isfinite(mean).any():
      axes.plot(time, mean, color="#d62728", linewidth=1.2, label="similarity to the mean of the segment so far")
    for start, _ in self._segments.items[1:]:
      axes.axvline(start, color="black", linewidth=0.5, alpha=0.5)
    axes.set_ylabel("cosine")
    axes.legend(loc="lower left", fontsize=8)

  def _draw_texts(self, axes) -> None:
    for i, (start, end) in enumerate(self._segments.items):
      axes.barh(0.9, end - start, left=start, height=0.15, color=COLOURS[i % 2], align="center")
    for event in self._events.items:
      text = event.text if len(event.text) <= TEXT_LENGTH else event.text[:TEXT_LENGTH - 3] + "..."
      axes.text(event.time, 0.78, text, rotation=-40, rotation_mode="anchor", ha="left", va="top", fontsize=8,
                parse_math=False, clip_on=False)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    for side in ("left", "right", "top"):
      axes.spines[side].set_visible(False)
