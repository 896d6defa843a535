"""Memory of a stream of hours: python benchmarks/stream_memory.py [--hours=2].

Pushes a synthetic video through everything that `python -m vljepa_jax.stream --policy=online` runs, as fast as it goes:
windows, policy, texts, files, timeline. The model is the debug recipe with fresh weights, since what may grow does not
depend on its size. Prints the resident memory as it goes, and by how much it is above that after the first minute, of
the stream and of the clock; more than --limit per cent is an error.
"""

import pathlib
import resource
import sys
import tempfile
import time

from absl import flags
import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import base
from vljepa_jax import api, cli, selective, sharding, step, streaming
from vljepa_jax import config as config_lib
from vljepa_jax.model.vljepa import VLJepa
from vljepa_jax.stream import Recorder
from vljepa_jax.timeline import Timeline

_HOURS = flags.DEFINE_float("hours", 2.0, "Length of the stream.", lower_bound=0.05)
_FPS = flags.DEFINE_float("fps", 4.0, "Frames a second.", lower_bound=0.1)
_LIMIT = flags.DEFINE_float("limit", 2.0, "Allowed growth, per cent.")
_BATCH = flags.DEFINE_integer("batch", 32, "Frames of a push.", lower_bound=1)

MINUTE = 60
MIB = 2**20
SCENE_SECONDS = (2.0, 20.0)  # evenly drawn
NOISE = 8  # grey levels
TEXTS = ["a cat", "a dog", "a red house", "rain on a road", "a man with a hat", "a blue car", "a tree", "the moon"]


def resident() -> int:
  """Bytes of this process in memory."""
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * resource.getpagesize()


def make_model() -> api.Model:
  """The debug recipe with weights from its seed."""
  config = config_lib.parse(base.get_config("debug"))
  lengths = config.tokenizers
  batch = step.abstract_batch(
      1, config.data.frames, config.data.image_size, lengths.query.length, lengths.target.length)
  module = VLJepa(config_lib.model_config(config.model))
  return api.Model(config, jax.jit(lambda key: sharding.unbox(step.init_params(module, batch, key)))(jax.random.key(0)))


def scenes(seed: int, fps: float, count: int, size: int = 96):
  """`count` frames (size, size, 3) uint8: pictures of random patches that stay for seconds, under noise."""
  rng = np.random.default_rng(seed)
  left = 0
  for _ in range(count):
    if left == 0:
      left = int(rng.uniform(*SCENE_SECONDS) * fps)
      scene = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((size // 6, size // 6, 1))).astype(np.int16)
    left -= 1
    yield np.clip(scene + rng.integers(-NOISE, NOISE + 1, scene.shape, np.int16), 0, 255).astype(np.uint8)


def main() -> None:
  seconds = _HOURS.value * 3600
  model = make_model()
  with tempfile.TemporaryDirectory() as folder:
    timeline, recorder = Timeline("synthetic"), Recorder(pathlib.Path(folder), "synthetic")
    session = streaming.StreamSession(
        streaming.Windows(model, _FPS.value), selective.Online(), streaming.nearest(model, TEXTS), watch=timeline.watch)
    frames = scenes(0, _FPS.value, int(seconds * _FPS.value))
    begun, after, next_line, peak = time.monotonic(), {}, 0.0, 0
    while (pushed := [frame for _, frame in zip(range(_BATCH.value), frames)]):
      for event in session.push(np.stack(pushed)):
        recorder.write(event)
        timeline.add(event)
      now, clock = resident(), time.monotonic() - begun
      for name, passed in (("stream", session.seconds), ("clock", clock)):
        if passed >= MINUTE:
          after.setdefault(name, now)
      if after:
        peak = max(peak, now)
      if session.seconds >= next_line:
        print(f"  {session.seconds / 60:6.1f} minutes of stream, {clock:6.1f} s: {now / MIB:8.1f} MiB, "
              f"{recorder.count} events", flush=True)
        next_line += seconds / 24
    recorder.close()
    timeline.draw(pathlib.Path(folder) / "timeline.png")
  grown = {name: 100 * (peak / value - 1) for name, value in after.items()}
  for name, value in grown.items():
    print(f"most memory after the first minute of the {name}: {value:+.2f}% of what it was then")
  if max(grown.values()) > _LIMIT.value:
    sys.exit(f"memory grew by more than {_LIMIT.value}%")


if __name__ == "__main__":
  cli.run(main)
