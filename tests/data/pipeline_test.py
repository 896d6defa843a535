"""Batches are right, and depend on seed and step alone: not on hosts, workers or restarts."""

import dataclasses
import io

import grain
import numpy as np
from PIL import Image
import pytest

from vljepa_jax.data.augment import Augment
from vljepa_jax.data.pipeline import Stream, Turns, make_train_iterator
from vljepa_jax.data.preprocess import KINDS, Preprocess
from vljepa_jax.data.questions import TEMPLATES
from vljepa_jax.data.sources import Source
from vljepa_jax.data.text import BOS, EOS, TextInput, Tokenizer, target_id
from vljepa_jax.errors import UserError

AUGMENT = Augment(min_area=0.6, flip=0.5, jitter=0.2, drop_keywords=0.5, shuffle_keywords=0.5, drop_title=0.2)
STILL = Augment(min_area=1.0, flip=0.0, jitter=0.0, drop_keywords=0.0, shuffle_keywords=0.0, drop_title=0.0)
RECORDS, VIEWS = 24, 3
FIT = Preprocess("pad_square", 16)
QUERY = TextInput(Tokenizer("bytes"), 64)
TARGET = TextInput(Tokenizer("bytes"), 40)


def raw_record(i: int) -> dict:
  buffer = io.BytesIO()
  Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 12, 3), np.uint8)).save(buffer, "PNG")
  animal = ("cat", "dog", "wren")[i % 3]
  return {"id": f"r{i}", "title": f"{animal} {i}", "caption": f"{animal} {i}, pet, {animal}s", "label": i % 2,
          "keywords": f"pet\n{animal}\n{animal}s food", "image": buffer.getvalue()}


@pytest.fixture(scope="module")
def source():
  return Source("pets", "train", [raw_record(i) for i in range(RECORDS)], ("indoor", "outdoor"))


@pytest.fixture(scope="module")
def features():
  """Features that tell their record and view."""
  record, view = np.indices((RECORDS, VIEWS))
  return np.broadcast_to((record * 10 + view)[..., None, None], (RECORDS, VIEWS, 2, 4)).astype(np.float16)


def mixture(source, features=None):
  shares = {"caption": 0.75, "what": 0.125, "is_there": 0.125}
  return [Stream(view, source, view, weight, features) for view, weight in shares.items()]


def take(streams, count, state=None, **changes):
  """The first batches after a state, and the state after them."""
  settings = dict(global_batch=8, seed=3, query=QUERY, target=TARGET, augment=AUGMENT, preprocess=FIT) | changes
  iterator = make_train_iterator(streams, **settings)
  if state is not None:
    iterator.set_state(state)
  batches = [next(iterator) for _ in range(count)]
  state = iterator.get_state()
  iterator.close()
  return batches, state


def assert_same(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key], err_msg=key)


def read(ids: np.ndarray, mask: np.ndarray) -> str:
  row = ids[mask]
  assert row[0] == BOS and row[-1] == EOS and not ids[~mask].any()
  return bytes(int(i) - 3 for i in row[1:-1]).decode()


def test_batch_of_pictures(source):
  (batch,), state = take([Stream("what", source, "what", 1.0)], 1, frames=2)
  shapes = {key: (value.shape, value.dtype) for key, value in batch.items()}
  assert shapes == {
      "video": ((8, 2, 16, 16, 3), np.uint8),
      "query": ((8, 64), np.int32), "query_mask": ((8, 64), np.bool_),
      "target": ((8, 40), np.int32), "target_mask": ((8, 40), np.bool_),
      "target_id": ((8,), np.int32), "record_id": ((8,), np.int32), "stream": ((8,), np.int32),
  }
  np.testing.assert_array_equal(batch["video"][:, 0], batch["video"][:, 1])
  assert state == {"global_next_index": 8}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_and_texts_belong_to_their_record(source, kind):
  fit = Preprocess(kind, 16)
  batches, _ = take([Stream("captions", source, "caption", 1.0)], 3, augment=STILL, preprocess=fit)
  for batch in batches:
    assert batch["query"].shape == batch["query_mask"].shape == (8, 0)
    for row, record in enumerate(batch["record_id"]):
      np.testing.assert_array_equal(batch["video"][row, 0], fit(source.image(record)))
      text = read(batch["target"][row], batch["target_mask"][row])
      assert text == source.records[record].caption
      assert batch["target_id"][row] == target_id(text)


def test_an_epoch_shows_every_record_once(source):
  batches, _ = take([Stream("captions", source, "caption", 1.0)], 6)
  ids = np.concatenate([batch["record_id"] for batch in batches])
  assert sorted(ids[:RECORDS]) == sorted(ids[RECORDS:]) == list(range(RECORDS))
  assert list(ids[:RECORDS]) != list(ids[RECORDS:])


def test_features_are_those_of_the_record(source, features):
  batches, _ = take(mixture(source, features), 12)
  views = set()
  for batch in batches:
    assert "video" not in batch and batch["visual"].dtype == np.float16
    record, view = np.divmod(batch["visual"][:, 0, 0].astype(int), 10)
    np.testing.assert_array_equal(record, batch["record_id"])
    np.testing.assert_array_equal(batch["visual"], features[record, view])
    views |= set(view)
  assert views == set(range(VIEWS))


def test_some_tokens_are_kept_in_their_order(source):
  tokens = np.broadcast_to(np.arange(6)[:, None], (RECORDS, VIEWS, 6, 4)).astype(np.float16)
  batches, _ = take([Stream("captions", source, "caption", 1.0, tokens, tokens=3)], 24)
  kept = np.concatenate([batch["visual"][..., 0] for batch in batches])
  assert kept.shape == (192, 3) and (np.diff(kept) > 0).all()
  assert len({tuple(row) for row in kept}) == 20  # every choice of 3 out of 6 in its turn


def test_batches_take_turns_by_weight_and_questions_are_answered(source, features):
  batches, _ = take(mixture(source, features), 24)
  streams = [set(batch["stream"]) for batch in batches]
  assert sorted(streams, key=min) == [{0}] * 18 + [{1}] * 3 + [{2}] * 3
  assert streams[:8] == streams[8:16] and {1} in streams[:8] and {2} in streams[:8]
  for batch in batches:
    if batch["stream"][0] == 0:
      assert batch["query"].shape == batch["query_mask"].shape == (8, 0)
      continue
    for row, record in enumerate(batch["record_id"]):
      answer = read(batch["target"][row], batch["target_mask"][row])
      query = read(batch["query"][row], batch["query_mask"][row])
      assert query in TEMPLATES["what"] or answer.partition(",")[0] in ("yes", "no")
      if query in TEMPLATES["what"]:
        assert answer == source.classes[source.records[record].label]


def test_turns_leave_no_example_of_a_stream_out():
  turns = Turns([0.7, 0.2, 0.1], 4)
  places = [turns[i] for i in range(4 * 2500)]
  for stream, share in enumerate([0.7, 0.2, 0.1]):
    assert [index for s, index in places if s == stream] == list(range(round(4 * 2500 * share)))
  batches = np.array([stream for stream, _ in places]).reshape(-1, 4)
  assert (batches == batches[:, :1]).all()


def test_the_seed_decides(source, features):
  streams = mixture(source, features)
  batches, _ = take(streams, 4)
  assert_same(batches, take(streams, 4)[0])
  other, _ = take(streams, 4, seed=4)
  assert any((a["record_id"] != b["record_id"]).any() for a, b in zip(batches, other))


def test_streams_of_one_source_are_shuffled_apart(source, features):
  first = {}
  for batch in take(mixture(source, features), 12)[0]:
    first.setdefault(int(batch["stream"][0]), list(batch["record_id"]))
  assert len(first) == 3 and first[0] != first[1] and first[0] != first[2] and first[1] != first[2]


@pytest.mark.parametrize("cached", [False, True])
def test_restored_state_goes_on_exactly(source, features, cached):
  streams = mixture(source, features if cached else None)
  whole, _ = take(streams, 7)
  head, state = take(streams, 3)
  assert_same(head, whole[:3])
  assert_same(take(streams, 4, state)[0], whole[3:])


@pytest.mark.parametrize("cached", [False, True])
def test_hosts_share_the_batch(source, features, cached):
  streams = mixture(source, features if cached else None)
  whole, state = take(streams, 4)
  parts = [take(streams, 4, shard_index=i, shard_count=2) for i in range(2)]
  assert all(part_state == state for _, part_state in parts)
  for step, batch in enumerate(whole):
    for key in batch:
      rows = np.concatenate([parts[0][0][step][key], parts[1][0][step][key]])  # in the order of one host
      np.testing.assert_array_equal(rows, batch[key], err_msg=key)


def test_workers_give_the_same_batches(source):
  streams = mixture(source)
  whole, state = take(streams, 5)
  with_workers, worker_state = take(streams, 5, workers=2)
  assert_same(with_workers, whole)
  assert worker_state == state


def test_held_out_captions_are_never_shown(source, features):
  held_out = [source.records[5].caption.upper(), "cat 0", "dog 1"]
  batches, _ = take([Stream("captions", source, "caption", 1.0, features)], 40, held_out=held_out)
  ids = np.concatenate([batch["record_id"] for batch in batches])
  texts = {read(t, m) for batch in batches for t, m in zip(batch["target"], batch["target_mask"])}
  assert set(ids) == set(range(RECORDS)) - {5}
  assert not {"cat 0", "dog 1"} & texts and "cat 3" in texts


def test_truncation_is_warned_of_at_the_start(source, features, caplog):
  target = TextInput(Tokenizer("bytes"), 17)  # two-digit captions such as "wren 11, pet, wrens" do not fit
  take(mixture(source, features), 3, target=target, augment=STILL)
  long = sum(len(record.caption) > 15 for record in source.records)
  assert [r.getMessage() for r in caplog.records] == [
      f"{long} of {RECORDS} texts are longer than 17 tokens and lose their end"]


def damaged_source(*broken, count=RECORDS):
  raw = [raw_record(i) for i in range(count)]
  for i in broken:
    raw[i]["image"] = raw[i]["image"][:60]
  return Source("pets", "train", raw, ("indoor", "outdoor"))


def test_the_next_record_takes_the_place_of_a_broken_one(source, caplog):
  streams = lambda source: [Stream("captions", source, "caption", 1.0)]
  whole, _ = take(streams(source), 9, augment=STILL)
  batches, _ = take(streams(damaged_source(5, 6)), 9, augment=STILL, max_failures=1.0)
  for batch, right in zip(batches, whole):
    assert "failures" not in batch
    expected = np.where(np.isin(right["record_id"], (5, 6)), 7, right["record_id"])
    np.testing.assert_array_equal(batch["record_id"], expected)
    for row, record in enumerate(batch["record_id"]):
      np.testing.assert_array_equal(batch["video"][row, 0], FIT(source.image(record)))
      assert read(batch["target"][row], batch["target_mask"][row]) == source.records[record].caption
  told = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
  assert sorted(line.partition(" is damaged")[0] for line in told) == [
      f"left out in training: picture 'r{i}' of pets" for i in (5, 6)]


def test_replacements_do_not_depend_on_hosts_workers_or_restarts():
  streams = [Stream("captions", damaged_source(5, 23), "caption", 1.0)]
  whole, _ = take(streams, 6, max_failures=1.0)
  assert_same(take(streams, 6, workers=2, max_failures=1.0)[0], whole)
  assert_same(take(streams, 3, {"global_next_index": 24}, max_failures=1.0)[0], whole[3:])
  parts = [take(streams, 6, shard_index=i, shard_count=2, max_failures=1.0)[0] for i in range(2)]
  for step, batch in enumerate(whole):
    for key in batch:
      np.testing.assert_array_equal(np.concatenate([part[step][key] for part in parts]), batch[key], err_msg=key)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_files_stop_the_run(workers):
  streams = [Stream("captions", damaged_source(2, 9), "caption", 1.0)]
  with pytest.raises(UserError, match=r"of 104 training examples could not be read, more than "  # 96 are too few to tell
                                      r"config.data.max_failures=0.05 allows: picture 'r(2|9)' of pets is damaged"):
    take(streams, 13, workers=workers)


def test_a_share_of_broken_files_is_put_up_with():
  streams = [Stream("captions", damaged_source(2, 9), "caption", 1.0)]
  assert len(take(streams, 12)[0]) == 12
  assert len(take(streams, 15, max_failures=0.15)[0]) == 15


def test_many_broken_files_in_a_row():
  streams = [Stream("captions", damaged_source(*range(9), count=10), "caption", 1.0)]
  with pytest.raises(UserError, match="8 records of pets in a row cannot be read: picture 'r"):
    take(streams, 2)


@pytest.mark.parametrize("word, mirrored", [("left", False), ("Clockwise", False), ("bright", True)])
def test_what_names_a_direction_is_not_mirrored(source, word, mirrored):
  raw = [raw_record(i) | {"caption": f"cat {i}, {word}", "keywords": ""} for i in range(RECORDS)]
  directed = Source("pets", "train", raw, ("indoor", "outdoor"))
  batches, _ = take([Stream("captions", directed, "caption", 1.0)], 3, augment=dataclasses.replace(STILL, flip=1.0))
  for batch in batches:
    for row, record in enumerate(batch["record_id"]):
      picture = FIT(source.image(record))
      np.testing.assert_array_equal(batch["video"][row, 0], picture[:, ::-1] if mirrored else picture)


def test_of_cached_views_a_direction_takes_the_one_that_is_not_mirrored(source, features):
  raw = [raw_record(i) | {"caption": "left" if i % 2 else "up", "keywords": ""} for i in range(RECORDS)]
  mixed = Source("pets", "train", raw, ("indoor", "outdoor"))
  stream = [Stream("captions", mixed, "caption", 1.0, features)]
  views = {0: set(), 1: set()}
  for batch in take(stream, 24, augment=dataclasses.replace(STILL, flip=0.5))[0]:
    for record, token in zip(batch["record_id"], batch["visual"][:, 0, 0].astype(int)):
      views[record % 2].add(token % 10)
  assert views == {0: {0, 1, 2}, 1: {0}}
  assert {int(v) % 10 for batch in take(stream, 24, augment=STILL)[0] for v in batch["visual"][:, 0, 0]} == {0, 1, 2}


def test_bad_arguments(source, features):
  stream = Stream("captions", source, "caption", 1.0)
  changed = lambda **changes: [dataclasses.replace(stream, **changes)]
  for streams, settings, message in [
      ([], {}, "no stream to train on"),
      (changed(view="captions"), {}, "'captions' has the view 'captions'; pets has caption, what, is_there, which_word"),
      ([stream, *changed(name="rare", weight=1e-5)], {}, "1e-05 of stream 'rare' is too small for one in 1000 batches"),
      (changed(weight=0.0), {}, "'captions' has the weight 0.0"),
      (changed(features=features[:5]), {}, "features of 5 pictures, but 24 records"),
      (changed(tokens=1), {}, "'captions' keeps 1 tokens of a picture, but has no features"),
      (changed(features=features, tokens=3), {}, "'captions' keeps 3 tokens of a picture, which has 2"),
      ([stream, *changed(features=features)], {}, "either all streams have cached features or none"),
      ([stream], dict(shard_count=3), "a global batch of 8 cannot be shared by 3 hosts"),
      ([stream], dict(held_out=source.captions()), "'captions': no record of pets has the view 'caption' and may be trained on"),
  ]:
    with pytest.raises(ValueError, match=message):
      take(streams, 1, **settings)


def test_it_is_an_elastic_iterator(source):
  iterator = make_train_iterator(
      [Stream("captions", source, "caption", 1.0)],
      global_batch=8, seed=3, query=QUERY, target=TARGET, augment=AUGMENT, preprocess=FIT)
  assert isinstance(iterator, grain.experimental.ElasticIterator)
  iterator.close()


def test_several_views_share_a_picture(source, features):
  views = ("caption", "what", "is_there")
  for kept, changes in ((features, {}), (None, {"augment": STILL})):
    (batch,), _ = take([Stream("all", source, views, 1.0, kept)], 1, **changes)
    assert batch["query"].shape == batch["query_mask"].shape == (8, 3, 64)
    assert batch["target"].shape == (8, 3, 40) and batch["target_id"].shape == (8, 3)
    assert not batch["query_mask"][:, 0].any() and batch["query_mask"][:, 1:].any(axis=2).all()
    for row, record in enumerate(batch["record_id"]):
      texts = [read(batch["target"][row, k], batch["target_mask"][row, k]) for k in range(3)]
      assert texts[1] == source.classes[source.records[record].label] and texts[2][:3] in ("yes", "no,")
      assert [target_id(text) for text in texts] == list(batch["target_id"][row])


def test_only_records_that_have_all_views_are_used(source):
  raw = [raw_record(i) for i in range(RECORDS)]
  raw[5] |= {"title": "thing", "keywords": "", "caption": "thing"}  # has no word to ask for
  odd = Source("pets", "train", raw, ("indoor", "outdoor"))
  batches, _ = take([Stream("all", odd, ("caption", "is_there"), 1.0)], 6)
  assert 5 not in {int(i) for batch in batches for i in batch["record_id"]}
  captions, _ = take([Stream("captions", odd, ("caption", "what"), 1.0)], 6)
  assert 5 in {int(i) for batch in captions for i in batch["record_id"]}
  with pytest.raises(ValueError, match="'all' has the view 'movie'; pets has caption, what, is_there, which_word"):
    take([Stream("all", source, ("caption", "movie"), 1.0)], 1)
