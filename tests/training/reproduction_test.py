"""Tests of lilly.training.script and reproduction: rows, and who is judged."""

import json
from typing import Annotated, Literal, NamedTuple

import pytest

from lilly import training
from lilly.training import reproduction, script
from lilly.training.settings import at_least


class Settings(NamedTuple):
  task: Annotated[Literal["digits", "mnist"], "Task."] = "digits"
  variants: Annotated[tuple[str, ...], "Variants."] = ("a",)
  size: Annotated[int, at_least(1), "Size."] = 100
  rate: Annotated[float, at_least(0.0), "Rate."] = 0.1


def make_experiments(settings, options):
  raise AssertionError("not called")


CLAIM = training.Claim("good", "it is good", lambda results: [0.0], "<=", 1.0)
SCRIPT = training.Script(
  Settings,
  {
    "cpu": {"size": 10, "num_updates": 40, "task=mnist": {"size": 20}},
    "gpu": {"rate": 0.2, "num_updates": 400, "log_every": 4},
    "paper": {},
  },
  make_experiments,
  reproductions={
    "digits": training.Reproduction(["--num_seeds=2"], [CLAIM], 2),
    "swept": training.Reproduction(
      ["--task=mnist", "--sweep=rate=1,2", "--num_seeds=4"], [CLAIM], 4
    ),
  },
)


def resolve(preset="cpu", **given):
  return script.resolve(SCRIPT, preset, given)


def test_given_beats_preset_beats_default():
  assert resolve("paper")["size"] == 100
  assert resolve()["size"] == 10
  assert resolve(task="mnist")["size"] == 20
  assert resolve(task="mnist", size=5)["size"] == 5
  assert resolve(num_updates=3)["num_updates"] == 3


def test_a_preset_of_unknown_settings_is_refused():
  for preset, mention in (
    ({"sizes": 3}, "names sizes, which is not a setting"),
    ({"size": 0}, "size=0: must be at least 1"),
    ({"task=digits": {"rate": -1}}, "rate=-1"),
  ):
    wrong = SCRIPT._replace(presets={"cpu": preset})
    with pytest.raises(ValueError, match=mention):
      script.resolve(wrong, "cpu", {})


def reasons(resolved):
  return [x.reason for x in reproduction.state(SCRIPT, resolved)]


def test_a_claim_is_about_its_commands_rows_alone():
  digits, swept = reasons(resolve())
  assert digits is None
  assert swept.startswith("stated for --preset=cpu --task=mnist --sweep=")
  digits, swept = reasons(resolve(task="mnist", sweep=("rate=1,2",)))
  assert digits is not None and swept is None
  assert reasons(resolve("gpu"))[0] is None


@pytest.mark.parametrize(
  "other",
  [
    {"size": 11},
    {"rate": 0.2},  # the value of gpu's row, where all others are cpu's
    {"num_updates": 400},
    {"log_every": 4},
    {"eval_every": 2},
    {"sweep": ("rate=1,2",)},
    {"task": "mnist"},
  ],
)
def test_one_other_setting_makes_it_not_applicable(other):
  reason = reasons(resolve(**other))[0]
  name = next(iter(other))
  assert (
    reason is not None and f"{name}=" in reason.partition("other settings")[2]
  )


def test_what_is_free_does_not_matter():
  free = {"variants": ("b", "a"), "seed": 7, "num_seeds": 9}
  assert reasons(resolve(**free, seed_batching="map"))[0] is None


def test_the_preset_that_was_named_does_not_matter_where_all_values_agree():
  given = {"size": 10, "num_updates": 40}
  assert reasons(resolve("paper", **given))[0] is None


def test_what_is_recorded_is_judged_as_what_was_run():
  row = resolve(variants=("a", "b"), sweep=("rate=1,2",), task="mnist")
  recorded = json.loads(json.dumps(row))
  known = script.parsers(SCRIPT)
  again = {name: known[name].parse(value) for name, value in recorded.items()}
  assert again == row
  assert reproduction.row_of(SCRIPT, again) == reproduction.row_of(SCRIPT, row)


def test_a_claim_is_calibrated_for_the_row_that_is_recorded(monkeypatch):
  row = reproduction.rows_of(SCRIPT, SCRIPT.reproductions["digits"])["cpu"]
  recorded = {"digits": {"cpu": {"seeds": 8, "date": "2026-01-01", "row": row}}}
  monkeypatch.setattr(reproduction, "calibrations", lambda script: recorded)

  def is_calibrated(of, preset="cpu"):
    resolved = script.resolve(of, preset, {})
    (statement, _) = reproduction.state(of, resolved)
    assert statement.reason is None
    return statement.is_calibrated

  assert is_calibrated(SCRIPT)
  assert not is_calibrated(SCRIPT, "gpu")  # never ran with it
  # A default that changed since: the command has another row.
  changed = type("Changed", (Settings,), {})
  changed._field_defaults = Settings._field_defaults | {"rate": 0.3}
  assert not is_calibrated(SCRIPT._replace(settings=changed))


def test_the_toys_calibration_is_a_file():
  from tests.training import toy

  (recorded,) = reproduction.calibrations(toy.SCRIPT)["line"].values()
  rows = reproduction.rows_of(toy.SCRIPT, toy.SCRIPT.reproductions["line"])
  assert recorded["row"] == rows["cpu"]
