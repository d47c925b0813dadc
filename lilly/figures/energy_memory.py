"""Reads of memories of patterns: examples, and energies along the reads."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lilly.figures import curves, images
from lilly.figures import patterns as pattern_figures
from lilly.nets import set_memories
from lilly.tasks import patterns

__all__ = ["plot_reads"]


def plot_reads(
  models: Mapping[str, tuple[set_memories.SetMemory, Any]],
  task: patterns.Task,
  num_patterns: int,
  out_dir: pathlib.Path,
) -> None:
  """Plots a test set as recalled by each memory, step by step.

  Args:
    models: name -> (memory, its parameters); all have the same number of read
      steps.
    task: task that the set is drawn from.
    num_patterns: patterns in the set, N.
    out_dir: directory for <name>.png, and for energy.png, the energies along
      the reads of memories that have one.
  """
  energies = {}
  for name, (memory, params) in models.items():
    rows, values = pattern_figures.recall_examples(
      memory, params, task, num_patterns
    )
    images.plot_grid(rows, out_dir / f"{name}.png")
    if memory.energy is not None:
      energies[name] = values
  if energies:
    num_points = next(iter(energies.values())).shape[1]
    labels = "steps of a read", "energy minus the query's"
    curves.plot_lines(
      energies, out_dir / "energy.png", labels, x=np.arange(num_points)
    )
