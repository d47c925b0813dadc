"""Skips and counts non-finite updates, so that no NaN enters training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lilly.training import placement

__all__ = ["NonfiniteState", "failures", "skip_nonfinite"]


class NonfiniteState(NamedTuple):
  """State of `skip_nonfinite`; all counts are int32 scalars."""

  inner: Any  # state of the wrapped optimiser
  count: jax.Array  # updates so far
  bad_in_a_row: jax.Array  # non-finite updates since the last finite one
  worst_in_a_row: jax.Array  # maximum of bad_in_a_row so far
  bad_total: jax.Array  # non-finite updates in all
  first_bad_update: jax.Array  # index from 0 of the first one, -1 if none
  first_bad_leaves: Any  # parameters' structure: bool, non-finite there


def skip_nonfinite(
  optimiser: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Wraps an optimiser: a non-finite update becomes zero and is counted.

  Unlike `optax.apply_if_finite` it never applies a non-finite update: the
  driver reads the counts and reports the run as failed. If the gradients or the
  optimiser's updates are non-finite, the inner state is kept.

  Args:
    optimiser: the transformation to guard.

  Returns:
    A transformation whose state is a `NonfiniteState`.

  >>> optimiser = skip_nonfinite(optax.sgd(1.0))
  >>> state = optimiser.init(jnp.ones(2))
  >>> update, state = optimiser.update(jnp.array([1.0, jnp.nan]), state)
  >>> update.tolist(), int(state.bad_total)
  ([0.0, 0.0], 1)
  """
  optimiser = optax.with_extra_args_support(optimiser)

  def init(params):
    zero = jnp.zeros([], jnp.int32)
    return NonfiniteState(
      inner=optimiser.init(params),
      count=zero,
      bad_in_a_row=zero,
      worst_in_a_row=zero,
      bad_total=zero,
      first_bad_update=zero - 1,
      first_bad_leaves=jax.tree.map(lambda _: jnp.zeros([], bool), params),
    )

  def update(updates, state, params=None, **extra):
    new_updates, inner = optimiser.update(updates, state.inner, params, **extra)
    leaves_bad = jax.tree.map(_any_nonfinite, updates, new_updates)
    bad = jnp.any(jnp.array(jax.tree.leaves(leaves_bad)))
    first = bad & (state.bad_total == 0)
    in_a_row = jnp.where(bad, state.bad_in_a_row + 1, 0)
    state = NonfiniteState(
      inner=_select(bad, state.inner, inner),
      count=state.count + 1,
      bad_in_a_row=in_a_row,
      worst_in_a_row=jnp.maximum(state.worst_in_a_row, in_a_row),
      bad_total=state.bad_total + bad,
      first_bad_update=jnp.where(first, state.count, state.first_bad_update),
      first_bad_leaves=_select(first, leaves_bad, state.first_bad_leaves),
    )
    zeros = jax.tree.map(jnp.zeros_like, new_updates)
    return _select(bad, zeros, new_updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def failures(state: Any, max_bad_updates: int) -> dict[int, dict[str, Any]]:
  """Finds the runs whose optimiser skipped too many consecutive updates.

  Args:
    state: an experiment's state, run axis first, with any number of
      `NonfiniteState`s inside.
    max_bad_updates: number of consecutive ones that are tolerated.

  Returns:
    For each failed run its first non-finite update, the leaf and the counts.
  """
  found = {}
  for guard in _guards(state):
    # A copy: a view would keep the state's buffer from being donated.
    worst = np.array(placement.fetch(guard.worst_in_a_row))
    if not np.any(worst > max_bad_updates):
      continue
    guard = placement.fetch(guard._replace(inner=()))
    for run in np.flatnonzero(worst > max_bad_updates):
      leaves = jax.tree_util.tree_leaves_with_path(guard.first_bad_leaves)
      bad = [path for path, leaf in leaves if np.array(leaf)[run]]
      found.setdefault(
        int(run),
        {
          "update": int(guard.first_bad_update[run]),
          "leaf": jax.tree_util.keystr(bad[0]) if bad else "unknown",
          "bad_in_a_row": int(worst[run]),
          "bad_total": int(guard.bad_total[run]),
        },
      )
  return found


def _guards(state):
  is_guard = lambda node: isinstance(node, NonfiniteState)
  nodes = jax.tree.leaves(state, is_leaf=is_guard)
  return [node for node in nodes if is_guard(node)]


def _any_nonfinite(before, after):
  # 0 x is NaN for NaN and infinities, else 0. One sum of floats is twice as
  # fast on CPU as reducing isfinite, and this reads both arrays in one pass.
  zeros = 0 * before.astype(jnp.float32) + 0 * after.astype(jnp.float32)
  return jnp.isnan(jnp.sum(zeros))


def _select(condition, if_true, if_false):
  return jax.tree.map(
    lambda a, b: jnp.where(condition, a, b), if_true, if_false
  )
