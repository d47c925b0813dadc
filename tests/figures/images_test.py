"""Tests of lilly.figures.images."""

import numpy as np
import pytest
from PIL import Image

from lilly.figures import images


@pytest.fixture
def draw(tmp_path, saved):
  """Plots rows; returns the figure and its axes."""

  def draw(rows):
    images.plot_grid(rows, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
      assert image.format == "PNG" and "Software" not in image.info
    return saved[-1], saved[-1].axes[0]

  return draw


def make_images(count=3, shape=(4, 5), seed=0):
  return np.random.default_rng(seed).uniform(size=(count, *shape))


def tile(ax, row, column, height=4, width=5):
  """One image of the grid, as drawn."""
  (shown,) = ax.get_images()
  top, left = (height + 1) * row, (width + 1) * column
  return np.asarray(shown.get_array())[top : top + height, left : left + width]


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_each_image_stands_in_its_row_and_column(draw, shape):
  rows = {
    "originals": make_images(3, shape),
    "read": make_images(3, shape, seed=1),
  }
  _, ax = draw(rows)
  for r, name in enumerate(rows):
    for c in range(3):
      expected = rows[name][c]
      expected = expected[..., 0] if shape[2:] == (1,) else expected
      np.testing.assert_array_equal(tile(ax, r, c), expected)
  (shown,) = ax.get_images()
  array = np.asarray(shown.get_array())
  assert array.shape[:2] == (9, 17)  # a line between them, none at the ends
  assert (array[4] == 1).all() and (array[:, [5, 11]] == 1).all()


def test_rows_have_their_names_at_their_middles(draw):
  sheet, ax = draw({"a": make_images(), "after 10 iterations": make_images()})
  labels = ax.get_yticklabels()
  assert [label.get_text() for label in labels] == ["a", "after 10 iterations"]
  assert ax.get_yticks().tolist() == [1.5, 6.5] and len(ax.get_xticks()) == 0
  sheet.draw_without_rendering()
  boxes = [label.get_window_extent() for label in labels]
  assert min(box.x0 for box in boxes) >= 0
  assert boxes[1].y1 < boxes[0].y0  # none covers another
  assert max(box.y1 for box in boxes) <= sheet.bbox.height


def test_greys_have_a_fixed_range(draw):
  _, ax = draw({"dim": 0.1 + 0.1 * make_images(1)})
  assert ax.get_images()[0].get_clim() == (0, 1)
  _, ax = draw({"dim": 0.1 * make_images(), "b": make_images() - 5})
  (shown,) = ax.get_images()
  assert shown.get_clim() == (0, 1) and shown.get_cmap().name == "gray"
  assert shown.get_array().min() == 0 and not tile(ax, 1, 0).any()
  assert tile(ax, 0, 0).max() <= 0.1


def test_a_wide_grid_is_wider(draw):
  narrow, _ = draw({"a": make_images(2)})
  wide, _ = draw({"a": make_images(9)})
  assert wide.get_figwidth() - narrow.get_figwidth() == pytest.approx(3.5)
  assert wide.get_figheight() == narrow.get_figheight()


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ({}, "rows have the shapes"),
    ({"a": make_images(0)}, "rows have the shapes"),
    ({"a": make_images(), "b": make_images(2)}, "rows have the shapes"),
    (
      {"a": make_images(shape=(4, 5, 2))},
      r"rows\['a'\] has shape \(3, 4, 5, 2\)",
    ),
    (
      {"a": make_images(shape=(4,))},
      r"rows\['a'\] has shape \(3, 4\); it must",
    ),
  ],
)
def test_other_shapes_are_refused(tmp_path, rows, message):
  with pytest.raises(ValueError, match=message):
    images.plot_grid(rows, tmp_path / "grid.png")
  assert not list(tmp_path.iterdir())
