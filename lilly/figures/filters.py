"""Plots of set filters: their size, and ROC curves of their scores."""

import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lilly.figures import canvas, curves
from lilly.memory import bloom, learned_filters
from lilly.training import experiment

__all__ = ["plot_roc", "plot_space"]

_FORMULAS = {
  "lower bound": bloom.least_space,
  "cuckoo filter": bloom.cuckoo_space,
}


@canvas.with_own_style
def plot_space(
  results: experiment.Results,
  rates: Sequence[float],
  num_elements: int,
  path: pathlib.Path,
) -> None:
  """Plots the bits per element against the rate of false positives.

  Also plots, by formula, a cuckoo filter and the lower bound for filters of
  arbitrary sets.

  Args:
    results: results of `run`; uses each variant's "eval/bits_at_R", the bits of
      a complete filter.
    rates: rates of false positives R, between 0 and 1.
    num_elements: number of elements in a set.
    path: PNG to write.
  """
  values: dict[str, list[np.ndarray]] = {}
  rates = sorted(rates)
  for rate in rates:
    metric = f"eval/bits_at_{rate:g}"
    for name, _, runs in curves.iterate_points(results, metric):
      values.setdefault(name, []).append(runs[:, -1] / num_elements)
  fig, ((ax,),) = canvas.subplots(1, 1)
  for k, (name, bits) in enumerate(values.items()):
    curves.plot_band(
      ax,
      np.array(rates),
      np.stack(bits, 1),
      colour=canvas.colour(k),
      label=name,
    )
  for (name, formula), style in zip(
    _FORMULAS.items(), (":", "--"), strict=True
  ):
    bits = [float(formula(1.0, rate)) for rate in rates]
    ax.plot(rates, bits, style, marker=".", color="0.4", label=name)
  ax.set(xscale="log", yscale="log")
  ax.set(xlabel="allowed rate of false positives", ylabel="bits per element")
  canvas.add_legend(fig, ax)
  canvas.save(fig, path)


@canvas.with_own_style
def plot_roc(
  scores: Mapping[str, tuple[jax.Array, jax.Array]], path: pathlib.Path
) -> None:
  """Plots ROC curves: true against false positive rates.

  Args:
    scores: name -> (scores of members [n], scores of non-members [t]).
    path: PNG to write.
  """
  rates = np.logspace(-4, 0, 41)
  fig, ((ax,),) = canvas.subplots(1, 1)
  for k, (name, (members, non_members)) in enumerate(scores.items()):
    thresholds = [learned_filters.calibrate(non_members, fpr=r) for r in rates]
    recall = [float(jnp.mean(members > x)) for x in thresholds]
    ax.plot(rates, recall, color=canvas.colour(k), label=name)
  ax.set(xscale="log", ylim=(-0.02, 1.02))
  ax.set(xlabel="false positive rate", ylabel="true positive rate")
  canvas.add_legend(fig, ax)
  canvas.save(fig, path)
