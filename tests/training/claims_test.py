"""Tests of lilly.training.claims, on fabricated results."""

import numpy as np
import pytest

from lilly import training
from lilly.training import claims, reproduction, statistics


def make_results(values, runs=None, failed=(), flags=None):
  """Results of variants: name -> final errors, after a first value of 100."""
  metrics, described, runs_of = {}, {}, {}
  for variant, finals in values.items():
    finals = np.asarray(finals, float)
    rows = np.stack([np.full_like(finals, 100.0), finals], axis=1)
    metrics[variant] = {"eval/error": (np.array([0, 40]), rows)}
    runs_of[variant] = runs or tuple({"seed": i} for i in range(len(finals)))
    described[variant] = {"failed": [{"run": i} for i in failed]}
  options = training.Options(flags=flags or {"preset": "cpu"})
  return training.Results(
    {"variants": described}, {}, metrics, runs_of, options
  )


def make_claim(
  measure=None, relation="<=", threshold=1.0, min_seeds=1, **fields
):
  """A claim that is about the results at hand."""
  measure = measure or (lambda r: training.final(r, "a", "eval/error"))
  claim = training.Claim(
    "c", "it is so", measure, relation, threshold, **fields
  )
  return reproduction.Statement("r/c", claim, min_seeds, None, True)


def verdict(claim, results):
  (row,) = claims.judge([claim], results)
  return row


@pytest.mark.parametrize(
  ("relation", "below", "equal", "above"),
  [
    ("<", "holds", "fails", "fails"),
    ("<=", "holds", "holds", "fails"),
    (">", "fails", "fails", "holds"),
    (">=", "fails", "holds", "holds"),
  ],
)
def test_relations(relation, below, equal, above):
  claim = make_claim(relation=relation, threshold=2.0)
  for value, expected in ((1.5, below), (2.0, equal), (2.5, above)):
    row = verdict(claim, make_results({"a": [value]}))
    assert (row["verdict"], row["value"]) == (expected, value)
    assert (row["relation"], row["threshold"]) == (relation, 2.0)
    assert row["reason"] is None and row["sentence"] == "it is so"


def test_the_statistic_over_seeds_is_the_median_unless_said_otherwise():
  results = make_results({"a": [0.0, 1.0, 5.0, 30.0]})
  row = verdict(make_claim(), results)
  assert row["value"] == 3.0 and row["seeds"] == 4
  assert row["values"] == [0.0, 1.0, 5.0, 30.0]
  low, high = row["interval"]
  assert 0.0 <= low < 3.0 < high <= 30.0
  for statistic, value in (("mean", 9.0), ("max", 30.0), ("iqm", 3.0)):
    row = verdict(make_claim(statistic=statistic), results)
    assert row["value"] == value
    statistic = statistics.STATISTICS[statistic]
    interval = statistics.bootstrap_interval([0.0, 1.0, 5.0, 30.0], statistic)
    assert row["interval"] == list(interval)


def test_fewer_seeds_than_stated_do_not_judge():
  claim = make_claim(min_seeds=3)
  row = verdict(claim, make_results({"a": [0.0, 0.0]}))
  assert row["verdict"] == "not applicable"
  assert row["reason"] == "needs 3 seeds, 2 finished"
  assert row["value"] is row["interval"] is None and row["seeds"] == 0
  assert row["values"] == []
  assert verdict(claim, make_results({"a": [0.0] * 3}))["verdict"] == "holds"
  assert training.Reproduction().min_seeds == 8


def test_failed_and_non_finite_runs_are_dropped_and_not_counted():
  values = [9.0, 0.5, np.nan, 0.7, np.inf]
  row = verdict(make_claim(), make_results({"a": values}, failed=[0]))
  assert (row["value"], row["seeds"]) == (0.6, 2)
  row = verdict(
    make_claim(min_seeds=3), make_results({"a": values}, failed=[0])
  )
  assert row["reason"] == "needs 3 seeds, 2 finished"
  results = make_results({"a": [1.0, 2.0]}, failed=[1])
  training.final(results, "a", "eval/error")
  assert results.metrics["a"]["eval/error"][1][1, 1] == 2.0  # not written to


def test_what_is_not_applicable_is_not_measured():
  def measure(results):
    raise AssertionError("measured")

  statement = make_claim(measure)._replace(reason="stated for others")
  row = verdict(statement, make_results({}))
  assert row["verdict"] == "not applicable"
  assert row["reason"] == "stated for others"


def test_a_variant_that_was_not_run_is_not_applicable():
  results = make_results({"a": [0.0]})
  claim = make_claim(lambda r: training.final(r, "b", "eval/error"))
  assert verdict(claim, results)["reason"] == "b was not run"
  with pytest.raises(claims.NotApplicable, match="b was not run"):
    training.trajectory(results, "b", "eval/error")


def test_a_metric_that_was_not_measured_is_not_applicable():
  results = make_results({"a": [0.0]})
  with pytest.raises(claims.NotApplicable, match="was not measured for a"):
    training.final(results, "a", "eval/angle")


def test_grid_points_near_zero_are_told_apart():
  runs = ({"seed": 0, "decay": 0.0}, {"seed": 0, "decay": 1e-9})
  results = make_results({"a": [1.0, 2.0]}, runs=runs)
  assert training.final(results, "a", "eval/error", decay=0.0) == [1.0]
  assert training.final(results, "a", "eval/error", decay=1e-9) == [2.0]


def test_measures_by_step_difference_and_ratio():
  results = make_results({"a": [1.0, 2.0], "b": [4.0, 4.0]})
  less = claims.difference(
    claims.last("b", "eval/error"), claims.last("a", "eval/error")
  )
  assert less(results).tolist() == [3.0, 2.0]
  times = claims.ratio(
    claims.last("b", "eval/error"), claims.last("a", "eval/error")
  )
  assert times(results).tolist() == [4.0, 2.0]
  assert claims.at(0, "a", "eval/error")(results).tolist() == [100.0, 100.0]
  with pytest.raises(claims.NotApplicable, match="at step 7"):
    claims.at(7, "a", "eval/error")(results)


def test_the_better_half_is_chosen_by_another_metric():
  results = make_results(
    {"a": [5.0, 1.0, np.nan, 7.0], "total": [3.0, 1.0, 4.0, np.nan]}
  )
  metrics = [claims.last(name, "eval/error") for name in ("a", "total")]
  half = claims.better_half(*metrics)(results)
  # Seeds 0 and 2 are the better ones, though 3 has more of what is measured.
  assert sorted(half.tolist()) == [0.0, 5.0]


def test_a_value_at_the_time_when_the_quickest_ended():
  results = make_results(
    {"slow": [1.0, 2.0], "quick": [3.0, 4.0], "new": [5.0]}
  )
  for name, rate in (("slow", 2.5), ("quick", 10.0), ("new", None)):
    row = {"updates": 10, "updates_per_second": rate}
    results.summary["variants"][name] |= row
    steps = np.arange(10.0, 110.0, 10.0)
    results.metrics[name]["train/level"] = (steps, np.tile(steps, (2, 1)))

  def level(variant, *others):
    return claims.at_equal_time(variant, "train/level", others)(results)

  # Quick ends after 1 s, by when slow has made 2.5 of its 10 updates.
  np.testing.assert_array_equal(level("slow", "quick", "slow"), [20, 20])
  np.testing.assert_array_equal(level("slow", "slow"), [100, 100])
  np.testing.assert_array_equal(level("quick", "slow"), [100, 100])
  for others, reason in ((["new"], "rate"), (["absent"], "not run")):
    with pytest.raises(claims.NotApplicable, match=reason):
      level("slow", *others)
  results.summary["variants"]["quick"]["updates_per_second"] = 1000.0
  with pytest.raises(claims.NotApplicable, match="early enough"):
    level("slow", "quick")


def test_failed_seeds_are_counted():
  results = make_results({"a": [0.5, 0.5, 0.5]}, failed=[1])
  row = verdict(make_claim(min_seeds=2), results)
  assert (row["seeds"], row["failed"], row["verdict"]) == (2, 1, "holds")


def test_one_claim_that_does_not_apply_leaves_the_others():
  results = make_results({"a": [0.0]})
  absent = make_claim(lambda r: training.final(r, "b", "eval/error"))
  rows = claims.judge([absent, make_claim()], results)
  assert [row["verdict"] for row in rows] == ["not applicable", "holds"]
  assert claims.judge([], results) == []


GRID = tuple(
  {"seed": seed, "rate": rate, "noise": noise}
  for rate in (0.1, 0.3)
  for noise in (0.0, 1e-4)
  for seed in (5, 6)
)


def test_a_grid_point_is_chosen_by_its_values():
  results = make_results({"a": range(8)}, runs=GRID)
  steps, values = training.trajectory(
    results, "a", "eval/error", rate=0.3, noise=0.0
  )
  assert steps.tolist() == [0, 40]
  assert values.tolist() == [[100.0, 4.0], [100.0, 5.0]]
  final = training.final(results, "a", "eval/error", rate=0.1, noise=1e-4)
  assert final.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
  ("point", "count"),
  [({}, 4), ({"rate": 0.1}, 2), ({"rate": 0.2}, 0), ({"beta": 1.0}, 0)],
)
def test_a_grid_point_must_be_chosen_fully(point, count):
  results = make_results({"a": range(8)}, runs=GRID)
  with pytest.raises(claims.NotApplicable, match=f"{count} settings of 'a'"):
    training.final(results, "a", "eval/error", **point)


def test_failed_runs_of_a_grid_point_are_that_points():
  results = make_results({"a": range(8)}, runs=GRID, failed=[5])
  values = training.final(results, "a", "eval/error", rate=0.3, noise=0.0)
  np.testing.assert_array_equal(values, [4.0, np.nan])


def test_variants_are_compared_seed_by_seed():
  """Large differences between seeds, small ones within each."""
  results = make_results(
    {"a": [1.0, 20.0, 300.0, 9.0], "b": [2.0, 21.0, 301.0, 0.0]}, failed=[3]
  )

  def gap(results):
    a = training.final(results, "a", "eval/error")
    return training.final(results, "b", "eval/error") - a

  row = verdict(make_claim(gap, ">=", 0.9), results)
  assert (row["verdict"], row["value"], row["seeds"]) == ("holds", 1.0, 3)
  assert row["interval"] == [1.0, 1.0]


def test_a_claim_without_calibration_is_measured_and_not_judged():
  results = make_results({"a": [2.0, 3.0]})
  statement = make_claim(threshold=1.0)
  assert verdict(statement, results)["verdict"] == "fails"
  row = verdict(statement._replace(is_calibrated=False), results)
  assert (row["verdict"], row["value"]) == ("not calibrated", 2.5)
  assert row["name"] == "r/c" and "calibration" in row["reason"]
