"""Claims: a paper's statements as data, checked on the results of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lilly.training import experiment, statistics

__all__ = [
  "Claim",
  "Measure",
  "NotApplicable",
  "at",
  "at_equal_time",
  "better_half",
  "difference",
  "final",
  "judge",
  "last",
  "rank_correlation",
  "ratio",
  "trajectory",
]


Measure = Callable[[experiment.Results], np.ndarray]


class NotApplicable(Exception):
  """A claim cannot be measured on these results; the message says why."""


class Claim(NamedTuple):
  """A statement with a threshold, frozen after calibration."""

  name: str
  # the claim in words, without its threshold
  sentence: str
  # measure(results) -> [num_seeds], one value for each seed
  measure: Measure
  # '<=', '>=', '<' or '>': required relation of statistic to threshold
  relation: str
  threshold: float
  # a name in statistics.STATISTICS
  statistic: str = "median"


_HOLDS = {
  "<": np.less,
  "<=": np.less_equal,
  ">": np.greater,
  ">=": np.greater_equal,
}


def trajectory(
  results: experiment.Results, variant: str, metric: str, **point: float
) -> tuple[np.ndarray, np.ndarray]:
  """Looks up one metric of one variant at one grid point.

  Args:
    results: results of `run`.
    variant: name of the variant.
    metric: name with prefix, such as 'eval/error'.
    **point: values of swept hyper-parameters that select the grid point.

  Returns:
    Steps [T] and values [num_seeds, T]; NaN for failed runs.

  Raises:
    NotApplicable: the variant or grid point was not run, or the metric not
      measured.
  """
  if variant not in results.metrics:
    raise NotApplicable(f"{variant} was not run")
  runs = results.runs[variant]
  swept = {name: run[name] for run in runs for name in run if name != "seed"}
  chosen = [
    i
    for i, run in enumerate(runs)
    if all(
      np.isclose(run.get(k, np.nan), v, rtol=1e-6, atol=0.0)
      for k, v in point.items()
    )
  ]
  free = {tuple(runs[i][k] for k in swept) for i in chosen}
  if len(free) != 1:
    raise NotApplicable(
      f"the sweep has {len(free)} settings of {variant!r} with "
      f"{point or 'any value'} and this claim is about a single one"
    )
  if metric not in results.metrics[variant]:
    raise NotApplicable(f"{metric} was not measured for {variant}")
  steps, values = results.metrics[variant][metric]
  failed = [f["run"] for f in results.summary["variants"][variant]["failed"]]
  values = values.copy()
  values[failed] = np.nan
  return steps, values[chosen]


def final(
  results: experiment.Results, variant: str, metric: str, **point: float
) -> np.ndarray:
  """Looks up a metric's last value, [num_seeds]; see `trajectory`."""
  return trajectory(results, variant, metric, **point)[1][:, -1]


def last(variant: str, metric: str, **point: float) -> Measure:
  """Makes the measure of a metric's last value; see `trajectory`."""
  return lambda results: final(results, variant, metric, **point)


def at(step: int, variant: str, metric: str, **point: float) -> Measure:
  """Makes the measure of a metric's value at one step; see `trajectory`."""

  def measure(results):
    steps, values = trajectory(results, variant, metric, **point)
    found = np.flatnonzero(steps == step)
    if not found.size:
      raise NotApplicable(f"{metric} was not measured at step {step}")
    return values[:, found[0]]

  return measure


def at_equal_time(
  variant: str, metric: str, variants: Sequence[str], **point: float
) -> Measure:
  """Makes the measure of a metric at the time the fastest variant ended.

  Time is computed from each variant's update rate and excludes compilation. The
  value is the last one logged by then.

  Args:
    variant: name of the variant.
    metric: as in `trajectory`.
    variants: variants that share the time of the fastest; includes `variant`.
    **point: as in `trajectory`.
  """

  def measure(results):
    steps, values = trajectory(results, variant, metric, **point)
    seconds = {name: _seconds(results, name) for name in {*variants, variant}}
    share = min(seconds.values()) / seconds[variant]
    logged = np.flatnonzero(steps <= share * steps[-1] * (1 + 1e-9))
    if not logged.size:
      raise NotApplicable(f"{metric} was not logged early enough")
    return values[:, logged[-1]]

  return measure


def _seconds(results, variant):
  """Seconds that a variant's updates take at its rate."""
  row = results.summary["variants"].get(variant)
  if row is None:
    raise NotApplicable(f"{variant} was not run")
  if not row["updates_per_second"]:
    raise NotApplicable(f"no rate was measured for {variant}")
  return row["updates"] / row["updates_per_second"]


def difference(a: Measure, b: Measure) -> Measure:
  """Makes the measure a - b, seed by seed.

  A seed means the same task, data and initial weights in every variant, so the
  comparison is paired.
  """
  return lambda results: a(results) - b(results)


def ratio(a: Measure, b: Measure) -> Measure:
  """Makes the measure a / b, seed by seed."""
  return lambda results: a(results) / b(results)


def better_half(measure: Measure, by: Measure) -> Measure:
  """Makes a measure restricted to the better half of the seeds.

  Args:
    measure: measure of every seed; NaN counts as 0.
    by: measure by which seeds are ranked, higher is better; NaN ranks last.
  """

  def of_half(results):
    order = np.argsort(np.nan_to_num(by(results), nan=-np.inf))
    return np.nan_to_num(measure(results))[order[len(order) // 2 :]]

  return of_half


def rank_correlation(variant: str, metric: str, hyper: str) -> Measure:
  """Makes the measure of Spearman's rank correlation with a hyper-parameter.

  Args:
    variant: name of the variant.
    metric: metric whose last value is ranked, for each seed.
    hyper: the swept hyper-parameter, with at least three values.
  """

  def measure(results):
    runs = results.runs.get(variant, ())
    points = sorted({run[hyper] for run in runs if hyper in run})
    if len(points) < 3:
      raise NotApplicable(f"{hyper} was not swept for {variant}")
    values = np.stack(
      [final(results, variant, metric, **{hyper: x}) for x in points]
    )
    ranks = np.argsort(np.argsort(values, axis=0), axis=0)
    order = np.arange(len(points))[:, None]
    spread = np.sum((ranks - order) ** 2, axis=0)
    rho = 1 - 6 * spread / (len(points) * (len(points) ** 2 - 1))
    return np.where(np.isfinite(values).all(axis=0), rho, np.nan)

  return measure


def judge(
  statements: Sequence[Any], results: experiment.Results
) -> list[dict[str, Any]]:
  """Checks each claim.

  Args:
    statements: statements from `reproduction.state`.
    results: results of `run`.

  Returns:
    For each claim a row: name, sentence, value, interval (95 %, bootstrap over
    seeds), values of the finished seeds, relation, threshold, number of seeds
    used, failed seeds, verdict (holds, fails, not calibrated, not applicable)
    and, for the last two, the reason.
  """
  return [_judge(statement, results) for statement in statements]


def _judge(statement, results):
  name, claim, min_seeds, reason, is_calibrated = statement
  row: dict[str, Any] = {
    "name": name,
    "sentence": claim.sentence,
    "value": None,
    "interval": None,
    "values": [],
    "relation": claim.relation,
    "threshold": claim.threshold,
    "seeds": 0,
    "failed": 0,
    "verdict": "not applicable",
    "reason": None,
  }
  if reason is not None:
    return row | {"reason": reason}
  try:
    values, failed = _measured(claim, min_seeds, results)
  except NotApplicable as error:
    return row | {"reason": str(error)}
  statistic = statistics.STATISTICS[claim.statistic]
  value = float(statistic(values))
  holds = bool(_HOLDS[claim.relation](value, claim.threshold))
  verdict = "holds" if holds else "fails"
  if not is_calibrated:
    verdict = "not calibrated"
    row["reason"] = "no calibration is recorded for these settings"
  return row | {
    "value": value,
    "interval": list(statistics.bootstrap_interval(values, statistic)),
    "values": [float(x) for x in values],
    "seeds": len(values),
    "failed": failed,
    "verdict": verdict,
  }


def _measured(claim, min_seeds, results):
  values = np.asarray(claim.measure(results), np.float64)
  finished = values[np.isfinite(values)]
  if finished.size < min_seeds:
    raise NotApplicable(f"needs {min_seeds} seeds, {finished.size} finished")
  return finished, values.size - finished.size
