"""How few decodes tell a stream: python benchmarks/streams.py [--workdir=runs/base] [--kind=slideshow|babyai].

Streams whose events are known are embedded by the model, decoded by every policy at rates over two decades, and scored
as in the paper (section 4.6; `vljepa_jax/tasks/streams.py`). Writes the curves to --out as JSON, and as PNG beside it.

  slideshow   held-out openclipart pictures with camera motion, uneven durations and cross-fades
  babyai      chains of the BabyAI world, of seeds that training never saw

Embeddings are kept in the workdir, one file a stream: what is interrupted goes on, and another decoder takes minutes.
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

from absl import flags
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from vljepa_jax import accelerator, api, cli, selective, streaming
from vljepa_jax.data.slideshow import Annotation, Slideshow
from vljepa_jax.data.sources import open_source
from vljepa_jax.tasks import captioning
from vljepa_jax.tasks import streams as scoring

_WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of the run.")
_KIND = flags.DEFINE_enum("kind", "slideshow", ["slideshow", "babyai"], "What the streams show.")
_STREAMS = flags.DEFINE_integer("streams", 100, "How many.", lower_bound=2)
_EVENTS = flags.DEFINE_integer("events", 20, "Events of each.", lower_bound=2)
_FPS = flags.DEFINE_float("fps", 4.0, "Frames a second.", lower_bound=0.1)
_STRIDE = flags.DEFINE_integer("stride", 1, "Frames from one window to the next.", lower_bound=1)
_SHORTEST = flags.DEFINE_integer(
    "shortest", 0, "Samples of a segment of `online`, at least; by default those of `SHORTEST`.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", 1000, "Of the first stream; the next ones follow.")
_DECODER = flags.DEFINE_string("decoder", "", "Folder of a trained Y-decoder; without one, the nearest text of a bank.")
_BANK = flags.DEFINE_enum(
    "bank", "all", ["all", "train"], "Texts to choose from: captions of training; with all, those of the streams too.")
_OUT = flags.DEFINE_string("out", "", "JSON to write; docs/results/streams_KIND.json by default.")

PER_EVENT = np.geomspace(0.1, 10.0, 17)  # decodes for every event: two decades
THRESHOLDS = np.geomspace(0.05, 16.0, 33)  # of `online`; they give rates over the same range
# Of `online`: slide-shows fade, BabyAI does not. Chosen on other seeds, both.
SHORTEST = {"slideshow": selective.SHORTEST, "babyai": 1}
COLOURS = {"uniform": "#7f7f7f", "ward": "#1f77b4", "online": "#d62728", "online at a rate": "#ff9896"}


@dataclasses.dataclass(frozen=True)
class Stream:
  """Frames (H, W, 3) uint8 that can be drawn, and what they show."""

  frames: Iterable[np.ndarray]
  annotations: Sequence[Annotation]


@dataclasses.dataclass(frozen=True)
class Embedded:
  """A stream as the policies see it."""

  samples: Sequence[selective.Sample]
  annotations: Sequence[Annotation]
  seconds: float


def slideshow(model: api.Model, number: int) -> Stream:
  """A slide-show of held-out pictures, none twice."""
  source = held_out(model.config.eval.dataset, model.config.eval.split)
  chosen = np.random.default_rng(number).choice(len(source), _EVENTS.value, replace=False)
  show = Slideshow(
      [source.image(i) for i in chosen], [source.records[i].caption for i in chosen], number,
      api.make_preprocess(model.config), _FPS.value)
  return Stream(show, show.annotations)


def babyai_chain(model: api.Model, number: int) -> Stream:
  """A chain of sub-goals; every step is a frame."""
  from vljepa_jax.data import babyai

  stream = babyai.make_stream(number, 0, _EVENTS.value)
  atlas = babyai.load_atlas()
  frames = (babyai.render(atlas, codes) for codes in stream.codes)
  return Stream(frames, [
      Annotation(e.start / _FPS.value, (e.end + 1) / _FPS.value, e.caption) for e in stream.events])


MAKERS = {"slideshow": slideshow, "babyai": babyai_chain}


@functools.cache
def held_out(dataset: str, split: str):
  return open_source(dataset, split)


def embed(model: api.Model, stream: Stream) -> Embedded:
  """Embeddings of all windows of a stream."""
  windows = streaming.Windows(model, _FPS.value, _STRIDE.value)
  samples = []
  for frames in chunks(stream.frames, model.config.eval.batch_size):
    samples += windows.push(np.stack(frames))
  return Embedded(samples + windows.close(), stream.annotations, windows.seconds)


def chunks(items: Iterable, size: int) -> Iterator[list]:
  items = iter(items)
  while chunk := list(itertools.islice(items, size)):
    yield chunk


def cache_folder(model: api.Model) -> pathlib.Path:
  """A folder for this model and these streams: retraining the model or another stream changes its name."""
  size = model.config.data.image_size
  grey = np.full((1, model.config.data.frames, size, size, 3), 128, np.uint8)
  digest = hashlib.sha256(model.predict(model.encode_prepared(grey)).tobytes())
  digest.update(repr((_EVENTS.value, _FPS.value, _STRIDE.value)).encode())
  return pathlib.Path(_WORKDIR.value) / "streams" / f"{_KIND.value}-{digest.hexdigest()[:12]}"


def embed_all(model: api.Model) -> list[Embedded]:
  """All streams, from the cache where they are there."""
  folder = cache_folder(model)
  folder.mkdir(parents=True, exist_ok=True)
  found, begun, encoded = [], time.monotonic(), 0
  for i in range(_STREAMS.value):
    path = folder / f"{_SEED.value + i}.npz"
    if not path.exists():
      save(path, embed(model, MAKERS[_KIND.value](model, _SEED.value + i)))
      encoded += 1
      left = (time.monotonic() - begun) / encoded * (_STREAMS.value - i - 1)
      print(f"  stream {i + 1} of {_STREAMS.value}, {left / 60:.1f} minutes left", flush=True)
    found.append(read(path))
  return found


def save(path: pathlib.Path, stream: Embedded) -> None:
  draft = path.with_suffix(".tmp.npz")
  np.savez(
      draft, embeds=np.stack([s.embed for s in stream.samples]), times=[s.time for s in stream.samples],
      starts=[a.start for a in stream.annotations], ends=[a.end for a in stream.annotations],
      captions=[a.caption for a in stream.annotations], seconds=stream.seconds)
  draft.rename(path)


def read(path: pathlib.Path) -> Embedded:
  with np.load(path) as data:
    return Embedded(
        [selective.Sample(float(t), e) for t, e in zip(data["times"], data["embeds"])],
        [Annotation(float(s), float(e), str(c)) for s, e, c in zip(data["starts"], data["ends"], data["captions"])],
        float(data["seconds"]))


def cut(streams: Sequence[Embedded]) -> dict[str, list[list[list[selective.Segment]]]]:
  """Segments by policy, setting and stream."""
  with_policy = lambda make: [selective.run(make(), stream.samples, stream.seconds) for stream in streams]
  rates = PER_EVENT * sum(len(stream.annotations) for stream in streams) / sum(stream.seconds for stream in streams)
  orders = [selective.ward_order(np.stack([sample.embed for sample in stream.samples])) for stream in streams]
  ward = lambda rate: [
      selective.ward_segments(stream.samples, order, round(rate * stream.seconds), stream.seconds)
      for stream, order in zip(streams, orders)]
  online = functools.partial(selective.Online, shortest=_SHORTEST.value or SHORTEST[_KIND.value])
  return {
      "uniform": [with_policy(lambda: selective.Uniform(rate)) for rate in rates],
      "ward": [ward(rate) for rate in rates],
      "online": [with_policy(lambda: online(threshold)) for threshold in THRESHOLDS],
      "online at a rate": [with_policy(lambda: online(rate=rate)) for rate in rates],
  }


def make_decode(model: api.Model, streams: Sequence[Embedded]) -> tuple[streaming.Decode, str]:
  """Texts of embeddings, and how they are found."""
  if _DECODER.value:
    return streaming.spelled(model), f"words by {_DECODER.value}"
  own = [a.caption for stream in streams for a in stream.annotations] if _BANK.value == "all" else []
  trained_on = open_source(model.config.data.sources[0].dataset, "train").captions()
  bank = list(dict.fromkeys([*trained_on, *own]))
  return streaming.nearest(model, bank), f"nearest of {len(bank)} captions ({_BANK.value})"


def decode_all(
    settings: Sequence[Sequence[Sequence[selective.Segment]]], pooling: str, decode: streaming.Decode,
    known: dict[bytes, str],
) -> list[list[scoring.Decodes]]:
  """Texts of every setting and stream; `known` holds those of embeddings that came before."""
  embeds = {}
  for segment in (segment for setting in settings for segments in setting for segment in segments):
    embed = segment.embed(pooling)
    embeds.setdefault(embed.tobytes(), embed)
  new = [key for key in embeds if key not in known]
  for keys in chunks(new, 1024):
    known.update(zip(keys, (text for text, _ in decode(np.stack([embeds[key] for key in keys])))))
  return [
      [scoring.Decodes(np.array([s.decode_time(pooling) for s in segments]),
                       [known[s.embed(pooling).tobytes()] for s in segments]) for segments in setting]
      for setting in settings]


def score_all(streams: Sequence[Embedded], decode: streaming.Decode) -> dict[str, dict[str, scoring.Curve]]:
  """Curves by policy and pooling."""
  curves, known = {}, {}
  annotations, seconds = [s.annotations for s in streams], [s.seconds for s in streams]
  for policy, settings in cut(streams).items():
    curves[policy] = {}
    for pooling in selective.POOLINGS:
      decoded = decode_all(settings, pooling, decode, known)
      curves[policy][pooling] = scoring.score(annotations, decoded, seconds, captioning.cider)
      print(f"  scored {policy}, {pooling}", flush=True)
  return curves


def summarise(curves: dict[str, dict[str, scoring.Curve]], weights: np.ndarray) -> dict:
  """Points of every curve, and decodes saved against uniform decoding, by what that decodes."""
  return {
      policy: {
          pooling: {
              "points": scoring.summarise(curve, weights),
              "saved": {base: scoring.decodes_saved(curve, curves["uniform"][base], weights)
                        for base in selective.POOLINGS}}
          for pooling, curve in parts.items()}
      for policy, parts in curves.items()}


def print_saved(results: dict) -> None:
  """The tables of ratios."""
  for base in selective.POOLINGS:
    print(f"decodes saved against uniform, {base}: times ({scoring.INTERVAL[0]}..{scoring.INTERVAL[1]}%)")
    for i, row in enumerate(results["uniform"][base]["saved"][base]):
      print(f"  {row['at']}: CIDEr {row['score']:.1f}, uniform at {row['uniform_rate']:.3f} a second")
      for policy, parts in results.items():
        for pooling, part in parts.items():
          saved = part["saved"][base][i]
          low, high = saved["interval"]
          print(f"    {policy:<17} {pooling:<6} {saved['ratio']:5.2f}  ({low:.2f}..{high:.2f})")


def draw(results: dict, title: str, path: pathlib.Path) -> None:
  """Scores over rates, with their intervals."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(9, 6), dpi=100, layout="constrained")
  axes = figure.subplots()
  for policy, parts in results.items():
    for pooling, part in parts.items():
      points = part["points"]
      rates = [point["rate"] for point in points]
      line, = axes.plot(rates, [point["score"] for point in points], color=COLOURS[policy],
                        linestyle="-" if pooling == "mean" else ":", label=f"{policy}, {pooling}")
      axes.fill_between(rates, *zip(*(point["interval"] for point in points)), color=line.get_color(), alpha=0.08)
  axes.set(xscale="log", xlabel="decodes a second", ylabel="CIDEr of the nearest decode", title=title)
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(path, format="png")


def main() -> None:
  accelerator.use_compilation_cache()
  model = api.load(_WORKDIR.value, decoder=_DECODER.value) if _DECODER.value else api.load(_WORKDIR.value)
  streams = embed_all(model)
  decode, how = make_decode(model, streams)
  seconds, annotations = sum(s.seconds for s in streams), sum(len(s.annotations) for s in streams)
  title = f"{_KIND.value}: {len(streams)} streams, {annotations} events, {seconds / 3600:.1f} hours; {how}"
  print(title, flush=True)
  curves = score_all(streams, decode)
  results = summarise(curves, scoring.draw_streams(len(streams)))
  print_saved(results)
  out = pathlib.Path(_OUT.value or f"docs/results/streams_{_KIND.value}.json")
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps({
      "what": title, **made_by(), "events_per_second": annotations / seconds,
      "fps": _FPS.value, "headline": f"{scoring.HEADLINE:.0%} of the plateau", "curves": results}, indent=1) + "\n")
  draw(results, title, out.with_suffix(".png"))
  print(f"wrote {out} and {out.with_suffix('.png')}")


def made_by() -> dict[str, str]:
  """Command, commit and kind of machine."""
  commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
  return {
      "command": f"python {' '.join(sys.argv)}", "commit": commit.stdout.strip(),
      "machine": f"{platform.machine()}, {os.cpu_count()} cores"}


if __name__ == "__main__":
  cli.run(main)
