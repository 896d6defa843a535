"""Plain dicts as the typed dataclasses of a recipe: a misspelt, missing or mistyped key is an error that names it."""

import dataclasses
import difflib
import types
import typing
from typing import Any

from vljepa_jax.errors import UserError


def parse_as(kind: Any, value: Any, path: str) -> Any:
  """`value` as an instance of the annotation `kind`; UserError names what is unknown, missing or mistyped.

  A dataclass with a field `changes` takes what is none of its other fields into that.

  Args:
    kind: a dataclass, or what annotates a field of one.
    value: plain: dicts, lists or tuples, and scalars.
    path: of the value, for messages.
  """
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if dataclasses.is_dataclass(kind):
    return _parse_dataclass(kind, value, path)
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      raise UserError(f"{path} must be a tuple, not {value!r}")
    kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
    if len(kinds) != len(value):
      raise UserError(f"{path} must have {len(kinds)} entries, not {value!r}")
    return tuple(parse_as(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value)))
  if origin in (typing.Union, types.UnionType):
    whole = [option for option in args if dataclasses.is_dataclass(option)]
    if whole and isinstance(value, dict):  # its own errors say more
      return _parse_dataclass(whole[0], value, path)
    for option in args:
      try:
        return parse_as(option, value, path)
      except UserError:
        continue
    raise UserError(f"{path} must be {kind}, not {value!r}")
  if origin is dict or kind is Any:
    return value
  if kind is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if kind is type(None) and value is None:
    return None
  if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
    return value
  raise UserError(f"{path} must be {getattr(kind, '__name__', kind)}, not {value!r}")


def _parse_dataclass(kind: Any, value: Any, path: str) -> Any:
  if not isinstance(value, dict):
    raise UserError(f"{path} must be a dict with the keys of {kind.__name__}, not {value!r}")
  fields = typing.get_type_hints(kind)
  if "changes" in fields:
    tuples = lambda v: tuple(map(tuples, v)) if isinstance(v, list) else v  # JSON has lists only
    own = fields.keys() - {"changes"}
    changes = {k: tuples(v) for k, v in value.items() if k not in own}
    value = {k: v for k, v in value.items() if k in own} | {"changes": changes}
  for key in value:
    if key not in fields:
      near = difflib.get_close_matches(key, fields, n=1)
      hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(fields)}"
      raise UserError(f"nothing reads {path}.{key}{hint}")
  missing = [key for key in fields if key not in value]
  if missing:
    raise UserError(f"{path}.{missing[0]} is missing")
  return kind(**{key: parse_as(fields[key], value[key], f"{path}.{key}") for key in fields})


def flat(value: Any, path: str = "") -> dict[str, Any]:
  """Values of nested dicts by dotted path."""
  if not isinstance(value, dict):
    return {path: value}
  return {k: v for key, child in value.items() for k, v in flat(child, f"{path}.{key}" if path else key).items()}
