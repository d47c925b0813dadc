"""Conformance rows of memories whose every word takes part in a step."""

import jax

from lilly.memory import addressing
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]


def _sharpened(logits, exponent):
  return addressing.sharpen(jax.nn.softmax(logits), 1 + exponent**2)


ROWS: tuple[Row, ...] = (
  Row(addressing.cosine_similarity, "function", arrays(3, (4, 3))),
  Row(addressing.euclidean_similarity, "function", arrays(3, (4, 3))),
  Row(addressing.content_weights, "function", arrays(3, (4, 3), ())),
  Row(addressing.interpolate, "function", arrays(4, 4, ())),
  Row(addressing.shift, "function", arrays(4, 3)),
  Row(addressing.sharpen, "function", arrays(4, ()), call=_sharpened),
)
