"""Settings of a script: one typed record, from which its flags are made.

A field is a flag. Its annotation holds its type, range and help text, and its
default is the flag's:

  num_rows: Annotated[int, at_least(1), "Memory rows, K."] = 32

Types are int, float, bool, str, a Literal of strings, `T | None`, and
`tuple[T, ...]`, which is given as a comma-separated list; with PATH, text is a
path on this machine. Imports no JAX.
"""

from __future__ import annotations

import math
import os
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from absl import flags

__all__ = [
  "GIVEN_AGAIN",
  "MAY_BE_EMPTY",
  "MAY_REPEAT",
  "PATH",
  "Range",
  "above",
  "at_least",
  "at_most",
  "between",
  "define",
  "help_of",
  "is_float",
  "make_parser",
  "parse",
  "parsers",
  "show",
]

# Whole numbers become int32 arrays and shapes, others float32.
_LARGEST = 2**31 - 1
_LARGEST_FLOAT = 2.0**128 - 2.0**104
_SMALLEST_FLOAT = 2.0**-126


class Range(NamedTuple):
  """Allowed values of a setting, without NaN and infinities."""

  least: float = -math.inf
  most: float = math.inf
  # whether `least` itself is excluded
  is_open: bool = False
  # whether a list may be empty, or have the same item twice
  may_be_empty: bool = False
  may_repeat: bool = False
  # whether the flag is repeated for each item, instead of using commas
  is_given_again: bool = False
  # whether text is a path: a leading ~ is expanded, addresses are refused
  is_path: bool = False


# For lists: may be empty; may have the same item twice; the flag is repeated
# for each item.
MAY_BE_EMPTY = Range(may_be_empty=True)
MAY_REPEAT = Range(may_repeat=True)
GIVEN_AGAIN = Range(may_be_empty=True, may_repeat=True, is_given_again=True)
# For text: a path on this machine.
PATH = Range(is_path=True)


def at_least(least: float) -> Range:
  """Allows numbers from `least` on."""
  return Range(least=least)


def at_most(most: float) -> Range:
  """Allows numbers up to `most`."""
  return Range(most=most)


def between(least: float, most: float) -> Range:
  """Allows numbers from `least` to `most`, both included."""
  return Range(least=least, most=most)


def above(least: float, most: float = math.inf) -> Range:
  """Allows numbers greater than `least`, up to `most`."""
  return Range(least=least, most=most, is_open=True)


class _Parser(flags.ArgumentParser):
  """Parses a value from text, or checks a parsed one."""

  def parse(self, argument: Any) -> Any:
    raise NotImplementedError

  def show(self, value: Any) -> str:
    """Formats a value as on the command line."""
    return str(value)


class _Number(_Parser):
  def __init__(self, kind: type, allowed: Range):
    self.kind = kind
    least, most = allowed.least, allowed.most
    if kind is int:
      least = -_LARGEST if math.isinf(least) else least
      most = _LARGEST if math.isinf(most) else most
    self._allowed = allowed._replace(least=least, most=most)

  def parse(self, argument):
    value = self._read(argument)
    least, most, is_open = self._allowed[:3]
    if value < least or value > most or (is_open and value == least):
      raise ValueError(f"must be {self._describe()}")
    if is_open and value - least < _SMALLEST_FLOAT:
      raise ValueError(
        f"must be above {_shortest(least)} by {_SMALLEST_FLOAT:.2g} or more, "
        "the smallest number of float32"
      )
    return value

  def _read(self, argument):
    try:
      if isinstance(argument, bool):
        raise ValueError
      if self.kind is int:
        if isinstance(argument, float) and not argument.is_integer():
          raise ValueError
        return int(argument)
      value = float(argument)
    except (TypeError, ValueError, OverflowError):
      noun = "a whole number" if self.kind is int else "a number"
      raise ValueError(f"must be {noun}") from None
    if not math.isfinite(value):
      raise ValueError("must be a finite number")
    if abs(value) > _LARGEST_FLOAT:
      raise ValueError("must be a number that float32 can hold")
    return value

  def _describe(self):
    least, most, is_open = self._allowed[:3]
    bounds = []
    if not math.isinf(least):
      lower = "above" if is_open else "at least"
      bounds.append(f"{lower} {_shortest(least)}")
    if not math.isinf(most):
      bounds.append(f"at most {_shortest(most)}")
    return " and ".join(bounds)

  def show(self, value):
    return _shortest(value)

  def flag_type(self):
    return "integer" if self.kind is int else "number"


def _shortest(number):
  """Formats a number so that it is parsed back exactly."""
  if isinstance(number, int):
    return str(number)
  short = f"{number:g}"
  return short if float(short) == number else repr(number)


class _Flag(_Parser):
  _WORDS: typing.ClassVar = {
    "true": True,
    "t": True,
    "1": True,
    "yes": True,
    "false": False,
    "f": False,
    "0": False,
    "no": False,
  }

  def parse(self, argument):
    if isinstance(argument, bool):
      return argument
    try:
      return self._WORDS[str(argument).lower()]
    except KeyError:
      raise ValueError("must be true or false") from None

  def show(self, value):
    return "true" if value else "false"

  def flag_type(self):
    return "true|false"


class _Text(_Parser):
  def parse(self, argument):
    if not isinstance(argument, str):
      raise ValueError("must be text")
    if not argument.strip():
      raise ValueError("must not be empty")
    return argument

  def flag_type(self):
    return "text"


class _Path(_Text):
  """Parses a path; what is recorded and shown is the path that is used."""

  def parse(self, argument):
    text = super().parse(argument)
    if "\0" in text:
      raise ValueError("must be a path without null characters")
    if re.match(r"[A-Za-z][\w+.-]*://", text):
      raise ValueError(
        "is an address, but only local directories are read and written; give "
        "a mounted directory, or copy the files"
      )
    if not text.startswith("~"):
      return text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
      name = text.partition("/")[0]
      raise ValueError(
        f"begins with {name}, but no user of that name has a home directory; "
        f"write ./{text} for a directory of that name"
      )
    return expanded


class _Choice(_Parser):
  def __init__(self, choices):
    self.choices = choices

  def parse(self, argument):
    if argument not in self.choices:
      raise ValueError(f"must be one of {', '.join(self.choices)}")
    return argument

  def flag_type(self):
    return "|".join(self.choices)


class _List(_Parser):
  def __init__(self, each: _Parser, allowed: Range):
    self.each, self.allowed = each, allowed

  def parse(self, argument):
    words = argument
    if isinstance(argument, str):
      words = [x.strip() for x in argument.split(",")] if argument else []
    elif not isinstance(argument, list | tuple):
      raise ValueError("must be a comma-separated list")
    values = tuple(self._item(word) for word in words)
    if not values and not self.allowed.may_be_empty:
      raise ValueError("is empty; it must name at least one")
    if len(set(values)) < len(values) and not self.allowed.may_repeat:
      raise ValueError("names something twice; name it once")
    return values

  def _item(self, word):
    try:
      return self.each.parse(word)
    except ValueError as error:
      raise ValueError(f"each item {error}") from None

  def show(self, value):
    return ",".join(map(self.each.show, value))

  def flag_type(self):
    return f"{self.each.flag_type()},..."


class _Optional(_Parser):
  def __init__(self, inner: _Parser):
    self.inner = inner

  def parse(self, argument):
    return None if argument in (None, "none") else self.inner.parse(argument)

  def show(self, value):
    return "none" if value is None else self.inner.show(value)

  def flag_type(self):
    return self.inner.flag_type()


class _Serializer(flags.ArgumentSerializer):
  def __init__(self, parser):
    self._parser = parser

  def serialize(self, value):
    return self._parser.show(value)


def make_parser(annotation: Any) -> Any:
  """Makes the parser of an annotation.

  Args:
    annotation: one of the types that a setting may have.

  Returns:
    An absl parser: `parse` takes text or a value, and raises a ValueError whose
    message continues the flag's name; `show` formats a value as text.

  Raises:
    TypeError: a setting cannot have this type.
  """
  allowed = Range()
  if typing.get_origin(annotation) is Annotated:
    annotation, *extras = typing.get_args(annotation)
    allowed = next((x for x in extras if isinstance(x, Range)), allowed)
  origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
  if origin in (typing.Union, types.UnionType) and type(None) in arguments:
    (inner,) = (x for x in arguments if x is not type(None))
    return _Optional(make_parser(Annotated[inner, allowed]))
  if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
    return _List(make_parser(arguments[0]), allowed)
  if origin is Literal:
    return _Choice(arguments)
  if annotation is bool:
    return _Flag()
  if annotation is str:
    return _Path() if allowed.is_path else _Text()
  if annotation in (int, float):
    return _Number(annotation, allowed)
  raise TypeError(f"a setting cannot be of type {annotation}.")


def _annotations(record: type) -> dict[str, Any]:
  return typing.get_type_hints(record, include_extras=True)


def is_float(parser: Any) -> bool:
  """Whether a parser of `make_parser` gives a float, or None in its place."""
  inner = parser.inner if isinstance(parser, _Optional) else parser
  return isinstance(inner, _Number) and inner.kind is float


def parsers(record: type) -> dict[str, Any]:
  """Makes a parser for each field of a record; see `make_parser`."""
  return {name: make_parser(x) for name, x in _annotations(record).items()}


def help_of(record: type) -> dict[str, str]:
  """Returns the help of each field: the text in its annotation, else ""."""
  found = {}
  for name, annotation in _annotations(record).items():
    extras = typing.get_args(annotation)[1:]
    texts = [x for x in extras if isinstance(x, str)]
    is_annotated = typing.get_origin(annotation) is Annotated
    found[name] = texts[0] if is_annotated and texts else ""
  return found


def define(flag_values: flags.FlagValues, record: Any) -> None:
  """Defines a flag for each field of a record.

  Args:
    flag_values: where the flags are defined.
    record: a NamedTuple of settings; every field has a default.
  """
  texts = help_of(record)
  for name, parser in parsers(record).items():
    text, default = texts[name], record._field_defaults[name]
    if isinstance(parser, _List) and parser.allowed.is_given_again:
      flag = flags.MultiFlag(
        parser.each, _Serializer(parser.each), name, list(default), text
      )
    else:
      flag = flags.Flag(
        parser,
        _Serializer(parser),
        name,
        default,
        text,
        boolean=isinstance(parser, _Flag),
        allow_overwrite=False,
      )
    flags.DEFINE_flag(flag, flag_values)


def parse(record: Any, values: Mapping[str, Any]) -> dict[str, Any]:
  """Passes values through the parsers of a record's fields.

  Args:
    record: a NamedTuple of settings.
    values: name -> value or text, such as read from JSON.

  Returns:
    name -> value, for each name given.

  Raises:
    ValueError: a name is unknown, or its value is not allowed.
  """
  found, known = {}, parsers(record)
  for name, value in values.items():
    if name not in known:
      raise ValueError(f"there is no setting {name!r}.")
    try:
      found[name] = known[name].parse(value)
    except ValueError as error:
      raise ValueError(f"{name}={value}: {error}.") from None
  return found


def show(record: Any, name: str, value: Any) -> str:
  """Formats a setting as on the command line."""
  return parsers(record)[name].show(value)
