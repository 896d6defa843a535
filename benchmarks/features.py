"""Steps that read cached tokens against steps that run the frozen X-encoder: python benchmarks/features.py.

Trains the towers of a recipe twice from one state on the same batches of openclipart, in turns: once from a cache of
tokens in ArrayRecord, once with the encoder in the step. Dropout and augmentation are off and tokens are kept in
float32, so that both see the same; prints by how much the losses differ and how many times faster the cached step is,
input left out. Then reads batches from the cache and from a memory-mapped .npy array, in turns, and sets what that
takes against the cached step. With --x_encoder=vjepa2_vitl --frames=2 --size=256 --batch=8 the encoder is a ViT-L.
"""

import contextlib
import os
import pathlib
import statistics
import sys
import tempfile
import time

os.environ["JAX_PLATFORMS"] = "cpu"

from absl import flags
from array_record.python.array_record_module import ArrayRecordReader
import flax.linen as nn
import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from configs import base
from vljepa_jax import cli, evaluation, features, sharding, start, train
from vljepa_jax import config as config_lib
from vljepa_jax.api import make_preprocess
from vljepa_jax.config import Config
from vljepa_jax.data import openclipart, token_files
from vljepa_jax.data.sources import Source
from vljepa_jax.parts import make_parts, make_step

_VARIANT = flags.DEFINE_enum("variant", "base", ["base", "debug"], "Of configs/base.py.")
_ENCODER = flags.DEFINE_string("x_encoder", "", "Preset of another X-encoder, with fresh weights.")
_FRAMES = flags.DEFINE_integer("frames", 1, "Of a clip; a picture is repeated.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 0, "Of frames, in pixels; 0 is the recipe's.")
_BATCH = flags.DEFINE_integer("batch", 0, "Pictures of a step; 0 is the recipe's.")
_STEPS = flags.DEFINE_integer("steps", 6, "Steps, of which the first one is not timed.", lower_bound=2)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "float16"], "Of the tokens in the cache.")
TOLERANCE = 1e-6  # of losses, relative
READS = 20  # batches that are read from either file


def recipe(views: int) -> Config:
  config = base.get_config(_VARIANT.value)
  if _ENCODER.value:
    config.model.x_encoder.update(dict(preset=_ENCODER.value, weights=""))
  config.model.predictor.dropout = 0.0
  config.data.update(dict(
      sources=(dict(name="captions", dataset="openclipart", view="caption", weight=1.0),),
      frames=_FRAMES.value, image_size=_SIZE.value or config.data.image_size, feature_views=views, feature_tokens=0,
      feature_dtype=_DTYPE.value))
  config.data.augment.update(dict(min_area=1.0, flip=0.0, jitter=0.0))
  config.train.update(dict(batch_size=_BATCH.value or config.train.batch_size, steps=max(_STEPS.value, 30)))
  return config_lib.parse(config)


class Way:
  """A run of the recipe, with the encoder in its step or without.

  Attributes:
    losses: of its steps.
    seconds: that they took, from arrays on the device to the loss.
    making: seconds that the start took, a cache included.
  """

  def __init__(self, config: Config, source: Source, held_out: evaluation.HeldOut, folder: pathlib.Path):
    self._rules = config.mesh.rules
    self._parts = make_parts(config, jax.devices()[:1])
    self.losses, self.seconds = [], []
    with self._entered():
      self._step = make_step(config, self._parts)
      self._state = start.first_state(config, self._parts)[0]
      began = time.monotonic()
      self._batches = train.make_iterator(
          config, self._parts, self._state.params, {"openclipart": source}, held_out, folder, lambda *_: None)
      self.making = time.monotonic() - began

  @contextlib.contextmanager
  def _entered(self):
    with jax.set_mesh(self._parts.mesh), nn.logical_axis_rules(self._rules):
      yield

  def step(self) -> np.ndarray:
    """One step on the next batch; the records of it."""
    batch = next(self._batches)
    with self._entered():
      rows = jax.block_until_ready(sharding.put_batch(batch, self._parts.rows))
      began = time.monotonic()
      self._state, metrics = self._step(self._state, rows)
      self.losses.append(float(metrics["loss"]))
    self.seconds.append(time.monotonic() - began)
    return batch["record_id"]


def some(split: str, count: int | None = None) -> Source:
  """The first pictures of a split of openclipart."""
  data = openclipart.data_source(split)
  return Source("openclipart", split, [data[i] for i in range(count or len(data))], openclipart.CLASSES)


def compare_steps(folder: pathlib.Path) -> float:
  """Prints losses and times; the median time of a cached step."""
  batch = recipe(0).train.batch_size
  source = some("train", min(batch * _STEPS.value, len(openclipart.data_source("train"))))
  held_out = evaluation.read_held_out(some("test", 24), source, make_preprocess(recipe(0)))
  encoding, cached = (Way(recipe(views), source, held_out, folder) for views in (0, 1))
  files = list((folder / features.FOLDER).iterdir())
  size = sum(path.stat().st_size for path in files)
  print(f"tokens of {len(source)} pictures as {_DTYPE.value}: {size / 2**20:,.0f} MiB in {len(files)} files, "
        f"made in {cached.making:.1f} s", flush=True)
  for _ in range(_STEPS.value):
    np.testing.assert_array_equal(encoding.step(), cached.step())
    print(f"  loss {encoding.losses[-1]:.7f} with the encoder, {cached.losses[-1]:.7f} from the cache; "
          f"{encoding.seconds[-1]:.2f} s, {cached.seconds[-1]:.2f} s", flush=True)
  worst = max(abs(a - b) / a for a, b in zip(encoding.losses, cached.losses))
  slow, quick = (statistics.median(way.seconds[1:]) for way in (encoding, cached))
  verdict = "within" if worst <= TOLERANCE else "NOT within"
  print(f"losses of {_STEPS.value} steps differ by at most {worst:.1e}, {verdict} {TOLERANCE:g}")
  print(f"a step of {batch}: {1e3 * slow:,.0f} ms with the encoder, {1e3 * quick:,.0f} ms from the cache, "
        f"{slow / quick:.2f} times faster")
  return quick


def compare_reads(folder: pathlib.Path, step: float) -> None:
  """Prints what it takes to read batches from the cache, and from an array."""
  paths = sorted((folder / features.FOLDER).iterdir())
  key = paths[0].name.partition("-")[0]
  count = sum(ArrayRecordReader(str(path)).num_records() for path in paths)
  tokens = token_files.Tokens(token_files.Layout(folder / features.FOLDER, key, count, 1))
  path = folder / "tokens.npy"
  array = np.lib.format.open_memmap(path, "w+", tokens.dtype, tokens.shape)
  for i in range(count):
    array[i, 0] = tokens[i, 0]
  array.flush()
  rng, batch, taken = np.random.default_rng(0), recipe(0).train.batch_size, ([], [])
  for _ in range(READS):
    rows = rng.integers(count, size=batch)
    for source, seconds in zip((tokens, np.load(path, mmap_mode="r")), taken):
      began = time.monotonic()
      np.stack([source[row, 0] for row in rows])
      seconds.append(time.monotonic() - began)
  ours, mapped = map(statistics.median, taken)
  print(f"reading {batch} records of {array[0].nbytes / 1024:,.0f} KiB, in one thread: ArrayRecord {1e3 * ours:.1f} ms "
        f"({100 * ours / step:.1f}% of a cached step), memory-mapped array {1e3 * mapped:.1f} ms")


def main() -> None:
  with tempfile.TemporaryDirectory(prefix="vljepa_jax.features.") as folder:
    step = compare_steps(pathlib.Path(folder))
    compare_reads(pathlib.Path(folder), step)


if __name__ == "__main__":
  cli.run(main)
