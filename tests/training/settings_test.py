"""Tests of lilly.training.settings: fields become flags that say no."""

import json
import math
from typing import Annotated, Literal, NamedTuple

import pytest
from absl import flags

from lilly.training import settings
from lilly.training.settings import (
  GIVEN_AGAIN,
  MAY_BE_EMPTY,
  MAY_REPEAT,
  PATH,
  above,
  at_least,
  at_most,
  between,
)

Size = Annotated[int, between(1, 100)]


class Record(NamedTuple):
  task: Annotated[Literal["small", "big"], "Task."] = "small"
  sizes: Annotated[tuple[Size, ...], MAY_REPEAT, "Units per layer."] = (4, 4)
  names: Annotated[tuple[Literal["a", "b"], ...], "Names."] = ("a",)
  lengths: Annotated[tuple[int, ...], MAY_BE_EMPTY, "Lengths."] = ()
  again: Annotated[tuple[str, ...], GIVEN_AGAIN, "Pairs."] = ()
  count: Annotated[int, at_least(0), "Count."] = 3
  rate: Annotated[float, above(0.0), "Rate."] = 1e-4
  share: Annotated[float, between(0.0, 1.0), "Share."] = 0.5
  offset: Annotated[float, at_most(2.0), "Offset."] = 0.0
  scale: Annotated[float | None, at_least(0.0), "Scale; none: its own."] = None
  fast: Annotated[bool, "Whether to hurry."] = False
  word: Annotated[str, "Any."] = "here"
  path: Annotated[str, PATH, "Where."] = "here"


def read(*argv):
  flag_values = flags.FlagValues()
  settings.define(flag_values, Record)
  flag_values(["program", *argv])
  return {name: flag_values[name].value for name in Record._fields}


def test_defaults_are_the_records():
  found = read()
  assert tuple(found.pop("again")) == ()
  assert found == {k: v for k, v in Record()._asdict().items() if k != "again"}


@pytest.mark.parametrize(
  ("argument", "name", "value"),
  [
    ("--task=big", "task", "big"),
    ("--sizes=7,7,9", "sizes", (7, 7, 9)),
    ("--names=b,a", "names", ("b", "a")),
    ("--lengths=", "lengths", ()),
    ("--count=0", "count", 0),
    ("--rate=3e-4", "rate", 3e-4),
    ("--share=1", "share", 1.0),
    ("--offset=-7", "offset", -7.0),
    ("--scale=0", "scale", 0.0),
    ("--fast", "fast", True),
    ("--nofast", "fast", False),
    ("--fast=true", "fast", True),
    ("--word=~", "word", "~"),
    ("--path=there", "path", "there"),
    ("--path=~/x", "path", "/me/x"),
    ("--path=~", "path", "/me"),
    ("--path=./~", "path", "./~"),
    ("--path=a~b:c/d", "path", "a~b:c/d"),
  ],
)
def test_values_are_read(argument, name, value, monkeypatch):
  monkeypatch.setenv("HOME", "/me")
  found = read(argument)[name]
  assert found == value and type(found) is type(value)


def test_a_flag_is_given_again_for_each_item():
  assert read("--again=x=1,2", "--again=y=3")["again"] == ["x=1,2", "y=3"]


BAD = [
  ("--task=tiny", "must be one of small, big"),
  ("--task=", "must be one of"),
  ("--sizes=", "at least one"),
  ("--sizes=4,0", "at least 1 and at most 100"),
  ("--sizes=4,,5", "whole number"),
  ("--sizes=4.5", "whole number"),
  ("--names=a,a", "names something twice"),
  ("--names=c", "must be one of a, b"),
  ("--lengths=3,3", "names something twice"),
  ("--count=-1", "at least 0"),
  ("--count=1.5", "whole number"),
  ("--count=nan", "whole number"),
  ("--count=9223372036854775808", "at most 2147483647"),
  ("--count=", "whole number"),
  ("--rate=0", "above 0"),
  ("--rate=nan", "finite"),
  ("--rate=inf", "finite"),
  ("--rate=1e400", "finite"),
  ("--rate=1e39", "float32 can hold"),
  ("--offset=-1e39", "float32 can hold"),
  ("--rate=1e-39", "the smallest number of float32"),
  ("--path=gs://bucket/x", "is an address"),
  ("--path=S3+x://bucket", "is an address"),
  ("--path=~no_such_user/x", "~no_such_user, but no user"),
  ("--path=", "must not be empty"),
  ("--rate=fast", "number"),
  ("--share=1.5", "at least 0 and at most 1"),
  ("--offset=3", "at most 2"),
  ("--offset=-inf", "finite"),
  ("--scale=-1", "at least 0"),
  ("--fast=perhaps", "true or false"),
  ("--path=", "must not be empty"),
]


@pytest.mark.parametrize(("argument", "mention"), BAD)
def test_what_is_not_allowed_is_said(argument, mention):
  with pytest.raises(flags.IllegalFlagValueError, match="flag --") as error:
    read(argument)
  assert mention in str(error.value) and "\n" not in str(error.value)


def test_a_flag_given_twice_is_refused():
  with pytest.raises(flags.IllegalFlagValueError, match="already defined"):
    read("--count=1", "--count=2")


def test_what_json_gives_back_is_what_was_recorded():
  values = Record(sizes=(7, 7), scale=2.0)._asdict()
  found = settings.parse(Record, json.loads(json.dumps(values)))
  assert found == values
  kinds = {name: type(value) for name, value in values.items()}
  assert {name: type(value) for name, value in found.items()} == kinds


def test_numbers_of_old_records_are_read():
  """They listed sizes as text, and had whole rates."""
  found = settings.parse(Record, {"sizes": ["64", "64"], "rate": 1})
  assert found == {"sizes": (64, 64), "rate": 1.0}


def test_parse_says_what_is_wrong():
  with pytest.raises(ValueError, match=r"rate=0.0: must be above 0\."):
    settings.parse(Record, {"rate": 0.0})
  with pytest.raises(ValueError, match="no setting 'speed'"):
    settings.parse(Record, {"speed": 1})
  with pytest.raises(ValueError, match="whole number"):
    settings.parse(Record, {"count": True})


@pytest.mark.parametrize("value", [1e-4, 0.1, 1 / 3, 1e-300, 12345678.9, 3.0])
def test_numbers_are_shown_so_that_they_are_read_back(value):
  shown = settings.show(Record, "rate", value)
  assert float(shown) == value and len(shown) <= len(repr(value))


def test_everything_that_is_shown_is_read_back():
  for name, parser in settings.parsers(Record).items():
    value = Record._field_defaults[name]
    if value is not None:
      assert parser.parse(parser.show(value)) == value


def test_helps_are_the_annotations_texts():
  texts = settings.help_of(Record)
  assert texts["scale"] == "Scale; none: its own."
  assert texts["sizes"] == "Units per layer."


def test_types_that_no_setting_has_are_refused():
  for kind in (dict, tuple[int, int], int | str, list[int]):
    with pytest.raises(TypeError, match="cannot be of type"):
      settings.make_parser(kind)


def test_bounds_are_finite_or_absent():
  assert at_least(1).most == math.inf and at_most(1).least == -math.inf
