"""Paths in the water maze, and durations of the searches for its platform."""

import pathlib
from collections.abc import Mapping

import numpy as np

from lilly.figures import canvas

__all__ = ["plot_paths", "plot_search_steps"]


@canvas.with_own_style
def plot_paths(
  episodes: Mapping[str, tuple[np.ndarray, np.ndarray]],
  path: pathlib.Path,
  *,
  radius: float = 0.3,
  max_step: float = 0.22,
) -> None:
  """Plots episodes of several agents, one row per agent.

  Args:
    episodes: agent -> (positions [N, T, 2], centres of the platform [N, 2]),
      for N episodes; the pool is the unit disc.
    path: PNG to write.
    radius: radius of the platform.
    max_step: steps longer than this are resets, and left out of the path.
  """
  count = max(len(centres) for _, centres in episodes.values())
  fig, axes = canvas.subplots(len(episodes), count, size=(2.4, 2.6))
  turn = np.linspace(0, 2 * np.pi, 100)
  circle = np.stack([np.cos(turn), np.sin(turn)])
  for row, (name, (positions, centres)) in zip(
    axes, episodes.items(), strict=True
  ):
    for ax in row[len(centres) :]:
      ax.remove()
    for ax, places, centre in zip(row, positions, centres, strict=False):
      at = np.array(places)
      lengths = np.linalg.norm(np.diff(at, axis=0), axis=1)
      at[1:][lengths > max_step] = np.nan
      ax.plot(*circle, color="0.6")
      ax.fill(*(centre[:, None] + radius * circle), color="#009e73", alpha=0.4)
      ax.plot(*at.T, color="#0072b2", linewidth=0.8)
      ax.plot(*places[0], "o", color="#d55e00", markersize=4)
      ax.set(aspect="equal", xticks=[], yticks=[])
      ax.spines[:].set_visible(False)
    row[0].set_title(name, loc="left")
  canvas.save(fig, path)


@canvas.with_own_style
def plot_search_steps(
  steps: Mapping[str, tuple[np.ndarray, np.ndarray]], path: pathlib.Path
) -> None:
  """Plots the steps of later searches against those of the first.

  Lines show where a later search takes as long as the first, and half as long.

  Args:
    steps: agent -> (steps of the first search [num_seeds], mean steps of later
      ones [num_seeds]).
    path: PNG to write.
  """
  fig, ((ax,),) = canvas.subplots(1, 1)
  for k, (name, (first, later)) in enumerate(steps.items()):
    ax.plot(first, later, "o", color=canvas.colour(k), alpha=0.7, label=name)
  ax.set(xlim=(0, None), ylim=(0, None))
  high = ax.get_xlim()[1]
  for slope, style, label in ((1.0, "-", "y = x"), (0.5, ":", "y = x/2")):
    ax.plot(
      [0, high],
      [0, slope * high],
      style,
      color="0.6",
      linewidth=0.8,
      label=label,
    )
  ax.set(xlabel="steps of the first search", ylabel="steps of later searches")
  canvas.add_legend(fig, ax)
  canvas.save(fig, path)
