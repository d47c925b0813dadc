"""Tests of lilly.nets.set_memories, with memories known by heart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.nets import recurrent, set_memories

# It halves what it has seen at each step, and says what it has then.
HALVING = recurrent.Core(
  init=lambda key: (),
  initial_state=lambda: {"count": jnp.array(1), "seen": jnp.zeros(3)},
  apply=lambda params, x, state: (
    {"count": state["count"] + 1, "seen": 0.5 * state["seen"] + x},
    0.5 * state["seen"] + x,
  ),
)


def halving(sizes=None, **options):
  def make_core(*given):
    if sizes is not None:
      sizes.append(given)
    return HALVING

  return set_memories.from_core(make_core, 2, 3, **options)


def test_a_core_is_shown_items_and_asked():
  sizes = []
  memory = halving(sizes)
  assert sizes == [(3, 3)]  # two numbers of an item, and whether it is shown
  params, state = memory.init(jax.random.key(0))
  assert state == {}
  a, b = jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [5.0]])
  content = memory.write(params, state, a, b)
  np.testing.assert_allclose(content["seen"], [2.5, 6.5, 1.5])
  # A half of that, and the question [7, 0, 0] or [7, 8, 0].
  for query, expected in (
    ([7.0], [8.25, 3.25, 0.75]),
    ([7.0, 8.0], [8.25, 11.25, 0.75]),
  ):
    read = memory.read(params, state, content, jnp.array(query))
    np.testing.assert_allclose(read, expected)
  np.testing.assert_allclose(
    memory.read(params, state, content, jnp.array([7.0]), jnp.array([8.0])),
    expected,
  )
  assert memory.is_addressed
  doubled = halving(to_answer=lambda x: 2 * x)
  read = doubled.read(params, state, content, jnp.array([7.0]))
  np.testing.assert_allclose(read, [16.5, 6.5, 1.5])


def test_a_core_that_is_not_asked_answers_with_all_of_its_state():
  sizes = []
  core = HALVING._replace(
    apply=lambda params, x, state: (
      {"count": state["count"] + 1, "seen": state["seen"] + jnp.append(x, 9.0)},
      x,
    )
  )
  memory = set_memories.from_core(
    lambda *given: sizes.append(given) or core, 2, 3, is_asked=False
  )
  assert sizes == [(2, 3)] and not memory.is_addressed
  content = memory.write((), {}, jnp.array([[1.0, 3.0], [2.0, 5.0]]))
  for query in (jnp.zeros(2), jnp.ones(2)):
    read = memory.read((), {}, content, query)
    np.testing.assert_allclose(read, [3.0, 3.0, 8.0, 18.0])
    assert read.dtype == jnp.float32


def test_a_core_needs_a_state():
  stateless = HALVING._replace(initial_state=lambda: ())
  with pytest.raises(ValueError, match="makes a core without a state"):
    set_memories.from_core(lambda *sizes: stateless, 2, 3)


NOTEBOOK = set_memories.SetMemory(
  init=lambda key, x: (jnp.full(x.shape, 2.0), {"shift": jnp.array(1.0)}),
  write=lambda params, state, items: (params[None] * items, jnp.array(5)),
  read=lambda params, state, content, query: (
    content[0].sum(0) * query + state["shift"]
  ),
)


def test_a_set_is_written_once_and_each_query_is_read():
  params, state = NOTEBOOK.init(jax.random.key(0), jnp.zeros(2))
  items = jnp.array([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
  queries = jnp.array([[1.0, 0.0], [2.0, 1.0]])
  content, answers = set_memories.recall(
    NOTEBOOK, params, state, items, queries
  )
  np.testing.assert_array_equal(content[0], 2 * items)
  np.testing.assert_array_equal(answers, [[9.0, 1.0], [17.0, 15.0]])


def test_a_record_of_three_functions_has_nothing_else():
  params, state = NOTEBOOK.init(jax.random.key(0), jnp.zeros(2))
  items = jnp.ones((3, 2))
  assert NOTEBOOK.observe(params, state, items) is state
  for name in ("sample", "write_with_kl", "energy", "address"):
    assert getattr(NOTEBOOK, name) is None
  assert NOTEBOOK.is_addressed


def test_numbers_are_counted_without_a_set():
  for count in (0, 3):
    found = set_memories.num_floats(NOTEBOOK, count, jnp.zeros(2))
    assert found == 2 * count + 1
  # Of a core: the same at any length, whole numbers too.
  assert set_memories.num_floats(halving(), 7, jnp.zeros(2)) == 4


def test_a_model_without_a_place_for_a_state_takes_none():
  with pytest.raises(ValueError, match="has a state beside its parameters"):
    set_memories.init_params(NOTEBOOK, jax.random.key(0), jnp.zeros(2))
  plain = NOTEBOOK._replace(init=lambda key, x: (x + 2, {}))
  params = set_memories.init_params(plain, jax.random.key(0), jnp.zeros(2))
  np.testing.assert_array_equal(params, [2.0, 2.0])
