"""Statistics over seeds: median, inter-quartile mean, bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["STATISTICS", "bootstrap_interval", "iqm", "summarise"]


def iqm(values: np.ndarray) -> np.ndarray:
  """Averages the middle half of the values along the last axis.

  Args:
    values: [..., N]; floor(N / 4) values are dropped at each end.

  Returns:
    The inter-quartile mean, shape [...].

  Reference:
    Agarwal et al., 2021, Deep Reinforcement Learning at the Edge of the
    Statistical Precipice (arXiv 2108.13264), section 4.3.
  """
  ordered = np.sort(values, axis=-1)
  size = ordered.shape[-1]
  cut = size // 4
  return ordered[..., cut : size - cut].mean(-1)


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  "iqm": iqm,
  "max": lambda values: values.max(-1),
  "mean": lambda values: values.mean(-1),
  "median": lambda values: np.median(values, axis=-1),
  "min": lambda values: values.min(-1),
}


def bootstrap_interval(
  values: np.ndarray,
  statistic: Callable[[np.ndarray], np.ndarray] = iqm,
  *,
  level: float = 0.95,
  resamples: int = 2000,
) -> tuple[float, float]:
  """Computes a percentile bootstrap interval of a statistic over seeds.

  The resampling is seeded, so equal values give equal intervals.

  Args:
    values: [N], one for each seed.
    statistic: maps [..., N] to [...].
    level: the interval's coverage.
    resamples: how many times N values are drawn with replacement.

  Returns:
    Lower and upper end; NaN for no values.

  Reference:
    Efron, 1979, Bootstrap methods: another look at the jackknife; percentile
    method as in Agarwal et al., 2021 (arXiv 2108.13264).
  """
  values = np.asarray(values, np.float64)
  if not values.size:
    return float("nan"), float("nan")
  rng = np.random.default_rng(0)
  rows = rng.integers(values.size, size=(resamples, values.size))
  tail = 100 * (1 - level) / 2
  low, high = np.percentile(statistic(values[rows]), [tail, 100 - tail])
  return float(low), float(high)


def summarise(values: np.ndarray) -> dict[str, Any]:
  """Describes one metric over the runs that ended with a finite value.

  Args:
    values: [N], one for each run; NaN for a run without a value.

  Returns:
    Median, IQM, the IQM's 95 % interval, the count, and all the values.
  """
  values = np.asarray(values, np.float64)
  finite = values[np.isfinite(values)]
  if not finite.size:
    return {"median": None, "iqm": None, "interval": None, "n": 0, "values": []}
  return {
    "median": float(np.median(finite)),
    "iqm": float(iqm(finite)),
    "interval": list(bootstrap_interval(finite)),
    "n": int(finite.size),
    "values": [float(v) if np.isfinite(v) else None for v in values],
  }
