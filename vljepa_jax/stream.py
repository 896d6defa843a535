"""Tells what happens in a video, as it happens.

  python -m vljepa_jax.stream --workdir=runs/base --video=film.mp4
  python -m vljepa_jax.stream --workdir=runs/base --video=0 --texts=what_there_may_be.txt        # a camera; Ctrl-C ends it
  python -m vljepa_jax.stream --workdir=runs/base --video=film.mp4 --policy=ward --rate=0.1

Prints every event when it is over, and writes events.jsonl, NAME.srt (subtitles) and timeline.png into a folder. When
to decode is told in `selective.py`; texts are the nearest of a file, of the captions that the model was trained on, or
words of a Y-decoder.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import datetime
import itertools
import json
import pathlib

from absl import flags
import numpy as np

from vljepa_jax import accelerator, api, cli, selective
from vljepa_jax.data.sources import open_source
from vljepa_jax.data.video_reader import VideoError, is_camera, read_video
from vljepa_jax.errors import INPUT_ERRORS, UserError, as_user_error
from vljepa_jax.interrupt import StopRequest, stop_on_signals
from vljepa_jax.predict import read_texts
from vljepa_jax.streaming import Decode, Event, StreamSession, Windows, nearest, spelled
from vljepa_jax.timeline import Timeline

POLICIES = ("online", "uniform", "ward")
USUAL_RATE = 0.2  # decodes a second, of policies that need a rate
FILE_BATCH = 32  # frames of a file that are encoded together; a camera's come one by one
NO_WORDS = "(no words)"


class Recorder:
  """Writes events as they come: prints them, and keeps events.jsonl and the subtitles up to date.

  Args:
    folder: made if it is not there.
    name: of the subtitles.
  """

  def __init__(self, folder: pathlib.Path, name: str):
    try:
      folder.mkdir(parents=True, exist_ok=True)
      self._events = (folder / "events.jsonl").open("w", encoding="utf-8")
      self._subtitles = (folder / f"{name}.srt").open("w", encoding="utf-8")
    except OSError as error:
      raise UserError(f"--out={folder} cannot be written: {error.strerror}") from error
    self.count = 0

  def write(self, event: Event) -> None:
    self.count += 1
    print(f"{event.start:8.1f} - {event.end:8.1f} s  {event.score:5.2f}  {event.text or NO_WORDS}", flush=True)
    line = {name: value for name, value in dataclasses.asdict(event).items() if name != "picture"}
    self._events.write(json.dumps(line, ensure_ascii=False) + "\n")
    self._subtitles.write(subtitle(self.count, event))
    for file in (self._events, self._subtitles):
      file.flush()

  def close(self) -> None:
    self._events.close()
    self._subtitles.close()


def subtitle(number: int, event: Event) -> str:
  """One block of an SRT file."""
  text = " ".join(event.text.split()) or NO_WORDS
  return f"{number}\n{srt_time(event.start)} --> {srt_time(event.end)}\n{text}\n\n"


def srt_time(seconds: float) -> str:
  """Such as 01:02:03,450."""
  milliseconds = round(seconds * 1000)
  whole, part = divmod(milliseconds, 1000)
  return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{part:03}"


def make_policy(name: str, rate: float | None, threshold: float) -> selective.Policy:
  """The policy of the flags; `rate` None: as often as the stream changes, or `USUAL_RATE`."""
  if name == "online":
    return selective.Online(threshold, rate=rate or 0.0)
  return {"uniform": selective.Uniform, "ward": selective.Ward}[name](rate or USUAL_RATE)


def make_decode(model: api.Model, texts: str | None, decoder: str | None) -> Decode:
  """How embeddings become texts: words of the decoder, lines of a file, or captions of the model's training set."""
  if decoder:
    return spelled(model)
  if texts:
    return nearest(model, read_texts(pathlib.Path(texts)))
  dataset = model.config.data.sources[0].dataset
  with as_user_error(*INPUT_ERRORS):
    captions = open_source(dataset, "train").captions()
  return nearest(model, list(dict.fromkeys(captions)))


def describe(windows: Windows, policy: str, texts: str) -> str:
  """What is about to be done."""
  cost = "every frame is encoded once"
  if windows.recomputed > 1:
    cost = f"every frame is encoded {windows.recomputed:.1f} times, once in each window that it is in"
  return f"{policy}; windows of {windows.length} frame(s) at {windows.fps:g} a second, {cost}; {texts}"


def follow(session: StreamSession, frames: Iterator[np.ndarray], batch: int, stop: StopRequest) -> Iterable[Event]:
  """Events of a stream until it ends or a signal asks to stop; a VideoError comes when all before it is told."""
  failure = None
  while not stop.requested:
    taken = []
    try:
      for frame in itertools.islice(frames, batch):
        taken.append(frame)
    except VideoError as error:
      failure = error
    if taken:
      yield from session.push(np.stack(taken))
    if failure or not taken:
      break
  yield from session.close()
  if failure:
    raise failure


def run(video: str, model: api.Model, windows: Windows, policy: selective.Policy, decode: Decode, pooling: str,
        folder: pathlib.Path) -> int:
  """Follows the video, prints and writes; returns how many events there were.

  Raises:
    UserError: the video cannot be read, to its end at least, or the folder cannot be written.
  """
  del model
  name = f"camera{video}" if is_camera(video) else pathlib.Path(video).stem
  with as_user_error(*INPUT_ERRORS):
    frames = read_video(video, windows.fps)
  recorder, timeline = Recorder(folder, name), Timeline(name)
  session = StreamSession(windows, policy, decode, pooling, timeline.watch)
  try:
    with stop_on_signals() as stop, as_user_error(VideoError):
      for event in follow(session, frames, 1 if is_camera(video) else FILE_BATCH, stop):
        recorder.write(event)
        timeline.add(event)
  finally:
    recorder.close()
    timeline.draw(folder / "timeline.png")
  print(f"{recorder.count} events in {datetime.timedelta(seconds=round(session.seconds))}; see {folder}")
  return recorder.count
