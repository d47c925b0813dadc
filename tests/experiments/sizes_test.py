"""No size of any experiment is beyond what is refused in one sentence."""

import importlib
import typing

import pytest

from lilly import training
from lilly.training import memory
from lilly.training import settings as settings_lib
from scripts.attacks import invocations
from tests import running

_NAMES = invocations.script_names()


def load(name):
  return importlib.import_module(f"experiments.{name}")


def whole_numbers(script):
  """Lists the settings that are whole numbers, or lists of them."""
  hints = typing.get_type_hints(script.settings)
  return [
    name
    for name, kind in hints.items()
    if kind is int or kind == tuple[int, ...] or kind == int | None
  ]


@pytest.mark.parametrize("name", _NAMES)
def test_every_whole_number_has_a_bound(name):
  script = load(name).SCRIPT
  names = whole_numbers(script)
  assert names
  parsers = settings_lib.parsers(script.settings)
  for setting in names:
    for value in (10**9 + 1, 2**63):
      with pytest.raises(ValueError, match=r"at most 10*$"):
        parsers[setting].parse(str(value))


@pytest.mark.parametrize("name", _NAMES)
def test_seeds_have_a_bound(name):
  with pytest.raises(Exception, match=r"num_seeds.* at most 1000000"):
    training.parse(load(name).SCRIPT, [name, "--num_seeds=1000000000"])


@pytest.mark.parametrize(
  ("name", "flags", "words"),
  [
    ("ddpg", ["--capacity=1000000000"], ["36 GB", "--capacity=1000000000"]),
    ("naf", ["--capacity=1000000000"], ["GB", "--capacity=1000000000"]),
    (
      "recurrent_policy_gradients",
      ["--capacity=1000000", "--episode_steps=1000000"],
      ["TB", "--capacity=1000000 or --episode_steps=1000000"],
    ),
    (
      "sparse_access_memory",
      ["--hidden_size=1000000", "--cores=lstm"],
      ["TB", "--hidden_size=1000000"],
    ),
    (
      "feedback_alignment",
      ["--hidden=1000000x1000000", "--rules=bp"],
      ["TB", "--hidden=1000000x1000000"],
    ),
    (
      "kanerva_machine",
      ["--num_rows=1000000", "--num_seeds=1000", "--variants=kanerva"],
      ["--num_rows=1000000 or --num_seeds=1000"],
    ),
  ],
)
def test_what_no_memory_holds_is_one_sentence(
  name, flags, words, tmp_path, capsys, monkeypatch
):
  room = lambda *_: memory.Room(20e9, "free memory")
  monkeypatch.setattr(memory, "room", room)
  assert running.run(load(name), tmp_path, *flags) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: ") and "only 20 GB of free memory" in line
  for word in words:
    assert word in line
