"""Pictures of filters: the bits that they take, and how scores separate."""

import pathlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lilly.memory import bloom, learned_filters
from lilly.training import experiment, image_pictures, pictures

__all__ = ["roc", "space"]

_EXPONENTS = range(-12, 1)
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
  lines = {name: np.stack(found, 1) for name, found in values.items()}
  for name, formula in _FORMULAS.items():
    bits = [float(formula(1.0, rate)) for rate in rates]
    lines[f"{name}, by formula"] = np.array([bits])
  labels = "false positives allowed", "bits for each element"
  at = np.array(rates)
  image_pictures.lines(lines, at, path, labels, log_x=True)


def roc(
  scores: Mapping[str, tuple[jax.Array, jax.Array]], path: pathlib.Path
) -> None:
  """Draws which part of members is found at which rate of false positives.

  Args:
    scores: by name, of members [n] and of strangers [t].
    path: of the PNG.
  """
  rates, lines = 2.0 ** np.array(_EXPONENTS), {}
  for name, (members, strangers) in scores.items():
    limits = [learned_filters.calibrate(strangers, fpr=r) for r in rates]
    found = [float(jnp.mean(members > limit)) for limit in limits]
    lines[name] = np.array([found])
  labels = "false positives", "members found"
  image_pictures.lines(lines, rates, path, labels, log_x=True)
