"""Pictures of paths in a round pool, and of how long searches take."""

import pathlib
from collections.abc import Mapping

import numpy as np

from lilly.training import pictures

__all__ = ["paths", "searches"]


def paths(
  episodes: Mapping[str, tuple[np.ndarray, np.ndarray]],
  path: pathlib.Path,
  *,
  radius: float = 0.3,
  farthest: float = 0.22,
) -> None:
  """Draws episodes of several agents, a row for each of them.

  Args:
    episodes: for each agent positions [N, T, 2] and, for each episode, the
      middle of the platform [N, 2]; the pool is the unit disc.
    path: of the PNG.
    radius: of the platform.
    farthest: a step that is longer was not the agent's: a gap is left there.
  """
  count = max(len(goals) for _, goals in episodes.values())
  sheet, grid = pictures.axes(len(episodes), count, size=(2.4, 2.6))
  turn = np.linspace(0, 2 * np.pi, 100)
  circle = np.stack([np.cos(turn), np.sin(turn)])
  for row, (name, given) in zip(grid, episodes.items(), strict=True):
    for i, (ax, places, goal) in enumerate(zip(row, *given, strict=True)):
      at = np.array(places)
      lengths = np.linalg.norm(np.diff(at, axis=0), axis=1)
      at[1:][lengths > farthest] = np.nan
      ax.plot(*circle, color="0.6")
      ax.fill(*(goal[:, None] + radius * circle), color="#009e73", alpha=0.4)
      ax.plot(*at.T, color="#0072b2", linewidth=0.8)
      ax.plot(*places[0], "o", color="#d55e00", markersize=4)
      ax.set(aspect="equal", xticks=[], yticks=[])
      ax.set_title(name if i == 0 else "", loc="left")
  pictures.save(sheet, path)


def searches(
  steps: Mapping[str, tuple[np.ndarray, np.ndarray]], path: pathlib.Path
) -> None:
  """Draws steps of first searches against those of later ones.

  Args:
    steps: for each agent those of the first search, [num_seeds], and of later
      ones, [num_seeds].
    path: of the PNG.
  """
  sheet, grid = pictures.axes(1, 1)
  ax = grid[0, 0]
  for name, given in steps.items():
    ax.plot(*given, "o", alpha=0.7, label=name)
  high = ax.get_xlim()[1]
  for part, style in ((1.0, "-"), (0.5, ":")):
    ax.plot([0, high], [0, part * high], style, color="0.6", linewidth=0.8)
  ax.set(xlabel="steps until it is found", ylabel="steps of later visits")
  ax.legend()
  pictures.save(sheet, path)
