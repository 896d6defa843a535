import re

import pytest

from vljepa_jax import curves


@pytest.mark.parametrize("low, high, ticks", [
    (0, 1, [0, 0.5, 1]),
    (0, 200, [0, 50, 100, 150, 200]),
    (0.043, 0.07, [0.05, 0.06, 0.07]),
    (-3, 2, [-2, 0, 2]),
    (5, 5.3, [5, 5.1, 5.2, 5.3]),
])
def test_ticks_are_round(low, high, ticks):
  assert curves.nice_ticks(low, high, 4) == pytest.approx(ticks)


def points(svg):
  return [[tuple(map(float, p.split(","))) for p in line.split()] for line in re.findall(r'points="([^"]+)"', svg)]


def test_points_lie_where_their_values_say():
  svg = curves.draw_chart("Loss", [curves.Line("a", [(0, 2.0), (50, 1.0), (100, 0.0)])])
  ((left, middle, right),) = points(svg)
  assert left == (curves.LEFT, curves.TOP)
  assert right == (curves.WIDTH - curves.RIGHT, curves.HEIGHT - curves.BOTTOM)
  assert middle == pytest.approx(((left[0] + right[0]) / 2, (left[1] + right[1]) / 2))


def test_what_is_not_finite_is_left_out():
  svg = curves.draw_chart("Loss", [curves.Line("a", [(0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0)])])
  assert len(points(svg)[0]) == 2
  assert "nothing was logged" in curves.draw_chart("Loss", [curves.Line("a", [(0, float("nan"))])])


def test_a_flat_line_and_a_single_point_are_drawn():
  for line in ([(0, 0.0), (10, 0.0)], [(7, 0.3)]):
    svg = curves.draw_chart("x", [curves.Line("a", line)], percent=True, from_zero=True)
    assert len(points(svg)[0]) == len(line)
