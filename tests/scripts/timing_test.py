"""The comparison of candidates on a noisy machine."""

import importlib.util
import pathlib
import types

import pytest

_PATH = pathlib.Path(__file__).parents[2] / "scripts/benchmarks/timing.py"


@pytest.fixture(name="timing")
def _timing(monkeypatch):
  spec = importlib.util.spec_from_file_location("timing_under_test", _PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  clock = [0]
  fake = types.SimpleNamespace(perf_counter=lambda: sum(clock))
  monkeypatch.setattr(module, "time", fake)
  module.spend = clock.append
  return module


def test_candidates_take_turns_after_one_untimed_call(timing):
  calls = []

  def candidate(name):
    return lambda: (calls.append(name), timing.spend(1))

  timing.compare({name: candidate(name) for name in "ab"}, rounds=3)
  assert "".join(calls) == "ab" + "ababab"


def test_reports_medians_extremes_and_ratios_to_the_first(timing):
  seconds = iter([100, 2, 4, 30])  # the first call, then three rounds
  result = timing.compare(
    {"a": lambda: timing.spend(8), "b": lambda: timing.spend(next(seconds))},
    rounds=3,
  )
  assert result == {
    "rounds": 3,
    "seconds": {
      "a": {"median": 8, "min": 8, "max": 8},
      "b": {"median": 4, "min": 2, "max": 30},
    },
    "ratio": {"a": 1.0, "b": 0.5},
  }


def test_refuses_nothing_to_compare(timing):
  with pytest.raises(ValueError, match="candidates"):
    timing.compare({})
  with pytest.raises(ValueError, match="rounds=0"):
    timing.compare({"a": int}, rounds=0)
