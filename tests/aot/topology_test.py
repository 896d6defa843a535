import pytest

from vljepa_jax.aot import topology
from vljepa_jax.errors import UserError


@pytest.mark.parametrize("name, chip, shape", [
    ("v6e:16x16", "v6e", (16, 16)), ("v5e:2x4", "v5e", (2, 4)), ("v5p:4x4x8", "v5p", (4, 4, 8)),
    ("v5p:2x2x1", "v5p", (2, 2, 1)), ("v4:4x4x4", "v4", (4, 4, 4)),
])
def test_slices_that_there_are(name, chip, shape):
  found = topology.parse(name)
  assert (found[0].name, found[1]) == (chip, shape)
  assert topology.slice_name(*found) == name


@pytest.mark.parametrize("name, words", [
    ("v6e:16x32", "--topology=v6e:16x32 does not exist; nearest: v6e:16x16"),
    ("v6e:3x5", "nearest: v6e:4x4"),
    ("v5p:4x8x4", "nearest: v5p:4x4x8"),
    ("v5e:0x4", "does not exist; nearest: v5e:1x1"),
    ("v9:2x2", "no slice of a TPU; give one as v6e:16x16, of v4, v5e, v5p, v6e, tpu7x"),
    ("v6e", "give one as v6e:16x16"),
    ("h100:8x1", "no slice of a TPU"),
])
def test_slices_that_there_are_not(name, words):
  with pytest.raises(UserError) as error:
    topology.parse(name)
  assert words in str(error.value)


def test_slices_of_three_axes_are_whole_cubes_up_to_a_pod():
  shapes = topology.shapes(topology.parse("v5p:4x4x4")[0])
  assert (4, 4, 8) in shapes and (16, 16, 24) in shapes and (2, 2, 1) in shapes
  assert (4, 8, 4) not in shapes and (16, 24, 24) not in shapes
