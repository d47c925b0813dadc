"""Curves with intervals over seeds: learning curves, sweeps, final values."""

from __future__ import annotations

import csv
import pathlib
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lilly.figures import canvas
from lilly.training import claims, experiment, statistics

__all__ = [
  "iterate_points",
  "plot_band",
  "plot_by_length",
  "plot_by_size",
  "plot_lines",
  "plot_metrics",
  "plot_pairs",
  "plot_sweep",
]

_MAX_MARKERS = 20  # a line of more points has no markers


def plot_band(
  ax: Any, x: np.ndarray, values: np.ndarray, *, colour: str, label: str
) -> list[tuple[float, ...]]:
  """Plots the IQM over seeds and its 95 % bootstrap interval.

  Args:
    ax: matplotlib axes.
    x: [T].
    values: [num_seeds, T]; NaN values are left out of their points.
    colour: colour of line and band.
    label: text of the legend; the number of seeds is appended.

  Returns:
    The plotted values: for each x, x itself, the IQM, both ends of the
    interval, and the number of seeds.
  """
  rows = []
  for at, column in zip(x, values.T, strict=True):
    finite = column[np.isfinite(column)]
    middle = statistics.iqm(finite) if finite.size else np.nan
    ends = statistics.bootstrap_interval(finite, resamples=500)
    rows.append((at, middle, *ends, finite.size))
  _, middle, low, high, _ = np.array(rows).reshape(-1, 5).T
  seeds = int(np.isfinite(values).any(axis=1).sum())
  ax.plot(
    x,
    middle,
    # So that a line of a single point is visible.
    marker="." if len(x) <= _MAX_MARKERS else None,
    color=colour,
    label=f"{label} (n={seeds})",
    linewidth=1.6,
  )
  if seeds > 1:
    ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
  return rows


@canvas.with_own_style
def plot_lines(
  values: Mapping[str, np.ndarray],
  path: pathlib.Path,
  labels: tuple[str, str],
  *,
  x: np.ndarray | None = None,
  log_x: bool = False,
  from_zero: bool = False,
) -> None:
  """Plots a line with its band for each name, such as errors by iterations.

  Args:
    values: name -> values [num_seeds, T].
    path: PNG to write.
    labels: names of the horizontal and the vertical axis.
    x: positions of the points, [T]; None: 1, 2, ..., T, where T may differ.
    log_x: whether x doubles from point to point: a logarithmic axis with a tick
      at each x.
    from_zero: whether the vertical axis begins at 0.
  """
  fig, ((ax,),) = canvas.subplots(1, 1)
  for k, (name, runs) in enumerate(values.items()):
    at = np.arange(1, runs.shape[1] + 1) if x is None else x
    plot_band(ax, at, runs, colour=canvas.colour(k), label=name)
  ax.set(xlabel=labels[0], ylabel=textwrap.fill(labels[1], 32))
  if from_zero:
    ax.set_ylim(0, None)
  if log_x and x is not None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(x, [f"{at:g}" for at in x])
    ax.minorticks_off()
  canvas.add_legend(fig, ax)
  canvas.save(fig, path)


@canvas.with_own_style
def plot_pairs(
  values: Mapping[str, tuple[np.ndarray, np.ndarray]],
  path: pathlib.Path,
  names: tuple[str, str],
  labels: tuple[str, str],
) -> None:
  """Plots pairs of lines: the first of a pair dashed, the second solid.

  Args:
    values: title of the axes -> two sets of lines, [N, T] each.
    path: PNG to write.
    names: names of the two sets, in the legend.
    labels: names of the horizontal and the vertical axis.
  """
  fig, (row,) = canvas.subplots(1, len(values))
  for ax, (title, sets) in zip(row, values.items(), strict=True):
    for name, style, lines in zip(names, ("--", "-"), sets, strict=True):
      for k, line in enumerate(lines):
        label = name if k == 0 else None
        steps = range(1, len(line) + 1)
        ax.plot(steps, line, style, color=canvas.colour(k), label=label)
    ax.set(title=title, xlabel=labels[0], ylabel=labels[1])
    canvas.add_legend(fig, ax)
  canvas.save(fig, path)


@canvas.with_own_style
def plot_metrics(
  results: experiment.Results,
  path: pathlib.Path,
  metrics: Mapping[str, str],
  *,
  log_scale: Sequence[str] = (),
  x: Callable[[np.ndarray], np.ndarray] | None = None,
  x_label: str | None = None,
) -> None:
  """Plots learning curves, a line for each variant and grid point.

  Args:
    results: results of `run`.
    path: PNG to write; the values are written beside it, as CSV.
    metrics: metric -> label of its vertical axis; each has separate axes.
    log_scale: metrics whose axis is logarithmic.
    x: maps steps to the plotted values, on a logarithmic axis; None: the steps.
    x_label: name of the horizontal axis; None: the unit of the steps.
  """
  from matplotlib import ticker

  fig, (row,) = canvas.subplots(1, len(metrics))
  colour_of: dict[str, str] = {}  # the same colour in all axes
  table = []
  for ax, (metric, label) in zip(row, metrics.items(), strict=True):
    for name, steps, values in iterate_points(results, metric):
      colour = colour_of.setdefault(name, canvas.colour(len(colour_of)))
      at = steps if x is None else x(steps)
      rows = plot_band(ax, at, values, colour=colour, label=name)
      table += [(name, metric, *numbers) for numbers in rows]
    ax.set_xscale("linear" if x is None else "log")
    ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))  # 150k
    ax.set_xlabel(x_label or _unit(results))
    ax.set_ylabel(textwrap.fill(label, 32))
    if metric in log_scale:
      ax.set_yscale("log")
    canvas.add_legend(fig, ax)
  canvas.save(fig, path)
  _save_table(path.with_suffix(".csv"), x_label or "step", table)


@canvas.with_own_style
def plot_sweep(
  results: experiment.Results,
  path: pathlib.Path,
  hyper: str,
  metrics: Mapping[str, str],
  label: str,
) -> None:
  """Plots final metrics against a swept hyper-parameter, for each variant.

  Args:
    results: results of `run`, with only this hyper-parameter swept.
    path: PNG to write; the values are written beside it, as CSV.
    hyper: the swept hyper-parameter.
    metrics: metric -> name of its line.
    label: name of the vertical axis.
  """
  fig, (row,) = canvas.subplots(1, len(results.metrics))
  table = []
  for ax, variant in zip(row, results.metrics, strict=True):
    values = sorted({run[hyper] for run in results.runs[variant]})
    measured = [m for m in metrics if m in results.metrics[variant]]
    for k, metric in enumerate(measured):
      final = [
        claims.final(results, variant, metric, **{hyper: value})
        for value in values
      ]
      rows = plot_band(
        ax,
        np.array(values),
        np.stack(final, axis=1),
        colour=canvas.colour(k),
        label=metrics[metric],
      )
      table += [(variant, metric, *numbers) for numbers in rows]
    ax.set_xscale("log" if min(values) > 0 else "linear")
    ax.set(title=variant, xlabel=hyper, ylabel=textwrap.fill(label, 32))
    canvas.add_legend(fig, ax)
  canvas.save(fig, path)
  _save_table(path.with_suffix(".csv"), hyper, table)


def plot_by_length(
  results: experiment.Results,
  variants: Sequence[str],
  metric: str,
  lengths: Sequence[int],
  path: pathlib.Path,
  label: str,
  x_label: str = "images per episode",
) -> None:
  """Plots the final values of a metric on episodes of several lengths.

  Args:
    results: results of `run`; a line for each grid point.
    variants: variants to plot.
    metric: name without the length, "eval/nats" for "eval/nats_at_16".
    lengths: distinct lengths of the episodes.
    path: PNG to write.
    label: name of the vertical axis.
    x_label: name of the horizontal axis.
  """
  values: dict[str, list[np.ndarray]] = {}
  for length in lengths:
    for name, _, runs in iterate_points(results, f"{metric}_at_{length}"):
      if name.split()[0] in variants:
        values.setdefault(name, []).append(runs[:, -1])
  plot_lines(
    {name: np.stack(runs, 1) for name, runs in values.items()},
    path,
    (x_label, label),
    x=np.array(lengths),
    log_x=True,
  )


def plot_by_size(
  results: experiment.Results,
  sizes: Mapping[str, tuple[str, int]],
  metric: str,
  path: pathlib.Path,
  labels: tuple[str, str],
) -> None:
  """Plots the final values of a metric of variants that differ in size.

  Args:
    results: results of `run`, without a sweep.
    sizes: variant -> (name of its line, its size).
    metric: the metric.
    path: PNG to write.
    labels: names of the horizontal and the vertical axis.

  Raises:
    ValueError: the lines have different sizes.
  """
  values_of: dict[str, dict[int, np.ndarray]] = {}
  for name, _, runs in iterate_points(results, metric):
    if name in sizes:
      line, size = sizes[name]
      values_of.setdefault(line, {})[size] = runs[:, -1]
  every = {tuple(sorted(by_size)) for by_size in values_of.values()}
  if len(every) != 1:
    raise ValueError(
      f"lines have the sizes {sorted(every)}; give the same for all."
    )
  (x,) = every
  values = {
    line: np.stack([by_size[size] for size in x], 1)
    for line, by_size in values_of.items()
  }
  plot_lines(values, path, labels, x=np.array(x), log_x=True)


def iterate_points(
  results: experiment.Results, metric: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """Yields a metric of each variant and grid point.

  Args:
    results: results of `run`.
    metric: name with prefix; variants without it are skipped.

  Yields:
    A name, steps [T] and values [num_seeds, T].
  """
  for variant, metrics in results.metrics.items():
    if metric not in metrics:
      continue
    steps, values = metrics[metric]
    groups: dict[str, list[int]] = {}
    for i, run in enumerate(results.runs[variant]):
      point = ", ".join(f"{k}={v:g}" for k, v in run.items() if k != "seed")
      groups.setdefault(f"{variant} {point}".strip(), []).append(i)
    for name, runs in groups.items():
      yield name, steps, values[runs]


def _save_table(path, x, rows):
  with open(path, "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["line", "metric", x, "iqm", "low", "high", "seeds"])
    for line, metric, *numbers, seeds in rows:
      writer.writerow([line, metric, *(f"{n:.6g}" for n in numbers), seeds])


def _unit(results):
  units = {row["unit"] for row in results.summary["variants"].values()}
  return " / ".join(sorted(units))
