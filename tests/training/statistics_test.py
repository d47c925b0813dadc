"""Tests of lilly.training.statistics."""

import numpy as np
import pytest
from scipy import stats

from lilly.training import statistics


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 21])
def test_iqm_is_the_trimmed_mean(size):
  values = np.random.default_rng(size).normal(size=(3, size))
  expected = stats.trim_mean(values, 0.25, axis=-1)
  np.testing.assert_allclose(statistics.iqm(values), expected, rtol=1e-12)


def test_interval_is_the_percentile_bootstrap():
  values = np.random.default_rng(0).normal(size=12)
  low, high = statistics.bootstrap_interval(values, resamples=20_000)
  other = stats.bootstrap(
    (values,),
    lambda x, axis: statistics.iqm(np.moveaxis(x, axis, -1)),
    method="percentile",
    n_resamples=20_000,
    rng=np.random.default_rng(1),
  ).confidence_interval
  np.testing.assert_allclose([low, high], [*other], atol=0.03)
  assert (low, high) == statistics.bootstrap_interval(values, resamples=20_000)


def test_interval_covers_the_true_value_as_often_as_it_says():
  rng = np.random.default_rng(0)
  hits = 0
  for _ in range(200):
    values = rng.normal(size=40)
    low, high = statistics.bootstrap_interval(
      values, lambda x: x.mean(-1), resamples=400
    )
    hits += low <= 0.0 <= high
  # 95 % of 200 within four standard errors, widened for so small a sample
  assert 170 <= hits <= 199


def test_summary_leaves_failed_runs_out_and_counts_the_rest():
  found = statistics.summarise(np.array([1.0, np.nan, 3.0, 2.0]))
  assert found["median"] == 2.0 and found["n"] == 3
  assert found["values"] == [1.0, None, 3.0, 2.0]
  empty = statistics.summarise(np.array([np.nan]))
  assert empty["n"] == 0 and empty["median"] is None
