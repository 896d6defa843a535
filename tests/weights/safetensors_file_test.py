"""The file format against the safetensors library, and against damage; memory stays that of one tensor."""

import json
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vljepa_jax.weights.safetensors_file import SafeTensorsFile, save_safetensors

RNG = np.random.default_rng(0)
TENSORS = {
    "b.float32": RNG.normal(size=(3, 5)).astype(np.float32),
    "a.float16": RNG.normal(size=(7,)).astype(np.float16),
    "bfloat16": RNG.normal(size=(2, 3, 1)).astype(ml_dtypes.bfloat16),
    "int8": np.array([-128, 127, 0], np.int8),
    "bool": np.array([[True], [False]]),
    "empty": np.zeros((0, 4), np.float64),
    "scalar": np.array(2.5),
}


def assert_same(found, expected):
  assert sorted(found) == sorted(expected)
  for name, value in expected.items():
    assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
    assert found[name].tobytes() == value.tobytes(), name


def test_reads_what_the_library_writes(tmp_path):
  save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
  assert_same(SafeTensorsFile(tmp_path / "x.safetensors"), TENSORS)


def test_the_library_reads_what_is_written(tmp_path):
  save_safetensors(tmp_path / "x.safetensors", TENSORS)
  assert_same(load_file(tmp_path / "x.safetensors"), TENSORS)
  assert_same(SafeTensorsFile(tmp_path / "x.safetensors"), TENSORS)


def test_arrays_of_any_layout_are_written_in_order(tmp_path):
  save_safetensors(tmp_path / "x.safetensors", {"t": TENSORS["b.float32"].T, "s": TENSORS["b.float32"][:, ::2]})
  assert_same(load_file(tmp_path / "x.safetensors"), {
      "t": np.ascontiguousarray(TENSORS["b.float32"].T), "s": np.ascontiguousarray(TENSORS["b.float32"][:, ::2])})


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(tmp_path):
  path = tmp_path / "x.safetensors"
  save_safetensors(path, {"old": np.ones(3)})

  class Full(dict):
    def values(self):
      yield next(iter(super().values()))
      raise OSError(28, "No space left on device")

  with pytest.raises(OSError, match="No space left"):
    save_safetensors(path, Full(TENSORS))
  assert_same(load_file(path), {"old": np.ones(3)})
  assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize("header, message", [
    ({"a": entry(dtype="F4")}, "tensor a has the type F4, which is not known"),
    ({"a": entry(shape=(3,))}, r"tensor a of shape \(3,\) cannot lie at bytes 0 to 8"),
    ({"a": entry(shape=(-1, -2))}, "cannot lie at bytes"),
    ({"a": entry(), "b": entry()}, "tensor b .* cannot lie at bytes 0 to 8"),
    ({"a": entry(), "b": entry(offsets=(4, 12))}, "tensor b .* cannot lie at bytes 4 to 12"),
    ({"a": entry(offsets=(8, 16))}, "tensor a .* cannot lie at bytes 8 to 16"),
    ({"a": entry(), "b": entry(offsets=(8, 16))}, "its tensors need .* bytes, but it has"),
    ({}, "its tensors need .* bytes, but it has"),
    ({"a": 3}, "damaged"),
    ({"a": {"dtype": "F32"}}, "damaged"),
    ([], "damaged"),
])
def test_headers_that_lie_are_refused(tmp_path, header, message):
  text = json.dumps(header).encode()
  path = tmp_path / "x.safetensors"
  path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
  with pytest.raises(ValueError, match=f"{path} is damaged or not a safetensors file: .*{message}|{message}"):
    SafeTensorsFile(path)


def test_a_name_that_stands_twice_is_refused(tmp_path):
  one = json.dumps(entry(shape=(1,), offsets=(0, 4)))
  text = f'{{"a": {one}, "a": {one.replace("[0, 4]", "[4, 8]")}}}'.encode()
  (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
  with pytest.raises(ValueError, match="names something twice"):
    SafeTensorsFile(tmp_path / "x.safetensors")


def test_a_file_that_shrinks_afterwards_is_named(tmp_path):
  path = tmp_path / "x.safetensors"
  save_safetensors(path, {"a": np.ones(100)})
  file = SafeTensorsFile(path)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match="x.safetensors is damaged: it ends in the middle of tensor a"):
    file["a"]


LOAD = r"""
import pathlib, re, sys
from flax import traverse_util
from tests.weights.families import make_shapes
from vljepa_jax import weights
from vljepa_jax.model import presets
config = presets.predictor("nano", layers=(1, 9), width=512, token_width=512, mlp_width=2048, vocab_size=40_000,
                           num_heads=8, num_kv_heads=8, head_width=64, scan=True)
shapes = make_shapes(config)
peak = lambda: 1024 * int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1])
before = peak()
loaded = weights.load_tower(sys.argv[1], config, shapes)
print((peak() - before) / sum(x.nbytes for x in traverse_util.flatten_dict(loaded).values()))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").is_file(), reason="only Linux tells the peak of a process")
def test_loading_needs_the_memory_of_the_tower_and_little_more(tmp_path):
  """The file is sparse and 950 MB long; the tower takes 200 MB of it."""
  shapes = {"model.embed_tokens.weight": (40_000, 512), "model.norm.weight": (512,), "lm_head.weight": (250_000, 512)}
  for i in range(10):
    layer = f"model.layers.{i}"
    shapes |= {f"{layer}.self_attn.{part}_proj.weight": (512, 512) for part in "qkvo"}
    shapes |= {f"{layer}.mlp.{part}_proj.weight": (2048, 512) for part in ("gate", "up")}
    shapes |= {f"{layer}.mlp.down_proj.weight": (512, 2048)}
    shapes |= {f"{layer}.{norm}_layernorm.weight": (512,) for norm in ("input", "post_attention")}
  header, end = {}, 0
  for name, shape in shapes.items():
    size = 4 * int(np.prod(shape))
    header[name] = entry(shape=shape, offsets=(end, end + size))
    end += size
  text = json.dumps(header).encode()
  path = tmp_path / "model.safetensors"
  with path.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + end)
  done = subprocess.run([sys.executable, "-c", LOAD, path], capture_output=True, text=True, check=True)
  assert 0.9 < float(done.stdout) < 1.15
