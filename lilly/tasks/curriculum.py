"""An exponential curriculum: harder levels once the current ones are solved.

The state is two integers and updates do not branch, so that a curriculum may
run inside a scan, and under `vmap` with one per seed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["State", "init", "sample_level", "update"]


class State(NamedTuple):
  """Progress of a run."""

  bound: jax.Array  # [] int32, the hardest level that can be drawn, h
  num_solved: jax.Array  # [] int32, consecutive losses below the threshold


def init(level: int = 1) -> State:
  """Makes the initial state.

  Args:
    level: initial bound of the levels, at least 1.

  Returns:
    The state.

  Raises:
    ValueError: level is not positive.

  Reference:
    Rae et al., 2016 (arXiv 1610.09027), section 4.3.

  >>> int(init(3).bound)
  3
  """
  level = checks.whole_number("level", level, least=1)
  return State(jnp.asarray(level, jnp.int32), jnp.zeros((), jnp.int32))


def sample_level(key: jax.Array, state: State) -> jax.Array:
  """Draws a level: U{1 .. h}.

  Args:
    key: typed key.
    state: as returned by `init` or `update`.

  Returns:
    The level, [] int32.

  Reference:
    Rae et al., 2016 (arXiv 1610.09027), section 4.3, with U(0, h); episodes of
    level 0 would be empty.

  >>> int(sample_level(jax.random.key(0), init(1)))
  1
  """
  bound = checks.integers("state.bound", state.bound, "")
  return jax.random.randint(checks.key("key", key), (), 1, bound + 1)


def update(
  state: State,
  loss: jax.Array,
  *,
  threshold: float | jax.Array,
  patience: int,
  max_level: int,
) -> State:
  """Doubles the bound after `patience` consecutive losses below a threshold.

  n <- (n + 1) [loss < threshold]; if n = patience: h <- min(2 h, max_level),
  n <- 0. A NaN is not below the threshold. A bound beyond max_level is kept.

  Args:
    state: as returned by `init`.
    loss: mean loss of an episode, or of a batch of episodes, [].
    threshold: losses below it count as solved.
    patience: number of consecutive losses required.
    max_level: largest bound.

  Returns:
    The state.

  Raises:
    ValueError: patience or max_level is not positive, threshold is not finite,
      or loss or a field of the state is not a scalar.

  Reference:
    Rae et al., 2016 (arXiv 1610.09027), section 4.3: the level is doubled when
    the mean loss is below a threshold for a number of episodes. Neither number
    is given there; that the losses must be consecutive is our reading
    (unconfirmed).

  >>> state = update(init(4), 0.1, threshold=0.2, patience=1, max_level=100)
  >>> int(state.bound), int(state.num_solved)
  (8, 0)
  """
  bound = checks.integers("state.bound", state.bound, "")
  num_solved = checks.integers("state.num_solved", state.num_solved, "")
  loss = checks.real("loss", loss, "")
  threshold = checks.number("threshold", threshold)
  patience = checks.whole_number("patience", patience, least=1)
  max_level = checks.whole_number("max_level", max_level, least=1)
  num_solved = jnp.where(loss < threshold, num_solved + 1, 0)
  is_solved = num_solved >= patience
  room = jnp.maximum(max_level - bound, 0)
  step = jnp.where(is_solved, jnp.minimum(bound, room), 0)
  return State(bound + step, jnp.where(is_solved, 0, num_solved))
