import json
import shutil

from configs import base
import chex
from flax import traverse_util
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import tiny_model
from vljepa_jax import api, checkpoint, convert, start
from vljepa_jax import config as config_lib
from vljepa_jax.errors import UserError
from vljepa_jax.parts import make_parts

pytestmark = pytest.mark.usefixtures("quick_compiler")
TOWERS = start.TOWERS
FRESH = {"predictor": {"visual_proj", "query_proj", "head"}, "y_encoder": {"head"}, "x_encoder": set()}


def random_params():
  """The debug model with every number changed, as after training."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: jax.numpy.asarray(rng.normal(size=x.shape).astype(x.dtype)), tiny_model.debug_params())


def recipe(**changes):
  config = base.get_config("debug")
  config.update_from_flattened_dict({"model.token_init": "", "model.y_head_init": "normal", **changes})
  return config_lib.parse(config)


def loaded(workdir):
  return jax.device_get(checkpoint.load_params(workdir, api.abstract_params(config_lib.read(workdir))))


@pytest.fixture(scope="module")
def params():
  return random_params()


@pytest.fixture(scope="module")
def workdir(params, tmp_path_factory):
  folder = tmp_path_factory.mktemp("trained")
  config_lib.write(recipe(), folder)
  checkpoint.save_params(folder / checkpoint.FOLDER, params)
  return folder


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
  folder = tmp_path_factory.mktemp("exported") / "hf"
  convert.export(workdir, folder, "hf")
  return folder


def test_parameters_written_alone_are_those_of_a_checkpoint(workdir, params):
  chex.assert_trees_all_equal(loaded(workdir), jax.device_get(params))


def test_parts_come_back_and_the_rest_is_the_seeds(exported, params, tmp_path, capsys):
  sources = {name: str(exported / name) for name in TOWERS}
  config = convert.with_sources(recipe(), sources)
  convert.import_parts(config, tmp_path / "new")
  result, before = loaded(tmp_path / "new"), jax.device_get(params)
  seed = jax.device_get(start.pretrained_params(recipe(), make_parts(recipe(), jax.devices()[:1]))[0])
  for name in TOWERS:
    for part, tree in result[name].items():
      chex.assert_trees_all_equal(tree, (seed if part in FRESH[name] else before)[name][part])
  assert result["log_scale"] == seed["log_scale"]
  lines = capsys.readouterr().out.splitlines()
  line = next(line for line in lines if line.strip().startswith("predictor"))
  assert f"parameters of {exported}/predictor; " in line and "from seed 0 (head, query_proj, visual_proj)" in line
  assert api.load(tmp_path / "new").encode_text(["a cat"]).shape == (1, 32)


def test_exported_again_every_file_is_byte_equal(exported, tmp_path):
  config = convert.with_sources(recipe(), {name: str(exported / name) for name in TOWERS})
  convert.import_parts(config, tmp_path / "new")
  convert.export(tmp_path / "new", tmp_path / "again", "hf")
  for name in TOWERS:
    assert (tmp_path / "again" / name / "model.safetensors").read_bytes() == (
        exported / name / "model.safetensors").read_bytes()
    assert json.loads((exported / name / "config.json").read_text())


def test_a_part_alone(exported, params, tmp_path, capsys):
  config = convert.with_sources(recipe(), {"x_encoder": str(exported / "x_encoder")})
  convert.import_parts(config, tmp_path / "new")
  chex.assert_trees_all_equal(loaded(tmp_path / "new")["x_encoder"], jax.device_get(params)["x_encoder"])
  assert "from seed 0 (all)" in next(
      line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("predictor"))


def test_the_whole_model_comes_back(workdir, params, tmp_path):
  convert.export(workdir, tmp_path / "whole", "whole")
  assert {p.name for p in (tmp_path / "whole").iterdir()} == {"config.json", "model.safetensors"}  # bytes: no tokenizer
  convert.import_whole(tmp_path / "whole", tmp_path / "new")
  chex.assert_trees_all_equal(loaded(tmp_path / "new"), jax.device_get(params))
  assert config_lib.read(tmp_path / "new") == recipe()


def test_training_starts_from_it(workdir, params):
  config = recipe(init_from=str(workdir))
  parts = make_parts(config, jax.devices()[:1])
  with jax.set_mesh(parts.mesh), checkpoint.Checkpoints(workdir / "other", 1) as none:
    state, position, words = start.start(config, parts, none)
  assert position is None and str(workdir) in words
  chex.assert_trees_all_equal(jax.device_get(state.params), jax.device_get(params))


def test_tokenizers_travel_with_their_part(tmp_path, params):
  source = tmp_path / "words"
  source.mkdir()
  words = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
           "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
           "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "cat": 1}, "unk_token": "[UNK]"}}
  (source / "tokenizer.json").write_text(json.dumps(words))
  config = recipe(**{"tokenizers.target.source": str(source)})
  config_lib.write(config, tmp_path)
  checkpoint.save_params(tmp_path / checkpoint.FOLDER, params)
  convert.export(tmp_path, tmp_path / "out", "hf")
  for folder in ("tokenizers/target", "y_encoder"):
    assert (tmp_path / "out" / folder / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
  assert not (tmp_path / "out/predictor/tokenizer.json").exists()
  convert.import_whole(tmp_path / "out", tmp_path / "back")
  tokenizers = config_lib.read(tmp_path / "back").tokenizers
  assert tokenizers.target.source == str(tmp_path / "back/tokenizers/target") and tokenizers.query.source == "bytes"
  (tmp_path / "back").rename(tmp_path / "moved")  # the workdir needs nothing that lies elsewhere
  shutil.rmtree(tmp_path / "out/tokenizers")
  assert api.load(tmp_path / "moved").encode_text(["a cat"]).shape == (1, 32)
  assert config_lib.own_tokenizers(tmp_path / "moved") == {"target": str(tmp_path / "moved/tokenizers/target")}
  again = convert.with_sources(recipe(), {"y_encoder": str(tmp_path / "out/y_encoder")})
  assert again.tokenizers.target.source == str(tmp_path / "out/y_encoder")
  assert again.tokenizers.query.source == "bytes"


def test_a_damaged_tokenizer_is_named_and_nothing_is_written(exported, tmp_path):
  source = tmp_path / "part"
  source.mkdir()
  (source / "tokenizer.json").write_text("junk")
  for file in (exported / "y_encoder").iterdir():
    (source / file.name).write_bytes(file.read_bytes())
  config = convert.with_sources(recipe(), {"y_encoder": str(source)})
  with pytest.raises(UserError, match="part/tokenizer.json is not a tokenizer"):
    convert.import_parts(config, tmp_path / "new")
  assert not (tmp_path / "new").exists()


def damaged(exported, tmp_path, change):
  """The exported y_encoder with other tensors."""
  folder = tmp_path / "bad"
  folder.mkdir()
  for file in (exported / "y_encoder").iterdir():
    (folder / file.name).write_bytes(file.read_bytes())
  tensors = load_file(folder / "model.safetensors")
  change(tensors)
  save_file(tensors, folder / "model.safetensors")
  return folder


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("embeddings.LayerNorm.weight"), "embeddings.LayerNorm.weight is missing"),
    (lambda t: t.update(more=np.zeros(3, np.float32)), "more is unexpected"),
])
def test_what_is_at_fault_is_named_and_nothing_is_written(exported, tmp_path, change, message):
  folder = damaged(exported, tmp_path, change)
  config = convert.with_sources(recipe(), {"y_encoder": str(folder)})
  with pytest.raises(UserError, match=f"bad/model.safetensors: .*{message}"):
    convert.import_parts(config, tmp_path / "new")
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("log_scale"), "log_scale is missing"),
    (lambda t: t.update(more=np.zeros(3, np.float32)), "more is unexpected"),
    (lambda t: t.update(log_scale=np.zeros(3, np.float32)), r"log_scale is float32\[3\], expected float32\[\]"),
    (lambda t: t.update(log_scale=np.zeros((), np.int32)), r"log_scale is int32\[\], expected float32\[\]"),
])
def test_a_damaged_whole_is_named(workdir, tmp_path, change, message):
  convert.export(workdir, tmp_path / "whole", "whole")
  tensors = load_file(tmp_path / "whole/model.safetensors")
  change(tensors)
  save_file(tensors, tmp_path / "whole/model.safetensors")
  with pytest.raises(UserError, match=message):
    convert.import_whole(tmp_path / "whole", tmp_path / "new")
  assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(workdir, exported, tmp_path):
  with pytest.raises(UserError, match="is not an empty folder; give another one"):
    convert.export(workdir, exported, "hf")
  with pytest.raises(UserError, match="holds a run already"):
    convert.import_parts(recipe(), workdir)
  with pytest.raises(UserError, match="holds a run already"):
    convert.import_whole(exported, workdir)


def test_leaves_of_the_seed_do_not_depend_on_what_is_given(exported):
  sources = {"x_encoder": str(exported / "x_encoder")}
  pieces = []
  for config in (recipe(), convert.with_sources(recipe(), sources)):
    params, seeded = start.pretrained_params(config, make_parts(config, jax.devices()[:1]))
    flat = traverse_util.flatten_dict(jax.device_get(params))
    pieces.append({path: flat[path] for path in flat if path[0] != "x_encoder"})
    assert {path[0] for path in seeded} == {"predictor", "y_encoder", "log_scale"} | (
        {"x_encoder"} if config == recipe() else set())
  chex.assert_trees_all_equal(*pieces)
