"""All runs of a study, in order: a sweep of learning rates for every arm, a decoder, then the seeds that are reported.

A finished run is one file and is never made again; one that was broken off goes on from its checkpoint. So a sweep
that was killed goes on where it was, and ends with the numbers that it would have had.
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import time
from typing import Any

import flax.linen as nn
import jax

from vljepa_jax import config as config_lib
from vljepa_jax import interrupt, loop, progress, train
from vljepa_jax.compare import cost, results, run as run_lib
from vljepa_jax.compare.sides import EmbeddingSide, Speller, make_side
from vljepa_jax.compare.study import Study, arm_config
from vljepa_jax.compare.task import Task, open_task
from vljepa_jax.errors import INPUT_ERRORS, UserError, as_user_error
from vljepa_jax.evaluation import write_json
from vljepa_jax.parts import make_parts
from vljepa_jax.progress import say
from vljepa_jax.y_decoder import recipe as decoder_recipe
from vljepa_jax.y_decoder import text_decoder
from vljepa_jax.y_decoder import train as decoder_train


TASK = "task.json"  # what the runs of a folder have in common


def run(study: Study, workdir: pathlib.Path, names: Sequence[str]) -> bool:
  """Makes all runs of some tasks of a study that are not finished yet; False if a signal has stopped it.

  Args:
    study: the recipe.
    workdir: of the study; several processes may work on different tasks in it.
    names: of the tasks.

  Raises:
    UserError: something that the caller can put right.
  """
  unknown = sorted(set(names) - study.tasks.keys())
  if unknown:
    raise UserError(f"the study {study.name} has no task {unknown[0]!r}; it has {', '.join(study.tasks)}")
  if jax.process_count() > 1:
    raise UserError("a study runs in one process, on all of its devices")
  finished = study.tasks.keys() - set(results.collect(study, workdir)[1])
  with loop.stoppable() as stop:
    for name in names:
      if name in finished:
        Sweep(study, name, workdir / name, stop).check_same()
        say(f"{study.name} on {name} is finished")
        continue
      Sweep(study, name, workdir / name, stop).run()
    return True
  return False


@dataclasses.dataclass
class Sweep:
  """The runs of one task.

  Attributes:
    study: the recipe.
    name: of the task.
    workdir: of it.
    stop: whether to.
  """

  study: Study
  name: str
  workdir: pathlib.Path
  stop: interrupt.StopRequest

  def run(self) -> None:
    """Makes what is missing, in order."""
    study, recipe = self.study, self.study.tasks[self.name]
    self._runs = len(recipe.arms) * (len(study.rates) + len(study.seeds))
    self._done, self._began, self._timed = 0, time.monotonic(), 0
    say(f"{study.name} on {self.name}: {len(recipe.arms)} arms, {self._runs} runs, in {self.workdir}")
    self._check_same_task()
    config = arm_config(study, self.name, next(iter(recipe.arms)), study.rates[0], study.sweep_seed)
    with self.stop.at_once(), as_user_error(*INPUT_ERRORS), nn.logical_axis_rules(config.mesh.rules):
      task = open_task(recipe, config, self.workdir, progress.FeatureLine())
    say(f"  {len(task.source):,} training records, {len(task.validation.labels):,} to choose learning rates on, "
        f"{len(task.test.labels):,} reported; {len(task.classes.names)} classes")
    for arm in recipe.arms:
      for rate in study.rates:
        self._execute(task, arm, rate, study.sweep_seed, None)
    rates = {arm: self.best_rate(arm) for arm in recipe.arms}
    speller = self._speller(task, rates) if recipe.decoder else None
    for seed in study.seeds:
      for arm in recipe.arms:
        self._execute(task, arm, rates[arm], seed, speller)
    if results.read_cost(self.workdir, recipe) is None:
      folders = {arm: self._folder(arm, rates[arm], study.seeds[0]) for arm in recipe.arms}
      with self.stop.at_once(), as_user_error(OSError):
        cost.measure(study, self.name, task, rates, folders, speller, self.workdir / results.COST)

  def _check_same_task(self) -> None:
    """UserError if the folder holds runs on other data, which their own recipes would not tell."""
    recipe, path = self.study.tasks[self.name], self.workdir / TASK
    now = json.loads(json.dumps({
        "records": recipe.records, "validation": recipe.validation, "classes": recipe.classes,
        "eval": recipe.config["eval"], "decoder": recipe.decoder}))
    with as_user_error(OSError):
      self.workdir.mkdir(parents=True, exist_ok=True)
      if not path.is_file():
        return write_json(path, now)
      before = json.loads(path.read_text(encoding="utf-8"))
    for key in now:
      if before.get(key) != now[key]:
        raise UserError(
            f"{self.workdir} holds runs of a task with {key} {before.get(key)!r}, not {now[key]!r}; choose another "
            "--workdir")

  def check_same(self) -> None:
    """UserError if a finished folder holds other runs than these."""
    self._check_same_task()
    for arm in self.study.tasks[self.name].arms:
      for rate in self.study.rates:
        config = arm_config(self.study, self.name, arm, rate, self.study.sweep_seed)
        folder = self._folder(arm, rate, self.study.sweep_seed)
        config_lib.check_same_run(config_lib.read(folder), config, folder)

  def best_rate(self, arm: str) -> float:
    """The learning rate of the arm's best run on the validation split; of equal ones the smallest."""
    return results.best_rate({
        rate: run_lib.finished(self._folder(arm, rate, self.study.sweep_seed)) for rate in self.study.rates})

  def _folder(self, arm: str, rate: float, seed: int) -> pathlib.Path:
    return results.folder(self.workdir.parent, self.study, self.name, arm, rate, seed)

  def _execute(self, task: Task, arm: str, rate: float, seed: int, speller: Speller | None) -> None:
    study, recipe = self.study, self.study.tasks[self.name]
    folder = self._folder(arm, rate, seed)
    new = run_lib.finished(folder) is None
    began = time.monotonic()
    if new:
      say(f"  [{self._done + 1} of {self._runs}] {arm}, learning rate {rate:g}, seed {seed}")
    sweeps = seed == study.sweep_seed
    given = run_lib.execute(
        run_lib.Run(
            side=recipe.arms[arm].side, config=arm_config(study, self.name, arm, rate, seed), workdir=folder,
            points=recipe.points[-1:] if sweeps else recipe.points, held=task.validation if sweeps else task.test,
            keep=bool(recipe.decoder_of) and (arm == recipe.decoder_of if sweeps else seed == study.seeds[0]),
            may_diverge=sweeps),
        task, speller, self.stop)
    self._done += 1
    if new:
      self._timed += 1
      left = (time.monotonic() - self._began) / self._timed * (self._runs - self._done)
      last = given["points"][-1]
      say(f"    top-1 {100 * last['top1']:.1f}%  top-5 {100 * last['top5']:.1f}%  CIDEr {last['cider']:.1f}  "
          f"in {progress.duration(time.monotonic() - began)}; about {progress.duration(left)} left")

  def _speller(self, task: Task, rates: dict[str, float]) -> Speller:
    """The decoder beside the sweep's best run of its arm; trained if it is not there."""
    recipe = self.study.tasks[self.name]
    beside = self._folder(recipe.decoder_of, rates[recipe.decoder_of], self.study.sweep_seed)
    folder = self.workdir / results.DECODER
    parsed = decoder_recipe.parse({**recipe.decoder, "model_workdir": str(beside)})
    if not train.is_finished(parsed, folder):
      say(f"  the decoder, of texts alone, in {folder}")
      decoder_train.run(parsed, folder, {task.config.eval.dataset: task.source}, task.hidden)
      if not train.is_finished(parsed, folder):
        raise interrupt.Stopped
    side = make_side(
        recipe.arms[recipe.decoder_of].side,
        arm_config(self.study, self.name, recipe.decoder_of, rates[recipe.decoder_of], self.study.sweep_seed), task,
        None)
    if not isinstance(side, EmbeddingSide) or not all(jax.tree.leaves(side.parts.frozen["y_encoder"])):
      raise UserError(f"config.tasks.{self.name}.decoder_of must be an arm of VL-JEPA with a frozen Y-encoder")
    with jax.set_mesh(side.parts.mesh):
      y_encoder = side.first_state().params["y_encoder"]
    decoder = text_decoder.load(folder, y_encoder, task.config.model.embed_width, task.target_input.tokenizer)
    return Speller(decoder, text_decoder.read_bond(folder).y_encoder)
