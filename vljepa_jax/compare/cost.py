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

from vljepa_jax import checkpoint, flops, sharding
from vljepa_jax.batch_ids import Rows
from vljepa_jax.compare.sides import EmbeddingSide, Side, Speller, make_side
from vljepa_jax.compare.study import Study, arm_config
from vljepa_jax.compare.task import Task
from vljepa_jax.config import Config, model_config
from vljepa_jax.evaluation import write_json
from vljepa_jax.progress import say

STEPS, ANSWERS, STREAMS = 5, 20, 3  # repetitions, of which the median counts
EVENTS, WINDOWS = 20, 4  # of a stream, and windows of each event


def measure(
    study: Study, task_name: str, task: Task, rates: Mapping[str, float], folders: Mapping[str, pathlib.Path],
    speller: Speller | None, path: pathlib.Path,
) -> None:
  """Measures all arms and writes the file.

  Args:
    study: the recipe.
    task_name: of the task.
    task: it.
    rates: learning rates of the arms.
    folders: of finished runs of the arms, whose trained parameters answer: how long a text is depends on them.
    speller: of the task.
    path: of the file.
  """
  say("  what it costs")
  recipe = study.tasks[task_name]
  configs = {arm: arm_config(study, task_name, arm, rates[arm], study.sweep_seed) for arm in recipe.arms}
  sides, states = {}, {}
  for arm, config in configs.items():
    side = sides[arm] = make_side(recipe.arms[arm].side, config, task, speller)
    with jax.set_mesh(side.parts.mesh), nn.logical_axis_rules(config.mesh.rules):
      states[arm] = side.first_state()
  measured = {
      "machine": f"{jax.devices()[0].device_kind}, {jax.local_device_count()} device(s)",
      **_frozen_flops(task.config),
      "steps": _steps(task, configs, sides, states),
      "answers": _answers(task, recipe.decoder_of, sides, folders),
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


def _step_call(arm, side, rules, states, batch) -> Callable[[int], None]:

  def call(i: int) -> None:
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
    task: Task, decoder_of: str, sides: Mapping[str, Side], folders: Mapping[str, pathlib.Path]
) -> dict[str, Any]:
  """Milliseconds of one answer, piece by piece, and of a stream, by arm."""
  states = {}
  for arm, side in sides.items():
    with jax.set_mesh(side.parts.mesh):
      states[arm], _ = checkpoint.load(checkpoint.find_checkpoint(folders[arm]), side.parts.state)
  records = range(min(ANSWERS, len(task.test.visual)))
  frames, visual = ([rows[i:i + 1] for i in records] for rows in (task.test.frames, task.test.visual))
  encoder = sides[decoder_of].model(states[decoder_of])
  calls = {("encoder", "encoder"): lambda i: encoder.encode_prepared(frames[i])}
  streams = {}
  for arm, side in sides.items():
    if isinstance(side, EmbeddingSide):
      pieces, look, tell = _embedding_pieces(task, side, states[arm], visual)
    else:
      pieces, look, tell = _token_pieces(task, side, states[arm], visual)
    calls |= {(arm, piece): call for piece, call in pieces.items()}
    streams[arm, "every window told"] = _stream(encoder, frames, look, tell, EVENTS * WINDOWS)
    streams[arm, "every event told"] = _stream(encoder, frames, look, tell, EVENTS)
  times = {**in_turns(calls, len(records)), **in_turns(streams, STREAMS)}
  found = {}
  for (arm, piece), seconds in times.items():
    found.setdefault(arm, {})[piece] = 1000 * seconds
  return found | {"windows": EVENTS * WINDOWS, "events": EVENTS}


def _embedding_pieces(task, side, state, visual):
  """Pieces, (visual) -> what a window is known by, and its words from that. "class" has the predictor in it."""
  model, query = side.model(state), task.classes.query
  names, bank, decoder = model.encode_text(task.classes.names), model.encode_text(task.bank), side.decoder_of(model)
  pred = [model.predict(rows) for rows in visual]
  nearest = lambda pred: (pred @ bank.T).argmax(axis=1)
  tell = (lambda pred: decoder.decode(side.centred(model, pred))) if decoder else nearest
  pieces = {
      "predictor": lambda i: model.predict(visual[i]), "words": lambda i: tell(pred[i]),
      "nearest caption": lambda i: nearest(pred[i]),
      "class": lambda i: (model.predict(visual[i], query) @ names.T).argmax(axis=1)}
  return pieces, model.predict, tell


def _token_pieces(task, side, state, visual):
  params = jax.device_put(jax.device_get(state.params))
  pieces = {
      "words": lambda i: side.describe(params, visual[i]), "class": lambda i: side.score_classes(params, visual[i])}
  return pieces, lambda visual: visual, lambda visual: side.describe(params, visual)


def _stream(encoder, frames, look, tell, told: int) -> Callable[[int], None]:
  """A stream of windows, all looked at, as many of them told, evenly spread."""
  count = EVENTS * WINDOWS

  def call(i: int) -> None:
    for window in range(count):
      seen = look(encoder.encode_prepared(frames[window % len(frames)]))
      if window * told // count != (window - 1) * told // count:
        tell(seen)

  return call


def in_turns(calls: Mapping[Any, Callable[[int], Any]], count: int) -> dict[Any, float]:
  """Median seconds of calls 0..count-1, taken in turns, after one that does not count, for it may compile."""
  for call in calls.values():
    call(0)
  times = {name: [] for name in calls}
  for i in range(count):
    for name, call in calls.items():
      began = time.perf_counter()
      call(i)
      times[name].append(time.perf_counter() - began)
  return {name: statistics.median(values) for name, values in times.items()}
