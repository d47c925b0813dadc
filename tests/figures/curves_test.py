"""Tests of lilly.figures.curves: what is plotted is what was given."""

import csv

import numpy as np
import pytest
from PIL import Image

from lilly import training
from lilly.figures import canvas, curves
from lilly.training import statistics

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
def draw(tmp_path, saved):
  """Draws curves; returns the axes."""

  def draw(results, metrics=None, **settings):
    metrics = metrics or {"eval/error": "test error (%)"}
    curves.plot_metrics(results, tmp_path / "curves.png", metrics, **settings)
    return saved[-1].axes

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


def test_long_labels_stay_inside_the_figure(draw, saved):
  label = "angle to backpropagation, layer 1 (degrees)"
  (ax,) = draw(make_results({"a": seeds(2)}), {"eval/error": label})
  box = ax.yaxis.label.get_window_extent()
  assert box.y0 >= 0 and box.y1 <= saved[-1].bbox.height


def test_more_lines_than_colours(draw):
  many = {f"v{i}": seeds(1) for i in range(len(canvas.COLOURS) + 1)}
  (ax,) = draw(make_results(many))
  assert len(ax.get_lines()) == len(many)


def test_no_state_of_pyplot_is_used(draw):
  draw(make_results({"a": seeds(2)}))
  from matplotlib import pyplot

  assert pyplot.get_fignums() == []


def test_the_numbers_lie_beside_the_figure(draw, tmp_path):
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


def test_a_sweep_draws_finals_against_the_hyper_parameter(saved, tmp_path):
  runs = tuple(
    {"seed": seed, "omega": omega} for omega in (0.3, 0.1) for seed in (0, 1)
  )
  values = [[9.0, 9.0, last] for last in (3.0, 5.0, 1.0, 2.0)]
  results = make_results({"a": values}, runs=runs)
  for row in results.summary["variants"].values():
    row["failed"] = []
  path = tmp_path / "omega.png"
  lines = {"eval/error": "the error", "eval/absent": "nothing"}
  curves.plot_sweep(results, path, "omega", lines, "final error")
  (ax,) = saved[-1].axes
  (line,) = ax.get_lines()
  np.testing.assert_allclose(line.get_xdata(), [0.1, 0.3])
  np.testing.assert_allclose(line.get_ydata(), [1.5, 4.0])
  assert legend(ax) == ["the error (n=2)"] and ax.get_xscale() == "log"
  assert path.with_suffix(".csv").read_text().count("\n") == 3


def test_curves_against_what_a_step_stands_for(tmp_path):
  results = make_results({"a": [[1.0, 2.0, 3.0]]}, steps=(1, 2, 3))
  path = tmp_path / "sizes.png"
  curves.plot_metrics(
    results, path, {"eval/error": "s"}, x=lambda s: 2.0**s, x_label="words"
  )
  with open(path.with_suffix(".csv"), encoding="utf-8") as table:
    assert [row["words"] for row in csv.DictReader(table)] == ["2", "4", "8"]


def test_lines_are_bands_at_x(saved, tmp_path):
  values = {"a": seeds(5), "b": 2 * seeds(1)}
  x = np.array([8, 16, 64])
  labels = ("length", "nats")
  curves.plot_lines(values, tmp_path / "a.png", labels, x=x, log_x=True)
  (ax,) = saved[-1].axes
  first, second = ax.get_lines()
  np.testing.assert_array_equal(first.get_xdata(), x)
  np.testing.assert_allclose(first.get_ydata(), statistics.iqm(values["a"].T))
  np.testing.assert_array_equal(second.get_ydata(), values["b"][0])
  assert first.get_color() != second.get_color() and len(ax.collections) == 1
  assert legend(ax) == ["a (n=5)", "b (n=1)"]
  assert ax.get_xscale() == "log"
  assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "16", "64"]
  assert (ax.get_xlabel(), ax.get_ylabel()) == labels


def test_lines_without_x_count_from_one_each_to_its_own_length(saved):
  values = {"a": np.full((2, 3), 5.0), "b": np.full((1, 30), 6.0)}
  curves.plot_lines(values, None, ("step", ""), from_zero=True)
  (ax,) = saved[-1].axes
  short, long = ax.get_lines()
  np.testing.assert_array_equal(short.get_xdata(), [1, 2, 3])
  np.testing.assert_array_equal(long.get_xdata(), np.arange(1, 31))
  assert short.get_marker() == "." and long.get_marker() == "None"
  assert ax.get_ylim()[0] == 0
  curves.plot_lines(values, None, ("step", ""))
  assert saved[-1].axes[0].get_ylim()[0] > 4


def test_lines_may_begin_at_zero(saved):
  curves.plot_lines({"a": seeds(2)}, None, ("n", ""), x=np.arange(3))
  (ax,) = saved[-1].axes
  assert ax.get_xscale() == "linear" and ax.get_lines()[0].get_xdata()[0] == 0


def test_many_lines_have_their_legend_beside_the_axes(saved, tmp_path):
  few = {f"v{i}": seeds(2) for i in range(4)}
  many = few | {"a name of some length": seeds(2)}
  for values in (few, many):
    curves.plot_lines(values, tmp_path / "a.png", ("n", ""))
  few, many = saved
  assert many.get_figwidth() > few.get_figwidth() + 1
  (ax,) = many.axes
  many.draw_without_rendering()
  box = ax.get_legend().get_window_extent()
  assert ax.get_window_extent().x1 <= box.x0 and box.x1 <= many.bbox.width
  assert ax.get_window_extent().width > 3 * many.dpi


def test_pairs_are_dashed_and_solid_of_one_colour(saved):
  model, real = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0]] * 2)
  values = {"naf": (model, real)}
  curves.plot_pairs(values, None, ("model", "real"), ("step", "angle"))
  (ax,) = saved[-1].axes
  assert ax.get_title() == "naf" and legend(ax) == ["model", "real"]
  lines = ax.get_lines()
  assert [line.get_linestyle() for line in lines] == ["--", "--", "-", "-"]
  for line, expected in zip(lines, [*model, *real], strict=True):
    np.testing.assert_array_equal(line.get_ydata(), expected)
    np.testing.assert_array_equal(line.get_xdata(), [1, 2])
  assert lines[0].get_color() == lines[2].get_color()
  assert lines[0].get_color() != lines[1].get_color()


def test_lengths_are_points_of_the_chosen_variants(saved):
  results = make_results({"vae": seeds(2), "km": seeds(2)})
  for metrics in results.metrics.values():
    steps, values = metrics["eval/error"]
    metrics["eval/error_at_8"] = steps, values
    metrics["eval/error_at_64"] = steps, 10 * values
  curves.plot_by_length(
    results, ["km"], "eval/error", [8, 64], None, "nats", "images"
  )
  (ax,) = saved[-1].axes
  (line,) = ax.get_lines()
  final = seeds(2)[:, -1].mean()
  np.testing.assert_array_equal(line.get_xdata(), [8, 64])
  np.testing.assert_allclose(line.get_ydata(), [final, 10 * final])
  assert legend(ax) == ["km (n=2)"]
  assert (ax.get_xlabel(), ax.get_ylabel()) == ("images", "nats")


def test_sizes_are_a_line_for_each_kind_in_order(saved, monkeypatch):
  final = {"a-2": 5.0, "a-1": 7.0, "b-2": 1.0, "b-1": 2.0, "query": 9.0}

  def iterate_points(results, metric):
    assert metric == "eval/error"
    for name, value in final.items():
      yield name, None, np.array([[99.0, value], [99.0, value + 1]])

  monkeypatch.setattr(curves, "iterate_points", iterate_points)
  sizes = {"a-1": ("a", 10), "a-2": ("a", 20), "b-2": ("b", 20)}
  labels = ("size", "error")
  curves.plot_by_size(
    None, sizes | {"b-1": ("b", 10)}, "eval/error", None, labels
  )
  lines = {line.get_label(): line for line in saved[-1].axes[0].get_lines()}
  assert lines.keys() == {"a (n=2)", "b (n=2)"}
  np.testing.assert_array_equal(lines["a (n=2)"].get_xdata(), [10, 20])
  np.testing.assert_allclose(lines["a (n=2)"].get_ydata(), [7.5, 5.5])
  np.testing.assert_allclose(lines["b (n=2)"].get_ydata(), [2.5, 1.5])
  with pytest.raises(ValueError, match=r"sizes \[\(10, 20\), \(20,\)\]; give"):
    curves.plot_by_size(None, sizes, "eval/error", None, labels)
