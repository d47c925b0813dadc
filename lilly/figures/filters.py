"""Pictures of filters: the bits that they take, and how scores separate."""

import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lilly.memory import bloom, learned_filters
from lilly.training import experiment, pictures

__all__ = ["roc", "space"]

_FORMULAS = {"least": bloom.least_space, "cuckoo": bloom.cuckoo_space}


def space(
  results: experiment.Results,
  rates: Sequence[float],
  num_elements: int,
  path: pathlib.Path,
) -> None:
  """Draws bits for each element against the rate of false positives.

  Beside what was measured, by formula: what a cuckoo filter takes, and the
  least that any filter of any set can.

  Args:
    results: of `run`; of each variant the metric "eval/bits_at_R", of a set.
    rates: R, between 0 and 1.
    num_elements: of a set.
    path: of the PNG.
  """
  values: dict[str, list[np.ndarray]] = {}
  rates = sorted(rates)
  for rate in rates:
    metric = f"eval/bits_at_{rate:g}"
    for name, _, found in pictures.by_point(results, metric):
      values.setdefault(name, []).append(found[:, -1] / num_elements)
  sheet, ((ax,),) = pictures.axes(1, 1)
  for k, (name, found) in enumerate(values.items()):
    colour = pictures.COLOURS[k % len(pictures.COLOURS)]
    pictures.band(
      ax, np.array(rates), np.stack(found, 1), colour=colour, label=name
    )
  for (name, formula), style in zip(
    _FORMULAS.items(), (":", "--"), strict=True
  ):
    bits = [float(formula(1.0, rate)) for rate in rates]
    ax.plot(rates, bits, style, color="0.4", label=f"{name}, by formula")
  ax.set(yscale="log", ylabel="bits for each element")
  ax.set_xlabel("false positives allowed")
  _finish(sheet, ax, path)


def _finish(sheet, ax, path):
  """Rates are logarithmic; the legend is beside the lines."""
  ax.set_xscale("log")
  for line in ax.get_lines():
    line.set_marker(".")
  ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
  sheet.set_figwidth(sheet.get_figwidth() + 2)
  pictures.save(sheet, path)


def roc(
  scores: Mapping[str, tuple[jax.Array, jax.Array]], path: pathlib.Path
) -> None:
  """Draws which part of members is found at which rate of false positives.

  Args:
    scores: by name, of members [n] and of strangers [t].
    path: of the PNG.
  """
  rates = np.logspace(-4, 0, 41)
  sheet, ((ax,),) = pictures.axes(1, 1)
  for k, (name, (members, strangers)) in enumerate(scores.items()):
    colour = pictures.COLOURS[k % len(pictures.COLOURS)]
    limits = [learned_filters.calibrate(strangers, fpr=r) for r in rates]
    found = [float(jnp.mean(members > limit)) for limit in limits]
    ax.plot(rates, found, color=colour, label=name)
  ax.set(xlabel="false positives", ylabel="members found", ylim=(-0.02, 1.02))
  _finish(sheet, ax, path)
