"""Conformance rows of likelihoods of images."""

from lilly.losses import likelihoods
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]

ROWS = (
  Row(likelihoods.bernoulli, "function", arrays((2, 3, 1), (2, 3, 1))),
  Row(likelihoods.gaussian, "function", arrays((2, 3, 2), (2, 3, 1))),
  Row(
    likelihoods.bits_per_dimension,
    "function",
    arrays(()),
    call=lambda nats: likelihoods.bits_per_dimension(nats, 12),
  ),
)
