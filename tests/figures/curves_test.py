"""Tests of lilly.training.pictures."""

import csv

import numpy as np
import pytest
from PIL import Image

from lilly import training
from lilly.training import pictures, statistics

NAN = float("nan")


def make_results(values, runs=None, metric="eval/error", steps=(0, 40, 80)):
  """Results of variants: name -> [num_runs, 3]."""
  metrics, described, runs_of = {}, {}, {}
  for variant, rows in values.items():
    rows = np.asarray(rows, float)
    metrics[variant] = {metric: (np.array(steps), rows)}
    runs_of[variant] = runs or tuple({"seed": i} for i in range(len(rows)))
    described[variant] = {"unit": "examples"}
  summary = {"variants": described}
  return training.Results(summary, {}, metrics, runs_of, training.Options())


def seeds(count, scale=1.0):
  return scale * np.random.default_rng(0).uniform(1, 2, (count, 3))


@pytest.fixture
def sheets(monkeypatch):
  """Collects the figures that are written."""
  found = []
  original = pictures.save

  def save(sheet, path):
    found.append(sheet)
    original(sheet, path)

  monkeypatch.setattr(pictures, "save", save)
  return found


@pytest.fixture
def draw(tmp_path, sheets):
  """Draws curves; returns the axes."""

  def draw(results, metrics=None, **settings):
    metrics = metrics or {"eval/error": "test error (%)"}
    pictures.curves(results, tmp_path / "curves.png", metrics, **settings)
    return sheets[-1].axes

  return draw


def legend(ax):
  return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(("panels", "width"), [(1, 552), (2, 1104)])
def test_writes_a_png_of_the_expected_size(draw, tmp_path, panels, width):
  metrics = {"eval/error": "error", "eval/other": "other"}
  draw(make_results({"a": seeds(3)}), dict([*metrics.items()][:panels]))
  with Image.open(tmp_path / "curves.png") as image:
    image.load()
    assert (image.format, image.size) == ("PNG", (width, 408))  # 4.6 x 3.4 in
    assert "Software" not in image.info
    assert len(image.convert("RGB").getcolors(1 << 20)) > 10  # not blank


def test_equal_results_give_equal_bytes(draw, tmp_path):
  draw(make_results({"a": seeds(3)}))
  first = (tmp_path / "curves.png").read_bytes()
  draw(make_results({"a": seeds(3)}))
  assert (tmp_path / "curves.png").read_bytes() == first


def test_draws_the_iqm_and_its_interval(draw):
  values = seeds(8)
  (ax,) = draw(make_results({"a": values}))
  (line,) = ax.get_lines()
  np.testing.assert_array_equal(line.get_xdata(), [0, 40, 80])
  np.testing.assert_allclose(line.get_ydata(), statistics.iqm(values.T))
  (band,) = ax.collections
  low, high = statistics.bootstrap_interval(values[:, 1], resamples=500)
  (path,) = band.get_paths()
  at_40 = {y for x, y in path.vertices if x == 40}
  np.testing.assert_allclose(sorted(at_40), [low, high])


def test_the_legend_counts_seeds(draw):
  values = seeds(4)
  values[0] = NAN  # failed from the start
  values[1, 2] = NAN  # failed at the end
  (ax,) = draw(make_results({"a": values, "b": seeds(2)}))
  assert legend(ax) == ["a (n=3)", "b (n=2)"]


def test_seeds_with_a_nan_are_left_out_where_it_is(draw):
  values = np.array([[1.0, 5.0, 1.0], [3.0, NAN, 3.0], [NAN, NAN, NAN]])
  (ax,) = draw(make_results({"a": values}))
  np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [2.0, 5.0, 2.0])


def test_a_point_without_any_value_is_a_gap(draw):
  values = np.array([[1.0, NAN, 1.0], [3.0, NAN, 3.0]])
  (ax,) = draw(make_results({"a": values, "dead": np.full((2, 3), NAN)}))
  alive, dead = ax.get_lines()
  np.testing.assert_array_equal(alive.get_ydata(), [2.0, NAN, 2.0])
  assert np.isnan(dead.get_ydata()).all()
  assert legend(ax) == ["a (n=2)", "dead (n=0)"]


def test_one_seed_has_a_line_and_no_band(draw):
  (ax,) = draw(make_results({"a": seeds(1)}))
  assert len(ax.get_lines()) == 1 and len(ax.collections) == 0
  assert legend(ax) == ["a (n=1)"]


def test_each_grid_point_has_a_line(draw):
  runs = tuple(
    {"seed": seed, "rate": rate, "noise": 0.0}
    for rate in (1e-4, 0.3)
    for seed in (0, 1)
  )
  values = [[1.0] * 3, [3.0] * 3, [7.0] * 3, [9.0] * 3]
  (ax,) = draw(make_results({"a": values}, runs))
  names = ["a rate=0.0001, noise=0 (n=2)", "a rate=0.3, noise=0 (n=2)"]
  assert legend(ax) == names
  assert [line.get_ydata()[0] for line in ax.get_lines()] == [2.0, 8.0]
  assert len({line.get_color() for line in ax.get_lines()}) == 2


def test_a_line_has_one_colour_in_all_panels(draw):
  results = make_results({"a": seeds(2), "b": seeds(2)})
  results.metrics["b"]["eval/angle"] = results.metrics["b"]["eval/error"]
  left, right = draw(results, {"eval/error": "error", "eval/angle": "angle"})
  assert len(left.get_lines()) == 2 and len(right.get_lines()) == 1
  assert right.get_lines()[0].get_color() == left.get_lines()[1].get_color()
  assert left.get_lines()[0].get_color() != left.get_lines()[1].get_color()


def test_a_metric_that_nobody_has_is_an_empty_panel(draw):
  (ax,) = draw(make_results({"a": seeds(2)}), {"eval/none": "nothing"})
  assert ax.get_lines()[:] == [] and ax.get_legend() is None


def test_axes_are_labelled(draw):
  long = "angle between the signal and the gradient, layer 1 (degrees)"
  metrics = {"eval/error": "test error (%)", "eval/none": long}
  left, right = draw(
    make_results({"a": seeds(2)}), metrics, log_scale=["eval/error"]
  )
  assert left.get_xlabel() == "examples"
  assert left.get_ylabel() == "test error (%)"
  assert (left.get_yscale(), right.get_yscale()) == ("log", "linear")
  assert right.get_ylabel().replace("\n", " ") == long


def test_long_labels_stay_inside_the_picture(draw, sheets):
  label = "angle to backpropagation, layer 1 (degrees)"
  (ax,) = draw(make_results({"a": seeds(2)}), {"eval/error": label})
  box = ax.yaxis.label.get_window_extent()
  assert box.y0 >= 0 and box.y1 <= sheets[-1].bbox.height


def test_more_lines_than_colours(draw):
  many = {f"v{i}": seeds(1) for i in range(len(pictures.COLOURS) + 1)}
  (ax,) = draw(make_results(many))
  assert len(ax.get_lines()) == len(many)


def test_no_state_of_pyplot_is_used(draw):
  draw(make_results({"a": seeds(2)}))
  from matplotlib import pyplot

  assert pyplot.get_fignums() == []


def test_the_numbers_lie_beside_the_picture(draw, tmp_path):
  values = seeds(8)
  draw(make_results({"a": values, "b": values[:1]}))
  with open(tmp_path / "curves.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["line"] for row in rows] == ["a"] * 3 + ["b"] * 3
  assert [row["step"] for row in rows[:3]] == ["0", "40", "80"]
  last = rows[2]
  assert float(last["iqm"]) == pytest.approx(
    statistics.iqm(values[:, 2]), rel=1e-5
  )
  assert float(last["low"]) < float(last["iqm"]) < float(last["high"])
  assert last["seeds"] == "8" and rows[3]["seeds"] == "1"


def test_a_sweep_draws_finals_against_the_hyper_parameter(sheets, tmp_path):
  runs = tuple(
    {"seed": seed, "omega": omega} for omega in (0.3, 0.1) for seed in (0, 1)
  )
  values = [[9.0, 9.0, last] for last in (3.0, 5.0, 1.0, 2.0)]
  results = make_results({"a": values}, runs=runs)
  for row in results.summary["variants"].values():
    row["failed"] = []
  path = tmp_path / "omega.png"
  lines = {"eval/error": "the error", "eval/absent": "nothing"}
  pictures.sweep(results, path, "omega", lines, "final error")
  (ax,) = sheets[-1].axes
  (line,) = ax.get_lines()
  np.testing.assert_allclose(line.get_xdata(), [0.1, 0.3])
  np.testing.assert_allclose(line.get_ydata(), [1.5, 4.0])
  assert legend(ax) == ["the error (n=2)"] and ax.get_xscale() == "log"
  assert path.with_suffix(".csv").read_text().count("\n") == 3


def test_accesses_draws_a_row_for_each_memory(tmp_path):
  weights = np.zeros((5, 9))
  weights[1, 7] = weights[3, 2] = 1.0
  sizes = []
  for names in (["sam"], ["sam", "dam"]):
    path = tmp_path / f"{len(names)}.png"
    pictures.accesses(dict.fromkeys(names, (weights, weights / 2)), path)
    with Image.open(path) as image:
      sizes.append(image.size)
  assert sizes[1] == (sizes[0][0], 2 * sizes[0][1])


def test_words_stand_in_the_order_of_their_first_use():
  is_used = np.zeros((4, 6), bool)
  is_used[[0, 2, 2], [5, 1, 3]] = True
  is_used[3] = [True, True, False, False, False, False]
  assert pictures._by_first_use(is_used).tolist() == [5, 1, 3, 0]


def test_curves_against_what_a_step_stands_for(tmp_path):
  results = make_results({"a": [[1.0, 2.0, 3.0]]}, steps=(1, 2, 3))
  path = tmp_path / "sizes.png"
  pictures.curves(
    results, path, {"eval/error": "s"}, x=lambda s: 2.0**s, x_label="words"
  )
  with open(path.with_suffix(".csv"), encoding="utf-8") as table:
    assert [row["words"] for row in csv.DictReader(table)] == ["2", "4", "8"]


def test_a_gif_holds_the_frames(tmp_path):
  frames = np.zeros((3, 8, 12, 3), np.uint8)
  frames[:, :, :4] = [255, 0, 0]
  for t in range(3):
    frames[t, 2 * t, 6:] = [0, 0, 255]
  pictures.gif(tmp_path / "film.gif", frames, fps=20)
  with Image.open(tmp_path / "film.gif") as film:
    assert (film.format, film.size, film.n_frames) == ("GIF", (12, 8), 3)
    assert film.info["loop"] == 0  # without end
    for t in range(3):
      film.seek(t)
      assert film.info["duration"] == 50
      np.testing.assert_array_equal(film.convert("RGB"), frames[t])


def test_a_gif_is_not_faster_than_viewers_play(tmp_path):
  frames = np.arange(2, dtype=np.uint8)[:, None, None, None] * np.uint8(255)
  frames = np.broadcast_to(frames, (2, 4, 4, 3))
  pictures.gif(tmp_path / "film.gif", frames, fps=1000)
  with Image.open(tmp_path / "film.gif") as film:
    assert film.info["duration"] == 20


@pytest.mark.parametrize(
  ("shape", "dtype", "fps", "message"),
  [
    ((0, 4, 4, 3), np.uint8, 30, "frames has shape"),
    ((4, 4, 3), np.uint8, 30, "frames has shape"),
    ((2, 4, 4, 1), np.uint8, 30, "frames has shape"),
    ((2, 4, 4, 3), np.float32, 30, "type float32"),
    ((2, 4, 4, 3), np.uint8, 0, "fps is 0"),
    ((2, 4, 4, 3), np.uint8, NAN, "fps is nan"),
  ],
)
def test_a_gif_of_something_else_is_refused(
  tmp_path, shape, dtype, fps, message
):
  with pytest.raises(ValueError, match=message):
    pictures.gif(tmp_path / "film.gif", np.zeros(shape, dtype), fps)
  assert not list(tmp_path.iterdir())
