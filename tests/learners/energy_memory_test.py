"""Tests of lilly.learners.energy_memory, with memories known by heart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.learners import energy_memory as learner
from lilly.nets import energy_memory, set_memories
from lilly.tasks import patterns

TASK = patterns.Task(
  shape=(3,),
  is_binary=False,
  sample=None,
  test=lambda key, data, count: jnp.zeros((count, 3)),
  data=(),
  damage=lambda key, x: patterns.Query(jax.random.normal(key, x.shape), x > 0),
)
BITS = patterns.make_binary_task(num_bits=3, num_redrawn=2)
STORED = jnp.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def test_reads_are_measured_by_hand():
  """Reads go to the pattern but for one bit, then to its opposite."""
  start = jnp.array([[0.375, 0.375, 0.0], [0.0, 0.0, 0.75]])
  queries = patterns.Query(start, jnp.ones((2, 3), bool))

  def read(params, state, written, query):
    """Which pattern is asked for, the query's last bit says."""
    _, stored = written
    x = stored[jnp.asarray(query[-1] > 0.5, int)]
    return jnp.stack([x.at[0].set(1 - x[0]), 1 - x])

  memory = set_memories.SetMemory(
    init=lambda key, x: ((), {}),
    write=lambda params, state, stored: (jnp.array(-2.0), stored),
    read=read,
    energy=lambda params, state, written, x: written[0] * jnp.sum(x),
  )
  task = BITS._replace(test=TASK.test)
  before = jnp.array(3.0), STORED
  params = energy_memory.Params(before, None, None, None)
  found = learner.measure_memory(
    jax.random.key(0), memory, params, task, (), STORED, queries
  )
  expected = {
    "loss": [4.0, 4.0],  # 1 + 3: steps are added, the query is left out
    "error": [3.0, 3.0],
    "error_elsewhere": [1.0, 2.0],  # reads of a set of zeros are ones
    "energy_before": [6.0, 3.0],
    "energy_after": [-4.0, -2.0],
    # Sums of x: 0.75, 3, 1 and 0.75, 0, 2; the energy is -2 times that.
    "falling": [[1.0, 0.0], [0.0, 1.0]],
  }
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_allclose(found[name], values, err_msg=name)


def from_the_first_query(monkeypatch):
  """Makes reads the distance of a query from the set's first one."""

  def recall(memory, params, state, stored, queries):
    return None, (stored + queries - queries[:1])[:, None]

  monkeypatch.setattr(set_memories, "recall", recall)
  return set_memories.SetMemory(init=None, write=None, read=None)


def test_each_query_of_a_set_is_damaged_for_itself(monkeypatch):
  memory = from_the_first_query(monkeypatch)
  loss = learner.make_loss(memory, TASK)
  keys = jax.random.split(jax.random.key(0), 2000)
  each, metrics = jax.jit(jax.vmap(lambda key: loss(key, (), (), STORED)))(keys)
  np.testing.assert_allclose(each, metrics["error"], rtol=1e-5)
  np.testing.assert_allclose(each, metrics["loss"], rtol=1e-5)
  # Between two damages is 6, three normal numbers each; of the first query 0.
  np.testing.assert_allclose(each.mean(), 3, atol=0.3)


def test_the_loss_adds_steps_and_the_error_is_of_the_last():
  memory = set_memories.SetMemory(
    init=None,
    write=lambda params, state, stored: None,
    read=lambda params, state, _, query: params * jnp.stack([query, 2 * query]),
  )
  task = TASK._replace(damage=lambda key, x: patterns.Query(0.5 * x, x > 0))
  loss = learner.make_loss(memory, task)
  value, metrics = loss(jax.random.key(0), 1.5, (), STORED)
  # Of the two ones and the single one: (1 - 0.75)² and (1 - 1.5)² each.
  np.testing.assert_allclose(metrics["error"], 1.5 * 0.25)
  np.testing.assert_allclose(metrics["loss"], 1.5 * (0.25 + 0.0625))
  assert value == metrics["loss"]


def evaluate(measure, task=TASK, data=(), **sizes):
  sizes = {"num_patterns": 2, "counts": (1, 3), "num_sets": 2000} | sizes
  run = lambda key: learner.evaluate(
    key, measure, task, data, batch_size=500, **sizes
  )
  return jax.jit(run)(jax.random.key(1))


def test_evaluations_are_of_the_same_test_sets_at_every_time(monkeypatch):
  memory = from_the_first_query(monkeypatch)
  measure = lambda key, stored, queries: learner.measure_memory(
    key, memory, (), TASK, (), stored, queries
  )
  found, again = evaluate(measure), evaluate(measure)
  assert found == again
  errors = [float(found[f"error_at_{n}"]) for n in (1, 2, 3)]
  # As above; each test has a damage of its own, or means were far from that.
  np.testing.assert_allclose(errors, [0, 3, 4], atol=0.3)
  # Of as many as are trained on.
  assert found["error"] == found["loss"] == found["error_at_2"]
  assert "energy_after" not in found and "loss_at_3" not in found


def test_test_sets_and_what_is_measured_have_keys_of_their_own():
  """Draws of sets, damage and measurement are three, set by set."""
  draw = lambda key: jax.random.normal(key, ())
  task = TASK._replace(
    test=lambda key, data, count: jnp.full((count, 3), data + draw(key)),
    damage=lambda key, x: patterns.Query(x - x + draw(key), x > 0),
  )

  def measure(key, stored, queries):
    x = stored[:, 0] - 5.0, queries.pattern[:, 0], draw(key)
    return {
      "error": x[0] * x[1],
      "with_set": x[0] * x[2],
      "with_damage": x[1] * x[2],
      "spread": x[0] ** 2,
    }

  found = evaluate(measure, task, 5.0, counts=())
  for name in ("error", "with_set", "with_damage"):
    assert abs(found[name]) < 0.1, name
  assert abs(found["spread"] - 1) < 0.15
  assert abs(found["query"] - 3 * 27) < 4  # of N(5, 1) from N(0, 1), thrice
  assert set(found) == {
    "error",
    "error_at_2",
    "query",
    "spread",
    "with_damage",
    "with_set",
  }


def test_a_query_that_is_returned_has_its_own_error():
  queries = patterns.Query(1 - STORED, STORED > 0)
  measure = functools.partial(learner.measure_rule, jax.random.key(0), "query")
  found = measure(BITS, STORED, queries)
  assert {k: v.tolist() for k, v in found.items()} == {"error": [3.0, 3.0]}
  half = patterns.Query(0 * STORED + 0.5, STORED > 0)
  # Squares, of colours.
  assert measure(TASK, STORED, half)["error"].tolist() == [0.75, 0.75]


def test_a_rule_may_know_what_is_not_damaged():
  stored = jnp.array([[0.0, 1.0, 1.0, 0.0, 1.0]])
  # All but the first bit are wrong: nearer to the opposite, which is stable.
  queries = patterns.Query(
    jnp.array([[0.0, 0.0, 0.0, 1.0, 0.0]]),
    jnp.array([[False, True, True, True, True]]),
  )
  found = learner.measure_rule(jax.random.key(0), "hebb", BITS, stored, queries)
  assert found["error"].tolist() == [5.0]
  assert found["error_clamped"].tolist() == [4.0]
  # Modern retrieval returns the only pattern; what is known stays.
  modern = learner.measure_rule(
    jax.random.key(0), "modern", BITS, stored, queries
  )
  assert modern["error"].tolist() == modern["error_clamped"].tolist() == [0.0]
  with pytest.raises(ValueError, match="rule is 'heb'"):
    learner.measure_rule(jax.random.key(0), "heb", BITS, stored, queries)


@pytest.mark.slow
def test_hopfield_s_errors_are_the_published_ones():
  """Hebb's rule, 128 bits, 64 of them drawn anew, the others clamped."""
  task = patterns.make_binary_task(num_bits=128, num_redrawn=64)
  found = evaluate(
    lambda *given: learner.measure_rule(
      given[0], "hebb", task, given[1], given[2]
    ),
    task,
    num_patterns=32,
    counts=(),
    num_sets=20,
  )
  assert abs(found["error_clamped"] - 5.0) < 0.7
  assert 37 < found["error"] < 45


def test_initial_parameters_are_the_memory_s():
  memory = set_memories.SetMemory(
    init=lambda key, x: (jax.random.normal(key, x.shape), {}),
    write=None,
    read=None,
  )
  params, state = learner.init(jax.random.key(0), memory, jnp.zeros(3))
  assert state == ()
  np.testing.assert_array_equal(
    params, jax.random.normal(jax.random.key(0), (3,))
  )
