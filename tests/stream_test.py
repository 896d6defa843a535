import dataclasses
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from tests import tiny_model
from tests.tiny_video import write_video
from vljepa_jax import selective, stream, timeline
from vljepa_jax.data import openclipart
from vljepa_jax.data.sources import Source
from vljepa_jax.data.video import VideoError
from vljepa_jax.data.video_reader import read_video
from vljepa_jax.errors import UserError
from vljepa_jax.streaming import Event

RED, GREEN, BLUE = (220, 30, 30), (30, 220, 30), (30, 30, 220)
TEXTS = ["red", "green", "blue", "a house"]
SCENES = [(RED, 30), (GREEN, 25), (BLUE, 45)]  # at 10 frames a second
THRESHOLD = 0.05


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny_model.save_workdir(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
  return write_video(tmp_path_factory.mktemp("video") / "film.mp4", [c for c, n in SCENES for _ in range(n)])


@pytest.fixture
def options(workdir, video, tmp_path):
  (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
  return stream.Options(
      video=video, workdir=workdir, policy="online", rate=None, threshold=THRESHOLD, shortest=selective.SHORTEST,
      pooling="mean", fps=4.0, stride=1, query="", texts=str(tmp_path / "texts.txt"), decoder=None, out=tmp_path / "out")


def run(options, **changes):
  return stream.run(dataclasses.replace(options, **changes))


def read_events(folder):
  return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("policy, rate, count", [("online", None, 3), ("ward", 0.3, 3), ("uniform", 0.5, 5)])
def test_events_are_printed_and_written(options, capsys, policy, rate, count):
  assert run(options, policy=policy, rate=rate) == count
  events = read_events(options.out)
  assert len(events) == count and events[0]["start"] == 0 and events[-1]["end"] == 10
  for a, b in zip(events, events[1:]):
    assert a["end"] == b["start"]
  if policy != "uniform":
    assert [e["end"] for e in events] == pytest.approx([3.0, 5.5, 10.0], abs=0.25)
  assert {e["text"] for e in events} <= set(TEXTS) and all(-1 <= e["score"] <= 1 for e in events)
  out = capsys.readouterr().out.splitlines()
  assert out[0].startswith(f"{policy}; windows of 1 frame(s), 4 frames a second, each encoded once; the nearest of 4")
  assert len(out) == count + 2 and all(e["text"] in line for e, line in zip(events, out[1:]))
  assert f"{count} events in 0:00:10; see {options.out}" == out[-1]
  blocks = (options.out / "film.srt").read_text().strip().split("\n\n")
  for i, (block, event) in enumerate(zip(blocks, events, strict=True)):
    number, times, text = block.split("\n")
    assert number == str(i + 1) and text == event["text"]
    assert times == f"{stream.srt_time(event['start'])} --> {stream.srt_time(event['end'])}"
  with Image.open(options.out / "timeline.png") as image:
    pixels = np.asarray(image.convert("RGB")).astype(int)
  for colour in (RED, GREEN, BLUE):  # key frames
    assert (np.abs(pixels - colour).max(axis=-1) < 20).sum() > 500


def test_the_means_of_the_scenes_are_decoded(options):
  run(options)
  model = tiny_model.debug_model()
  embeds = model.predict(model.encode_image(list(read_video(options.video, 4.0))))
  means = [part.mean(axis=0) / np.linalg.norm(part.mean(axis=0)) for part in np.split(embeds, [12, 22])]
  scores = np.stack(means) @ model.encode_text(TEXTS).T
  events = read_events(options.out)
  assert [e["text"] for e in events] == [TEXTS[i] for i in scores.argmax(axis=1)]
  np.testing.assert_allclose([e["score"] for e in events], scores.max(axis=1), atol=1e-5)


def test_training_captions_are_the_bank_by_default(options, capsys, monkeypatch):
  few = Source("openclipart", "train", [openclipart.data_source("train")[i] for i in range(6)], openclipart.CLASSES)
  monkeypatch.setattr(stream, "open_source", lambda dataset, split: {("openclipart", "train"): few}[dataset, split])
  run(options, texts=None, out=None)
  assert "the nearest of 6 training captions of openclipart" in capsys.readouterr().out
  events = read_events(options.workdir / "streams" / "film")
  assert len(events) == 3 and {e["text"] for e in events} <= set(few.captions())


@pytest.mark.parametrize("seconds, text", [
    (0.0, "00:00:00,000"), (3723.4567, "01:02:03,457"), (59.9996, "00:01:00,000"), (360000.0, "100:00:00,000")])
def test_times_of_subtitles(seconds, text):
  assert stream.srt_time(seconds) == text


def test_a_subtitle_is_one_line():
  event = Event(1.0, 0.5, 2.0, "two\n\nlines", 0.5, b"")
  assert stream.subtitle(7, event) == "7\n00:00:00,500 --> 00:00:02,000\ntwo lines\n\n"
  assert stream.subtitle(1, dataclasses.replace(event, text="")).endswith("\n(no words)\n\n")


def scene_frames(limit=None):
  frames = (np.broadcast_to(np.uint8(colour), (48, 64, 3)) for colour in itertools.cycle((RED, GREEN, BLUE))
            for _ in range(12))
  return itertools.islice(frames, limit)


def test_ctrl_c_ends_a_camera_in_order(options, monkeypatch):
  """The signal comes while the 30th frame is waited for; a camera's frames come one by one."""
  def camera(source, fps):
    assert (source, fps) == ("0", 4.0)
    for i, frame in enumerate(scene_frames()):
      assert i < 31
      if i == 30:
        assert len(read_events(options.out)) == 2  # written as they come
        os.kill(os.getpid(), signal.SIGINT)
      yield frame

  monkeypatch.setattr(stream, "read_video", camera)
  before = signal.getsignal(signal.SIGINT)
  assert run(options, video="0") == 3
  assert signal.getsignal(signal.SIGINT) is before
  assert [e["end"] for e in read_events(options.out)] == [3.0, 6.0, 31 / 4]
  assert (options.out / "camera0.srt").read_text().count("-->") == 3
  assert (options.out / "timeline.png").stat().st_size > 1000


def test_what_comes_before_damage_is_told(options, monkeypatch):
  def damaged(source, fps):
    yield from scene_frames(40)
    raise VideoError("film.mp4 is damaged after 10.0 s: no reason")

  monkeypatch.setattr(stream, "read_video", damaged)
  with pytest.raises(UserError, match="film.mp4 is damaged after 10.0 s"):
    run(options)
  assert [e["end"] for e in read_events(options.out)] == [3.0, 6.0, 9.0, 10.0]
  assert (options.out / "timeline.png").exists()


@pytest.mark.parametrize("changes, message", [
    (dict(video=None), "give a video or the index of a camera"),
    (dict(video="nowhere.mp4"), "there is no video nowhere.mp4"),
    (dict(video="97"), r"camera 97 \(/dev/video97\) cannot be opened"),
    (dict(video="0", policy="ward"), "ward needs the whole video, which a camera never gives"),
    (dict(rate=-1.0), "rate must be positive, not -1"),
    (dict(policy="uniform", rate=0.0), "rate must be positive, not 0"),
    (dict(threshold=0.0), "threshold must be positive"),
    (dict(fps=0.0), "fps must be positive"),
    (dict(texts="absent.txt"), "absent.txt cannot be read"),
    (dict(decoder="somewhere"), "either --texts .* or --decoder"),
    (dict(workdir=pathlib.Path("nowhere")), "nowhere"),
    (dict(out=pathlib.Path("/dev/null/folder")), "--out=/dev/null/folder cannot be written: Not a directory"),
])
def test_what_the_user_gets_wrong_is_one_sentence(options, monkeypatch, changes, message):
  if changes.get("decoder"):
    monkeypatch.setattr(stream, "load", lambda workdir, decoder: tiny_model.debug_model())
  with pytest.raises(UserError, match=message):
    run(options, **changes)


def test_the_command(options):
  command = [sys.executable, "-m", "vljepa_jax.stream", f"--workdir={options.workdir}"]
  done = subprocess.run(
      [*command, f"--video={options.video}", f"--texts={options.texts}", f"--out={options.out}", "--fps=4",
       f"--threshold={THRESHOLD}"], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert len(done.stdout.splitlines()) == 5 and len(read_events(options.out)) == 3


def test_a_timeline_does_not_grow_and_draws_what_there_is(tmp_path):
  picture = tmp_path / "p.jpg"
  Image.new("RGB", (32, 32), RED).save(picture)
  line = timeline.Timeline("nothing yet, $5 & up")
  line.draw(tmp_path / "empty.png")
  for i in range(20_000):
    line.watch(i / 4, None if i == 0 else 0.5, None)
    line.add(Event(i / 4, i / 4, (i + 1) / 4, f"costs $5_{i}^ and more", 0.1, picture.read_bytes()))
  assert len(line._points.items) <= timeline.POINTS and len(line._segments.items) <= timeline.BORDERS
  assert len(line._events.items) <= timeline.TEXTS
  line.draw(tmp_path / "full.png")
  sizes = [Image.open(tmp_path / f"{name}.png").size for name in ("empty", "full")]
  assert sizes[0] == sizes[1] == tuple(int(side * timeline.DPI) for side in timeline.SIZE)
