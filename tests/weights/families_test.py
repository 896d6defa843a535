"""Every family of weights: there and back bit for bit, and one error for each thing that can be wrong."""

import dataclasses
import json
import re

import chex
from flax import traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.weights.families import CONFIGS, MATRIX, SCANNABLE, make_params, make_shapes
from vljepa_jax import weights
from vljepa_jax.model import presets
from vljepa_jax.weights.tensors import Tensors

DENSE = "2_Dense/linear.weight"


def fill(tensors, config):
  return weights.fill_tower(Tensors("memory", tensors), config, make_shapes(config))


def in_file(config, params):
  """The leaves that files of the family hold."""
  fresh = weights.FAMILIES[type(config)].FRESH
  flat = traverse_util.flatten_dict(params, sep="/")
  kept = {name: x for name, x in flat.items() if not any(re.fullmatch(pattern, name) for pattern in fresh)}
  return traverse_util.unflatten_dict(kept, sep="/")


def write_folder(folder, tensors):
  """A folder with these tensors, those of dense heads where sentence-transformers has them."""
  for part in {name.rpartition("/")[0] for name in tensors}:
    (folder / part).mkdir(exist_ok=True)
    inside = {name.rpartition("/")[2]: x for name, x in tensors.items() if name.rpartition("/")[0] == part}
    save_file(inside, folder / part / "model.safetensors")
  return str(folder)


def with_prefix(tensors, prefix):
  return {name if "/" in name else f"{prefix}{name}": value for name, value in tensors.items()}


@pytest.fixture(scope="module")
def made():
  """Family -> (config, parameters, the tensors of a file with them)."""
  out = {}
  for name, config in CONFIGS.items():
    params = make_params(config)
    out[name] = config, params, dict(weights.export_tower(config, params))
  return out


@pytest.fixture(params=CONFIGS)
def family(request, made):
  return made[request.param]


def test_files_come_back_bit_for_bit(tmp_path, family):
  config, params, tensors = family
  loaded = weights.load_tower(write_folder(tmp_path, tensors), config, make_shapes(config))
  chex.assert_trees_all_equal(loaded, in_file(config, params))
  again = dict(weights.export_tower(config, loaded))
  assert list(again) == list(tensors)
  for name, value in tensors.items():
    assert again[name].tobytes() == value.tobytes() and again[name].dtype == value.dtype, name


@pytest.mark.parametrize("name", SCANNABLE)
def test_scanned_towers_hold_the_same_file(made, name):
  config, params, tensors = made[name]
  scanned = dataclasses.replace(config, scan=True)
  loaded = fill(tensors, scanned)
  chex.assert_trees_all_equal_shapes_and_dtypes(loaded, in_file(scanned, make_shapes(scanned)))
  inside = lambda tree: tree.get("backbone", tree)
  for i in range(config.num_layers):
    layer = jax.tree.map(lambda x, i=i: x[i], inside(loaded)["layers"])
    chex.assert_trees_all_equal(layer, inside(params)[f"layers_{i}"])
  chex.assert_trees_all_equal(dict(weights.export_tower(scanned, loaded)), tensors)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_is_widened_exactly(family, dtype):
  config, _, tensors = family
  half = {name: value.astype(dtype) for name, value in tensors.items()}
  chex.assert_trees_all_equal(fill(half, config), fill({k: v.astype(np.float32) for k, v in half.items()}, config))


@pytest.mark.parametrize("change, message", [
    (lambda x: None, "is missing"),
    (lambda x: x[:-1], r"has shape \(.*\), expected \("),
    (lambda x: x.reshape(-1), r"has shape \(.*,\), expected \("),
    (lambda x: x.swapaxes(0, 1), r"has shape \(.*\), expected \("),
    (lambda x: x.astype(np.float64), "is float64, expected float32, bfloat16 or float16"),
    (lambda x: x.astype(np.int8), "is int8, expected float32"),
])
@pytest.mark.parametrize("name", CONFIGS)
def test_one_wrong_tensor_is_named_with_its_file(tmp_path, made, name, change, message):
  config, _, tensors = made[name]
  value = change(tensors[MATRIX[name]])
  changed = tensors | {MATRIX[name]: value}
  if value is None:
    del changed[MATRIX[name]]
  else:
    changed[MATRIX[name]] = np.ascontiguousarray(value)
  with pytest.raises(ValueError, match=rf"{tmp_path}/model.safetensors: tensor {re.escape(MATRIX[name])} {message}"):
    weights.load_tower(write_folder(tmp_path, changed), config, make_shapes(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_tensor_too_many_is_named_with_its_file(tmp_path, made, name):
  config, _, tensors = made[name]
  extra = MATRIX[name].replace(".weight", ".weight_scale")
  spec = write_folder(tmp_path, tensors | {extra: np.ones(3, np.float32)})
  with pytest.raises(ValueError, match=f"model.safetensors: tensor {re.escape(extra)} is unexpected"):
    weights.load_tower(spec, config, make_shapes(config))


def test_one_layer_too_few_or_too_many_is_refused(made):
  for name in ("bert", "gemma", "vjepa2"):
    config, _, tensors = made[name]
    for change, message in ((1, "is missing"), (-1, "is unexpected")):
      with pytest.raises(ValueError, match=message):
        fill(tensors, dataclasses.replace(config, num_layers=config.num_layers + change))


@pytest.mark.parametrize("name", CONFIGS)
def test_damaged_files_are_named(tmp_path, made, name):
  config, _, tensors = made[name]
  spec = write_folder(tmp_path, tensors)
  path = tmp_path / "model.safetensors"
  whole = path.read_bytes()
  for data in (whole[:-1], whole[:7], whole + b"\0", whole[:8] + b"!" + whole[9:], b"\xff" * 8 + whole[8:]):
    path.write_bytes(data)
    with pytest.raises(ValueError, match="model.safetensors is damaged or not a safetensors file"):
      weights.load_tower(spec, config, make_shapes(config))


def test_a_pickle_with_more_than_tensors_is_refused(tmp_path, family):
  (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(Vtouch pwned\ntR.")
  with pytest.raises(ValueError, match="pytorch_model.bin is refused: it holds the Python object `os.system`"):
    weights.load_tower(str(tmp_path), family[0], {})


def test_a_wrong_tensor_of_a_shard_names_the_shard_and_a_missing_one_the_index(tmp_path, made):
  config, _, tensors = made["llama"]
  first = {name: value for name, value in tensors.items() if name.startswith("layers.0")}
  second = {name: value for name, value in tensors.items() if name not in first}
  place = {name: "one.safetensors" for name in first} | {name: "two.safetensors" for name in second}
  index = tmp_path / "model.safetensors.index.json"

  def load():
    save_file(first, tmp_path / "one.safetensors")
    save_file(second, tmp_path / "two.safetensors")
    index.write_text(json.dumps({"weight_map": place}))
    return weights.load_tower(str(tmp_path), config, make_shapes(config))

  chex.assert_trees_all_equal(load(), fill(tensors, config))
  second["norm.weight"] = np.ones(3, np.float32)
  with pytest.raises(ValueError, match=r"two.safetensors: tensor norm.weight has shape \(3,\), expected \(32,\)"):
    load()
  del second["norm.weight"], place["norm.weight"]
  with pytest.raises(ValueError, match="model.safetensors.index.json: tensor norm.weight is missing"):
    load()


@pytest.mark.parametrize("name, prefix, extra", [
    ("llama", "model.", ()),
    ("llama", "model.", ("lm_head.weight", "model.layers.1.self_attn.rotary_emb.inv_freq")),
    ("llama", "", ("lm_head.weight", "layers.0.self_attn.rotary_emb.inv_freq")),
    ("gemma", "model.", ()),
    ("bert", "bert.", ("bert.embeddings.position_ids", "bert.pooler.dense.weight")),
    ("mobilenet_v2", "", ("classifier.1.weight", "features.0.1.num_batches_tracked")),
    ("vjepa2", "", ("predictor.layer.0.norm1.weight",)),
])
def test_other_spellings_and_known_extras_give_the_same_tower(made, name, prefix, extra):
  config, params, tensors = made[name]
  spelled = with_prefix(tensors, prefix) | {name: np.ones(3, np.float32) for name in extra}
  chex.assert_trees_all_equal(fill(spelled, config), in_file(config, params))


def test_a_tensor_under_two_names_is_refused(made):
  config, _, tensors = made["llama"]
  twice = with_prefix(tensors, "model.") | {"norm.weight": tensors["norm.weight"]}
  with pytest.raises(ValueError, match="tensor norm.weight and model.norm.weight have the same meaning"):
    fill(twice, config)


def test_only_what_is_asked_for_is_read(made):
  """A predictor of two layers must not wait for the fourteen others, nor V-JEPA 2 for its predictor."""
  config, _, tensors = made["llama"]
  asked = []

  class Recorder(Tensors):
    def __getitem__(self, name):
      asked.append(name)
      return super().__getitem__(name)

  more = {f"layers.{i}.mlp.up_proj.weight": np.ones(1) for i in range(2, 16)} | {"lm_head.weight": np.ones(1)}
  weights.fill_tower(Recorder("memory", tensors | more), config, make_shapes(config))
  assert sorted(asked) == sorted(tensors)


# Llama: layers out of the middle.


@pytest.fixture
def deep(made):
  """The tensors of a Llama with six layers."""
  config = dataclasses.replace(made["llama"][0], layers=(0, 6))
  return dict(weights.export_tower(config, make_params(config)))


@pytest.mark.parametrize("layers", [(0, 1), (0, 6), (2, 5), (5, 6)])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_layers_that_the_preset_names_are_taken(made, deep, layers, prefix):
  config = dataclasses.replace(made["llama"][0], layers=layers)
  loaded = fill(with_prefix(deep, prefix), config)
  assert sum(name.startswith("layers_") for name in loaded) == layers[1] - layers[0]
  for i, layer in enumerate(range(*layers)):
    up = loaded[f"layers_{i}"]["up"]["kernel"]
    np.testing.assert_array_equal(up, deep[f"layers.{layer}.mlp.up_proj.weight"].T)
  exported = dict(weights.export_tower(config, loaded))
  alone = dataclasses.replace(config, layers=(0, config.num_layers))
  chex.assert_trees_all_equal(fill(exported, alone), loaded)


def test_layers_outside_the_file_are_refused(tmp_path, made, deep):
  config = dataclasses.replace(made["llama"][0], layers=(4, 7))
  with pytest.raises(ValueError, match="model.safetensors: the preset takes layers 4 to 6, but the file has 6 layers"):
    weights.load_tower(write_folder(tmp_path, deep), config, make_shapes(config))


@pytest.mark.parametrize("layers", [(3, 3), (4, 2), (-1, 2)])
def test_layers_that_are_none_are_refused(made, layers):
  with pytest.raises(ValueError, match=r"layers \(.*\) must be \(first, end\)"):
    dataclasses.replace(made["llama"][0], layers=layers)


# EmbeddingGemma: dense heads in folders of their own.


def test_without_dense_widths_no_dense_folder_is_wanted(tmp_path, made):
  config, params, tensors = made["gemma"]
  plain = dataclasses.replace(config, dense_widths=())
  spec = write_folder(tmp_path, {name: x for name, x in tensors.items() if "/" not in name})
  loaded = weights.load_tower(spec, plain, make_shapes(plain))
  chex.assert_trees_all_equal(loaded, {"backbone": params["backbone"]})


@pytest.mark.parametrize("widths, dense, message", [
    ((), ("2_Dense", "3_Dense"), r"2_Dense, 3_Dense beside it, but the preset has dense_widths \(\)"),
    ((64, 32), (), r"no Dense folder beside it, but the preset has dense_widths \(64, 32\)"),
    ((64, 32), ("2_Dense",), r"2_Dense beside it, but the preset has dense_widths \(64, 32\)"),
])
def test_other_dense_folders_than_the_preset_has_are_refused(tmp_path, made, widths, dense, message):
  config, _, tensors = made["gemma"]
  config = dataclasses.replace(config, dense_widths=widths)
  kept = {name: value for name, value in tensors.items() if "/" not in name or name.partition("/")[0] in dense}
  with pytest.raises(ValueError, match=f"model.safetensors: there is {message}"):
    weights.load_tower(write_folder(tmp_path, kept), config, make_shapes(config))


def test_wrong_dense_heads_name_their_own_file(tmp_path, made):
  config, _, tensors = made["gemma"]
  spec = write_folder(tmp_path, tensors | {DENSE: tensors[DENSE][:5]})
  with pytest.raises(ValueError, match=r"2_Dense/model.safetensors: tensor linear.weight has shape \(5, 32\)"):
    weights.load_tower(spec, config, make_shapes(config))
  spec = write_folder(tmp_path, tensors | {"2_Dense/linear.bias": np.ones(64, np.float32)})
  with pytest.raises(ValueError, match="2_Dense/model.safetensors: tensor linear.bias is unexpected"):
    weights.load_tower(spec, config, make_shapes(config))


# Folders and config.json.


def test_folders_come_back(tmp_path, family):
  config, params, tensors = family
  weights.export_folder(tmp_path / "new", config, params)
  chex.assert_trees_all_equal(
      weights.load_tower(str(tmp_path / "new"), config, make_shapes(config)), in_file(config, params))
  main = load_file(tmp_path / "new" / "model.safetensors")
  chex.assert_trees_all_equal(main, {name: value for name, value in tensors.items() if "/" not in name})
  assert not list((tmp_path / "new").rglob("*.partial"))


def test_gemma_folders_have_what_sentence_transformers_wants(tmp_path, made):
  config, params, _ = made["gemma"]
  weights.export_folder(tmp_path, config, params)
  files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
  assert files == [
      "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "3_Dense/config.json",
      "3_Dense/model.safetensors", "config.json", "model.safetensors", "modules.json",
  ]
  kinds = [module["type"].rpartition(".")[2] for module in json.loads((tmp_path / "modules.json").read_text())]
  assert kinds == ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]


def test_layers_out_of_the_middle_are_exported_as_a_model_of_their_own(tmp_path, made, deep):
  config = dataclasses.replace(made["llama"][0], layers=(3, 5))
  loaded = fill(deep, config)
  weights.export_folder(tmp_path, config, loaded)
  assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 2
  alone = dataclasses.replace(config, layers=(0, 2))
  chex.assert_trees_all_equal(weights.load_tower(str(tmp_path), alone, make_shapes(alone)), loaded)
  with pytest.raises(ValueError, match=r"num_hidden_layers is 2, but the preset has layers \(3, 5\)"):
    weights.load_tower(str(tmp_path), config, make_shapes(config))


@pytest.mark.parametrize("name, field, value, message", [
    ("bert", "hidden_size", 768, "hidden_size is 768, but the preset has width 32"),
    ("bert", "layer_norm_eps", 1e-5, "layer_norm_eps is 1e-05, but the preset has norm_eps 1e-12"),
    ("bert", "num_attention_heads", 4, "num_attention_heads is 4, but the preset has num_heads 2"),
    ("bert", "hidden_act", "relu", "hidden_act is 'relu', but this tower needs 'gelu'"),
    ("bert", "model_type", "roberta", "model_type is 'roberta', but this tower needs 'bert'"),
    ("vjepa2", "mlp_ratio", 4.0, r"hidden_size \* mlp_ratio is 192, but the preset has mlp_width 96"),
    ("vjepa2", "tubelet_size", 2, "tubelet_size is 2, but the preset has tubelet_size 3"),
    ("vjepa2", "qkv_bias", False, "qkv_bias is False, but this tower needs True"),
    ("llama", "num_key_value_heads", 4, "num_key_value_heads is 4, but the preset has num_kv_heads 2"),
    ("llama", "rope_theta", 10000, "rope_theta is 10000, but the preset has rope_theta 500000.0"),
    ("llama", "rope_scaling", None, r"rope_scaling is None, but the preset has rope_scaling \(8.0, 1.0, 4.0, 128\)"),
    ("llama", "rope_scaling", {"rope_type": "yarn", "factor": 2.0}, "rope_scaling is {'rope_type': 'yarn'"),
    ("llama", "num_hidden_layers", 1, r"num_hidden_layers is 1, but the preset has layers \(0, 2\)"),
    ("llama", "attention_bias", True, "attention_bias is True, but this tower needs False"),
    ("gemma", "sliding_window", 512, r"sliding_window // 2 \+ 1 is 257, but the preset has sliding_window 5"),
    ("gemma", "layer_types", ["full_attention"] * 3, "layer_types is .*, but the preset has full_every 3"),
    ("gemma", "query_pre_attn_scalar", 256, "query_pre_attn_scalar is 256, but the preset has query_scale 16.0"),
    ("gemma", "use_bidirectional_attention", None, "use_bidirectional_attention is None, but this tower needs True"),
    ("gemma", "rope_local_base_freq", 5, "rope_local_base_freq is 5, but the preset has rope_local_theta 10000.0"),
    ("mobilenet_v2", "architecture", "mobilenetv2_100", "width_multiplier is 1.0, but the preset has width_multiplier"),
    ("mobilenet_v2", "architecture", "resnet50", "architecture is 'resnet50', but this tower needs 'mobilenet_v2'"),
])
def test_a_config_that_disagrees_is_named(tmp_path, made, name, field, value, message):
  config, params, _ = made[name]
  weights.export_folder(tmp_path, config, params)
  path = tmp_path / "config.json"
  content = json.loads(path.read_text()) | {field: value}
  if name == "mobilenet_v2":
    del content["width_multiplier"]
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=f"{path}: {message}"):
    weights.load_tower(str(tmp_path), config, make_shapes(config))


@pytest.mark.parametrize("file, field, value, message", [
    ("2_Dense/config.json", "activation_function", "torch.nn.modules.activation.Tanh", "activation_function is .*Tanh"),
    ("1_Pooling/config.json", "pooling_mode_mean_tokens", False, "pooling_mode_mean_tokens is False"),
])
def test_sentence_files_that_disagree_are_named(tmp_path, made, file, field, value, message):
  config, params, _ = made["gemma"]
  weights.export_folder(tmp_path, config, params)
  path = tmp_path / file
  path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
  with pytest.raises(ValueError, match=f"{path}: {message}.*, but this tower needs"):
    weights.load_tower(str(tmp_path), config, make_shapes(config))


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 128}


@pytest.mark.parametrize("name, gone, spelled", [
    ("llama", ("rope_theta", "rope_scaling"), {"rope_parameters": {"rope_theta": 500_000, **LLAMA3}}),
    ("llama", ("head_dim",), {"num_hidden_layers": 16, "architectures": ["LlamaForCausalLM"]}),
    ("gemma", ("rope_theta", "rope_local_base_freq", "rope_scaling"), {"rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    ("gemma", ("rope_theta", "rope_local_base_freq", "rope_scaling"), {}),
    ("gemma", ("layer_types",), {"sliding_window_pattern": 3}),
    ("gemma", ("layer_types",), {"_sliding_window_pattern": 3}),
    ("gemma", (), {"sliding_window": 9}),
    ("vjepa2", (), {"crop_size": 384, "frames_per_clip": 16, "pred_hidden_size": 12}),
    ("bert", (), {"architectures": ["BertForMaskedLM"], "hidden_dropout_prob": 0.1}),
    ("mobilenet_v2", ("width_multiplier", "norm_eps"), {"architecture": "mobilenetv2_050", "num_features": 1280}),
])
def test_both_spellings_and_known_defaults_agree(tmp_path, made, name, gone, spelled):
  config, params, _ = made[name]
  weights.export_folder(tmp_path, config, params)
  path = tmp_path / "config.json"
  kept = {field: value for field, value in json.loads(path.read_text()).items() if field not in gone}
  path.write_text(json.dumps(kept | spelled))
  chex.assert_trees_all_equal(
      weights.load_tower(str(tmp_path), config, make_shapes(config)), in_file(config, params))


@pytest.mark.parametrize("text, message", [("{", "is not a JSON file"), ("[]", "must hold a JSON object, not a list")])
def test_a_config_that_is_none_is_named(tmp_path, made, text, message):
  config, params, _ = made["bert"]
  weights.export_folder(tmp_path, config, params)
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ValueError, match=f"config.json {message}"):
    weights.load_tower(str(tmp_path), config, make_shapes(config))


@pytest.mark.parametrize("name, change, message", [
    ("llama", dict(token_width=24), "as wide as its layers, 32; set token_width to that"),
    ("vjepa2", dict(rope_theta=100.0), "a VJEPA2Model has rope_theta 10000.0, but the preset has 100.0"),
    ("gemma", dict(query_scale=16.5), "the query_scale of a Gemma3TextModel is a whole number, not 16.5"),
])
def test_towers_that_no_such_model_computes_are_not_exported(tmp_path, name, change, message):
  config = dataclasses.replace(CONFIGS[name], **change)
  with pytest.raises(ValueError, match=message):
    weights.export_folder(tmp_path / "new", config, make_params(config))
  assert not (tmp_path / "new").exists()


# What the published models state, as far as it matters.
PUBLISHED = {
    "vjepa2_vitl": (presets.x_encoder, {
        "architectures": ["VJEPA2Model"], "model_type": "vjepa2", "crop_size": 256, "frames_per_clip": 64,
        "hidden_act": "gelu", "hidden_size": 1024, "in_chans": 3, "layer_norm_eps": 1e-06, "mlp_ratio": 4.0,
        "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 16, "qkv_bias": True, "tubelet_size": 2,
    }),
    "vjepa2_vitg": (presets.x_encoder, {
        "model_type": "vjepa2", "hidden_size": 1408, "mlp_ratio": 4.363636363636363, "num_attention_heads": 22,
        "num_hidden_layers": 40, "patch_size": 16, "tubelet_size": 2,
    }),
    "llama3_1b_l8": (presets.predictor, {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    }),
    "embedding_gemma_300m": (presets.y_encoder, {
        "architectures": ["Gemma3TextModel"], "model_type": "gemma3_text", "_sliding_window_pattern": 6,
        "attention_bias": False, "attn_logit_softcapping": None, "final_logit_softcapping": None, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 768, "intermediate_size": 1152,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 4, "max_position_embeddings": 2048,
        "num_attention_heads": 3, "num_hidden_layers": 24, "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0, "rope_scaling": None, "rope_theta": 1000000.0,
        "sliding_window": 512, "use_bidirectional_attention": True, "vocab_size": 262144,
    }),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_models(name):
  make, published = PUBLISHED[name]
  config = make(name)
  family = weights.FAMILIES[type(config)]
  found, ours = family.stated(published, config), family.stated(family.hf_config(config), config)
  assert found == {field: value for field, value in ours.items() if field in found}
  assert len(found) >= 7


@pytest.mark.parametrize("width, mlp_width", [(14, 61), (22, 49), (1408, 6404), (1408, 6144), (1024, 4096)])
def test_the_mlp_ratio_gives_the_width_back_although_transformers_rounds_down(width, mlp_width):
  config = presets.x_encoder("vjepa2_vitl", width=width, mlp_width=mlp_width)
  hf = weights.FAMILIES[type(config)].hf_config(config)
  assert int(hf["hidden_size"] * hf["mlp_ratio"]) == mlp_width
