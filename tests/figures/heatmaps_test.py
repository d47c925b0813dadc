"""Tests of lilly.figures.heatmaps: what is plotted is what was given."""

import numpy as np
import pytest

from lilly.figures import heatmaps


def test_a_matrix_has_white_at_zero(saved, tmp_path):
  values = np.array([[0.0, 2.0, -1.0], [0.5, 0.0, 0.0]])
  heatmaps.plot_matrix(values, tmp_path / "a.png", ("image", "memory row"))
  ax, _ = saved[-1].axes  # the other one is the colour scale
  (shown,) = ax.get_images()
  np.testing.assert_array_equal(shown.get_array(), values)
  assert shown.get_clim() == (-2, 2)
  colours = shown.to_rgba(values)
  np.testing.assert_allclose(colours[0, 0, :3], 1, atol=0.05)
  red, _, blue, _ = colours[0, 2]
  assert red > blue and colours[0, 1, 2] > colours[0, 1, 0]
  assert (ax.get_xlabel(), ax.get_ylabel()) == ("image", "memory row")
  assert ax.get_ylim() == (1.5, -0.5)  # the first row is at the top
  assert all(tick == int(tick) for tick in ax.get_xticks())


@pytest.mark.parametrize(("limit", "expected"), [(3.0, 3), (None, 1)])
def test_a_matrix_can_have_a_given_range(saved, limit, expected):
  heatmaps.plot_matrix(np.zeros((2, 2)), None, ("x", "y"), limit=limit)
  assert saved[-1].axes[0].get_images()[0].get_clim() == (-expected, expected)


def test_functions_stand_where_x_and_y_say(saved, tmp_path):
  x, y = np.array([0.0, 1.0, 2.0]), np.array([-1.0, 1.0])
  values = np.arange(6.0).reshape(2, 3)
  heatmaps.plot_functions(
    {"V": (values, (0.0, 5.0)), "action": (values - 3, (-3.0, 3.0))},
    tmp_path / "a.png",
    x,
    y,
    ("angle", "velocity"),
  )
  left, right, *scales = saved[-1].axes
  assert (left.get_title(), right.get_title()) == ("V", "action")
  assert (left.get_xlabel(), left.get_ylabel()) == ("angle", "velocity")
  assert len(scales) == 2
  (mesh,) = left.collections
  np.testing.assert_array_equal(mesh.get_array(), values)
  corners = mesh.get_coordinates()
  np.testing.assert_allclose(corners[0, :, 0], [-0.5, 0.5, 1.5, 2.5])
  np.testing.assert_allclose(corners[:, 0, 1], [-2, 0, 2])
  assert mesh.get_clim() == (0, 5)
  (signed,) = right.collections
  np.testing.assert_allclose(signed.to_rgba(0.0)[:3], 1, atol=0.05)
  assert mesh.get_cmap().name != signed.get_cmap().name


def test_accesses_have_a_row_for_each_memory(saved, tmp_path):
  writes = np.zeros((5, 9))
  writes[1, 7] = writes[3, 2] = 1.0
  memories = {"sam": (writes, writes / 2), "dam": (writes / 4, writes)}
  heatmaps.plot_accesses(memories, tmp_path / "a.png")
  axes = saved[-1].axes[:4]
  titles = [ax.get_title() for ax in axes]
  kinds = ("write weights", "read weights")
  assert titles == [f"{name}: {kind}" for name in memories for kind in kinds]
  scales = (1.0, 0.5, 0.25, 1.0)
  for ax, scale in zip(axes, scales, strict=True):
    (image,) = ax.get_images()
    expected = scale * writes[:, [7, 2]].T
    np.testing.assert_array_equal(image.get_array(), expected)


def test_a_memory_whose_weights_are_all_small_has_empty_axes(saved, tmp_path):
  weights = np.full((5, 1000), 1e-3)
  heatmaps.plot_accesses({"dam": (weights, weights)}, tmp_path / "a.png")
  assert (tmp_path / "a.png").exists()
  assert saved[-1].axes[0].get_images() == []


def test_words_stand_in_the_order_of_their_first_use():
  is_used = np.zeros((4, 6), bool)
  is_used[[0, 2, 2], [5, 1, 3]] = True
  is_used[3] = [True, True, False, False, False, False]
  assert heatmaps._sort_by_first_use(is_used).tolist() == [5, 1, 3, 0]
