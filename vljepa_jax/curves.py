"""Line charts as inline SVG, coloured by the page's style sheet (classes `line0`, `line1`, ...)."""

from collections.abc import Sequence
import dataclasses
import html
import math

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26  # room around the plot


@dataclasses.dataclass(frozen=True)
class Line:
  """A named curve. Points are (step, value); those that are not finite are left out."""

  name: str
  points: Sequence[tuple[float, float]]

  def finite(self) -> list[tuple[float, float]]:
    return [(x, y) for x, y in self.points if math.isfinite(x) and math.isfinite(y)]


def nice_ticks(low: float, high: float, count: int) -> list[float]:
  """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high], low < high."""
  span = high - low
  power = 10.0 ** math.floor(math.log10(span / count))
  step = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= count)
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [round(i * step, 12) for i in range(first, last + 1)]


def draw_chart(title: str, lines: Sequence[Line], percent: bool = False, from_zero: bool = False) -> str:
  """An SVG figure of the lines that have a point; says so where none has.

  Args:
    title: shown above.
    lines: at most four.
    percent: values are shares and shown per cent.
    from_zero: the value axis starts at zero.
  """
  lines = [line for line in lines if line.finite()]
  caption = f"<figcaption>{html.escape(title)}<div>{_legend(lines, percent)}</div></figcaption>"
  if not lines:
    return f'<figure class="chart">{caption}<p class="quiet">nothing was logged</p></figure>'
  xs, ys = zip(*(point for line in lines for point in line.finite()))
  low, high = min(0.0 if from_zero else min(ys), min(ys)), max(ys)
  low, high = (low, high) if high > low else (low, low + (abs(low) or 1.0))
  ticks = nice_ticks(low, high, 4)
  place_x = _scale(0.0, max(max(xs), 1.0), LEFT, WIDTH - RIGHT)
  place_y = _scale(low, high, HEIGHT - BOTTOM, TOP)
  parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place_y(v):.1f}" y2="{place_y(v):.1f}"/>'
           f'<text x="{LEFT - 6}" y="{place_y(v) + 4:.1f}" text-anchor="end">{_number(v, percent)}</text>'
           for v in ticks]
  parts += [f'<text x="{place_x(v):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{v:g}</text>'
            for v in nice_ticks(0.0, max(max(xs), 1.0), 5)]
  parts += [_polyline(i, line, place_x, place_y) for i, line in enumerate(lines)]
  label = html.escape(f"{title}, by training step", quote=True)
  svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
  return f'<figure class="chart">{caption}{svg}</figure>'


def _scale(low, high, start, end):
  return lambda value: start + (value - low) / (high - low) * (end - start)


def _polyline(i, line, place_x, place_y):
  points = [(place_x(x), place_y(y)) for x, y in line.finite()]
  path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
  end_x, end_y = points[-1]
  return (f'<polyline class="line{i}" points="{path}"/>'
          f'<circle class="line{i}" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3"/>')


def _legend(lines, percent):
  return "".join(
      f'<span class="key line{i}">{html.escape(line.name)} <b>{_number(line.finite()[-1][1], percent)}</b></span>'
      for i, line in enumerate(lines))


def _number(value, percent):
  return f"{100 * value:.3g}%" if percent else f"{value:.3g}"
