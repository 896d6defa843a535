import json
import re

from configs import base
import pytest

from tests import tiny
from vljepa_jax import config
from vljepa_jax.errors import UserError


@pytest.mark.parametrize("variant", ["base", "debug"])
def test_a_config_survives_json(tmp_path, variant):
  parsed = config.parse(base.get_config(variant))
  config.write(parsed, tmp_path)
  assert config.read(tmp_path) == parsed
  assert config.model_config(config.read(tmp_path).model) == config.model_config(parsed.model)


def test_tuples_of_a_preset_survive_json(tmp_path):
  changed = base.get_config("debug")
  changed.model.predictor.rope_scaling = (8.0, 1.0, 4.0, 128)
  config.write(config.parse(changed), tmp_path)
  assert config.model_config(config.read(tmp_path).model).predictor.rope_scaling == (8.0, 1.0, 4.0, 128)


def with_value(key, value):
  plain = json.loads(json.dumps(config.to_dict(tiny.recipe())))
  *path, last = key.split(".")
  place = plain
  for name in path:
    place = place[name]
  place[last] = value
  return plain


@pytest.mark.parametrize("key, value, message", [
    ("data.feature_tokens", 3, "picks among cached tokens: set config.data.feature_views"),
    ("optim.learning_rat", 1.0, "nothing reads config.optim.learning_rat; did you mean 'learning_rate'"),
    ("extra", 1, "nothing reads config.extra"),
    ("seed", "0", "config.seed must be int, not '0'"),
    ("seed", True, "config.seed must be int"),
    ("model", 3, "config.model must be a dict"),
    ("optim.groups", ((".*",),), r"config.optim.groups\[0\] must have 2 entries"),
    ("optim.groups", ((".*", "fast"),), r"config.optim.groups\[0\]\[1\] must be"),
    ("train.steps", 0, "config.train.steps must be above 0"),
    ("train.log_every", -1, "config.train.log_every must be above 0"),
    ("profile", (3,), r"config.profile must be \(\) or \(first, last\) with 1 <= first < last <= 9 .*, not \(3,\)"),
    ("profile", (0, 3), "config.profile must be"),
    ("profile", (3, 3), "config.profile must be"),
    ("profile", (3, 10), "config.profile must be"),
    ("profile", (1.5, 3), r"config.profile\[0\] must be int, not 1.5"),
    ("optim.learning_rate", float("nan"), "config.optim.learning_rate must be above 0"),
    ("optim.ema", 1.0, "config.optim.ema must be at least 0 and below 1"),
    ("optim.schedule", "linear", "config.optim.schedule must be one of 'constant', 'cosine'"),
    ("data.max_failures", 1.5, "config.data.max_failures must be within 0..1"),
    ("data.augment.flip", 1.5, "config.data.augment.flip must be within 0..1"),
    ("data.sources", (), "config.data.sources is empty"),
    ("data.feature_dtype", "int8", "config.data.feature_dtype must be one of 'float16', 'float32', not 'int8'"),
    ("data.workers", -1, "config.data.workers must be 0 or more"),
    ("data.preprocess", "squash", "config.data.preprocess must be one of 'pad_square', 'vjepa2', 'imagenet', not"),
    ("tokenizers.query.pad_side", "top", "config.tokenizers.query.pad_side must be one of 'right', 'left', not 'top'"),
    ("tokenizers.target.cut", "middle", "config.tokenizers.target.cut must be one of 'right', 'left', not 'middle'"),
    ("tokenizers.target.length", 0, "config.tokenizers.target.length must be above 0"),
    ("tokenizers.query.pad_id", -1, "config.tokenizers.query.pad_id must be 0 or more"),
    ("tokenizers.query.special_tokens", 1, "config.tokenizers.query.special_tokens must be bool, not 1"),
    ("tokenizers.query", "bytes", "config.tokenizers.query must be a dict with the keys of Tokenizer"),
    ("model.y_head_init", "eye", "config.model.y_head_init must be one of"),
    ("name", "a/b", "config.name must be a plain name"),
])
def test_what_no_run_can_use_is_named(key, value, message):
  with pytest.raises(UserError, match=message):
    config.parse(with_value(key, value))


def test_a_prompt_is_not_cut():
  plain = with_value("tokenizers.query.prompt", "query: ")
  config.parse(plain)
  plain["tokenizers"]["query"]["cut"] = "left"
  with pytest.raises(UserError, match="config.tokenizers.query.cut='left' would cut the prompt first"):
    config.parse(plain)


def test_a_data_set_may_be_told_at_length(tmp_path):
  dataset = {"path": "my/1.0.0", "fields": [["picture", "jpg"], ["caption", "text"]],
             "queries": [["what", ["what?", "which?"]]]}
  source = {"name": "a", "dataset": dataset, "view": "caption", "weight": 1.0}
  plain = with_value("data.sources", (source,))
  parsed = config.parse(plain)
  assert str(parsed.data.sources[0].dataset) == "my/1.0.0" and {parsed.data.sources[0].dataset: 1}
  config.write(parsed, tmp_path)
  assert config.read(tmp_path) == parsed
  dataset["field"] = dataset.pop("fields")
  with pytest.raises(UserError, match=r"nothing reads config.data.sources\[0\].dataset.field; did you mean 'fields'"):
    config.parse(plain)


def test_sources_are_checked():
  source = {"name": "a", "dataset": "openclipart", "view": "caption", "weight": 0.0}
  with pytest.raises(UserError, match=re.escape("config.data.sources[0].weight")):
    config.parse(with_value("data.sources", (source,)))


def test_a_missing_key_is_named():
  plain = config.to_dict(tiny.recipe())
  del plain["optim"]["ema"]
  with pytest.raises(UserError, match="config.optim.ema is missing"):
    config.parse(plain)


def test_whole_numbers_are_floats_where_floats_are_due():
  assert config.parse(with_value("optim.clip_norm", 2)).optim.clip_norm == 2.0


@pytest.mark.parametrize("tower, preset", [("x_encoder", "resnet"), ("predictor", "huge"), ("y_encoder", "gpt")])
def test_an_unknown_preset_is_named(tower, preset):
  parsed = tiny.recipe(**{f"model.{tower}.preset": preset})
  with pytest.raises(ValueError, match=f"no {tower} preset '{preset}'; there are"):
    config.model_config(parsed.model)


def test_a_field_that_a_preset_lacks_is_named():
  for field in ("layer", "changes"):
    parsed = tiny.recipe(**{f"model.predictor.{field}": 3})
    with pytest.raises(ValueError, match=field):
      config.model_config(parsed.model)


@pytest.mark.parametrize("key, value", [
    ("train.steps", 99), ("eval.batch_size", 7), ("mesh.fsdp", 2), ("profile", (2, 4)),
])
def test_a_run_may_go_on_with_other_lengths_and_devices(tmp_path, key, value):
  config.check_same_run(tiny.recipe(), tiny.recipe(**{key: value}), tmp_path)


@pytest.mark.parametrize("key, value", [
    ("seed", 1), ("train.batch_size", 32), ("optim.b2", 0.9), ("model.predictor.dropout", 0.5),
    ("data.image_size", 64), ("data.preprocess", "vjepa2"), ("tokenizers.target.prompt", "text: "),
])
def test_a_run_may_not_become_another(tmp_path, key, value):
  with pytest.raises(UserError, match=f"holds a run with config.{key}"):
    config.check_same_run(tiny.recipe(), tiny.recipe(**{key: value}), tmp_path)


def test_reading_a_folder_that_is_no_workdir(tmp_path):
  with pytest.raises(UserError, match="has no config.json"):
    config.read(tmp_path)
  (tmp_path / config.FILE).write_text("{")
  with pytest.raises(UserError, match="is damaged"):
    config.read(tmp_path)
