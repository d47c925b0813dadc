"""Pictures that every experiment can use: curves with intervals over seeds."""

from __future__ import annotations

import csv
import pathlib
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lilly.training import claims, experiment, statistics

__all__ = [
  "COLOURS",
  "accesses",
  "agreement",
  "axes",
  "band",
  "bands",
  "by_point",
  "curves",
  "gif",
  "maps",
  "pairs",
  "save",
  "sweep",
]

# Okabe and Ito's colours, told apart by colour-blind readers, yellow left out.
COLOURS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#56b4e9",
  "#e69f00",
  "#000000",
)


def axes(
  num_rows: int, num_columns: int, size: tuple[float, float] = (4.6, 3.4)
) -> tuple[Any, np.ndarray]:
  """Makes a figure with a grid of axes.

  Args:
    num_rows: of the grid.
    num_columns: of the grid.
    size: width and height of one, in inches.

  Returns:
    The figure and its axes, [num_rows, num_columns].
  """
  from matplotlib import figure

  width, height = size[0] * num_columns, size[1] * num_rows
  # A figure of its own: pyplot keeps global state and may want a display.
  sheet = figure.Figure(figsize=(width, height), layout="constrained")
  grid = sheet.subplots(num_rows, num_columns, squeeze=False)
  for ax in grid.flat:
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
  return sheet, grid


def band(
  ax: Any, x: np.ndarray, values: np.ndarray, *, colour: str, label: str
) -> list[tuple[float, ...]]:
  """Draws the IQM over seeds and its 95 % bootstrap interval.

  Args:
    ax: matplotlib axes.
    x: [T].
    values: [N, T]; seeds with a NaN at a point are left out there.
    colour: of line and band.
    label: in the legend, followed by the number of seeds.

  Returns:
    What was drawn: for each x, x itself, the IQM, both ends, and the number of
    seeds.
  """
  rows = []
  for at, column in zip(x, values.T, strict=True):
    finite = column[np.isfinite(column)]
    middle = statistics.iqm(finite) if finite.size else np.nan
    ends = statistics.bootstrap_interval(finite, resamples=500)
    rows.append((at, middle, *ends, finite.size))
  _, middle, low, high, _ = np.array(rows).reshape(-1, 5).T
  seeds = int(np.isfinite(values).any(axis=1).sum())
  ax.plot(x, middle, color=colour, label=f"{label} (n={seeds})", linewidth=1.6)
  if seeds > 1:
    ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
  return rows


def bands(
  values: Mapping[str, np.ndarray],
  path: pathlib.Path,
  labels: tuple[str, str],
) -> None:
  """Draws a `band` for each name, against 1, 2, ...

  Args:
    values: by name, [N, T].
    path: of the PNG.
    labels: of the horizontal and the vertical axis.
  """
  sheet, grid = axes(1, 1)
  for k, (name, found) in enumerate(values.items()):
    x = np.arange(1, found.shape[1] + 1)
    colour = COLOURS[k % len(COLOURS)]
    band(grid[0, 0], x, found, colour=colour, label=name)
  grid[0, 0].set(xlabel=labels[0], ylabel=labels[1], ylim=(0, None))
  grid[0, 0].legend(frameon=False)
  save(sheet, path)


def pairs(
  values: Mapping[str, tuple[np.ndarray, np.ndarray]],
  path: pathlib.Path,
  names: tuple[str, str],
  labels: tuple[str, str],
) -> None:
  """Draws lines in pairs: the first of a pair dashed, the second solid.

  Args:
    values: for each of the axes its title and two sets of lines, [N, T] each.
    path: of the PNG.
    names: of the two sets.
    labels: of the horizontal and the vertical axis.
  """
  sheet, grid = axes(1, len(values))
  for ax, (title, sets) in zip(grid[0], values.items(), strict=True):
    for name, style, lines in zip(names, ("--", "-"), sets, strict=True):
      for k, line in enumerate(lines):
        colour = COLOURS[k % len(COLOURS)]
        own = {"label": name} if k == 0 else {}
        ax.plot(range(1, len(line) + 1), line, style, color=colour, **own)
    ax.set(title=title, xlabel=labels[0], ylabel=labels[1])
    ax.legend(frameon=False)
  save(sheet, path)


def curves(
  results: experiment.Results,
  path: pathlib.Path,
  metrics: Mapping[str, str],
  *,
  log_scale: Sequence[str] = (),
  x: Callable[[np.ndarray], np.ndarray] | None = None,
  x_label: str | None = None,
) -> None:
  """Draws metrics against steps, a line for each variant and grid point.

  Args:
    results: of `run`.
    path: of the PNG; the numbers go beside it, as CSV.
    metrics: which ones, and the label of each one's axis.
    log_scale: metrics whose axis is logarithmic.
    x: what a step stands for, drawn on a logarithmic axis; None: the step.
    x_label: of the horizontal axis, where it is not the steps' unit.
  """
  from matplotlib import ticker

  sheet, grid = axes(1, len(metrics))
  colour_of: dict[str, str] = {}  # one line, one colour, in every panel
  table = []
  for ax, (metric, label) in zip(grid[0], metrics.items(), strict=True):
    lines = list(by_point(results, metric))
    for name, steps, values in lines:
      colour = COLOURS[len(colour_of) % len(COLOURS)]
      colour = colour_of.setdefault(name, colour)
      at = steps if x is None else x(steps)
      rows = band(ax, at, values, colour=colour, label=name)
      table += [(name, metric, *row) for row in rows]
    ax.set_xscale("linear" if x is None else "log")
    ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))  # 150k
    ax.set_xlabel(x_label or _unit(results))
    ax.set_ylabel(textwrap.fill(label, 32))
    if metric in log_scale:
      ax.set_yscale("log")
    if lines:
      # Many lines leave no room for it among them.
      outside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
      many = len(ax.get_lines()) > 5
      ax.legend(frameon=False, fontsize=8, **(outside if many else {}))
      if many:
        longest = max(len(line.get_label()) for line in ax.get_lines())
        sheet.set_figwidth(sheet.get_figwidth() + 0.5 + 0.07 * longest)
  save(sheet, path)
  _save_table(path.with_suffix(".csv"), x_label or "step", table)


def sweep(
  results: experiment.Results,
  path: pathlib.Path,
  hyper: str,
  metrics: Mapping[str, str],
  label: str,
) -> None:
  """Draws final metrics against a swept hyper-parameter, for each variant.

  Args:
    results: of `run`, with only this hyper-parameter swept.
    path: of the PNG; the numbers go beside it, as CSV.
    hyper: the swept hyper-parameter.
    metrics: which ones, and the name of each one's line.
    label: of the vertical axis.
  """
  sheet, grid = axes(1, len(results.metrics))
  table = []
  for ax, variant in zip(grid[0], results.metrics, strict=True):
    values = sorted({run[hyper] for run in results.runs[variant]})
    lines = [m for m in metrics if m in results.metrics[variant]]
    for metric, colour in zip(lines, COLOURS, strict=False):
      final = [
        claims.final(results, variant, metric, **{hyper: value})
        for value in values
      ]
      points, name = np.stack(final, axis=1), metrics[metric]
      rows = band(ax, np.array(values), points, colour=colour, label=name)
      table += [(variant, metric, *row) for row in rows]
    ax.set_xscale("log" if min(values) > 0 else "linear")
    ax.set_title(variant)
    ax.set_xlabel(hyper)
    ax.set_ylabel(label)
    if lines:
      ax.legend(frameon=False)
  save(sheet, path)
  _save_table(path.with_suffix(".csv"), hyper, table)


def accesses(
  memories: Mapping[str, Sequence[np.ndarray]],
  path: pathlib.Path,
  threshold: float = 0.01,
) -> None:
  """Draws where memories are written and read along an episode.

  Args:
    memories: for each its weights of writing and of reading, [T, N] each.
    path: of the PNG.
    threshold: words that never weigh more are left out; the others stand in the
      order in which they first do.
  """
  sheet, grid = axes(len(memories), 2)
  for row, (name, weights) in zip(grid, memories.items(), strict=True):
    used = _by_first_use(np.add(*weights) > threshold)
    for ax, kind, shown in zip(row, ("written", "read"), weights, strict=True):
      ax.imshow(shown[:, used].T, aspect="auto", cmap="viridis", vmin=0)
      ax.set_title(f"{name}: {kind}")
      ax.set_xlabel("step")
      ax.set_ylabel("words, by first use")
      ax.grid(False)
      for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(integer=True)
  save(sheet, path)


def _by_first_use(is_used):
  """Columns with any use, the earliest used first."""
  used = np.flatnonzero(is_used.any(axis=0))
  return used[np.argsort(is_used.argmax(axis=0)[used], kind="stable")]


def save(sheet: Any, path: pathlib.Path) -> None:
  """Writes a figure as PNG, without a date inside."""
  sheet.savefig(path, dpi=120, metadata={"Software": None})


def agreement(
  pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
  path: pathlib.Path,
  labels: tuple[str, str],
) -> None:
  """Draws two measures of the same things against each other, and equality.

  Args:
    pairs: for each of the axes its title and both measures, of one shape;
      points where one is not finite are left out.
    path: of the PNG.
    labels: of the horizontal and the vertical axis.
  """
  sheet, grid = axes(-(-len(pairs) // 4), min(len(pairs), 4))
  for ax in grid.flat[len(pairs) :]:
    ax.remove()
  for ax, (title, (x, y)) in zip(grid.flat, pairs.items(), strict=False):
    points = np.stack([np.ravel(x), np.ravel(y)])
    points = points[:, np.isfinite(points).all(axis=0)]
    ax.plot(*points, ".", markersize=2, alpha=0.5)
    if points.size:
      ends = [points.min(), points.max()]
      ax.plot(ends, ends, color="black", linewidth=1)
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
  save(sheet, path)


def maps(
  values: Mapping[str, tuple[np.ndarray, tuple[float, float]]],
  path: pathlib.Path,
  axis: Mapping[str, np.ndarray],
) -> None:
  """Draws functions of two numbers as colours.

  Args:
    values: for each of the axes its title, its values [y, x], and what the
      first and the last colour stand for: where these are opposite numbers, 0
      is white.
    path: of the PNG.
    axis: labels and values of x and y.
  """
  sheet, grid = axes(1, len(values))
  (x_label, x), (y_label, y) = axis.items()
  for ax, (title, (found, (low, high))) in zip(
    grid[0], values.items(), strict=True
  ):
    colours = "RdBu" if low == -high else "viridis"
    shown = ax.pcolormesh(x, y, found, cmap=colours, vmin=low, vmax=high)
    ax.set(title=title, xlabel=x_label, ylabel=y_label)
    sheet.colorbar(shown, ax=ax)
  save(sheet, path)


def gif(path: pathlib.Path, frames: np.ndarray, fps: float = 30.0) -> None:
  """Writes a film that starts again at its end, such as of a trained policy.

  Args:
    path: of the GIF.
    frames: pictures in their order, [T, height, width, 3] uint8.
    fps: pictures a second. The format counts in hundredths of a second: beyond
      50, the film is slower than asked for.

  Raises:
    ValueError: there are no frames, their form is another, or fps is not
      positive.
  """
  frames = np.asarray(frames)
  is_film = frames.ndim == 4 and frames.shape[-1] == 3 and frames.size > 0
  if not is_film or frames.dtype != np.uint8:
    raise ValueError(
      f"frames has shape {frames.shape} and type {frames.dtype}; it must be "
      "[T, height, width, 3] uint8, with at least one picture."
    )
  if not fps > 0:
    raise ValueError(f"fps is {fps}; it must be positive.")
  from PIL import Image

  first, *rest = map(Image.fromarray, frames)
  duration = 10 * max(2, round(100 / fps))  # in ms
  first.save(path, save_all=True, append_images=rest, duration=duration, loop=0)


def _save_table(path, x, rows):
  with open(path, "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["line", "metric", x, "iqm", "low", "high", "seeds"])
    for line, metric, *numbers, seeds in rows:
      writer.writerow([line, metric, *(f"{n:.6g}" for n in numbers), seeds])


def by_point(
  results: experiment.Results, metric: str
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """Yields a metric of each variant and grid point.

  Args:
    results: of `run`.
    metric: its name with prefix; variants that lack it are passed over.

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


def _unit(results):
  units = {row["unit"] for row in results.summary["variants"].values()}
  return " / ".join(sorted(units))
