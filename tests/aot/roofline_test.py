import pytest

from vljepa_jax.aot import roofline
from vljepa_jax.aot.compiler import Exchange
from vljepa_jax.chips import CHIPS

V6E, LINK = CHIPS["v6e"], 100e9


def exchange(op, size, torus, slices=1):
  chips = slices
  for extent in torus:
    chips *= extent
  return Exchange(op, ("fsdp",), "predictor", size, 1, chips, torus, slices)


@pytest.mark.parametrize("op, torus, expected", [
    ("all-gather", (16,), 15 / 16 / (2 * LINK)),  # a closed ring
    ("all-gather", (16, 16), 255 / 256 / (4 * LINK)),
    ("all-gather", (4,), 3 / 4 / LINK),  # four chips of a row of 16: no ring
    ("all-reduce", (16,), 2 * 15 / 16 / (2 * LINK)),
    ("reduce-scatter", (16,), 15 / 16 / (2 * LINK)),
    ("all-to-all", (16,), 4 / (2 * LINK)),
    ("collective-permute", (16,), 1 / LINK),
])
def test_time_on_the_links_of_a_slice(op, torus, expected):
  ici, dcn = roofline.seconds(V6E, (16, 16), exchange(op, 10**9, torus))
  assert ici == pytest.approx(expected * 1e9) and dcn == 0


def test_time_between_slices():
  """Every chip exchanges the share of its slice that it holds."""
  ici, dcn = roofline.seconds(V6E, (16, 16), exchange("all-reduce", 10**9, (16, 16), slices=2))
  assert ici == pytest.approx(1e9 * 2 * 255 / 256 / (4 * LINK))
  assert dcn == pytest.approx(1e9 / 256 * 2 / 2 / V6E.dcn_bytes_per_second)


def test_the_slowest_of_all_limits_the_step():
  work = dict(model_flops=6 * 10**15, total_flops=8 * 10**15, hbm_bytes=10**9, exchanges=())
  bound = roofline.roofline(V6E, (4, 4), 16, **work)
  assert bound.compute == bound.step == pytest.approx(8e15 / 16 / 918e12) and bound.limit == "compute"
  assert bound.mfu == pytest.approx(0.75)
  bound = roofline.roofline(V6E, (4, 4), 16, **(work | {"hbm_bytes": 2 * 10**12}))
  assert bound.step == pytest.approx(2e12 / V6E.hbm_bytes_per_second) and bound.limit == "hbm"
  assert bound.mfu == pytest.approx(6e15 / 16 / 918e12 / bound.step)
  bound = roofline.roofline(
      V6E, (4, 4), 16, **(work | {"exchanges": (exchange("all-gather", 10**12, (4,)),)}))
  assert bound.limit == "ici"


def test_hosts_and_days():
  assert roofline.hosts(V6E, 256) == 64 and roofline.hosts(V6E, 1) == 1
  assert roofline.chip_days(2.0, 43_200, 256) == 256
