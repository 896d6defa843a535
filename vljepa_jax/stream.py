"""Tells what happens in a video, as it happens.

  python -m vljepa_jax.stream --workdir=runs/base --video=film.mp4
  python -m vljepa_jax.stream --workdir=runs/base --video=0 --texts=possible.txt        # a camera; Ctrl-C ends it
  python -m vljepa_jax.stream --workdir=runs/base --video=film.mp4 --policy=ward --rate=0.1

Prints every event when it is over, and writes events.jsonl, NAME.srt (subtitles) and timeline.png into a folder. When
to decode is told in `selective.py`; texts are the nearest of a file, of the captions that the model was trained on, or
words of a Y-decoder.
"""

from collections.abc import Iterator
import dataclasses
import datetime
import itertools
import json
import pathlib

from absl import flags
import numpy as np

from vljepa_jax import accelerator, api, cli, selective
from vljepa_jax.data.sources import open_source
from vljepa_jax.data.video import VideoError, is_camera
from vljepa_jax.data.video_reader import read_video
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
  """Writes events as they come, into events.jsonl and subtitles.

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


@dataclasses.dataclass(frozen=True)
class Options:
  """What the flags say; see `define_flags`."""

  video: str | None
  workdir: pathlib.Path
  policy: str
  rate: float | None
  threshold: float
  shortest: int
  pooling: str
  fps: float
  stride: int
  query: str
  texts: str | None
  decoder: str | None
  out: pathlib.Path | None

  @property
  def name(self) -> str:
    """What files are named after."""
    return f"camera{self.video}" if is_camera(self.video) else pathlib.Path(self.video).stem

  @property
  def folder(self) -> pathlib.Path:
    """Where files go."""
    return self.out or self.workdir / "streams" / self.name


def run(options: Options) -> int:
  """Follows a video, prints and writes; returns how many events there were.

  Raises:
    UserError: the arguments get something wrong, or the video is damaged; events before the damage are written.
  """
  if not options.video:
    raise UserError("give a video or the index of a camera: --video=film.mp4")
  camera = is_camera(options.video)
  if camera and options.policy == "ward":
    raise UserError("ward needs the whole video, which a camera never gives; take --policy=online")
  with as_user_error(*INPUT_ERRORS):
    policy = make_policy(options.policy, options.rate, options.threshold, options.shortest)
    frames = read_video(options.video, options.fps)
  model = load(options.workdir, options.decoder)
  windows = Windows(model, options.fps, options.stride, options.query or None)
  decode, texts = make_decode(model, options.texts, options.decoder)
  timeline = Timeline(options.name)
  session = StreamSession(windows, policy, decode, options.pooling, timeline.watch)
  recorder = Recorder(options.folder, options.name)
  print(f"{options.policy}; {describe(windows)}; {texts}", flush=True)
  try:
    with stop_on_signals() as stop, as_user_error(VideoError):
      for event in follow(session, frames, 1 if camera else FILE_BATCH, stop):
        print(f"{event.start:8.1f} - {event.end:8.1f} s  {event.score:5.2f}  {event.text or NO_WORDS}", flush=True)
        recorder.write(event)
        timeline.add(event)
  finally:
    recorder.close()
    timeline.draw(options.folder / "timeline.png")
  print(f"{recorder.count} events in {datetime.timedelta(seconds=round(session.seconds))}; see {options.folder}")
  return recorder.count


def make_policy(name: str, rate: float | None, threshold: float, shortest: int) -> selective.Policy:
  """The policy of a name; without a rate `online` decodes as often as the stream changes, others at `USUAL_RATE`."""
  if name == "online":
    return selective.Online(threshold, rate or 0.0, shortest=shortest)
  return {"uniform": selective.Uniform, "ward": selective.Ward}[name](USUAL_RATE if rate is None else rate)


def load(workdir: pathlib.Path, decoder: str | None) -> api.Model:
  """The model, with its Y-decoder where one is asked for."""
  return api.load(workdir, decoder=decoder) if decoder else api.load(workdir)


def make_decode(model: api.Model, texts: str | None, decoder: str | None) -> tuple[Decode, str]:
  """How embeddings become texts, and the same in words: by a decoder, or the nearest line of a file, or the nearest
  caption that the model was trained on."""
  if texts and decoder:
    raise UserError("give either --texts (the nearest of them) or --decoder (words of its own)")
  if decoder:
    return spelled(model), f"words by {decoder}"
  if texts:
    bank = read_texts(pathlib.Path(texts))
    return nearest(model, bank), f"the nearest of {len(bank):,} texts of {texts}"
  dataset = model.config.data.sources[0].dataset
  with as_user_error(*INPUT_ERRORS):
    bank = list(dict.fromkeys(open_source(dataset, "train").captions()))
  return nearest(model, bank), f"the nearest of {len(bank):,} training captions of {dataset}"


def describe(windows: Windows) -> str:
  """What the embeddings are made of, and what they cost."""
  often = "once" if windows.recomputed == 1 else f"{windows.recomputed:.1f} times, once for every window that holds it"
  return f"windows of {windows.length} frame(s), {windows.fps:g} frames a second, each encoded {often}"


def follow(session: StreamSession, frames: Iterator[np.ndarray], batch: int, stop: StopRequest) -> Iterator[Event]:
  """Events of a stream until it ends or a signal asks to stop; a VideoError comes when all before it is told."""
  failure = None
  while not (failure or stop.requested):
    taken = []
    try:
      for frame in itertools.islice(frames, batch):
        taken.append(frame)
    except VideoError as error:
      failure = error
    if not taken:
      break
    yield from session.push(np.stack(taken))
  yield from session.close()
  if failure:
    raise failure


def define_flags() -> None:
  """The flags of the command; not at import, where they would meet those of other commands."""
  flags.DEFINE_string("video", None, "A video file, or the index of a camera, such as 0.")
  flags.DEFINE_string("workdir", "runs/base", "Folder of the run.")
  flags.DEFINE_enum("policy", "online", POLICIES, "When to decode.")
  flags.DEFINE_float(
      "rate", None, f"Decodes a second. online: as the stream changes by default; others: {USUAL_RATE}.")
  flags.DEFINE_float("threshold", selective.THRESHOLD, "online: how much change ends a segment; more is rarer.")
  flags.DEFINE_integer(
      "shortest", selective.SHORTEST, "online: windows of a segment, at least; what is shorter is taken for a passage.",
      lower_bound=1)
  flags.DEFINE_enum("pooling", "mean", selective.POOLINGS, "What is decoded of a segment: its mean, or its middle.")
  flags.DEFINE_float("fps", 4.0, "Frames a second that the model sees.")
  flags.DEFINE_integer("stride", 1, "Frames from one window to the next.", lower_bound=1)
  flags.DEFINE_string("query", "", "A question about what is seen; without one, what it shows.")
  flags.DEFINE_string("texts", None, "A file of possible texts, one a line; by default the training captions.")
  flags.DEFINE_string("decoder", None, "Folder of a trained Y-decoder, to spell texts out.")
  flags.DEFINE_string("out", None, "Folder for the files; streams/NAME in the workdir by default.")


def main() -> None:
  """The command."""
  given = flags.FLAGS
  accelerator.use_compilation_cache()
  run(Options(
      video=given.video, workdir=pathlib.Path(given.workdir), policy=given.policy, rate=given.rate,
      threshold=given.threshold, shortest=given.shortest, pooling=given.pooling, fps=given.fps,
      stride=given.stride, query=given.query, texts=given.texts, decoder=given.decoder,
      out=pathlib.Path(given.out) if given.out else None))


if __name__ == "__main__":
  define_flags()
  cli.run(main)
