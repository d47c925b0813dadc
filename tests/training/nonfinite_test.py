"""Tests of lilly.training.nonfinite."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.training import nonfinite

PARAMS = {"a": jnp.ones(3), "b": {"c": jnp.ones((2, 2))}}


def grads(bad=None, value=jnp.nan):
  tree = jax.tree.map(jnp.ones_like, PARAMS)
  if bad == "c":
    tree["b"]["c"] = tree["b"]["c"].at[1, 0].set(value)
  return tree


def test_finite_updates_are_the_wrapped_optimisers():
  optimiser, guarded = (
    optax.adam(0.1),
    nonfinite.skip_nonfinite(optax.adam(0.1)),
  )
  state, guarded_state = optimiser.init(PARAMS), guarded.init(PARAMS)
  for _ in range(3):
    expected, state = optimiser.update(grads(), state)
    found, guarded_state = guarded.update(grads(), guarded_state)
    chex.assert_trees_all_equal(found, expected)
  chex.assert_trees_all_equal(guarded_state.inner, state)
  assert guarded_state.count == 3 and guarded_state.bad_total == 0


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_bad_update_is_zero_and_leaves_the_inner_state(value):
  guarded = nonfinite.skip_nonfinite(optax.adam(0.1))
  _, before = guarded.update(grads(), guarded.init(PARAMS))
  found, after = guarded.update(grads("c", value), before)
  chex.assert_trees_all_equal(found, jax.tree.map(jnp.zeros_like, PARAMS))
  chex.assert_trees_all_equal(after.inner, before.inner)
  assert (after.bad_in_a_row, after.bad_total) == (1, 1)
  assert after.first_bad_update == 1
  assert after.first_bad_leaves == {"a": False, "b": {"c": True}}


def test_an_update_the_optimiser_makes_non_finite_is_bad():
  guarded = nonfinite.skip_nonfinite(optax.scale(1e38))
  tree = jax.tree.map(lambda x: 10 * x, PARAMS)
  found, state = guarded.update(tree, guarded.init(PARAMS))
  assert state.bad_total == 1
  chex.assert_tree_all_finite(found)


def test_counts_in_a_row_and_keeps_the_worst():
  guarded = nonfinite.skip_nonfinite(optax.sgd(0.1))
  state = guarded.init(PARAMS)
  seen = []
  for bad in ("c", "c", None, "c", None):
    _, state = guarded.update(grads(bad), state)
    seen.append((int(state.bad_in_a_row), int(state.worst_in_a_row)))
  assert seen == [(1, 1), (2, 2), (0, 2), (1, 2), (0, 2)]
  assert state.bad_total == 3 and state.first_bad_update == 0


def test_failures_name_run_update_and_leaf():
  guarded = nonfinite.skip_nonfinite(optax.sgd(0.1))
  poisons = jnp.array([1.0, jnp.nan, 1.0])

  def run(poison):
    def step(state, i):
      scale = jnp.where(i >= 2, poison, 1.0)
      tree = grads()
      tree["b"]["c"] = tree["b"]["c"] * scale
      return guarded.update(tree, state)[1], None

    return jax.lax.scan(step, guarded.init(PARAMS), jnp.arange(6))[0]

  state = {"opt": jax.vmap(run)(poisons), "other": np.zeros(3)}
  assert nonfinite.failures(state, 4) == {}
  assert nonfinite.failures(state, 3) == {
    1: {
      "update": 2,
      "leaf": "['b']['c']",
      "bad_in_a_row": 4,
      "bad_total": 4,
    }
  }


def test_passes_extra_arguments_and_keeps_types():
  guarded = nonfinite.skip_nonfinite(optax.polyak_sgd())
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
  found, state = guarded.update(params, guarded.init(params), params, value=1.0)
  chex.assert_trees_all_equal_dtypes(found, params)
  state = jax.lax.cond(True, lambda: state, lambda: guarded.init(params))
  assert state.count == 1
