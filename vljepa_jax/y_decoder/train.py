"""A training run of a Y-decoder: read the model, start or resume, loop, save, measure."""

import dataclasses
import itertools
import os
import pathlib
from typing import Any

import flax.linen as nn
import grain
import jax
import numpy as np

from vljepa_jax import api, evaluation, features, hosts, parts as parts_lib, progress, run_log, sharding
from vljepa_jax import train as model_train
from vljepa_jax.checkpoint import FOLDER, Checkpoints, latest_step
from vljepa_jax.data.sources import open_source
from vljepa_jax.data.vocabulary import Vocabulary
from vljepa_jax.errors import INPUT_ERRORS, SharedError, UserError, as_user_error
from vljepa_jax.interrupt import Vote, stop_on_signals
from vljepa_jax.parts import Parts
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


def run(recipe: Recipe, workdir: pathlib.Path) -> None:
  """Trains until `recipe.train.steps`, from wherever the workdir stands, then measures.

  Args:
    recipe: of the decoder.
    workdir: made if absent; a workdir of another run is refused.

  Raises:
    UserError: something that the caller can put right.
  """
  with hosts.together():
    model_train.prepare_workdir(recipe, workdir, recipe_lib.read)
  with hosts.together():
    model_train.check_shared(recipe, workdir)
  if hosts.from_first(model_train.is_finished(recipe, workdir)):
    say(f"{workdir} is finished after {recipe.train.steps:,} steps")
    return finish(workdir, evaluation.read_results(workdir))
  with hosts.together(), as_user_error(*INPUT_ERRORS):
    captioning.require()
    model = load_finished(pathlib.Path(recipe.model_workdir))
    lesson = make_lesson(recipe, model)
    parts = step_lib.make_parts(recipe, model.config.model.embed_width, len(lesson.vocabulary))
    bind(workdir, text_decoder.Bond(
        os.path.abspath(recipe.model_workdir), features.hash_params(model.params["y_encoder"]),
        lesson.vocabulary.tokens))
  print_plan(recipe, workdir, parts, lesson)
  with (
      jax.set_mesh(parts.mesh),
      nn.logical_axis_rules(recipe.mesh.rules),
      as_user_error(OSError),
      Checkpoints(workdir / FOLDER, recipe.train.keep_checkpoints) as checkpoints,
  ):
    state, position = start(recipe, parts, checkpoints)
    first = int(jax.device_get(state.step))
    iterator = make_iterator(recipe, parts, lesson)
    if position is not None:
      iterator.set_state(position)
    log = run_log.RunLog(workdir, first)
    clock = progress.Clock(log.records[-1]["seconds"] if log.records else 0.0, first)
    state = train(recipe, parts, state, iterator, checkpoints, lesson, log, clock)
    iterator.close()
    checkpoints.wait()
    log.close()
  if clock.steps < recipe.train.steps:
    say(f"stopped after step {clock.steps}; run the same command again to go on from there")
  else:
    conclude(recipe, parts, workdir, state, lesson, clock)


def load_finished(workdir: pathlib.Path) -> api.Model:
  """The model of a run that has come to its end, or of one that was imported; UserError for any other workdir."""
  model = api.load(workdir)
  done, steps = latest_step(workdir / FOLDER), model.config.train.steps
  if done is not None and 0 < done < steps:  # 0 is an imported model
    raise UserError(
        f"config.model_workdir={workdir} is unfinished: {done} of {steps} steps; go on with the command that began it")
  return model


def make_lesson(recipe: Recipe, model: api.Model) -> Lesson:
  """Reads and encodes what the model was trained and is evaluated on; everything is the same at every start."""
  held_out = evaluation.open_held_out(model.config)
  captions, references = held_out.captions()
  sources = {s.dataset: open_source(s.dataset, "train") for s in model.config.data.sources}
  streams = texts.collect(model, sources, held_out.hidden, recipe)
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
  latest = checkpoints.agreed_step()
  if latest is not None:
    say(f"  going on after step {latest}")
    return checkpoints.restore(parts.state)
  say(f"  starting from seed {recipe.seed}")
  make_state = lambda key: parts_lib.first_state(recipe, parts.tx, parts.frozen, sharding.unbox(parts.init(key)))
  return jax.jit(make_state, out_shardings=parts.shardings)(jax.random.key(recipe.seed)), None


def make_iterator(recipe: Recipe, parts: Parts, lesson: Lesson) -> grain.experimental.ElasticIterator:
  """The training input at its beginning."""
  share, shares = sharding.process_share(parts.rows)
  return texts.make_iterator(lesson.streams, lesson.embeds, lesson.tokens, recipe, share, shares)


def train(
    recipe: Recipe, parts: Parts, state: TrainState, iterator: grain.experimental.ElasticIterator,
    checkpoints: Checkpoints, lesson: Lesson, log: run_log.RunLog, clock: progress.Clock,
) -> TrainState:
  """The loop; returns early, with a checkpoint, when a signal asks one of the processes to."""
  steps, every = recipe.train.steps, recipe.train
  step_fn = step_lib.make_step(recipe, parts)
  vote = Vote(parts.mesh)
  before = None
  clock.resume()
  with stop_on_signals() as stop, jax.transfer_guard("disallow"):
    for done in range(clock.steps + 1, steps + 1):
      state, metrics = step_fn(state, sharding.put_batch(next(iterator), parts.rows))
      jax.block_until_ready(before)  # one step ahead of the device and no more: a signal then acts at once
      before = metrics
      ending = vote.is_to_stop(stop.requested) or done == steps
      if done % every.log_every == 0 or ending:
        write_step(recipe, done, metrics, log, clock)
      if done % every.eval_every == 0 and done < steps:
        log.write(done, while_training(recipe, parts, state, lesson))
        clock.resume()
      if ending or done % every.checkpoint_every == 0:
        # The iterator has just given the batch of this step: its position belongs to this state.
        checkpoints.save(done, state, iterator.get_state())
      if ending:
        break
  jax.block_until_ready(state)
  clock.tick(done)
  return state


def write_step(
    recipe: Recipe, done: int, metrics: dict[str, jax.Array], log: run_log.RunLog, clock: progress.Clock
) -> None:
  """Logs and prints the numbers of a step; SharedError if the loss is not finite."""
  numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
  if not np.isfinite(numbers["loss"]):
    raise SharedError(
        f"the loss is {numbers['loss']} at step {done}; lower config.optim.learning_rate, and see metrics.jsonl")
  clock.tick(done)
  steps_per_second = clock.lap()
  numbers["samples_per_second"] = steps_per_second * recipe.train.batch_size
  numbers["seconds"] = clock.seconds
  log.write(done, numbers)
  steps = recipe.train.steps
  left = (steps - done) / max(steps_per_second, 1e-9)
  say(f"step {done:>{len(str(steps))}}/{steps}  loss {numbers['loss']:.4f}  next token "
      f"{100 * numbers['token_accuracy']:5.1f}%  {numbers['samples_per_second']:,.0f} texts/s  "
      f"{progress.duration(left)} left")


def decoder_of(recipe: Recipe, parts: Parts, state: TrainState, lesson: Lesson) -> text_decoder.TextDecoder:
  """The decoder of a state, on one device."""
  params = jax.tree.map(sharding.to_host, averaged_params(state.params, state.ema))
  return lesson.decoder(recipe, parts.model, params)


def while_training(recipe: Recipe, parts: Parts, state: TrainState, lesson: Lesson) -> dict[str, float]:
  """Numbers for the log, of what is quick to measure: greedy texts from true embeddings."""
  with jax.transfer_guard("allow"):
    decoder = decoder_of(recipe, parts, state, lesson)
    truth = decoder.tokens(lesson.captions)
    share = held_out_lib.exact_match(decoder.search(lesson.target), truth)
  say(f"  held out: {100 * share:.1f}% of the captions told exactly from their embeddings")
  return {"eval/decoder/from_target/exact_match": share}


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
