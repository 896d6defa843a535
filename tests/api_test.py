import dataclasses
import functools

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
from PIL import Image
import pytest

from tests import tiny_model
from vljepa_jax import api
from vljepa_jax import config as config_lib
from vljepa_jax.config import model_config
from vljepa_jax.data.preprocess import Preprocess, fit_square
from vljepa_jax.model.vljepa import VLJepa

pytestmark = pytest.mark.usefixtures("quick_compiler")
TEXTS = ["a", "a cat", "dog", "the quick brown fox jumps over it", "car, vehicle", "cat"]
SIZE = 32


@pytest.fixture(scope="module")
def model():
  return tiny_model.debug_model()


@pytest.fixture(scope="module")
def pictures():
  return np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3), dtype=np.uint8)


def apply(method, *inputs):
  module = VLJepa(model_config(tiny_model.debug_config().model))
  run = jax.jit(functools.partial(module.apply, method=method))
  return np.asarray(run({"params": tiny_model.debug_params()}, *inputs))


def test_pictures_of_any_number_are_encoded_as_the_module_does(model, pictures):
  expected = apply(VLJepa.encode_video, pictures[:, None])
  for count in (1, 3, 4, 11):
    np.testing.assert_allclose(model.encode_image(pictures[:count]), expected[:count], atol=1e-5)


def test_texts_keep_their_order_whatever_their_length(model):
  embed = model.encode_text(TEXTS)
  tokens, mask = model._target(TEXTS)  # rows of full length
  np.testing.assert_allclose(embed, apply(VLJepa.encode_text, tokens, mask), atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(embed, axis=1), 1, atol=1e-5)


def test_the_side_of_pads_changes_no_embedding(model, pictures):
  config = tiny_model.debug_config()
  to_left = lambda side: dataclasses.replace(side, pad_side="left", pad_id=7)
  sides = config_lib.Tokenizers(to_left(config.tokenizers.query), to_left(config.tokenizers.target))
  left = api.Model(dataclasses.replace(config, tokenizers=sides), tiny_model.debug_params())
  np.testing.assert_allclose(left.encode_text(TEXTS), model.encode_text(TEXTS), atol=1e-6)
  visual, queries = model.encode_image(pictures[:6]), [f"{text}?" for text in TEXTS]
  np.testing.assert_allclose(left.predict(visual, queries), model.predict(visual, queries), atol=1e-6)


def test_a_prompt_stands_before_every_text(model):
  config = tiny_model.debug_config()
  target = dataclasses.replace(config.tokenizers.target, prompt="text: ")
  sides = dataclasses.replace(config.tokenizers, target=target)
  prompted = api.Model(dataclasses.replace(config, tokenizers=sides), tiny_model.debug_params())
  np.testing.assert_allclose(
      prompted.encode_text(TEXTS[:3]), model.encode_text([f"text: {text}" for text in TEXTS[:3]]), atol=1e-6)


def test_query_free_one_query_and_a_query_each(model, pictures):
  visual = model.encode_image(pictures[:6])
  queries = ["what is it?", "is there a cat?"] * 3
  each = model.predict(visual, queries)
  tokens, mask = model._query(queries)
  np.testing.assert_allclose(each, apply(VLJepa.predict, visual, tokens, mask), atol=1e-5)
  np.testing.assert_allclose(model.predict(visual, queries[0])[::2], each[::2], atol=1e-5)
  free = model.predict(visual)
  np.testing.assert_allclose(free, apply(VLJepa.predict, visual, tokens, np.zeros_like(mask)), atol=1e-5)
  assert np.abs(free - each).max() > 1e-3


def test_every_shape_is_traced_once(pictures):
  config = tiny_model.debug_config()
  api.forward_passes.cache_clear()
  for params in (tiny_model.debug_params(), jax.tree.map(np.asarray, tiny_model.debug_params())):
    model = api.Model(config, params)
    for count in range(1, 12):
      model.answer(pictures[:count], "what is it?", TEXTS[:4])
      model.encode_text((TEXTS * 2)[:count])
  traces = model.forward.traces
  assert set(traces.values()) == {1}
  batches = lambda name: {shapes[0][0] for function, shapes in traces if function == name}
  assert batches("encode_video") == batches("predict") == batches("encode_text") == {1, 2, 4}
  assert {shapes[0][1] for name, shapes in traces if name == "encode_text"} <= {8, 16, 32, 48}


def test_a_live_model_on_a_mesh_gives_the_same(model, pictures):
  mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
  config = tiny_model.debug_config()
  config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, batch_size=8))
  with jax.set_mesh(mesh):
    params = jax.device_put(tiny_model.debug_params(), NamedSharding(mesh, P()))
    live = api.Model(config, params)
    for count in (3, 8, 11):
      np.testing.assert_allclose(
          live.predict(live.encode_image(pictures[:count]), "what?"),
          model.predict(model.encode_image(pictures[:count]), "what?"), atol=1e-5)


def test_pictures_of_any_size_and_from_files(model, pictures, tmp_path):
  wide = np.random.default_rng(1).integers(0, 256, (20, 70, 3), dtype=np.uint8)
  Image.fromarray(wide).save(tmp_path / "wide.png")
  visual = model.encode_image([wide, tmp_path / "wide.png", str(tmp_path / "wide.png"), fit_square(wide, SIZE)])
  np.testing.assert_array_equal(visual, np.repeat(visual[:1], 4, axis=0))


def test_pictures_and_clips_are_prepared_once_as_the_config_says(pictures):
  config = tiny_model.debug_config()
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, preprocess="vjepa2"))
  model = api.Model(config, tiny_model.debug_params())
  fit = Preprocess("vjepa2", SIZE)
  expected = apply(VLJepa.encode_video, np.stack([fit(picture) for picture in pictures[:3]])[:, None])
  np.testing.assert_allclose(model.encode_image(pictures[:3]), expected, atol=1e-5)
  np.testing.assert_allclose(model.encode_video(pictures[:3, None]), expected, atol=1e-5)
  prepared = api.prepare_pictures(pictures[:3], api.make_preprocess(config))
  np.testing.assert_allclose(model.encode_prepared(prepared[:, None]), expected, atol=1e-5)
  assert np.abs(model.encode_prepared(pictures[:3, None]) - expected).max() > 1e-2


def test_a_picture_is_a_clip_of_one_frame(model, pictures):
  np.testing.assert_array_equal(model.encode_video(pictures[:3, None]), model.encode_image(pictures[:3]))
  clips = np.repeat(pictures[:2, None], 4, axis=1)
  assert model.encode_video(clips).shape[1] == 2 * model.encode_image(pictures[:2]).shape[1]


def test_classify_averages_templates(model, pictures):
  ranked = model.classify(pictures[:2], ["cat", "dog", "car"], templates=("{}", "one {}"))
  pred = model.predict(model.encode_image(pictures[:2]))
  mean = model.encode_text(["cat", "dog", "car"]) + model.encode_text(["one cat", "one dog", "one car"])
  expected = pred @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T
  for row, scores in zip(ranked, expected):
    assert [score for _, score in row] == sorted((score for _, score in row), reverse=True)
    np.testing.assert_allclose([dict(row)[name] for name in ("cat", "dog", "car")], scores, atol=1e-5)


def test_answer_ranks_the_candidates_by_the_query(model, pictures):
  pred = model.predict(model.encode_image(pictures[:1]), "what is it?")
  answers = model.answer(pictures[:1], "what is it?", TEXTS)
  scores = dict(answers[0])
  np.testing.assert_allclose([scores[text] for text in TEXTS], (pred @ model.encode_text(TEXTS).T)[0], atol=1e-5)
  assert answers == model.rank(pred, TEXTS)


@pytest.mark.parametrize("call, message", [
    (lambda m: m.encode_image([]), "there are no pictures"),
    (lambda m: m.encode_image("cat.jpg"), "not the single path 'cat.jpg'"),
    (lambda m: m.encode_image([np.zeros((4, 4, 4), np.uint8)]), r"not \(4, 4, 4\) uint8"),
    (lambda m: m.encode_image([np.zeros((4, 4, 3))]), "float64"),
    (lambda m: m.encode_video(np.zeros((0, 1, 4, 4, 3), np.uint8)), "non-empty"),
    (lambda m: m.encode_video(np.zeros((4, 4, 3), np.uint8)), "T, H, W, 3"),
    (lambda m: m.encode_prepared(np.zeros((2, 1, 4, 4, 3), np.uint8)), r"must be a non-empty \(n, T, 32, 32, 3\)"),
    (lambda m: m.encode_text([]), "there are no texts"),
    (lambda m: m.encode_text("cat"), "not the single text 'cat'"),
    (lambda m: m.predict(np.zeros((0, 4, 48))), "non-empty"),
    (lambda m: m.predict(np.zeros((2, 4, 48)), ["one"]), "1 queries do not go with 2 pictures"),
    (lambda m: m.rank(np.zeros((0, 32)), ["a"]), "non-empty"),
    (lambda m: m.classify([np.zeros((4, 4, 3), np.uint8)], []), "there are no labels"),
    (lambda m: m.classify([np.zeros((4, 4, 3), np.uint8)], ["a"], ["picture"]), "has no {}"),
    (lambda m: m.answer([np.zeros((4, 4, 3), np.uint8)], "what?", []), "there are no candidates"),
])
def test_wrong_inputs_are_named(model, call, message):
  with pytest.raises(ValueError, match=message):
    call(model)
