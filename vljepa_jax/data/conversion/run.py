"""Shards made side by side by Apache Beam."""

from collections.abc import Sequence
import logging
import os
import re
import sys
import threading

logging.getLogger().addHandler(logging.NullHandler())  # Beam tells on stderr which of its optional parts are missing

import apache_beam as beam
from apache_beam.options import pipeline_options
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.transforms import environments

from vljepa_jax.data.conversion.frames import Encoding
from vljepa_jax.data.conversion.shard import Shard, convert_shard
from vljepa_jax.errors import UserError, one_line

DIRECT = "DirectRunner"
PROCESSES = "multi_processing"  # a mode of it
# What a worker raises comes here anyway; its stderr would tell it once more. Ctrl-C is for the command to answer.
QUIET = ("import logging, os, signal, sys; logging.getLogger().addHandler(logging.NullHandler()); "
         "sys.stderr = open(os.devnull, \"w\"); signal.signal(signal.SIGINT, signal.SIG_IGN)")
WORKER = "from apache_beam.runners.worker import sdk_worker_main; sdk_worker_main.main([])"


class _Convert(beam.DoFn):
  """Shard -> nothing; its files are there then."""

  def __init__(self, encoding: Encoding):
    self._encoding = encoding

  def process(self, shard: Shard) -> None:
    convert_shard(shard, self._encoding)


def read_options(runner: str, arguments: Sequence[str]) -> pipeline_options.PipelineOptions:
  """Beam's options of a command line; UserError for one that Beam does not know."""
  options = pipeline_options.PipelineOptions([f"--runner={runner}", *arguments])
  unknown = set(options.get_all_options(retain_unknown_options=True)) - set(options.get_all_options())
  if unknown:
    raise UserError(f"--{min(unknown)} is an option neither of the conversion nor of Beam")
  return options


def run(shards: Sequence[Shard], encoding: Encoding, options: pipeline_options.PipelineOptions) -> None:
  """Makes shards; UserError if one cannot be written, or the runner cannot be used."""
  try:
    with beam.Pipeline(runner=_runner(options), options=options) as pipeline:
      (pipeline | "Shards" >> beam.Create(list(shards)) | "Spread" >> beam.Reshuffle()
       | "Convert" >> beam.ParDo(_Convert(encoding)))
  except Exception as error:  # runners wrap what a worker has raised in text of their own
    told = re.search(r"UserError: (.*?)(?: \[while running|\\n|\n|$)", f"{type(error).__name__}: {error}")
    if told:
      raise UserError(told[1]) from error
    runner = options.view_as(pipeline_options.StandardOptions).runner
    if runner == DIRECT:
      raise
    raise UserError(f"{runner} has failed: {one_line(error)}") from error


def _runner(options: pipeline_options.PipelineOptions) -> fn_runner.FnApiRunner | None:
  """What DirectRunner stands for here, or None: Beam's own choice for it may be a program that it has to download."""
  if options.view_as(pipeline_options.StandardOptions).runner != DIRECT:
    logging.basicConfig(level=logging.INFO, force=True)  # such a runner tells where its job can be seen
    return None
  direct = options.view_as(pipeline_options.DirectOptions)
  if direct.direct_running_mode != PROCESSES:
    return fn_runner.FnApiRunner()
  threading.excepthook = _leave
  direct.direct_running_mode = "in_memory"  # or Beam would put workers of its own, which are not quiet, in their place
  return fn_runner.FnApiRunner(default_environment=environments.SubprocessSDKEnvironment.from_command_string(
      f"'{sys.executable}' -c '{QUIET}; {WORKER}'"))


def _leave(raised: threading.ExceptHookArgs) -> None:
  """Ends the command if a worker process has died, for which Beam would wait forever."""
  if not raised.thread or raised.thread.name != "run_worker":
    threading.__excepthook__(raised)
    return
  print(f"error: {one_line(raised.exc_value)}: memory ran out, or a file has crashed its decoder; what is finished is "
        "kept, and the same command goes on from there", file=sys.stderr, flush=True)
  os._exit(1)
