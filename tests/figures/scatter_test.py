"""Tests of lilly.figures.scatter: what is plotted is what was given."""

import numpy as np

from lilly.figures import scatter


def test_agreement_shows_finite_points_and_equality(saved, tmp_path):
  x = np.array([[1.0, 2.0], [np.nan, 4.0]])
  y = np.array([[0.5, 2.5], [9.0, np.inf]])
  pairs = {f"task {i}": (x + i, y + i) for i in range(5)}
  scatter.plot_agreement(pairs, tmp_path / "a.png", ("return", "Q"))
  axes = saved[-1].axes
  assert [ax.get_title() for ax in axes] == [*pairs]
  assert (axes[4].get_xlabel(), axes[4].get_ylabel()) == ("return", "Q")
  points, equality = axes[1].get_lines()
  np.testing.assert_array_equal(points.get_xdata(), [2.0, 3.0])
  np.testing.assert_array_equal(points.get_ydata(), [1.5, 3.5])
  np.testing.assert_array_equal(equality.get_xdata(), [1.5, 3.5])
  np.testing.assert_array_equal(equality.get_ydata(), [1.5, 3.5])


def test_agreement_of_nothing_finite_is_empty(saved):
  nothing = np.full(3, np.nan)
  scatter.plot_agreement({"a": (nothing, nothing)}, None, ("x", "y"))
  (points,) = saved[-1].axes[0].get_lines()
  assert points.get_xdata().size == 0
