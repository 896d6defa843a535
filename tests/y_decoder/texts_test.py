import types

import numpy as np
import pytest

from tests import tiny_decoder, tiny_model
from vljepa_jax.data.captions import held_out_captions, is_held_out
from vljepa_jax.y_decoder import texts


@pytest.fixture(scope="module")
def source():
  return tiny_decoder.train_source()


def captions(source, held_out=frozenset(), variants=3, seed=0):
  return texts.training_texts(tiny_model.debug_config(), source, "caption", held_out, variants, seed)


def test_captions_and_their_variants(source):
  alone, varied = captions(source, variants=0), captions(source)
  assert alone == tuple(dict.fromkeys(record.caption for record in source.records))
  assert varied[:len(alone)] == alone and len(varied) > 1.5 * len(alone) and len(set(varied)) == len(varied)
  assert captions(source) == varied != captions(source, seed=1)


def test_held_out_captions_are_left_out_in_any_order_of_words(source):
  held_out = held_out_captions([source.records[3].caption, source.records[7].caption])
  assert not any(is_held_out(text, held_out) for text in captions(source, held_out))
  with pytest.raises(ValueError, match="every caption of openclipart is in the evaluation split"):
    captions(source, held_out_captions([record.caption for record in source.records]))


def test_answers(source):
  answers = texts.training_texts(tiny_model.debug_config(), source, "what", frozenset(), 0, 0)
  assert set(answers) == {source.classes[record.label] for record in source.records}


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2, np.pi])
def test_turned_vectors_have_just_that_angle(angle):
  rng = np.random.default_rng(0)
  embed = rng.normal(size=(50, 40))
  embed /= np.linalg.norm(embed, axis=1, keepdims=True)
  turned = np.stack([texts.turn(x, angle, rng) for x in embed])
  np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-6)
  np.testing.assert_allclose(np.sum(turned * embed, axis=1), np.cos(angle), atol=1e-6)


def test_directions_are_even():
  rng = np.random.default_rng(0)
  embed = np.eye(8)[0]
  turned = np.stack([texts.turn(embed, np.pi / 2, rng) for _ in range(4000)])[:, 1:]
  np.testing.assert_allclose(turned.mean(axis=0), 0, atol=0.03)
  np.testing.assert_allclose(turned.T @ turned / 4000, np.eye(7) / 7, atol=0.02)


def test_the_error_is_that_of_the_predictor_on_training_records(source):
  model = tiny_model.debug_model()
  recipe = tiny_decoder.recipe("x", **{"texts.error_records": 10})
  config = types.SimpleNamespace(**vars(model.config))
  config.data = types.SimpleNamespace(sources=model.config.data.sources[:2], augment=model.config.data.augment)
  stand_in = types.SimpleNamespace(
      config=config, encode_image=model.encode_image, encode_text=model.encode_text, predict=model.predict)
  streams = texts.collect(stand_in, {"openclipart": source}, [source.records[0].caption], recipe)
  assert [(s.name, s.weight) for s in streams] == [("captions", 0.9), ("what", 0.04)]
  every = model.predict(model.encode_image([source.image(i) for i in range(1, len(source))]))
  target = model.encode_text([record.caption for record in source.records[1:]])
  known = np.sum(every * target, axis=1)
  cosines = streams[0].cosines
  assert len(cosines) == len(streams[1].cosines) == 10
  assert np.abs(cosines[:, None] - known).min(axis=1).max() < 1e-5
  assert np.abs(streams[1].cosines - cosines).max() > 1e-4


def make_iterator(recipe, share=0, shares=1):
  rng = np.random.default_rng(0)
  streams = [texts.Stream(f"s{i}", w, tuple(map(str, range(n))), np.array(c)) for i, (w, n, c) in enumerate(
      [(0.75, 12, [0.5, 0.6]), (0.25, 5, [0.9])])]
  embeds = [rng.normal(size=(len(s.texts), 6)) for s in streams]
  embeds = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in embeds]
  tokens = [np.full((len(s.texts), 3), 100 * i) + np.arange(len(s.texts))[:, None] for i, s in enumerate(streams)]
  return texts.make_iterator(streams, embeds, tokens, recipe, share, shares), embeds


def test_batches_mix_streams_and_disturb_each_by_its_own_error():
  iterator, embeds = make_iterator(tiny_decoder.recipe("x", **{"texts.noise": (1.0, 1.0)}))
  batches = [next(iterator) for _ in range(16)]
  iterator.close()
  rows, noisy = (np.concatenate([b[key] for b in batches]) for key in ("tokens", "embed"))
  assert noisy.dtype == np.float32 and noisy.shape == (256, 6)
  stream, row = rows[:, 0] // 100, rows[:, 0] % 100
  assert (stream == 0).mean() == pytest.approx(0.75, abs=0.01)
  cosines = np.array([x @ embeds[s][r] for x, s, r in zip(noisy, stream, row)])
  np.testing.assert_allclose(cosines[stream == 1], 0.9, atol=1e-5)
  first = np.minimum(np.abs(cosines - 0.5), np.abs(cosines - 0.6))[stream == 0]
  assert first.max() < 1e-5 and 0.4 < (cosines[stream == 0] > 0.55).mean() < 0.6


def test_a_share_of_the_angle_and_exact_resumption():
  recipe = tiny_decoder.recipe("x", **{"texts.noise": (0.0, 0.5)})
  iterator, embeds = make_iterator(recipe)
  first, state = next(iterator), iterator.get_state()
  second = next(iterator)
  iterator.close()
  cosines = [x @ embeds[t[0] // 100][t[0] % 100] for x, t in zip(first["embed"], first["tokens"])]
  assert min(cosines) >= np.cos(np.arccos(0.5) / 2) - 1e-5 and max(cosines) < 1
  again, _ = make_iterator(recipe)
  again.set_state(state)
  resumed = next(again)
  again.close()
  for name in second:
    np.testing.assert_array_equal(resumed[name], second[name])
