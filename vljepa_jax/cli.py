"""What the commands share: flags, quiet logs, and one line for what the caller can put right."""

from collections.abc import Callable
import functools
import os
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging

from vljepa_jax import accelerator
from vljepa_jax.errors import UserError, one_line


def run(main: Callable[[], Any]) -> None:
  """Parses the flags and runs `main`; a UserError becomes one line on stderr and exit code 2."""
  app.run(_one_line_errors(functools.partial(_main, main)), flags_parser=_one_line_errors(_parse_flags))


def read_recipe(recipe: Any) -> dict[str, Any]:
  """The plain form of a config flag's value; UserError if there is none, or no file, which shows only now."""
  if recipe is None:
    raise UserError("give a recipe: --config=configs/base.py")
  try:
    return recipe.to_dict()
  except OSError as error:
    raise UserError(f"there is no such recipe: {one_line(error).rpartition('] ')[2]}") from error


def _main(main: Callable[[], Any], argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; flags start with --")
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells a page for every checkpoint
  accelerator.use_accelerator_flags()
  main()


def _parse_flags(argv: list[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except (AttributeError, KeyError) as error:  # from the lock of the config, one wrapped in the other
    raise UserError(f"the config has no key {_first_words(error)}") from error
  except SyntaxError as error:
    raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
  except (flags.Error, TypeError, ValueError) as error:
    raise UserError(_last_words(str(error))) from error


def _first_words(error: BaseException) -> str:
  """What the innermost exception says, without the quotes that str() of a KeyError adds."""
  while isinstance(error.args[0], BaseException):
    error = error.args[0]
  return error.args[0]


def _last_words(message: str) -> str:
  """The message of the exception where config_flags put a whole traceback into its own."""
  if "Traceback" not in message:
    return message
  return message.strip().splitlines()[-1].partition(": ")[2]


def _one_line_errors(function: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:

  @functools.wraps(function, updated=())
  def wrapped(argv: list[str]) -> Any:
    try:
      return function(argv)
    except UserError as error:
      print("error:", one_line(error), file=sys.stderr)
      sys.exit(2)
    except KeyboardInterrupt:
      print("stopped; what was finished is saved, and the same command goes on from there", file=sys.stderr, flush=True)
      os._exit(130)  # compiler and decoder threads may still run, and an orderly exit would crash under them

  return wrapped
