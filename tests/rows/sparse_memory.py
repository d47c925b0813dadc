"""Conformance rows of memories that touch few words in a step."""

import jax.numpy as jnp
import numpy as np

from lilly.memory import temporal_links
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]


def _links(seed, dtype):
  """Links of five slots, and three weights at some of them."""
  rng = np.random.default_rng(seed)

  def entries(*leading):
    slots = np.argsort(rng.random((*leading, 5)))[..., :2]
    weights = -np.sort(-rng.random((*leading, 2)) / 2)
    return jnp.asarray(slots, jnp.int32), jnp.asarray(weights, dtype)

  state = temporal_links.State(*entries(5), *entries(5), *entries())
  slots = jnp.asarray(rng.integers(0, 6, 3), jnp.int32)
  return state, slots, jnp.asarray(rng.dirichlet(np.ones(4))[:3], dtype)


ROWS: tuple[Row, ...] = (
  Row(
    temporal_links.init,
    "function",
    arrays(()),
    call=lambda x: temporal_links.init(4, num_links=2, dtype=x.dtype),
  ),
  Row(temporal_links.update, "function", _links, state=0),
  Row(temporal_links.follow, "function", _links),
  Row(
    temporal_links.strongest,
    "function",
    lambda seed, dtype: _links(seed, dtype)[1:],
    call=lambda *x: temporal_links.strongest(*x, count=2, num_slots=5),
  ),
)
