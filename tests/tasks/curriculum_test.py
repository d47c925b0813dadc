"""Tests of lilly.tasks.curriculum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.tasks import curriculum


def _naive(losses, level, threshold, patience, max_level):
  bounds, row = [], 0
  for loss in losses:
    row = row + 1 if loss < threshold else 0
    if row == patience:
      row = 0
      if level < max_level:
        level = min(2 * level, max_level)
    bounds.append((level, row))
  return bounds


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _run(losses, level, patience, max_level):
  def step(state, loss):
    state = curriculum.update(
      state, loss, threshold=0.5, patience=patience, max_level=max_level
    )
    return state, state

  return jax.lax.scan(step, curriculum.init(level), losses)[1]


@pytest.mark.parametrize(
  ("level", "patience", "max_level"),
  [(1, 1, 1000), (3, 2, 20), (5, 3, 5), (8, 1, 5), (1, 1, 2**31 - 1)],
)
def test_equals_a_loop(level, patience, max_level):
  losses = np.random.default_rng(0).uniform(0, 0.8, 200).astype(np.float32)
  losses[::17] = np.nan
  losses[5] = 0.5  # not below
  states = _run(losses, level, patience, max_level)
  expected = _naive(losses, level, 0.5, patience, max_level)
  np.testing.assert_array_equal(np.stack(states, axis=1), expected)
  assert states.bound.dtype == states.num_solved.dtype == jnp.int32


def test_levels_are_uniform_up_to_the_bound():
  draw = jax.jit(jax.vmap(curriculum.sample_level, in_axes=(0, None)))
  levels = draw(jax.random.split(jax.random.key(0), 5000), curriculum.init(5))
  assert levels.dtype == jnp.int32
  counts = np.bincount(levels, minlength=7)
  assert counts[0] == counts[6] == 0
  # Within 4 standard deviations of a binomial.
  assert np.abs(counts[1:6] - 1000).max() < 4 * np.sqrt(5000 * 0.2 * 0.8)


def test_runs_advance_on_their_own():
  update = functools.partial(
    curriculum.update, threshold=0.5, patience=1, max_level=9
  )
  states = jax.tree.map(lambda x: jnp.stack([x, x]), curriculum.init(2))
  states = jax.vmap(update)(states, jnp.array([0.4, 0.6]))
  assert states.bound.tolist() == [4, 2]


def test_bad_numbers_are_refused():
  with pytest.raises(ValueError, match="level is 0; it must be at least 1"):
    curriculum.init(0)
  good = {"threshold": 0.5, "patience": 1, "max_level": 9}
  for name in ("patience", "max_level"):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
      curriculum.update(curriculum.init(), 0.1, **{**good, name: 0})
