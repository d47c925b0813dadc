"""Tests of lilly.nets.sequence_learner."""

import jax
import jax.numpy as jnp
import numpy as np

from lilly.nets import cores, recurrent, sequence_learner
from lilly.tasks import sequences

# Says its input plus the steps so far; has no parameters.
_COUNTING = recurrent.Core(
  init=lambda key: {},
  initial_state=lambda: jnp.zeros(()),
  apply=lambda params, x, state: (state + 1, x + state),
)


def test_scores_are_means_over_episodes_that_start_afresh():
  task = sequences.Task(
    *(1, 1, 3, 1, None, None),
    loss=lambda episode, logits: jnp.sum(logits),
    error=lambda episode, logits: jnp.max(logits),
  )
  inputs = jnp.array([[0.0, 0.0, 0.0], [2.0, 4.0, 1.0]])[..., None]
  episodes = sequences.Episode(inputs, inputs, jnp.ones((2, 3), bool))
  loss, error = sequence_learner.scores({}, _COUNTING, task, episodes)
  # Outputs are 0, 1, 2 and 2, 5, 3.
  np.testing.assert_allclose((loss, error), (6.5, 3.5))


def _accesses(core):
  inputs = jax.random.normal(jax.random.key(0), (4, 2))
  params = core.init(jax.random.key(1))
  return sequence_learner.accesses(params, core, inputs)


def test_accesses_are_recorded_step_by_step():
  sizes = {"hidden_size": 4, "num_slots": 9, "word_size": 3, "num_heads": 2}
  for name in ("sam", "dam"):
    written, read = _accesses(cores.make(name, 2, 1, **sizes))
    assert written.shape == read.shape == (4, 9)
    # Heads read with weights that sum to 1; gates make less of a write.
    np.testing.assert_allclose(read.sum(axis=1), 2.0, rtol=1e-5)
    assert 0 < written.sum(axis=1).min() < written.sum(axis=1).max() < 1.9
  # After each step, not before it.
  counting = _COUNTING._replace(accesses=lambda state: (state, -state))
  found = sequence_learner.accesses({}, counting, jnp.zeros(3))
  np.testing.assert_array_equal(found, [[1, 2, 3], [-1, -2, -3]])


def test_a_core_without_a_memory_has_no_accesses():
  assert _accesses(cores.make("gru", 2, 1, hidden_size=3)) is None
