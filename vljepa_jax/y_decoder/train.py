"""A training run of a Y-decoder: read the model, start or resume, loop, save, measure."""

from collections.abc import Collection, Mapping
import dataclasses
import itertools
import os
import pathlib
from typing import Any

import flax.linen as nn
import grain
import jax
import numpy as np

from vljepa_jax import api, evaluation, features, hosts, loop, parts as parts_lib, progress, replay, run_log
from vljepa_jax import sharding
from vljepa_jax import train as model_train
from vljepa_jax.checkpoint import FOLDER, Checkpoints, latest_step
from vljepa_jax.data.sources import AnySource, open_source
from vljepa_jax.data.vocabulary import Vocabulary
from vljepa_jax.errors import INPUT_ERRORS, UserError, as_user_error
from vljepa_jax.interrupt import StopRequest, Vote, how_to_go_on
from vljepa_jax.parts import Parts
from vljepa_jax.profiling import Profiler
from vljepa_jax.progress import say
from vljepa_jax.step import TrainState, averaged_params
from vljepa_jax.tasks import captioning
from vljepa_jax.y_decoder import held_out as held_out_lib
from vljepa_jax.y_decoder import recipe as recipe_lib
from vljepa_jax.y_decoder import step as step_lib
from vljepa_jax.y_decoder import text_decoder, texts
from vljepa_jax.y_decoder.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Lesson:
  """All that a decoder learns from and is measured on.

  Attributes:
    model: the finished model.
    streams: training texts.
    vocabulary: of their tokens.
    tokens: of every stream, (texts, L) int32.
    embeds: of every stream, (texts, E).
    captions: held-out ones, n.
    target: (n, E), their embeddings.
    pred: (n, E), predictions for their pictures or clips.
    references: of every one, all wordings of its caption.
  """

  model: api.Model
  streams: tuple[texts.Stream, ...]
  vocabulary: Vocabulary
  tokens: list[np.ndarray]
  embeds: list[np.ndarray]
  captions: tuple[str, ...]
  target: np.ndarray
  pred: np.ndarray
  references: tuple[tuple[str, ...], ...]

  def decoder(self, recipe: Recipe, module: nn.Module, params: Any) -> text_decoder.TextDecoder:
    """The decoder with these parameters."""
    return text_decoder.TextDecoder(
        module, params, self.vocabulary, self.model.target_tokenizer, recipe.texts.length, recipe.eval.batch_size)


def run(
    recipe: Recipe, workdir: pathlib.Path, sources: Mapping[str, AnySource] | None = None, hidden: Collection[str] = ()
) -> None:
  """Trains until `recipe.train.steps`, from wherever the workdir stands, then measures.

  Args:
    recipe: of the decoder.
    workdir: made if absent; a workdir of another run is refused.
    sources: by name, whose texts to learn from; by default the training splits that the model has learned from.
    hidden: captions that are not shown, besides those of the evaluation split.

  Raises:
    UserError: something that the caller can put right.
  """
  with loop.stoppable() as stop:
    _run(recipe, workdir, stop, sources, hidden)


def _run(
    recipe: Recipe, workdir: pathlib.Path, stop: StopRequest, sources: Mapping[str, AnySource] | None,
    hidden: Collection[str],
) -> None:
  alone = jax.process_count() == 1
  with stop.at_once(alone):
    with hosts.together():
      model_train.prepare_workdir(recipe, workdir, recipe_lib.read)
    with hosts.together():
      model_train.check_shared(recipe, workdir)
    if hosts.from_first(model_train.is_finished(recipe, workdir)):
      say(f"{workdir} is finished after {recipe.train.steps:,} steps")
      return finish(workdir, evaluation.read_results(workdir))
    with hosts.together(), as_user_error(*INPUT_ERRORS):
      captioning.require()
      lesson = make_lesson(recipe, load_finished(pathlib.Path(recipe.model_workdir)), sources, hidden)
      parts = make_parts(recipe, lesson)
      bind(workdir, text_decoder.Bond(
          os.path.abspath(recipe.model_workdir), features.hash_params(lesson.model.params["y_encoder"]),
          lesson.vocabulary.tokens))
    print_plan(recipe, workdir, parts, lesson)
  with (
      jax.set_mesh(parts.mesh),
      nn.logical_axis_rules(recipe.mesh.rules),
      as_user_error(OSError),
      Checkpoints(workdir / FOLDER, recipe.train.keep_checkpoints) as checkpoints,
  ):
    with stop.at_once(alone):
      state, position = start(recipe, parts, checkpoints)
      iterator = make_iterator(recipe, parts, lesson)
      if position is not None:
        iterator.set_state(position)
      log, clock = model_train.open_log(workdir, state)
    state = train(recipe, parts, state, iterator, checkpoints, lesson, log, clock, stop)
    iterator.close()
    checkpoints.wait()
    log.close()
  if clock.steps < recipe.train.steps:
    say(f"stopped after step {clock.steps}; {how_to_go_on()}")
  else:
    with stop.at_once(alone):
      conclude(recipe, parts, workdir, state, lesson, clock)


def make_parts(recipe: Recipe, lesson: Lesson) -> Parts:
  """The parts of a decoder of this lesson."""
  return step_lib.make_parts(recipe, lesson.model.config.model.embed_width, len(lesson.vocabulary))


def load_finished(workdir: pathlib.Path) -> api.Model:
  """The model of a run that has come to its end, or of one that was imported; UserError for any other workdir."""
  model = api.load(workdir)
  done, steps = latest_step(workdir / FOLDER), model.config.train.steps
  if done is not None and 0 < done < steps:  # 0 is an imported model
    raise UserError(
        f"config.model_workdir={workdir} is unfinished: {done} of {steps} steps; go on with the command that began it")
  return model


def make_lesson(
    recipe: Recipe, model: api.Model, sources: Mapping[str, AnySource] | None = None, hidden: Collection[str] = ()
) -> Lesson:
  """Reads and encodes what the model was trained and is evaluated on; everything is the same at every start.

  The last two arguments are those of `run`.
  """
  held_out = evaluation.open_held_out(model.config)
  captions, references = held_out.captions()
  sources = sources or {s.dataset: open_source(s.dataset, "train") for s in model.config.data.sources}
  streams = texts.collect(model, sources, held_out.hidden | set(hidden), recipe)
  length = recipe.texts.length
  rows = [text_decoder.tokenize(model.target_tokenizer, stream.texts, length) for stream in streams]
  vocabulary = Vocabulary.of(itertools.chain.from_iterable(rows))
  return Lesson(
      model, streams, vocabulary,
      tokens=[vocabulary.encode(part, length) for part in rows],
      embeds=[model.encode_text(stream.texts) for stream in streams],
      captions=captions,
      target=model.encode_text(captions),
      pred=model.predict(model.encode_prepared(held_out.frames)),
      references=references)


def bind(workdir: pathlib.Path, bond: text_decoder.Bond) -> None:
  """Process 0 writes which model a run belongs to; UserError if the run began with another one or with other texts."""
  if latest_step(workdir / FOLDER) is not None:
    before = text_decoder.read_bond(workdir)
    if (before.y_encoder, before.tokens) != (bond.y_encoder, bond.tokens):
      raise UserError(
          f"{workdir} holds a run for another Y-encoder or other texts than {bond.model_workdir} has now; choose "
          "another --workdir")
  if jax.process_index() == 0:
    bond.write(workdir)


def start(recipe: Recipe, parts: Parts, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any] | None]:
  """The train state and the position of the input: of the newest checkpoint, or those of the seed and None."""
  if checkpoints.agreed_step() is not None:
    state, position = checkpoints.restore(parts.state)
    say(f"  going on after step {int(jax.device_get(state.step))}")
    return state, position
  say(f"  starting from seed {recipe.seed}")
  return first_state(recipe, parts), None


def first_state(recipe: Recipe, parts: Parts) -> TrainState:
  """The train state of the seed."""
  make_state = lambda key: parts_lib.first_state(recipe, parts.tx, parts.frozen, sharding.unbox(parts.init(key)))
  return jax.jit(make_state, out_shardings=parts.shardings)(jax.random.key(recipe.seed))


def set_stage(recipe: Recipe, workdir: pathlib.Path) -> replay.Stage:
  """The run, set up to replay a step of it."""
  del workdir
  lesson = make_lesson(recipe, load_finished(pathlib.Path(recipe.model_workdir)))
  parts = make_parts(recipe, lesson)
  return replay.Stage(
      parts, step_lib.make_step(recipe, parts), step_lib.make_inspection(parts),
      first_state=lambda: first_state(recipe, parts),
      make_iterator=lambda params: make_iterator(recipe, parts, lesson),
      streams=tuple(stream.name for stream in lesson.streams))


def make_iterator(recipe: Recipe, parts: Parts, lesson: Lesson) -> grain.experimental.ElasticIterator:
  """The training input at its beginning."""
  share, shares = sharding.process_share(parts.rows)
  return texts.make_iterator(lesson.streams, lesson.embeds, lesson.tokens, recipe, share, shares)


def train(
    recipe: Recipe, parts: Parts, state: TrainState, iterator: grain.experimental.ElasticIterator,
    checkpoints: Checkpoints, lesson: Lesson, log: run_log.RunLog, clock: progress.Clock, stop: StopRequest,
) -> TrainState:
  """The loop; returns early, with a checkpoint, when a signal asks one of the processes to."""
  job = loop.Job(
      recipe=recipe,
      parts=parts,
      step=step_lib.make_step(recipe, parts),
      streams=tuple(stream.name for stream in lesson.streams),
      checkpoints=checkpoints,
      log=log,
      clock=clock,
      stop=stop,
      vote=Vote(parts.mesh),
      writer=Writer(recipe, log, clock),
      evaluator=Evaluator(recipe, parts, lesson),
      profiler=Profiler((), log.workdir),
  )
  return loop.train(job, state, iterator)


class Writer:
  """A line for the log and one for the terminal; see `loop.Writer`."""

  def __init__(self, recipe: Recipe, log: run_log.RunLog, clock: progress.Clock):
    self._recipe, self._log, self._clock = recipe, log, clock

  def count(self, batch: Mapping[str, np.ndarray]) -> None:
    pass

  def take(self) -> None:
    return None

  def is_due(self, step: int, stream: str) -> bool:
    return step % self._recipe.train.log_every == 0 or step == self._recipe.train.steps

  def write(self, step: int, stream: str, numbers: dict[str, float], taken: None) -> None:
    steps, steps_per_second = self._recipe.train.steps, self._clock.lap()
    numbers["samples_per_second"] = steps_per_second * self._recipe.train.batch_size
    numbers["seconds"] = self._clock.seconds
    self._log.write(step, numbers)
    left = (steps - step) / max(steps_per_second, 1e-9)
    say(f"step {step:>{len(str(steps))}}/{steps}  loss {numbers['loss']:.4f}  next token "
        f"{100 * numbers['token_accuracy']:5.1f}%  {numbers['samples_per_second']:,.0f} texts/s  "
        f"{progress.duration(left)} left")


class Evaluator:
  """Held-out texts now and then; see `loop.Evaluator`."""

  def __init__(self, recipe: Recipe, parts: Parts, lesson: Lesson):
    self._recipe, self._parts, self._lesson = recipe, parts, lesson

  def is_due(self, step: int) -> bool:
    return step % self._recipe.train.eval_every == 0 and 0 < step < self._recipe.train.steps

  def measure(self, step: int, state: TrainState) -> dict[str, float]:
    """What is quick to measure: greedy texts from true embeddings."""
    del step
    decoder = decoder_of(self._recipe, self._parts, state, self._lesson)
    truth = decoder.tokens(self._lesson.captions)
    share = held_out_lib.exact_match(decoder.search(self._lesson.target), truth)
    say(f"  held out: {100 * share:.1f}% of the captions told exactly from their embeddings")
    return {"eval/decoder/from_target/exact_match": share}


def decoder_of(recipe: Recipe, parts: Parts, state: TrainState, lesson: Lesson) -> text_decoder.TextDecoder:
  """The decoder of a state, on one device."""
  params = jax.tree.map(sharding.to_host, averaged_params(state.params, state.ema))
  return lesson.decoder(recipe, parts.model, params)


def conclude(
    recipe: Recipe, parts: Parts, workdir: pathlib.Path, state: TrainState, lesson: Lesson, clock: progress.Clock
) -> None:
  """The whole measurement and `results.json`."""
  bank = [text for stream in lesson.streams for text in stream.texts]
  decoder = decoder_of(recipe, parts, state, lesson)
  numbers, details = held_out_lib.measure(
      lesson.model, decoder, lesson.captions, lesson.references, lesson.pred, bank, recipe.eval)
  samples = clock.steps * recipe.train.batch_size
  results = {
      "decoder": numbers,
      "noise": {stream.name: float(stream.cosines.mean()) for stream in lesson.streams},
      "params": progress.trained_and_frozen(parts.shapes, parts.labels),
      "train": {"seconds": clock.seconds, "samples": samples,
                "samples_per_second": samples / max(clock.seconds, 1e-9)},
      "examples": [
          {"caption": caption, **{name: lines[i] for name, lines in details.decoded.items()}}
          for i, caption in enumerate(details.captions[:20])],
  }
  with hosts.together(), as_user_error(OSError):
    if jax.process_index() == 0:
      evaluation.write_results(workdir, results)
  say(f"trained {samples:,} samples in {progress.duration(clock.seconds)}")
  finish(workdir, results)


def print_plan(recipe: Recipe, workdir: pathlib.Path, parts: Parts, lesson: Lesson) -> None:
  """Says what is about to happen."""
  count = progress.trained_and_frozen(parts.shapes, parts.labels)["trained"]
  say(f"{recipe.name}: Y-decoder of {recipe.model_workdir} in {workdir}")
  say(f"  {'decoder':<16} {recipe.decoder['preset']:<14} {count:,} trained, {len(lesson.vocabulary):,} tokens")
  for stream in lesson.streams:
    say(f"  {'texts ' + stream.name:<16} weight {stream.weight:<7g} {len(stream.texts):,} texts; "
        f"the predictor is at cosine {stream.cosines.mean():.3f} on {len(stream.cosines):,} training examples")
  say(f"  {'evaluation':<16} {lesson.model.config.eval.split:<14} {len(lesson.captions):,} captions, held out")
  say(f"  {'training':<16} {recipe.train.steps:,} steps of {recipe.train.batch_size:,} texts")


def finish(workdir: pathlib.Path, results: dict[str, Any]) -> None:
  """The final table, some texts, and where to look."""
  say(held_out_lib.table(results["decoder"]))
  for example in results["examples"][:5]:
    say(f"  {example['caption']}\n    from its embedding    {example['from_target']}\n"
        f"    from the picture      {example['from_pred']}")
  say(f"  {os.path.join(workdir, evaluation.RESULTS)}")
