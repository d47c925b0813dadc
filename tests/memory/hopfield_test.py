"""Tests of Hopfield networks: triple loops, brute force, published errors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import hopfield
from tests.oracles import assert_close
from tests.whole import whole

# As they stand they look at the numbers of patterns.
RULES = {
  "hebb": hopfield.hebb,
  "storkey": hopfield.storkey,
  "pseudo_inverse": functools.partial(hopfield.pseudo_inverse, ridge=0.0),
}
COMPILED = {name: whole(rule) for name, rule in RULES.items()}
hebb, storkey = COMPILED["hebb"], COMPILED["storkey"]
pseudo_inverse, energy = whole(hopfield.pseudo_inverse), whole(hopfield.energy)
modern_retrieve = whole(hopfield.modern_retrieve)
modern_energy = whole(hopfield.modern_energy)


pytestmark = pytest.mark.usefixtures("float64")


def signs(*shape, seed=0):
  return np.random.default_rng(seed).choice([-1.0, 1.0], shape)


def numpy_weights(rule, patterns):
  """The rules as they are printed, number by number."""
  size = patterns.shape[1]
  if rule == "pseudo_inverse":
    return np.linalg.pinv(patterns) @ patterns * (1 - np.eye(size))
  weights = np.zeros((size, size))
  for x in patterns:
    old = weights.copy()

    def h(i, j, old=old, x=x):
      return sum(old[i, k] * x[k] for k in range(size) if k not in (i, j))

    for i, j in itertools.permutations(range(size), 2):
      change = x[i] * x[j]
      if rule == "storkey":
        change -= x[i] * h(j, i) + h(i, j) * x[j]
      weights[i, j] += change / size
  return weights


@pytest.mark.parametrize("rule", RULES)
def test_weights_are_those_of_loops(rule):
  patterns = signs(4, 7)
  found = COMPILED[rule](patterns)
  assert_close(found, numpy_weights(rule, patterns))
  np.testing.assert_array_equal(np.diagonal(found), 0)
  np.testing.assert_array_equal(found, found.T)


def test_of_one_pattern_all_rules_are_one():
  patterns = signs(1, 6)
  expected = (np.outer(*patterns[[0, 0]]) - np.eye(6)) / 6
  for rule in COMPILED.values():
    assert_close(rule(patterns), expected)


def test_integers_are_patterns_too():
  patterns = signs(3, 6)
  for rule in COMPILED.values():
    found = rule(jnp.asarray(patterns, jnp.int8))
    assert found.dtype == jnp.result_type(float)
    assert_close(found, rule(patterns))


def is_fixed(weights, patterns):
  fields = np.asarray(weights) @ patterns.T
  return (np.sign(fields) == patterns.T).all(axis=0)


def test_the_projection_keeps_up_to_as_many_patterns_as_units():
  patterns = signs(20, 24)
  assert is_fixed(COMPILED["pseudo_inverse"](patterns), patterns).all()
  assert is_fixed(pseudo_inverse(patterns), patterns).all()
  assert not is_fixed(hebb(patterns), patterns).all()
  # As many as units: the identity, of which only the diagonal is left.
  patterns = signs(24, 24, seed=1)
  full = pseudo_inverse(patterns, zero_diagonal=False, ridge=0.0)
  assert_close(full, np.eye(24), atol=1e-8)
  assert is_fixed(full, patterns).all()


def test_patterns_that_repeat_or_are_too_many_give_a_defined_result():
  patterns = signs(5, 12)
  twice = np.concatenate([patterns, patterns])
  assert_close(hebb(twice), 2 * hebb(patterns))
  again = storkey(twice)
  assert np.isfinite(again).all()
  assert_close(again, numpy_weights("storkey", twice))
  once, found = (
    pseudo_inverse(jnp.asarray(x, jnp.float32)) for x in (patterns, twice)
  )
  assert_close(found, once, atol=0.01)
  assert is_fixed(found, patterns).all()
  many = jnp.asarray(signs(60, 12), jnp.float32)
  full = pseudo_inverse(many, zero_diagonal=False)
  assert_close(full, np.eye(12), atol=1e-3)
  for rule in (hebb, storkey):
    assert np.isfinite(rule(many)).all()


def test_the_diagonal_stays_where_it_is_wanted():
  patterns = signs(3, 6)
  full = hebb(patterns, zero_diagonal=False)
  assert_close(full, patterns.T @ patterns / 6)


def test_energies_are_sums_over_pairs():
  weights, state = hebb(signs(3, 6)), signs(6, seed=1)
  expected = -0.5 * sum(
    weights[i, j] * state[i] * state[j] for i in range(6) for j in range(6)
  )
  assert_close(energy(weights, state), expected)


retrieve = jax.jit(
  hopfield.retrieve_asynchronously, static_argnames="max_sweeps"
)
retrieve_at_once = jax.jit(
  hopfield.retrieve_synchronously, static_argnames="max_sweeps"
)


def test_units_are_updated_one_after_another_in_any_order():
  # What one sweep may end in, by brute force; all at once ends elsewhere.
  weights = np.array([[0.0, -1.0, -1.0], [-1.0, 0, -1.0], [-1.0, -1.0, 0]])
  ends = set()
  for order in itertools.permutations(range(3)):
    state = np.ones(3)
    for i in order:
      state[i] = np.sign(weights[i] @ state) or state[i]
    ends.add(tuple(state))
  assert len(ends) == 3
  found = {
    tuple(retrieve(key, weights, np.ones(3), max_sweeps=1).state.tolist())
    for key in jax.random.split(jax.random.key(0), 30)
  }
  assert found == ends
  at_once = retrieve_at_once(weights, np.ones(3), max_sweeps=1).state
  assert tuple(at_once.tolist()) == (-1.0, -1.0, -1.0)


def test_each_sweep_has_an_order_of_its_own(monkeypatch):
  orders, permutation = [], jax.random.permutation

  def noted(key, size):
    orders.append(tuple(permutation(key, size).tolist()))
    return np.array(orders[-1])

  monkeypatch.setattr(jax.random, "permutation", noted)
  weights = np.triu(np.ones((5, 5)), 1)
  weights -= weights.T  # nothing is stable
  with jax.disable_jit():
    found = hopfield.retrieve_asynchronously(
      jax.random.key(0), weights, np.ones(5), max_sweeps=4
    )
  assert not found.is_stable
  assert len(orders) == 4 and len(set(orders)) > 1


def test_all_units_at_once_may_not_settle():
  weights, query = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1.0, -1.0])
  found = retrieve_at_once(weights, query, max_sweeps=5)
  assert not found.is_stable
  assert int(found.num_sweeps) == 5
  assert found.state.tolist() == [-1.0, 1.0]
  found = retrieve(jax.random.key(0), weights, query)
  assert found.is_stable
  assert found.state[0] == found.state[1]


def test_a_unit_without_a_field_stays():
  weights, query = jnp.zeros((5, 5)), jnp.asarray(signs(5), jnp.int8)
  for found in (
    retrieve(jax.random.key(0), weights, query),
    retrieve_at_once(weights, query),
  ):
    assert found.state.dtype == jnp.int8
    np.testing.assert_array_equal(found.state, query)
    assert found.is_stable
    assert int(found.num_sweeps) == 1


def test_weights_that_are_no_numbers_settle_nothing():
  # As of patterns that depend on each other, without a ridge.
  patterns, query = np.stack([signs(4)] * 2), signs(4, seed=1)
  weights = pseudo_inverse(patterns, ridge=0.0)
  assert np.isnan(weights).any()
  for found in (
    retrieve(jax.random.key(0), weights, query, max_sweeps=3),
    retrieve_at_once(weights, query, max_sweeps=3),
  ):
    assert not found.is_stable
    assert int(found.num_sweeps) == 3
    np.testing.assert_array_equal(found.state, query)


def test_energies_of_half_precision_do_not_overflow():
  for dtype in (jnp.float16, jnp.bfloat16):
    found = energy(jnp.ones((300, 300), dtype), jnp.ones(300, dtype))
    assert found.dtype == dtype
    assert_close(float(found), -0.5 * 300**2, rtol=2e-3)


def test_signs_of_numpy_are_taken_in_the_type_that_there_is():
  patterns = np.random.default_rng(0).choice([-1, 1], (2, 6))
  with jax.enable_x64(False):  # each warning is an error here
    for rule in RULES.values():
      for kind in (np.int64, np.float64):
        weights = rule(patterns.astype(kind))
        assert weights.dtype == jnp.float32
        found = hopfield.retrieve_synchronously(weights, patterns[0])
        assert found.state.dtype == jnp.int32
        np.testing.assert_array_equal(found.state, patterns[0])


def test_states_settle_where_the_energy_is_low():
  weights = hebb(signs(3, 12))
  queries, keys = signs(20, 12, seed=1), jax.random.split(jax.random.key(0), 20)
  by_sweeps = []
  for max_sweeps in (1, 2, 100):
    call = functools.partial(
      hopfield.retrieve_asynchronously, max_sweeps=max_sweeps
    )
    mapped = jax.jit(jax.vmap(call, in_axes=(0, None, 0)))
    by_sweeps.append(mapped(jax.random.clone(keys), weights, queries))
  assert np.all(by_sweeps[-1].is_stable)
  states = np.stack([queries, *(found.state for found in by_sweeps)])
  energies = -0.5 * np.einsum("tni,ij,tnj->tn", states, weights, states)
  assert (np.diff(energies, axis=0) <= 1e-12).all()
  assert (energies[-1] < energies[0]).any()
  fields = states[-1] @ np.asarray(weights)
  assert (fields * states[-1] >= -1e-12).all()


def errors(key, patterns, is_clamped, rule):
  """Wrong bits in retrieved patterns of which half had been drawn anew."""
  key_where, key_bits, key = jax.random.split(key, 3)
  weights = rule(patterns)
  patterns = patterns[:8]  # to retrieve all takes long
  count, size = patterns.shape
  keys = jax.random.split(key_where, count)
  order = jax.vmap(lambda key: jax.random.permutation(key, size))(keys)
  is_damaged = order < size // 2
  bits = 2.0 * jax.random.bernoulli(key_bits, shape=patterns.shape) - 1
  queries = jnp.where(is_damaged, bits, patterns)
  clamped = ~is_damaged if is_clamped else jnp.zeros_like(is_damaged)
  found = jax.vmap(
    lambda key, query, clamped: hopfield.retrieve_asynchronously(
      key, weights, query, clamped=clamped, max_sweeps=30
    )
  )(jax.random.split(key, count), queries, clamped)
  kept = jnp.all((found.state == queries) | ~clamped)
  return jnp.mean(jnp.sum(found.state != patterns, axis=1)), kept


_slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ("rule", "is_clamped", "count", "least", "most"),
  [
    ("hebb", True, 32, 4.5, 5.5),  # published: 5.0
    ("hebb", False, 32, 35.0, 47.0),  # so it is not what was published
    _slow("hebb", True, 16, 0.0, 0.6),  # 0.4
    _slow("hebb", True, 96, 16.0, 17.0),  # 16.5
    # Here another variant may have been published: 6.3 and 4.3. These are our
    # own of another program, with the shape of those.
    _slow("storkey", True, 48, 1.9, 3.0),
    _slow("pseudo_inverse", True, 64, 4.5, 8.0),
  ],
)
def test_published_errors_come_out_with_clamping(
  rule, is_clamped, count, least, most
):
  patterns = jnp.asarray(signs(20, count, 128), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 20)
  call = functools.partial(errors, is_clamped=is_clamped, rule=RULES[rule])
  found, kept = jax.jit(jax.vmap(call))(keys, patterns)
  assert np.all(kept)
  assert least < found.mean() < most


def test_clamped_units_stay_when_all_are_updated_at_once():
  pattern, clamped = signs(8), np.arange(8) < 4
  weights, query = hebb(pattern[None]), pattern * [-1, *[1] * 7]
  free = retrieve_at_once(weights, query).state
  held = retrieve_at_once(weights, query, clamped=clamped).state
  np.testing.assert_array_equal(held[:4], query[:4])
  assert (free[:4] != query[:4]).any()
  held = retrieve(jax.random.key(0), weights, query, clamped=clamped).state
  np.testing.assert_array_equal(held[:4], query[:4])


def numpy_modern(patterns, state, beta):
  scores = np.exp(beta * patterns @ state)
  return patterns.T @ (scores / scores.sum())


def test_the_modern_network_is_attention():
  rng = np.random.default_rng(0)
  patterns, query = rng.normal(size=(5, 4)), rng.normal(size=4)
  modern = functools.partial(modern_retrieve, patterns)
  found = modern(query, inverse_temperature=0.7, num_steps=2)
  expected = numpy_modern(patterns, query, 0.7)
  assert_close(found, numpy_modern(patterns, expected, 0.7))
  assert_close(modern(query, num_steps=0), query)
  # Cold, it is the pattern most like the query; hot, the mean.
  nearest = patterns[np.argmax(patterns @ query)]
  assert_close(modern(query, inverse_temperature=1e4), nearest)
  hot = modern(query, inverse_temperature=1e-9)
  assert_close(hot, patterns.mean(0), atol=1e-7)
  # Of a pattern that is there twice the weight is twice as much.
  twice = modern_retrieve(np.stack([*patterns, patterns[0]]), query)
  scores = np.exp(patterns @ query) * [2, 1, 1, 1, 1]
  assert_close(twice, patterns.T @ (scores / scores.sum()))


def test_no_step_of_the_modern_network_raises_its_energy():
  rng = np.random.default_rng(1)
  patterns, state = rng.normal(size=(5, 4)), 2 * rng.normal(size=4)
  beta, clamped = 1.3, np.array([True, False, False, True])
  scores = np.log(np.exp(beta * patterns @ state).sum()) / beta
  expected = 0.5 * state @ state + np.log(5) / beta - scores
  expected += 0.5 * np.max(np.sum(patterns**2, axis=1))

  def energy(state):
    return modern_energy(patterns, state, inverse_temperature=beta)

  assert_close(energy(state), expected)
  for held in (None, clamped):
    found, energies = state, [float(energy(state))]
    for _ in range(6):
      found = modern_retrieve(
        patterns, found, inverse_temperature=beta, clamped=held
      )
      energies.append(float(energy(found)))
    assert (np.diff(energies) < 1e-12).all()
    assert energies[-1] >= 0
    assert energies[1] < energies[0] - 0.01
    if held is not None:
      np.testing.assert_array_equal(found[clamped], state[clamped])


def test_lapack_is_left_alone():
  # On CPU, batches of its calls on several devices may wait for each other.
  patterns = jnp.asarray(signs(2, 13, 20))
  text = jax.jit(jax.vmap(hopfield.pseudo_inverse)).lower(patterns).as_text()
  assert "while" in text
  assert "lapack" not in text


@pytest.mark.parametrize("bad", [0.0, 0.5, np.nan, 2.0])
def test_values_that_are_no_signs_are_refused(bad):
  patterns = signs(3, 6)
  patterns[1, 2] = bad
  weights, key = jnp.zeros((6, 6)), jax.random.key(0)
  for rule in RULES.values():
    with pytest.raises(ValueError, match=f"patterns holds {bad}; it must hold"):
      rule(patterns)
  with pytest.raises(ValueError, match=f"query holds {bad}; it must hold"):
    hopfield.retrieve_asynchronously(key, weights, patterns[1])
  with pytest.raises(ValueError, match=f"query holds {bad}; it must hold"):
    hopfield.retrieve_synchronously(weights, patterns[1])
  # Inside of a compiled function nothing is known: it is the formula.
  expected = patterns.T @ patterns / 6
  found = jax.jit(functools.partial(hopfield.hebb, zero_diagonal=False))
  assert_close(found(patterns), expected)


def test_bits_are_refused():
  bits = signs(3, 6) > 0
  with pytest.raises(ValueError, match="patterns holds"):
    hopfield.hebb(jnp.asarray(bits))


def test_bad_arguments_are_refused():
  patterns, key = signs(3, 6), jax.random.key(0)
  weights = hebb(patterns)
  for rule in RULES.values():
    with pytest.raises(ValueError, match="patterns has 0 items"):
      rule(patterns[:0])
    with pytest.raises(ValueError, match="patterns has 0 units"):
      rule(patterns[:, :0])
    with pytest.raises(ValueError, match=r"patterns has shape \[6\]"):
      rule(patterns[0])
  for bad in (-1e-3, np.nan, np.inf):
    with pytest.raises(ValueError, match="ridge is"):
      hopfield.pseudo_inverse(patterns, ridge=bad)
  for bad in (0, np.nan):
    with pytest.raises(ValueError, match=f"max_sweeps is {bad}"):
      hopfield.retrieve_synchronously(weights, patterns[0], max_sweeps=bad)
  with pytest.raises(ValueError, match="max_sweeps is 0"):
    hopfield.retrieve_asynchronously(key, weights, patterns[0], max_sweeps=0)
  with pytest.raises(ValueError, match="query has shape"):
    hopfield.retrieve_synchronously(weights, patterns[0, :5])
  with pytest.raises(ValueError, match="clamped is of type"):
    hopfield.retrieve_synchronously(weights, patterns[0], clamped=np.ones(6))
  with pytest.raises(ValueError, match="state has shape"):
    hopfield.energy(weights, patterns)
  for function in (hopfield.modern_energy, hopfield.modern_retrieve):
    for bad in (0.0, -1, np.nan, np.inf, np.float32(0)):
      with pytest.raises(ValueError, match="inverse_temperature is"):
        function(patterns, patterns[0], inverse_temperature=bad)
    with pytest.raises(ValueError, match="patterns has 0 items"):
      function(patterns[:0], patterns[0])
    with pytest.raises(ValueError, match=r"(state|query) has shape"):
      function(patterns, patterns[0, :5])
  with pytest.raises(ValueError, match="num_steps is -1"):
    hopfield.modern_retrieve(patterns, patterns[0], num_steps=-1)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3)])
def test_the_ridge_is_a_share_of_the_units_on_the_diagonal(shape):
  patterns = signs(*shape)
  # Along a singular direction W is s² / (s² + D ridge): the smaller side of X
  # is inverted, and the result is the same.
  _, s, v = np.linalg.svd(patterns, full_matrices=False)
  default = 1e-4
  for ridge in (0.5, 0.01, default):
    weights = s**2 / (s**2 + shape[1] * ridge)
    expected = v.T @ (weights[:, None] * v)
    setting = {} if ridge == default else {"ridge": ridge}
    found = pseudo_inverse(patterns, zero_diagonal=False, **setting)
    assert_close(found, expected)
    assert np.abs(found - v.T @ v).max() > ridge / 20


def test_weights_from_a_file_are_used_in_random_order():
  patterns = signs(2, 8)
  weights = np.asarray(hebb(patterns))
  found = hopfield.retrieve_asynchronously(
    jax.random.key(0), weights, patterns[0]
  )
  expected = retrieve(jax.random.key(0), weights, patterns[0])
  assert_close(found.state, expected.state)
  assert found.is_stable
