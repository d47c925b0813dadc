"""Tests of lilly.figures.filters: what is plotted is what was given."""

import jax.numpy as jnp
import numpy as np
import pytest

from lilly.figures import curves, filters
from lilly.memory import bloom


def lines_of(fig):
  (ax,) = fig.axes
  assert ax.get_xscale() == "log"
  return {line.get_label(): line for line in ax.get_lines()}


def test_bits_are_per_element_and_beside_formulas(saved, monkeypatch):
  def iterate_points(results, metric):
    at = {"eval/bits_at_0.01": 960.0, "eval/bits_at_0.1": 480.0}[metric]
    yield "bloom", None, at * np.ones((2, 3))

  monkeypatch.setattr(curves, "iterate_points", iterate_points)
  filters.plot_space(None, [0.1, 0.01], 100, None)
  lines = lines_of(saved[0])
  rates = np.array([0.01, 0.1])
  for name, expected in {
    "bloom (n=2)": [9.6, 4.8],
    "cuckoo filter": [float(bloom.cuckoo_space(1.0, r)) for r in rates],
    "lower bound": -np.log2(rates),
  }.items():
    np.testing.assert_array_equal(lines[name].get_xdata(), rates)
    np.testing.assert_allclose(lines[name].get_ydata(), expected, rtol=1e-5)


def test_members_found_are_those_above_the_threshold_of_a_rate(saved):
  non_members = jnp.arange(10.0)
  filters.plot_roc({"a": (jnp.array([4.5, 8.5, 11.0]), non_members)}, None)
  line = lines_of(saved[0])["a"]
  found = dict(zip(line.get_xdata().round(4), line.get_ydata(), strict=True))
  # Of 10 non-members so many may pass: none, one, three, all.
  expected = {0.0001: 1 / 3, 0.1: 2 / 3, 0.3981: 2 / 3, 0.631: 1, 1.0: 1}
  for rate, part in expected.items():
    assert found[rate] == pytest.approx(part), rate
