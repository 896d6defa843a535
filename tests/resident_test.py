"""Batches made on the devices, against the clips they are made of."""

import chex
from configs import babyai as recipe
import flax.linen as nn
import jax
import numpy as np
import pytest

from vljepa_jax import batch_ids, config as config_lib, parts as parts_lib, resident, sharding, start, train
from vljepa_jax.api import make_text_input
from vljepa_jax.data import babyai
from vljepa_jax.data.sources import open_source
from vljepa_jax.data.text import target_id
from vljepa_jax.errors import UserError

VIEWS = ("brief", "action", "where")
ROWS = 16


@pytest.fixture(scope="module")
def source(small_babyai):
  return open_source("babyai", "train")


def debug(**changes):
  config = recipe.get_config("debug")
  config.data.sources = (
      dict(name="all", dataset="babyai", view=VIEWS, weight=0.75),
      dict(name="detailed", dataset="babyai", view="detailed", weight=0.25),
  )
  config.data.resident = True
  config.tokenizers.target.length = 400
  config.tokenizers.query.length = 80
  config.model.y_encoder.max_positions = 400
  config.train.update(steps=4, log_every=1, eval_every=4, checkpoint_every=2)
  config.update_from_flattened_dict(changes)
  return config_lib.parse(config)


def batches(config, source, devices=1):
  parts = parts_lib.make_parts(config, jax.devices()[:devices])
  query = make_text_input(config.tokenizers.query, parts.model.config.predictor.vocab_size)
  target = make_text_input(config.tokenizers.target, parts.model.config.y_encoder.vocab_size)
  return resident.Batches(config, parts, {"babyai": source}, query, target), query.tokenizer


def texts(tokenizer, ids, mask):
  return [tokenizer.decode(row[real]) for row, real in zip(ids, mask, strict=True)]


def test_rows_hold_frames_and_texts_of_their_clips(source):
  iterator, tokenizer = batches(debug(), source)
  streams, missing = [], 0
  for _ in range(8):
    batch = jax.device_get(next(iterator))
    streams.append(int(batch["stream"][0]))
    views = VIEWS if not streams[-1] else ("detailed",)
    several = lambda name: batch[name].reshape(ROWS, len(views), *batch[name].shape[1 + (len(views) > 1) :])
    for i, clip in enumerate(source.clips[row] for row in batch["record_id"]):
      at, shown = 0, babyai.render(source.atlas, clip.codes)
      for frame in batch["video"][i]:  # in their order
        at = next(place for place in range(at, len(shown)) if (shown[place] == frame).all())
      asked = texts(tokenizer, several("query")[i], several("query_mask")[i])
      said = texts(tokenizer, several("target")[i], several("target_mask")[i])
      for k, view in enumerate(views):
        assert several("target_id")[i, k] == target_id(said[k])
        questions = [q for q in clip.questions if q.kind == view]
        if questions:
          assert asked[k] in questions[0].queries and said[k] == questions[0].answer
        else:
          missing += view == "where"
          assert not asked[k] and said[k] in clip.captions["brief" if view == "where" else view]
  assert sorted(streams) == [0] * 6 + [1] * 2 and missing


@pytest.mark.parametrize("frames", [1, 4])
def test_frames_are_windows_or_spans_as_the_pipeline_draws_them(source, frames):
  clips = resident.clip_tables(source.clips, source.atlas)
  rows = np.zeros(2000, np.int32)
  drawn = {tuple(row) for row in np.asarray(resident.draw_frames(clips, rows, frames, jax.random.key(0))).tolist()}
  clip, rng = source.clips[0], np.random.default_rng(0)
  ways = babyai.window_frames, babyai.sample_frames
  wanted = {tuple(draw(clip, frames, rng).tolist()) for _ in range(2000) for draw in ways}
  assert drawn == wanted


@pytest.mark.parametrize("devices", [1, 4])
def test_a_step_has_its_batch_whatever_came_before(source, devices):
  iterator, _ = batches(debug(), source)
  first = [jax.device_get(next(iterator)) for _ in range(3)]
  again, _ = batches(debug(), source, devices)
  again.set_state({"step": 2})
  for name, value in next(again).items():
    np.testing.assert_array_equal(value, first[2][name], err_msg=name)
  assert again.get_state() == {"step": 3}


def test_a_step_takes_them_as_it_takes_those_of_the_host(source, tmp_path):
  short = {"tokenizers.target.length": 48, "tokenizers.query.length": 48, "model.x_encoder.num_layers": 1}
  config = debug(**short, **{"data.sources": (dict(name="all", dataset="babyai", view=VIEWS[:2], weight=1.0),)})
  parts = parts_lib.make_parts(config, jax.devices()[:1])
  with jax.set_mesh(parts.mesh), nn.logical_axis_rules(config.mesh.rules):
    iterator = train.make_iterator(config, parts, None, {"babyai": source}, None, tmp_path, None)
    with jax.transfer_guard("disallow"):
      batch = next(iterator)
    batch_ids.Rows.take(batch)
    step, results = parts_lib.make_step(config, parts), []
    for rows in (batch, jax.device_get(batch)):
      state, _ = start.first_state(config, parts)
      with jax.transfer_guard("disallow"):
        _, metrics = step(state, sharding.put_batch(rows, parts.rows))
      results.append(jax.device_get(metrics))
  chex.assert_trees_all_equal(*results)
  assert np.isfinite(results[0]["loss"]) and results[0]["grad_norm"] > 0


@pytest.mark.parametrize(("changes", "words"), [
    ({"data.augment.flip": 0.5}, "changes no frames"),
    ({"data.image_size": 128}, "image_size=64"),
    ({"data.sources": (dict(name="a", dataset="babyai", view="where", weight=1.0),)}, "first view that all clips have"),
    ({"data.sources": (dict(name="a", dataset="babyai", view=("brief", "colur"), weight=1.0),)}, "no view 'colur'"),
])
def test_what_does_not_fit_is_told(source, changes, words):
  with pytest.raises(UserError, match=words):
    batches(debug(**changes), source)


def test_other_data_sets_are_refused(source):
  config = debug()
  parts = parts_lib.make_parts(config, jax.devices()[:1])
  with pytest.raises(UserError, match="babyai alone"):
    resident.Batches(config, parts, {"other": object()}, None, None)
