import dataclasses
import io
import pickle

from configs import base
import jax
import numpy as np
from PIL import Image
import pytest

from tests import tiny_model
from vljepa_jax import api, selective, sharding, step, streaming
from vljepa_jax import config as config_lib
from vljepa_jax.model.vljepa import VLJepa
from vljepa_jax.streaming import StreamSession, Windows, nearest, spelled

SIZE = 32
TEXTS = ["a cat", "a dog", "a red house", "rain"]


def frames(count, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)


def scenes(lengths, seed=0):
  """Frames that stand still for so long and jump."""
  return np.repeat(frames(len(lengths), seed), lengths, axis=0)


def debug_model(frames):
  """The debug model on clips of so many frames; its encoder sees whole windows. Few batch sizes to compile."""
  config = tiny_model.debug_config()
  config = dataclasses.replace(
      config, data=dataclasses.replace(config.data, frames=frames), eval=dataclasses.replace(config.eval, batch_size=2))
  return api.Model(config, tiny_model.debug_params())


@pytest.fixture(scope="module")
def picture_model():
  return debug_model(1)


@pytest.fixture(scope="module")
def clip_model():
  return debug_model(4)


@pytest.fixture(scope="module")
def mobile_model():
  """Clips of four frames, each encoded alone."""
  recipe = base.get_config("debug")
  recipe.model.x_encoder = {"preset": "mobilenet_v2", "weights": "", "width_multiplier": 0.1}
  recipe.data.frames = 4
  recipe.eval.batch_size = 1
  config = config_lib.parse(recipe)
  lengths = config.tokenizers
  batch = step.abstract_batch(1, 4, SIZE, lengths.query.length, lengths.target.length)
  module = VLJepa(config_lib.model_config(config.model))
  return api.Model(config, jax.jit(lambda key: sharding.unbox(step.init_params(module, batch, key)))(jax.random.key(0)))


def follow(model, fps=1.0, pooling="mean"):
  return StreamSession(Windows(model, fps), selective.Online(0.01), nearest(model, TEXTS), pooling)


def count_encoded(model, monkeypatch):
  """A list to which every call of the encoder adds how many frames it gets."""
  counts, encode = [], model.encode_prepared
  monkeypatch.setattr(model, "encode_prepared", lambda x: counts.append(x.shape[0] * x.shape[1]) or encode(x))
  return counts


@pytest.mark.parametrize("name, stride, pushes", [
    ("clip_model", 1, (2, 0, 9, 8)), ("clip_model", 3, (1,) * 19), ("clip_model", 6, (19,)),
    ("mobile_model", 1, (2, 0, 9, 8)), ("mobile_model", 3, (1,) * 19), ("mobile_model", 6, (19,))])
def test_windows_are_the_model_on_every_clip(name, stride, pushes, request):
  model = request.getfixturevalue(name)
  video = frames(19)
  windows = Windows(model, 2.0, stride)
  samples = [s for part in np.split(video, np.cumsum(pushes)[:-1]) for s in windows.push(part)] + windows.close()
  firsts = range(0, 19 - 4 + 1, stride)
  clips = np.stack([video[i:i + 4] for i in firsts])
  assert [s.time for s in samples] == [(i + 2) / 2 for i in firsts]
  np.testing.assert_allclose(
      np.stack([s.embed for s in samples]), model.predict(model.encode_video(clips)), atol=1e-5)
  assert windows.seconds == 9.5


@pytest.mark.parametrize("name, stride, encoded, recomputed", [
    ("picture_model", 1, 20, 1.0), ("picture_model", 5, 4, 1.0), ("mobile_model", 1, 20, 1.0),
    ("mobile_model", 8, 12, 1.0), ("clip_model", 1, 17 * 4, 4.0), ("clip_model", 2, 9 * 4, 2.0),
    ("clip_model", 8, 3 * 4, 1.0)])
def test_frames_are_encoded_no_oftener_than_said(name, stride, encoded, recomputed, request, monkeypatch):
  model = request.getfixturevalue(name)
  counts = count_encoded(model, monkeypatch)
  windows = Windows(model, 1.0, stride)
  windows.push(frames(20))
  assert sum(counts) == encoded and windows.recomputed == recomputed


def test_pooling_in_time_makes_windows_of_their_own(mobile_model, monkeypatch):
  config = mobile_model.config
  pooled = dataclasses.replace(config, model=dataclasses.replace(config.model, pooling=(2, 1, 1)))
  model, shapes = api.Model(pooled, mobile_model.params), []
  monkeypatch.setattr(model, "encode_prepared", lambda x: shapes.append(x.shape[:2]) or np.zeros((len(x), 2, 1280)))
  monkeypatch.setattr(model, "predict", lambda visual, query: np.zeros((len(visual), 32), np.float32))
  windows = Windows(model, 1.0, 2)
  windows.push(frames(8))
  assert windows.recomputed == 2.0 and shapes == [(1, 4)] * 3


@pytest.mark.parametrize("name", ["clip_model", "mobile_model"])
def test_a_stream_shorter_than_a_window_repeats_its_last_frame(name, request):
  model, video = request.getfixturevalue(name), frames(3)
  windows = Windows(model, 1.0)
  assert windows.push(video) == []
  (sample,) = windows.close()
  clip = np.concatenate([video, video[-1:]])
  np.testing.assert_allclose(sample.embed, model.predict(model.encode_video(clip[None]))[0], atol=1e-5)
  assert sample.time == 1.5
  assert Windows(model, 1.0).close() == []


def test_the_query_is_asked(picture_model):
  (sample,) = Windows(picture_model, 1.0, query="what is this?").push(frames(1))
  visual = picture_model.encode_video(frames(1)[:, None])
  np.testing.assert_allclose(sample.embed, picture_model.predict(visual, "what is this?")[0], atol=1e-6)
  assert not np.allclose(sample.embed, picture_model.predict(visual)[0], atol=1e-4)


def test_the_picture_is_the_middle_frame(clip_model):
  video = scenes([2, 1, 1])
  (sample,) = Windows(clip_model, 1.0).push(video)
  pixels = np.asarray(Image.open(io.BytesIO(sample.picture)), np.float32)
  errors = [np.abs(pixels - frame).mean() for frame in video[[0, 2, 3]]]
  assert int(np.argmin(errors)) == 1


@pytest.mark.parametrize("pooling", ["mean", "point"])
def test_events_are_decoded_segments(picture_model, pooling):
  video, texts = scenes([10, 7, 12]), TEXTS
  bank = picture_model.encode_text(texts)
  session = follow(picture_model, 2.0, pooling)
  events = [e for part in np.split(video, [7, 14, 21]) for e in session.push(part)] + session.close()
  assert [(e.start, e.end) for e in events] == [(0.0, 5.0), (5.0, 8.5), (8.5, 14.5)]
  shown = picture_model.predict(picture_model.encode_image(video[[0, 10, 17]])) @ bank.T
  assert [e.text for e in events] == [texts[i] for i in shown.argmax(axis=1)]
  np.testing.assert_allclose([e.score for e in events], shown.max(axis=1), atol=1e-5)
  for event in events:
    assert event.start < event.time < event.end and abs(event.time - (event.start + event.end) / 2) <= 0.5
  assert session.seconds == 14.5


def test_how_a_video_is_pushed_makes_no_difference(picture_model):
  video = scenes([9, 14, 8, 20], seed=1)
  results = []
  for sizes in (np.ones(51, int), [51], [20, 31]):
    session = follow(picture_model, 4.0)
    events = [e for part in np.split(video, np.cumsum(sizes)[:-1]) for e in session.push(part)] + session.close()
    results.append([(e.time, e.start, e.end, e.text, round(e.score, 4)) for e in events])
  assert results[0] == results[1] == results[2] and len(results[0]) == 4


def test_an_event_comes_before_the_next_one_ends(picture_model):
  video, came = scenes([12, 12, 12]), []
  session = follow(picture_model)
  for i, frame in enumerate(video):
    came += [(i, e.end) for e in session.push(frame[None])]
  assert [end for _, end in came] == [12.0, 24.0]
  assert all(end <= i < end + selective.WINDOW for i, end in came)


def test_a_session_does_not_grow(picture_model):
  windows = Windows(picture_model, 1.0)
  policy = selective.Online(0.01)
  session = StreamSession(windows, policy, nearest(picture_model, TEXTS))
  limit = (selective.KEPT + selective.WINDOW + 4) * 4000  # bytes of a sample: an embedding of 32 and a small picture
  for _ in range(6):
    session.push(scenes([30, 20, 50]))
    assert len(pickle.dumps((windows._ring, policy, session._before))) < limit


def test_what_is_watched(picture_model):
  video, watched = scenes([3, 3]), []
  session = StreamSession(
      Windows(picture_model, 1.0), selective.Uniform(1 / 3), nearest(picture_model, TEXTS),
      watch=lambda *values: watched.append(values))
  session.push(video)
  embeds = picture_model.predict(picture_model.encode_image(video))
  assert [w[0] for w in watched] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
  assert watched[0][1:] == (None, None)
  np.testing.assert_allclose(
      [w[1] for w in watched[1:]], np.sum(embeds[1:] * embeds[:-1], axis=1), atol=1e-5)
  assert watched[2][2] == pytest.approx(1.0, abs=1e-5)


def test_words_of_a_decoder_are_scored_by_their_own_embedding(picture_model, monkeypatch):
  monkeypatch.setattr(
      picture_model, "decode", lambda embeds, beam: [f"text {i} of {beam}" if i else "" for i in range(len(embeds))],
      raising=False)
  embeds = picture_model.encode_text(TEXTS)
  decoded = spelled(picture_model, beam=3)(embeds)
  assert [text for text, _ in decoded] == ["", "text 1 of 3", "text 2 of 3", "text 3 of 3"]
  own = picture_model.encode_text([text for text, _ in decoded[1:]])
  np.testing.assert_allclose([s for _, s in decoded], [0, *np.sum(own * embeds[1:], axis=1)], atol=1e-5)


@pytest.mark.parametrize("wrong", [
    np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.float32), np.zeros((2, 4, 4, 1), np.uint8)])
def test_frames_of_another_kind(picture_model, wrong):
  session = StreamSession(Windows(picture_model, 1.0), selective.Online(), nearest(picture_model, TEXTS))
  with pytest.raises(ValueError, match=r"frames must be an \(n, H, W, 3\) uint8 array"):
    session.push(wrong)


@pytest.mark.parametrize("fps, stride", [(0.0, 1), (float("nan"), 1), (1.0, 0)])
def test_windows_that_make_no_sense(picture_model, fps, stride):
  with pytest.raises(ValueError, match="fps must be positive and the stride at least 1"):
    Windows(picture_model, fps, stride)
