import dataclasses
import types

import numpy as np
import pytest

from tests import tiny_decoder, tiny_model
from vljepa_jax.data.augment import Augment
from vljepa_jax.data.captions import held_out_captions, is_held_out
from vljepa_jax.data.views import open_texts
from vljepa_jax.y_decoder import texts


@pytest.fixture(scope="module")
def source():
  return tiny_decoder.train_source()


def of(source, held_out=()):
  augment = Augment(**dataclasses.asdict(tiny_model.debug_config().data.augment))
  return open_texts(source, augment, held_out)


def captions(source, held_out=(), variants=3, seed=0):
  return texts.training_texts(of(source, held_out), "caption", variants, seed)


def test_captions_and_their_variants(source):
  alone, varied = captions(source, variants=0), captions(source)
  assert alone == tuple(dict.fromkeys(record.caption for record in source.records))
  assert varied[:len(alone)] == alone and len(varied) > 1.5 * len(alone) and len(set(varied)) == len(varied)
  assert captions(source) == varied != captions(source, seed=1)


def test_held_out_captions_are_left_out_in_any_order_of_words(source):
  held_out = [source.records[3].caption, source.records[7].caption]
  assert not any(is_held_out(text, held_out_captions(held_out)) for text in captions(source, held_out))
  with pytest.raises(ValueError, match="every caption of openclipart is in the evaluation split"):
    everything = [record.caption for record in source.records]
    texts.collect(tiny_model.debug_model(), {"openclipart": source}, everything, tiny_decoder.recipe("x"))


def test_answers(source):
  answers = texts.training_texts(of(source), "what", 0, 0)
  assert set(answers) == {source.classes[record.label] for record in source.records}


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2, np.pi])
def test_turned_vectors_have_just_that_angle(angle):
  rng = np.random.default_rng(0)
  embed = unit(rng.normal(size=(50, 40)))
  turned = np.stack([texts.turn(x, angle, rng.normal(size=40)) for x in embed])
  np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-6)
  np.testing.assert_allclose(np.sum(turned * embed, axis=1), np.cos(angle), atol=1e-6)


def test_a_vector_is_turned_towards_the_direction():
  embed, direction = np.eye(3)[0], np.array([5.0, 1.0, 0.0])
  np.testing.assert_allclose(texts.turn(embed, np.pi / 6, direction), [np.sqrt(3) / 2, 0.5, 0.0], atol=1e-6)


def test_the_error_is_that_of_the_predictor_on_training_records(source):
  model = tiny_model.debug_model()
  recipe = tiny_decoder.recipe("x", **{"texts.error_records": 10})
  config = types.SimpleNamespace(**vars(model.config))
  config.data = dataclasses.replace(model.config.data, sources=model.config.data.sources[:2])
  stand_in = types.SimpleNamespace(
      config=config, encode_prepared=model.encode_prepared, encode_text=model.encode_text, predict=model.predict)
  streams = texts.collect(stand_in, {"openclipart": source}, [source.records[0].caption], recipe)
  assert [(s.name, s.weight) for s in streams] == [("captions", 0.9), ("what", 0.04)]
  every = model.predict(model.encode_image([source.image(i) for i in range(1, len(source))]))
  target = model.encode_text([record.caption for record in source.records[1:]])
  known = np.sum(every * target, axis=1)
  cosines = streams[0].cosines
  assert len(cosines) == len(streams[1].cosines) == 10
  assert np.abs(cosines[:, None] - known).min(axis=1).max() < 1e-5
  assert np.abs(streams[1].cosines - cosines).max() > 1e-4


def unit(x):
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


AXES = np.eye(6, dtype=np.float32)
PRED = [AXES[:2], AXES[2:3]]
TARGET = [unit(AXES[:2] + AXES[1::-1]), unit(AXES[2:3] + 0.5 * AXES[3:4])]


def make_iterator(recipe):
  """Batches of two streams, of 12 and of 5 texts."""
  rng = np.random.default_rng(0)
  streams = [texts.Stream(f"s{i}", weight, tuple(map(str, range(count))), PRED[i], TARGET[i])
             for i, (weight, count) in enumerate([(0.75, 12), (0.25, 5)])]
  embeds = [unit(rng.normal(size=(len(s.texts), 6))) for s in streams]
  tokens = [np.full((len(s.texts), 3), 100 * i) + np.arange(len(s.texts))[:, None] for i, s in enumerate(streams)]
  return texts.make_iterator(streams, embeds, tokens, recipe), embeds


def pairs(batches, embeds):
  """Disturbed embeddings, what they were, and their streams."""
  rows, noisy = (np.concatenate([b[key] for b in batches]) for key in ("tokens", "embed"))
  stream, row = rows[:, 0] // 100, rows[:, 0] % 100
  return noisy, np.stack([embeds[s][r] for s, r in zip(stream, row)]), stream


def test_batches_mix_streams_and_disturb_each_by_its_own_error():
  iterator, embeds = make_iterator(tiny_decoder.recipe("x", **{"texts.noise": (1.0, 1.0)}))
  noisy, plain, stream = pairs([next(iterator) for _ in range(16)], embeds)
  iterator.close()
  assert noisy.dtype == np.float32 and noisy.shape == (256, 6)
  assert (stream == 0).mean() == pytest.approx(0.75, abs=0.01)
  cosines = np.sum(noisy * plain, axis=1)
  np.testing.assert_allclose(cosines[stream == 0], np.sqrt(0.5), atol=1e-5)
  np.testing.assert_allclose(cosines[stream == 1], 1 / np.sqrt(1.25), atol=1e-5)
  for number, (pred, target) in enumerate(zip(PRED, TARGET)):  # nothing moves but along the errors
    for x, t in zip(noisy[stream == number], plain[stream == number]):
      span = np.stack([*(pred - target), t], axis=1)
      np.testing.assert_allclose(span @ np.linalg.lstsq(span, x)[0], x, atol=1e-5)
    assert np.linalg.matrix_rank(noisy[stream == number] - plain[stream == number], tol=1e-3) >= 3


def test_a_share_of_the_angle_and_exact_resumption():
  iterator, embeds = make_iterator(tiny_decoder.recipe("x", **{"texts.noise": (0.0, 0.5)}))
  first, state = next(iterator), iterator.get_state()
  second = next(iterator)
  iterator.close()
  noisy, plain, _ = pairs([first, second], embeds)
  cosines = np.sum(noisy * plain, axis=1)
  assert np.cos(np.pi / 8) - 1e-5 <= cosines.min() < 0.95 and cosines.max() > 0.99
  again, _ = make_iterator(tiny_decoder.recipe("x", **{"texts.noise": (0.0, 0.5)}))
  again.set_state(state)
  resumed = next(again)
  again.close()
  for name in second:
    np.testing.assert_array_equal(resumed[name], second[name])
