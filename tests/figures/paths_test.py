"""Tests of lilly.figures.paths: what is plotted is what was given."""

import numpy as np

from lilly.figures import paths


def test_paths_have_gaps_where_the_agent_was_taken_away(saved):
  places = np.array([[[0.0, 0.0], [0.1, 0.0], [0.8, 0.0], [0.8, 0.1]]])
  goals = np.array([[0.8, 0.2]])
  given = {"a": (places, goals), "b": (places, goals)}
  paths.plot_paths(given, None)
  assert len(saved[0].axes) == 2
  _, path, start = saved[0].axes[0].get_lines()
  x = path.get_xdata()
  assert np.isnan(x[2]) and np.isfinite(x[[0, 1, 3]]).all()
  assert (start.get_xdata()[0], start.get_ydata()[0]) == (0, 0)
  np.testing.assert_array_equal(places[0, 2], [0.8, 0.0])  # not overwritten


def test_agents_may_have_different_numbers_of_episodes(saved):
  two = np.zeros((2, 3, 2)), np.array([[0.5, 0.0], [0.0, 0.5]])
  paths.plot_paths({"two": two, "one": (two[0][:1], two[1][:1])}, None)
  titles = [ax.get_title(loc="left") for ax in saved[0].axes]
  assert titles == ["two", "", "one"]
  (platform,) = saved[0].axes[1].patches
  np.testing.assert_allclose(
    platform.get_path().vertices.mean(0), [0, 0.5], atol=0.02
  )


def test_searches_are_points_beside_lines_of_as_long_and_half(saved):
  first, later = np.array([10.0, 20.0]), np.array([5.0, np.nan])
  paths.plot_search_steps({"rdpg": (first, later)}, None)
  points, same, half = saved[0].axes[0].get_lines()
  np.testing.assert_array_equal(points.get_xdata(), first)
  np.testing.assert_array_equal(points.get_ydata(), later)
  (_, high), (_, low) = same.get_ydata(), half.get_ydata()
  assert high == same.get_xdata()[1] and low == high / 2
