"""Conformance rows of likelihoods of images."""

from lilly.losses import likelihoods
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]


def _narrow(seed, dtype):
  numbers, image = arrays((2, 3, 2), (2, 3, 1))(seed, dtype)
  return numbers.at[..., 1].set(-1e4), image


def _bits(nats, **hyper):
  return likelihoods.bits_per_dimension(nats, 12, **hyper)


ROWS = (
  Row(likelihoods.bernoulli, "function", arrays((2, 3, 1), (2, 3, 1))),
  Row(
    likelihoods.gaussian,
    "function",
    arrays((2, 3, 2), (2, 3, 1)),
    edges={"no scale at all": _narrow},
  ),
  Row(
    likelihoods.bits_per_dimension,
    "function",
    arrays(()),
    call=_bits,
    any_rank=frozenset({"nats"}),
    constants={"num_levels": (0.0, -1.0)},
  ),
)
