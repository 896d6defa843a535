"""What the arms of a task cost: trained parameters, arithmetic and time of a training step, time of every piece of an
answer and of a stream. All times of one file are taken in turns in one process, so that their ratios mean something.
"""

from collections.abc import Callable, Mapping
import pathlib
import statistics
import time
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vljepa_jax import flops, sharding
from vljepa_jax.batch_ids import Rows
from vljepa_jax.compare.sides import EmbeddingSide, TokenSide, make_side
from vljepa_jax.compare.study import Study, arm_config
from vljepa_jax.compare.task import Task
from vljepa_jax.config import Config, model_config
from vljepa_jax.evaluation import write_json
from vljepa_jax.progress import say
from vljepa_jax.y_decoder.text_decoder import TextDecoder

STEPS, ANSWERS, STREAMS = 5, 20, 3  # repetitions, of which the median counts
EVENTS, WINDOWS = 20, 4  # of a stream, and windows of each event

Side = EmbeddingSide | TokenSide


def measure(
    study: Study, task_name: str, task: Task, rates: Mapping[str, float], decoder: TextDecoder | None,
    path: pathlib.Path,
) -> None:
  """Measures all arms and writes the file."""
  say("  what it costs")
  recipe = study.tasks[task_name]
  configs = {arm: arm_config(study, task_name, arm, rates[arm], study.sweep_seed) for arm in recipe.arms}
  sides, states = {}, {}
  for arm, config in configs.items():
    side = sides[arm] = make_side(recipe.arms[arm].side, config, task, decoder)
    with jax.set_mesh(side.parts.mesh), nn.logical_axis_rules(config.mesh.rules):
      states[arm] = side.first_state()
  measured = {
      "machine": f"{jax.devices()[0].device_kind}, {jax.local_device_count()} device(s)",
      **_frozen_flops(task.config),
      "steps": _steps(task, configs, sides, states),
      "answers": _answers(task, recipe.decoder_of, sides, states, decoder),
  }
  write_json(path, measured)


def _frozen_flops(config: Config) -> dict[str, int]:
  """Of the frozen towers, whose outputs are kept: the X-encoder for a record, the Y-encoder for a text."""
  given = flops.forward_flops(
      model_config(config.model), config.data.frames, config.data.image_size, 0, config.tokenizers.target.length)
  return {"encoder_flops": given[flops.X], "y_encoder_flops": given[flops.Y]}


def _steps(
    task: Task, configs: Mapping[str, Config], sides: Mapping[str, Side], states: dict[str, Any]
) -> dict[str, dict[str, float]]:
  """By arm: operations and milliseconds of a training step a sample, averaged over the streams by their weights."""
  calls, operations = {}, {}
  for arm, side in sides.items():
    config = configs[arm]
    rules = config.mesh.rules
    with jax.set_mesh(side.parts.mesh), nn.logical_axis_rules(rules):
      for stream, batch in _a_batch_of_each(task, config, side, states[arm]).items():
        placed = sharding.put_batch(batch, side.parts.rows)
        operations[arm, stream] = side.step.lower(states[arm], placed).cost_analysis()["flops"]
        calls[arm, stream] = _step_call(arm, side, rules, states, placed)
  times = in_turns(calls, STEPS)
  found = {}
  for arm, config in configs.items():
    weights = np.array([source.weight for source in config.data.sources])
    mean = lambda values: float(np.average([values[arm, i] for i in range(len(weights))], weights=weights))
    samples = config.train.batch_size
    found[arm] = {"flops_per_sample": mean(operations) / samples, "ms_per_sample": 1000 * mean(times) / samples}
  return found


def _step_call(arm, side, rules, states, batch) -> Callable[[], None]:

  def call() -> None:
    with jax.set_mesh(side.parts.mesh), nn.logical_axis_rules(rules):
      states[arm], _ = side.step(states[arm], batch)  # takes the state over
      jax.block_until_ready(states[arm])

  return call


def _a_batch_of_each(task: Task, config: Config, side: Side, state: Any) -> dict[int, dict[str, np.ndarray]]:
  """The first batch of every stream, by its number."""
  iterator = side.batches(task.iterator(config), state)
  found = {}
  while len(found) < len(config.data.sources):
    batch = next(iterator)
    found.setdefault(int(Rows.take(batch).stream[0]), batch)
  iterator.close()
  return found


def _answers(
    task: Task, decoder_of: str, sides: Mapping[str, Side], states: Mapping[str, Any], decoder: TextDecoder | None
) -> dict[str, Any]:
  """Milliseconds of one answer, piece by piece, and of a stream, by arm; without a decoder, words are the nearest."""
  frames, visual = task.test.frames[:1], task.test.visual[:1]
  embedding = sides[decoder_of] if decoder_of else next(s for s in sides.values() if isinstance(s, EmbeddingSide))
  name = next(arm for arm, side in sides.items() if side is embedding)
  encoder = embedding.model(states[name])
  calls = {("encoder", "encoder"): lambda: encoder.encode_prepared(frames)}
  streams = {}
  for arm, side in sides.items():
    if isinstance(side, EmbeddingSide):
      pieces, look, tell = _embedding_pieces(task, side, states[arm], decoder, visual)
    else:
      pieces, look, tell = _token_pieces(task, side, states[arm], visual)
    calls |= {(arm, piece): call for piece, call in pieces.items()}
    streams[arm, "every window told"] = _stream(encoder, frames, look, tell, EVENTS * WINDOWS)
    streams[arm, "every event told"] = _stream(encoder, frames, look, tell, EVENTS)
  times = {**in_turns(calls, ANSWERS), **in_turns(streams, STREAMS)}
  found = {}
  for (arm, piece), seconds in times.items():
    found.setdefault(arm, {})[piece] = 1000 * seconds
  return found | {"windows": EVENTS * WINDOWS, "events": EVENTS}


def _embedding_pieces(task, side, state, decoder, visual):
  model, classes = side.model(state), task.classes
  names, bank = model.encode_text(classes.names), model.encode_text(task.bank)
  pred = model.predict(visual)
  tell = (lambda pred: decoder.decode(pred)) if decoder else (lambda pred: (pred @ bank.T).argmax(axis=1))
  pieces = {
      "predictor": lambda: model.predict(visual), "words": lambda: tell(pred),
      "nearest caption": lambda: (pred @ bank.T).argmax(axis=1), "class": lambda: (pred @ names.T).argmax(axis=1)}
  return pieces, model.predict, tell


def _token_pieces(task, side, state, visual):
  params = jax.device_put(jax.device_get(state.params))
  pieces = {
      "words": lambda: side.describe(params, visual), "class": lambda: side.score_classes(params, visual)}
  return pieces, lambda visual: visual, lambda visual: side.describe(params, visual)


def _stream(encoder, frames, look, tell, told: int) -> Callable[[], None]:
  """A stream of windows, all looked at, as many of them told, evenly spread."""
  count = EVENTS * WINDOWS

  def call() -> None:
    for window in range(count):
      seen = look(encoder.encode_prepared(frames))
      if window * told // count != (window - 1) * told // count:
        tell(seen)

  return call


def in_turns(calls: Mapping[Any, Callable[[], Any]], count: int) -> dict[Any, float]:
  """Median seconds of every call, taken in turns, after one that does not count, for it may compile."""
  for call in calls.values():
    call()
  times = {name: [] for name in calls}
  for _ in range(count):
    for name, call in calls.items():
      began = time.perf_counter()
      call()
      times[name].append(time.perf_counter() - began)
  return {name: statistics.median(values) for name, values in times.items()}
