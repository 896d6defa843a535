"""Errors that the person at the keyboard can put right."""

from collections.abc import Iterator
import contextlib


class UserError(ValueError):
  """A wrong input, path or setting: one sentence that names the thing and the fix."""


class SharedError(UserError):
  """A UserError that every process of the run raises at the same point, so that all can leave in an orderly way."""


class MediaError(ValueError):
  """A picture or video that cannot be read; the message names it and the reason."""


# What code that reads the user's input raises when the input is at fault. Elsewhere these are bugs.
INPUT_ERRORS = (ValueError, ImportError, OSError)


@contextlib.contextmanager
def as_user_error(*kinds: type[Exception]) -> Iterator[None]:
  """Turns errors of these kinds into UserErrors with the same message: inside, they are the user's to fix."""
  try:
    yield
  except UserError:
    raise
  except kinds as error:
    raise UserError(str(error)) from error


def one_line(error: BaseException) -> str:
  """The message of an error without line breaks."""
  return " ".join(str(error).split()) or type(error).__name__
