"""Tests of lilly.nets.energy_memory, with an energy known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import energy, hopfield
from lilly.nets import energy_memory, energy_networks, set_memories

D = 4
# E = ½ |x - memory - static|²: writing moves the memory to the mean.
QUADRATIC = energy_networks.EnergyNetwork(
  lambda key, x: {
    "memory": {"b": jnp.zeros_like(x)},
    "gate": {"b": jnp.full_like(x, 0.25)},
  },
  lambda static, written, x: (
    0.5 * jnp.sum((x - written["memory"]["b"] - static["gate"]["b"]) ** 2)
  ),
)
PATTERNS = jnp.array([[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
QUERIES = jnp.array([[1.0, 1.0, 1.0, 0.0], [0.5, 0.5, 0.0, 1.0]])


def make(write_steps=2, **options):
  return energy_memory.make(
    QUADRATIC, write_steps=write_steps, read_steps=2, **options
  )


def started(**options):
  params, state = make(**options).init(jax.random.key(0), PATTERNS[0])
  assert state == {}
  return params


def recall(params, **options):
  return set_memories.recall(make(**options), params, {}, PATTERNS, QUERIES)


def test_starts_with_a_rate_a_layer_and_a_term():
  params = started(write_rate=0.2, step_size=0.4, momentum=0.3)
  assert params.written.keys() == {"memory"}
  assert params.static.keys() == {"gate"}
  for term in params.write:
    assert term.keys() == {"memory"}
    np.testing.assert_allclose(jax.nn.softplus(term["memory"]), 0.2, rtol=1e-5)
  assert params.read.step_size_logits.shape == (1,)
  for logits in (params.read.step_size_logits, params.read.momentum_logits):
    np.testing.assert_allclose(jax.nn.sigmoid(logits), 0.9, rtol=1e-5)
  np.testing.assert_allclose(params.read.step_size, 0.4, rtol=1e-6)
  np.testing.assert_allclose(params.read.momentum, 0.3, rtol=1e-6)
  assert started(gradient_norm=False).write.gradient_norm is None


def test_recalls_as_the_loss_of_the_memory_does():
  params = started(momentum=0.3)
  written, reads = recall(params)
  loss, iterates = energy.loss(
    params.written,
    PATTERNS,
    QUERIES,
    functools.partial(QUADRATIC.energy, params.static),
    params.write,
    params.read,
    num_steps=2,
  )
  np.testing.assert_allclose(reads, iterates, rtol=1e-6)
  own = jax.vmap(energy.reconstruction_loss)(reads, PATTERNS).mean()
  np.testing.assert_allclose(own, loss, rtol=1e-6)
  # Two steps part of the way to the mean, less what is static.
  whole = PATTERNS.mean(0) - 0.25
  part = np.asarray(written["memory"]["b"] / whole)
  assert (part > 0.3).all() and (part < 1.2).all()


def test_recomputing_changes_no_number():
  params = started()
  plain, again = recall(params), recall(params, remat=True)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), plain, again
  )


def test_first_order_has_the_same_numbers_and_other_gradients():
  params = started()
  plain, first = recall(params), recall(params, first_order=True)
  np.testing.assert_allclose(first[1], plain[1], rtol=1e-6)

  def slope(first_order):
    def loss(params):
      _, reads = recall(params, first_order=first_order)
      return jnp.sum((reads - PATTERNS[:, None]) ** 2)

    return jax.jit(jax.grad(loss))(started()).written["memory"]["b"]

  assert np.abs(slope(True) - slope(False)).max() > 1e-2


def test_no_steps_write_nothing():
  params = started()
  written, reads = recall(params, write_steps=0)
  assert written is params.written
  assert reads.shape == (2, 2, D)


def test_energies_begin_with_the_query_s():
  params = started()
  written, reads = recall(params)
  energy_of = functools.partial(make().energy, params, {}, written)
  values = energy_memory.measure_energies(energy_of, QUERIES, reads)
  centre = written["memory"]["b"] + 0.25
  path = np.concatenate([QUERIES[:, None], reads], axis=1)
  expected = 0.5 * np.sum((path - np.asarray(centre)) ** 2, axis=-1)
  np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_memory_without_an_energy_is_measured_by_its_errors():
  params, memory = started(), make()
  written, reads = recall(params)
  measure = functools.partial(
    energy_memory.measure_reads, memory, params, written, PATTERNS
  )
  whole = measure(QUERIES, reads)
  energy_of = functools.partial(memory.energy, params, {}, written)
  values = energy_memory.measure_energies(energy_of, QUERIES, reads)
  np.testing.assert_array_equal(whole["falling"], np.diff(values) <= 1e-5)
  # Steps begin at the query, not at the pattern: up from where it is lowest.
  lowest = jnp.tile(written["memory"]["b"] + 0.25, (2, 1))
  up = measure(lowest, jnp.stack([PATTERNS, PATTERNS], axis=1))
  np.testing.assert_array_equal(up["falling"], [[0, 1], [0, 1]])
  own = 0.5 * np.sum((PATTERNS - 0.25) ** 2, axis=1)
  np.testing.assert_allclose(whole["energy_before"], own, rtol=1e-6)
  centre = np.asarray(written["memory"]["b"] + 0.25)
  own = 0.5 * np.sum((np.asarray(PATTERNS) - centre) ** 2, axis=1)
  np.testing.assert_allclose(whole["energy_after"], own, rtol=1e-5)
  loss = np.sum((reads - PATTERNS[:, None]) ** 2, axis=(1, 2))
  np.testing.assert_allclose(whole["loss"], loss, rtol=1e-5)
  bare = energy_memory.measure_reads(
    memory._replace(energy=None), None, None, PATTERNS, QUERIES, reads
  )
  assert list(bare) == ["loss"]
  np.testing.assert_array_equal(bare["loss"], whole["loss"])


def test_the_modern_network_takes_one_step_from_where_signs_are():
  stored = jnp.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
  query = jnp.array([[0.5, 0.4, 0.5]])
  known, key = jnp.zeros((1, 3), bool), jax.random.key(0)
  found = energy_memory.retrieve(key, "modern", stored, query, known)
  # The scores of -1, 1, 1 and -1, -1, 1 by 0, -0.2, 0.
  weights = np.exp([-0.2, 0.2]) / np.exp([-0.2, 0.2]).sum()
  np.testing.assert_allclose(found[0], [0, weights[0], 1], atol=1e-6)


@pytest.mark.parametrize("rule", [*energy_memory.RULES, "modern"])
@pytest.mark.parametrize("dtype", [jnp.uint8, bool, jnp.int32])
def test_bits_of_any_type_are_patterns(rule, dtype):
  stored = jnp.array([[0, 1, 1, 0], [1, 1, 0, 0]])
  queries, known = 1 - stored, jnp.zeros((2, 4), bool).at[:, :2].set(True)
  given = jax.random.key(0), rule
  expected = energy_memory.retrieve(
    *given, *(x.astype(jnp.float32) for x in (stored, queries)), known
  )
  given = jax.random.clone(given[0]), rule
  bits = stored.astype(dtype), queries.astype(dtype)
  found = energy_memory.retrieve(*given, *bits, known)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  given = jax.random.clone(given[0]), rule
  none = energy_memory.retrieve(*given, bits[0], bits[1][:0], known[:0])
  assert none.shape == (0, 4)


def test_queries_settle_in_orders_of_their_own():
  # A pattern and its opposite are stable; a query that is as near to both goes
  # to either.
  stored = jnp.array([[0.0, 0.0, 1.0, 1.0, 0.0, 1.0]])
  queries = jnp.tile(jnp.array([0.0, 0.0, 1.0, 0.0, 1.0, 0.0]), (16, 1))
  known = jnp.zeros(queries.shape, bool)
  key = jax.random.key(0)
  found = energy_memory.retrieve(key, "hebb", stored, queries, known)
  assert len({x.tobytes() for x in np.asarray(found)}) == 2


@pytest.mark.parametrize("rule", [*energy_memory.RULES, "modern"])
def test_rules_retrieve_and_leave_what_is_known(rule):
  rng = np.random.default_rng(0)
  stored = jnp.asarray(rng.integers(0, 2, (2, 4, 8)), jnp.float32)
  known = jnp.asarray(rng.random((2, 4, 8)) < 0.8)
  damaged = jnp.where(known, stored, 1 - stored)
  retrieve = jax.jit(energy_memory.retrieve, static_argnums=1)
  key = jax.random.key(0)
  found = retrieve(key, rule, stored, damaged, known)
  np.testing.assert_allclose(found, stored, atol=1e-2)
  # All is known: nothing changes; each query by its own mask.
  keeps = jnp.array([True, False])[:, None, None] | known
  kept = retrieve(jax.random.clone(key), rule, stored, damaged, keeps)
  np.testing.assert_array_equal(kept[0], damaged[0])
  np.testing.assert_allclose(kept[1], stored[1], atol=1e-2)


def test_bad_sets_and_rules_are_refused():
  known = jnp.zeros(QUERIES.shape, bool)
  key = lambda: jax.random.key(0)
  with pytest.raises(ValueError, match="rule is 'heb'; it must be one of"):
    energy_memory.retrieve(key(), "heb", PATTERNS, PATTERNS, known)
  for rule in (*energy_memory.RULES, "modern"):
    with pytest.raises(ValueError, match="patterns has 0 items"):
      energy_memory.retrieve(key(), rule, PATTERNS[:0], QUERIES, known)
  for rule in energy_memory.RULES:
    with pytest.raises(ValueError, match="patterns are not of 0 and 1 only"):
      energy_memory.retrieve(key(), rule, QUERIES, PATTERNS, known)
  with pytest.raises(ValueError, match="patterns has 0 items"):
    make().write(started(), {}, PATTERNS[:0])


def test_rules_are_those_of_their_names():
  for name, rule in energy_memory.RULES.items():
    assert rule is getattr(hopfield, name)
