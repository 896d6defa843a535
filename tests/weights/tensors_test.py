import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vljepa_jax.weights.tensors import read_tensors, weight_file

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4, dtype=np.int64),
    "c": np.array([1.5, -2.0], ml_dtypes.bfloat16),
}


@pytest.fixture
def sharded(tmp_path):
  """A folder with two shards and their index."""
  save_file({"a": TENSORS["a"]}, tmp_path / "one.safetensors")
  save_file({"b": TENSORS["b"], "c": TENSORS["c"]}, tmp_path / "two.safetensors")
  place = {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
  (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
  return tmp_path


def assert_tensors(found):
  assert sorted(found) == ["a", "b", "c"] and len(found) == 3 and "d" not in found
  for name, value in TENSORS.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(found[name], value)
  with pytest.raises(KeyError):
    found["d"]


def test_one_file(tmp_path):
  save_file(TENSORS, tmp_path / "model.safetensors")
  assert_tensors(read_tensors(weight_file(tmp_path)))
  assert_tensors(read_tensors(weight_file(tmp_path / "model.safetensors")))


def test_shards(sharded):
  assert_tensors(read_tensors(weight_file(sharded)))


def test_a_missing_shard_is_named(sharded):
  (sharded / "two.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match="two.safetensors"):
    read_tensors(weight_file(sharded))


def test_a_shard_without_a_promised_tensor_is_named(sharded):
  save_file({"b": TENSORS["b"]}, sharded / "two.safetensors")
  with pytest.raises(ValueError, match="two.safetensors lacks the tensor c"):
    read_tensors(weight_file(sharded))


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"weight_map": 3}'])
def test_a_broken_index_is_named(sharded, text):
  (sharded / "model.safetensors.index.json").write_text(text)
  with pytest.raises(ValueError, match="index.json is not an index"):
    read_tensors(weight_file(sharded))


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated_files_are_named(tmp_path, keep):
  path = tmp_path / "model.safetensors"
  save_file(TENSORS, path)
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match="model.safetensors is damaged"):
    read_tensors(path)


def test_garbage_is_named(tmp_path):
  path = tmp_path / "model.safetensors"
  path.write_bytes(b"this is no weight file at all")
  with pytest.raises(ValueError, match="model.safetensors is damaged"):
    read_tensors(path)


def test_folders_without_weights_missing_files_and_other_kinds(tmp_path):
  with pytest.raises(FileNotFoundError, match="holds no weights; it needs one of model.safetensors"):
    weight_file(tmp_path)
  with pytest.raises(FileNotFoundError, match="no weight file .*gone.safetensors"):
    weight_file(tmp_path / "gone.safetensors")
  (tmp_path / "a.zip").write_bytes(b"")
  with pytest.raises(ValueError, match="a.zip is not a weight file"):
    read_tensors(weight_file(tmp_path / "a.zip"))
