"""Tests of lilly.training.image_pictures."""

import numpy as np
import pytest
from PIL import Image

from lilly.training import image_pictures, pictures, statistics


@pytest.fixture
def draw(tmp_path, monkeypatch):
  """Calls a function with a path; returns the figure and its axes."""
  sheets = []
  original = pictures.save

  def save(sheet, path):
    sheets.append(sheet)
    original(sheet, path)

  monkeypatch.setattr(pictures, "save", save)

  def draw(function, *args, **options):
    function(*args, path=tmp_path / "picture.png", **options)
    with Image.open(tmp_path / "picture.png") as image:
      assert image.format == "PNG" and "Software" not in image.info
    return sheets[-1], sheets[-1].axes[0]

  return draw


def images(count=3, shape=(4, 5), seed=0):
  return np.random.default_rng(seed).uniform(size=(count, *shape))


def tile(ax, row, column, height=4, width=5):
  """One image of the grid, as drawn."""
  (shown,) = ax.get_images()
  top, left = (height + 1) * row, (width + 1) * column
  return np.asarray(shown.get_array())[top : top + height, left : left + width]


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_each_image_stands_in_its_row_and_column(draw, shape):
  rows = {"originals": images(3, shape), "read": images(3, shape, seed=1)}
  _, ax = draw(image_pictures.grid, rows)
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
  sheet, ax = draw(
    image_pictures.grid, {"a": images(), "after 10 iterations": images()}
  )
  labels = ax.get_yticklabels()
  assert [label.get_text() for label in labels] == ["a", "after 10 iterations"]
  assert ax.get_yticks().tolist() == [1.5, 6.5] and len(ax.get_xticks()) == 0
  sheet.draw_without_rendering()
  boxes = [label.get_window_extent() for label in labels]
  assert min(box.x0 for box in boxes) >= 0
  assert boxes[1].y1 < boxes[0].y0  # none covers another
  assert max(box.y1 for box in boxes) <= sheet.bbox.height


def test_greys_have_a_fixed_range(draw):
  _, ax = draw(image_pictures.grid, {"dim": 0.1 + 0.1 * images(1)})
  assert ax.get_images()[0].get_clim() == (0, 1)
  _, ax = draw(image_pictures.grid, {"dim": 0.1 * images(), "b": images() - 5})
  (shown,) = ax.get_images()
  assert shown.get_clim() == (0, 1) and shown.get_cmap().name == "gray"
  assert shown.get_array().min() == 0 and not tile(ax, 1, 0).any()
  assert tile(ax, 0, 0).max() <= 0.1


def test_a_wide_grid_is_wider(draw):
  narrow, _ = draw(image_pictures.grid, {"a": images(2)})
  wide, _ = draw(image_pictures.grid, {"a": images(9)})
  assert wide.get_figwidth() - narrow.get_figwidth() == pytest.approx(3.5)
  assert wide.get_figheight() == narrow.get_figheight()


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ({}, "rows have the shapes"),
    ({"a": images(0)}, "rows have the shapes"),
    ({"a": images(), "b": images(2)}, "rows have the shapes"),
    ({"a": images(shape=(4, 5, 2))}, r"rows\['a'\] has shape \(3, 4, 5, 2\)"),
    ({"a": images(shape=(4,))}, r"rows\['a'\] has shape \(3, 4\); it must"),
  ],
)
def test_other_shapes_are_refused(tmp_path, rows, message):
  with pytest.raises(ValueError, match=message):
    image_pictures.grid(rows, tmp_path / "grid.png")
  assert not list(tmp_path.iterdir())


def test_an_address_map_has_white_at_zero(draw):
  values = np.array([[0.0, 2.0, -1.0], [0.5, 0.0, 0.0]])
  sheet, ax = draw(image_pictures.heat, values, labels=("image", "memory row"))
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
  assert len(sheet.axes) == 2  # and the scale


@pytest.mark.parametrize(("limit", "expected"), [(3.0, 3), (None, 1)])
def test_an_address_map_can_have_a_given_range(draw, limit, expected):
  _, ax = draw(
    image_pictures.heat, np.zeros((2, 2)), labels=("x", "y"), limit=limit
  )
  assert ax.get_images()[0].get_clim() == (-expected, expected)


def test_lines_are_bands_at_x(draw):
  values = {"a": images(5, (3,)), "b": images(1, (3,), seed=1)}
  x = np.array([8, 16, 64])
  _, ax = draw(
    image_pictures.lines, values, x, labels=("length", "nats"), log_x=True
  )
  first, second = ax.get_lines()
  np.testing.assert_array_equal(first.get_xdata(), x)
  np.testing.assert_allclose(first.get_ydata(), statistics.iqm(values["a"].T))
  np.testing.assert_array_equal(second.get_ydata(), values["b"][0])
  assert first.get_color() != second.get_color() and len(ax.collections) == 1
  names = [text.get_text() for text in ax.get_legend().get_texts()]
  assert names == ["a (n=5)", "b (n=1)"]
  assert ax.get_xscale() == "log"
  assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "16", "64"]
  assert (ax.get_xlabel(), ax.get_ylabel()) == ("length", "nats")


def test_lines_may_begin_at_zero(draw):
  _, ax = draw(
    image_pictures.lines, {"a": images(2, (3,))}, np.arange(3), labels=("n", "")
  )
  assert ax.get_xscale() == "linear" and ax.get_lines()[0].get_xdata()[0] == 0


def test_sizes_are_a_line_for_each_kind_in_order(draw, monkeypatch):
  final = {"a-2": 5.0, "a-1": 7.0, "b-2": 1.0, "b-1": 2.0, "query": 9.0}

  def by_point(results, metric):
    assert metric == "eval/error"
    for name, value in final.items():
      yield name, None, np.array([[99.0, value], [99.0, value + 1]])

  monkeypatch.setattr(pictures, "by_point", by_point)
  sizes = {"a-1": ("a", 10), "a-2": ("a", 20), "b-2": ("b", 20)}
  given = None, sizes | {"b-1": ("b", 10)}, "eval/error"
  _, ax = draw(image_pictures.by_size, *given, labels=("size", "error"))
  lines = {line.get_label(): line for line in ax.get_lines()}
  assert lines.keys() == {"a (n=2)", "b (n=2)"}
  np.testing.assert_array_equal(lines["a (n=2)"].get_xdata(), [10, 20])
  np.testing.assert_allclose(lines["a (n=2)"].get_ydata(), [7.5, 5.5])
  np.testing.assert_allclose(lines["b (n=2)"].get_ydata(), [2.5, 1.5])
  with pytest.raises(ValueError, match=r"sizes \[\(10, 20\), \(20,\)\]; give"):
    draw(image_pictures.by_size, None, sizes, "eval/error", labels=("", ""))
