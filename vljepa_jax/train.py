"""A training run: build, start or resume, loop, save, evaluate, report. The only stateful file."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import os
import pathlib
import time
from typing import Any

import flax.linen as nn
import grain
import jax
import numpy as np

from vljepa_jax import config as config_lib
from vljepa_jax import (
    evaluation, features, hosts, loop, progress, replay, report, resident, run_log, sharding, start, step)
from vljepa_jax.api import Model, make_preprocess, make_text_input
from vljepa_jax.checkpoint import FOLDER, Checkpoints, latest_step
from vljepa_jax.config import Config
from vljepa_jax.data import augment, pipeline
from vljepa_jax.data.sources import AnySource, open_source
from vljepa_jax.data.token_files import Tokens
from vljepa_jax.errors import INPUT_ERRORS, UserError, as_user_error
from vljepa_jax.interrupt import Stopped, StopRequest, Vote, how_to_go_on
from vljepa_jax.model.vljepa import VLJepa
from vljepa_jax.parts import Parts, loss_kind, make_inspection, make_parts, make_step
from vljepa_jax.profiling import Profiler
from vljepa_jax.progress import say
from vljepa_jax.throughput import Throughput

FEATURE_BATCH = 32  # pictures per device at a time when the feature cache is made


def run(config: Config, workdir: pathlib.Path) -> None:
  """Trains until `config.train.steps`, from wherever the workdir stands, then evaluates and reports.

  Args:
    config: the recipe.
    workdir: made if absent; a workdir of another run is refused.

  Raises:
    UserError: something that the caller can put right.
  """
  with loop.stoppable() as stop:
    _run(config, workdir, stop)


def _run(config: Config, workdir: pathlib.Path, stop: StopRequest) -> None:
  alone = jax.process_count() == 1
  with stop.at_once(alone):
    with hosts.together(), as_user_error(*INPUT_ERRORS):
      config = with_own_tokenizers(config)
      parts = make_parts(config)
      check_features(config, parts)
      prepare_workdir(config, workdir)
    with hosts.together():
      check_shared(config, workdir)
    if hosts.from_first(is_finished(config, workdir)):
      say(f"{workdir} is finished after {config.train.steps:,} steps")
      return finish(workdir, evaluation.read_results(workdir))
    with hosts.together(), as_user_error(*INPUT_ERRORS):
      sources, held_out = open_data(config)
    progress.print_plan(
        config, workdir, parts.mesh, parts.shapes, parts.labels, loss_kind(config, parts.mesh),
        {s.name: sources[s.dataset] for s in config.data.sources}, held_out)

  with (
      jax.set_mesh(parts.mesh),
      nn.logical_axis_rules(config.mesh.rules),
      as_user_error(OSError),
      Checkpoints(workdir / FOLDER, config.train.keep_checkpoints) as checkpoints,
  ):
    vote = Vote(parts.mesh)
    with stop.at_once(alone):
      state, position, origin = start.start(config, parts, checkpoints)
      say(f"  {origin}")
      with as_user_error(*INPUT_ERRORS):
        report_views = features_line(stop, vote)
        iterator = make_iterator(config, parts, state.params, sources, held_out, workdir, report_views)
      if position is not None:
        iterator.set_state(position)
      log, clock = open_log(workdir, state)
    evaluator = Evaluator(config, parts, held_out)
    state = train(config, parts, state, iterator, checkpoints, evaluator, log, clock, stop, vote)
    iterator.close()
    checkpoints.wait()
    if clock.steps < config.train.steps:
      say(f"stopped after step {clock.steps}; {how_to_go_on()}")
    else:
      with stop.at_once(alone):
        conclude(config, parts, workdir, state, evaluator, log, clock)
    log.close()


def with_own_tokenizers(config: Config) -> Config:
  """The recipe with the tokenizers that the model it starts from carries with it."""
  if not config.init_from:
    return config
  return config_lib.with_tokenizers(config, config_lib.own_tokenizers(pathlib.Path(config.init_from)))


def open_data(config: Config) -> tuple[dict[str, AnySource], evaluation.HeldOut]:
  """Training sources by data set, and what is held out."""
  sources = {dataset: open_source(dataset, "train") for dataset in {s.dataset for s in config.data.sources}}
  return sources, evaluation.open_held_out(config, train=sources.get(config.eval.dataset))


def open_log(workdir: pathlib.Path, state: step.TrainState) -> tuple[run_log.RunLog, progress.Clock]:
  """The log of a run that goes on from a state, and its clock."""
  first = int(jax.device_get(state.step))
  log = run_log.RunLog(workdir, first)
  return log, progress.Clock(log.records[-1]["seconds"] if log.records else 0.0, first)


def train(
    config: Config, parts: Parts, state: step.TrainState, iterator: grain.experimental.ElasticIterator,
    checkpoints: Checkpoints, evaluator: "Evaluator", log: run_log.RunLog, clock: progress.Clock, stop: StopRequest,
    vote: Vote,
) -> step.TrainState:
  """The loop; returns early, with a checkpoint, when a signal asks one of the processes to."""
  job = loop.Job(
      recipe=config,
      parts=parts,
      step=make_step(config, parts),
      streams=tuple(source.name for source in config.data.sources),
      checkpoints=checkpoints,
      log=log,
      clock=clock,
      stop=stop,
      vote=vote,
      writer=Writer(config, log, clock, Throughput(config, parts)),
      evaluator=evaluator,
      profiler=Profiler(config.profile, log.workdir),
  )
  return loop.train(job, state, iterator)


class Writer:
  """A line for the log and one for the terminal; see `loop.Writer`."""

  def __init__(self, config: Config, log: run_log.RunLog, clock: progress.Clock, throughput: Throughput):
    self._config = config
    self._log = log
    self._clock = clock
    self._throughput = throughput
    self._main_stream = max(config.data.sources, key=lambda source: source.weight).name
    # Out of the log, so that a run that goes on writes what it would have written.
    self._told = {
        source.name: record["step"] for record in log.records for source in config.data.sources
        if f"{run_log.BY_STREAM[0]}/{source.name}" in record}
    self.count, self.take = throughput.count, throughput.take

  def is_due(self, step: int, stream: str) -> bool:
    every = self._config.train.log_every
    if step % every == 0:
      return True
    # Of streams with few batches each one is told, of others no more than `log_every` asks for.
    return stream != self._main_stream and step - self._told.get(stream, -every) >= every

  def write(self, step: int, stream: str, numbers: dict[str, float], taken: float) -> None:
    self._told[stream] = step
    steps_per_second = self._clock.lap()
    numbers["samples_per_second"] = steps_per_second * self._config.train.batch_size
    numbers |= self._throughput.numbers(taken, steps_per_second)
    numbers["seconds"] = self._clock.seconds
    self._log.write(step, numbers | {f"{name}/{stream}": numbers[name] for name in run_log.BY_STREAM})
    progress.print_step(step, self._config.train.steps, stream, numbers, steps_per_second)


class Evaluator:
  """Evaluates the state of the run; tokens of the held-out pictures are kept when the X-encoder is frozen."""

  def __init__(self, config: Config, parts: Parts, held_out: evaluation.HeldOut):
    self._config = config
    self._held_out = held_out
    self._frozen = all(jax.tree.leaves(parts.frozen["x_encoder"]))
    self._visual = None

  def is_due(self, done: int) -> bool:
    """Before training and now and then; at the end comes `at_end`."""
    return done % self._config.train.eval_every == 0 and done < self._config.train.steps

  def measure(self, done: int, state: step.TrainState) -> dict[str, float]:
    """Numbers for the log, of what is quick to measure; before training those of the text encoder, too."""
    model, visual = self._model(state)
    results = evaluation.evaluate_matching(model, self._held_out, visual)
    progress.print_evaluation(done, results)
    if done == 0:
      results["paraphrase"], _ = evaluation.score_paraphrase(model.encode_text, self._held_out.triplets)
    return run_log.flat_numbers(results, "eval")

  def at_end(self, state: step.TrainState, before: float | None) -> tuple[dict[str, Any], evaluation.Details]:
    """Everything; `before` is the paraphrase accuracy of the text encoder as it started."""
    model, visual = self._model(state)
    return evaluation.evaluate(model, self._held_out, visual, before)

  def _model(self, state: step.TrainState) -> tuple[Model, np.ndarray | None]:
    model = Model(self._config, step.averaged_params(state.params, state.ema))
    if self._frozen and self._visual is None:
      self._visual = model.encode_prepared(self._held_out.frames)
    return model, self._visual


def check_features(config: Config, parts: Parts) -> None:
  """UserError if tokens are to be cached of an X-encoder that changes."""
  if config.data.feature_views and not all(jax.tree.leaves(parts.frozen["x_encoder"])):
    raise UserError("config.data.feature_views needs a frozen X-encoder; set it to 0, or freeze x_encoder/.*")


def prepare_workdir(
    config: Any, workdir: pathlib.Path, read: Callable[[pathlib.Path], Any] = config_lib.read
) -> None:
  """Process 0 makes the workdir and writes config and versions; UserError if it is another run's or not writable.

  Args:
    config: the recipe, of any kind.
    workdir: of the run.
    read: workdir -> the recipe of a run of this kind.
  """
  if jax.process_index() != 0:
    return
  if latest_step(workdir / FOLDER) is not None:
    config_lib.check_same_run(read(workdir), config, workdir)
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    config_lib.write(config, workdir)
    run_log.write_versions(workdir)
  except OSError as error:
    raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}; give another folder") from error


def check_shared(config: Any, workdir: pathlib.Path) -> None:
  """UserError on a process that does not see in the workdir what process 0 has written there."""
  if not hosts.comes_true(lambda: config_lib.is_written(config, workdir)):
    raise UserError(
        f"--workdir={workdir} does not hold the config that process 0 has written there; all processes need the same "
        "folder, on a file system that they share, and the same --config")


def is_finished(config: Any, workdir: pathlib.Path) -> bool:
  """Whether all steps are done and reported."""
  done = latest_step(workdir / FOLDER)
  return done is not None and done >= config.train.steps and (workdir / evaluation.RESULTS).exists()


def make_iterator(
    config: Config, parts: Parts, params: Any, sources: Mapping[str, AnySource], held_out: evaluation.HeldOut,
    workdir: pathlib.Path, report_views: Callable[[int, int], None],
) -> grain.experimental.ElasticIterator:
  """The training input at its beginning."""
  data = config.data
  changes = augment.Augment(**dataclasses.asdict(data.augment))
  query = make_text_input(config.tokenizers.query, parts.model.config.predictor.vocab_size)
  target = make_text_input(config.tokenizers.target, parts.model.config.y_encoder.vocab_size)
  if data.resident:
    return resident.Batches(config, parts, sources, query, target)
  make = functools.partial(make_features, config, parts, params, sources, workdir, changes, report_views)
  tokens = make() if data.feature_views else {}
  share, shares = sharding.process_share(parts.rows)
  return pipeline.make_train_iterator(
      [pipeline.Stream(s.name, sources[s.dataset], s.view, s.weight, tokens.get(s.dataset), data.feature_tokens)
       for s in data.sources],
      global_batch=config.train.batch_size,
      seed=config.seed,
      query=query,
      target=target,
      augment=changes,
      preprocess=make_preprocess(config),
      frames=data.frames,
      held_out=held_out.hidden,
      shard_index=share,
      shard_count=shares,
      workers=data.workers,
      max_failures=data.max_failures,
  )


def make_features(
    config: Config, parts: Parts, params: Any, sources: Mapping[str, AnySource], workdir: pathlib.Path,
    changes: augment.Augment, report_views: Callable[[int, int], None],
) -> dict[str, Tokens]:
  """Cached tokens of every training source, by data set."""
  encode = jax.jit(
      lambda params, video: parts.model.apply({"params": params}, video, method=VLJepa.encode_video),
      out_shardings=parts.whole)
  views = features.Views(
      config.data.feature_views, make_preprocess(config), config.data.frames, changes, config.seed,
      config.data.feature_dtype)
  return features.cached_features(
      workdir / features.FOLDER, sources, views, params["x_encoder"],
      (parts.model.config.x_encoder, parts.model.config.pooling),
      lambda video: encode(params, sharding.put_same(video, parts.rows)),
      FEATURE_BATCH * parts.mesh.size, report_views)


def set_stage(config: Config, workdir: pathlib.Path) -> replay.Stage:
  """The run, set up to replay a step of it; caches features only if they are not there."""
  config = with_own_tokenizers(config)
  parts = make_parts(config)
  sources, held_out = open_data(config)
  return replay.Stage(
      parts, make_step(config, parts), make_inspection(config, parts),
      first_state=lambda: start.first_state(config, parts)[0],
      make_iterator=lambda params: make_iterator(
          config, parts, params, sources, held_out, workdir, progress.FeatureLine()),
      streams=tuple(source.name for source in config.data.sources))


def features_line(stop: StopRequest, vote: Vote) -> Callable[[int, int], None]:
  """Tells how the feature cache comes along; raises Stopped in all processes when a signal has asked one of them."""
  line = progress.FeatureLine()

  def report_views(done: int, total: int) -> None:
    line(done, total)
    if vote.now(stop.requested):
      raise Stopped

  return report_views


def conclude(
    config: Config, parts: Parts, workdir: pathlib.Path, state: step.TrainState, evaluator: Evaluator,
    log: run_log.RunLog, clock: progress.Clock,
) -> None:
  """The whole evaluation, `results.json` and the report."""
  began = time.monotonic()
  before = log.records[0].get("eval/paraphrase/accuracy")
  results, details = evaluator.at_end(state, before)
  log.write(clock.steps, run_log.flat_numbers(results, "eval"))
  samples = clock.steps * config.train.batch_size
  results["params"] = progress.trained_and_frozen(parts.shapes, parts.labels)
  results["train"] = {
      "seconds": clock.seconds, "samples": samples, "samples_per_second": samples / max(clock.seconds, 1e-9)}
  with hosts.together(), as_user_error(OSError):
    if jax.process_index() == 0:
      evaluation.write_results(workdir, results)
      if config.eval.report:
        report.write_report(workdir, results, details, log.records, config_lib.to_dict(config))
  say(f"trained {samples:,} samples in {progress.duration(clock.seconds)}, "
      f"evaluated in {progress.duration(time.monotonic() - began)}")
  finish(workdir, results)


def finish(workdir: pathlib.Path, results: dict[str, Any]) -> None:
  """The final table, and where to look."""
  say(evaluation.table(results))
  for name in (evaluation.RESULTS, report.REPORT):
    if (workdir / name).exists():
      say(f"  {os.path.join(workdir, name)}")
