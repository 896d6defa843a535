"""How few decodes tell a stream: python benchmarks/streams.py --workdir=runs/base [--kind=slideshow|babyai].

Streams whose events are known are embedded by the model, decoded by every policy at rates over two decades, and scored as
in the paper (section 4.6; `vljepa_jax/tasks/streams.py`). Writes the whole curves to --out as JSON, and a PNG beside it.

  slideshow   held-out openclipart pictures with camera motion, uneven durations and cross-fades
  babyai      chains of the BabyAI world, of seeds that training never saw

Embeddings are kept in the workdir, so that another decoder or policy takes minutes. Needs `pip install -r
benchmarks/requirements.txt`.
"""

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import sys
import time

from absl import flags
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from vljepa_jax import accelerator, api, cli, selective, streaming
from vljepa_jax.data.slideshow import Annotation, Slideshow
from vljepa_jax.data.sources import open_source
from vljepa_jax.errors import UserError
from vljepa_jax.tasks import streams as scoring

_WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of the run.")
_KIND = flags.DEFINE_enum("kind", "slideshow", ["slideshow", "babyai"], "What the streams show.")
_STREAMS = flags.DEFINE_integer("streams", 100, "How many.", lower_bound=2)
_EVENTS = flags.DEFINE_integer("events", 20, "Events of each.", lower_bound=2)
_FPS = flags.DEFINE_float("fps", 4.0, "Frames a second.", lower_bound=0.1)
_STRIDE = flags.DEFINE_integer("stride", 1, "Frames between two windows.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 1000, "Of the first stream; the next ones follow.")
_DECODER = flags.DEFINE_string("decoder", "", "Folder of a trained Y-decoder; without one, the nearest text of a bank.")
_OUT = flags.DEFINE_string("out", "", "JSON to write; docs/results/streams_KIND.json by default.")

RATES = np.geomspace(0.02, 2.0, 17)  # decodes a second: two decades
THRESHOLDS = np.geomspace(0.02, 20.0, 40)


@dataclasses.dataclass(frozen=True)
class Stream:
  """Frames that can be drawn, and what they show."""

  frames: Iterable[np.ndarray]
  annotations: Sequence[Annotation]


@dataclasses.dataclass(frozen=True)
class Embedded:
  """A stream as the policies see it."""

  samples: Sequence[selective.Sample]
  annotations: Sequence[Annotation]
  seconds: float


def slideshow(model: api.Model, number: int, events: int, fps: float) -> Stream:
  """A slide-show of held-out pictures, drawn without repetition."""
  source = held_out(model)
  chosen = np.random.default_rng(number).choice(len(source), events, replace=False)
  show = Slideshow(
      [source.image(i) for i in chosen], [source.records[i].caption for i in chosen], number,
      api.make_preprocess(model.config), fps)
  return Stream(show, show.annotations)


@functools.cache
def held_out(model: api.Model):
  return open_source(model.config.eval.dataset, model.config.eval.split)


def embed(model: api.Model, stream: Stream, fps: float, stride: int) -> Embedded:
  windows = streaming.Windows(model, fps, stride)
  samples = []
  for frames in itertools.batched(stream.frames, model.config.eval.batch_size):
    samples += windows.push(np.stack(frames))
  return Embedded(samples + windows.close(), stream.annotations, windows.seconds)
