"""Tests of lilly.learners.sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.learners import sequences as learner
from lilly.nets import cores, recurrent
from lilly.tasks import algorithmic, sequences

# Says its input plus the steps so far; has no parameters.
_COUNTING = recurrent.Core(
  init=lambda key: {},
  initial_state=lambda: jnp.zeros(()),
  apply=lambda params, x, state: (state + 1, x + state),
)


def test_scores_are_means_over_episodes_that_start_afresh():
  task = sequences.Task(
    num_inputs=1,
    num_outputs=1,
    num_steps=3,
    max_level=1,
    sample=None,
    test=None,
    loss=lambda episode, logits: jnp.sum(logits),
    error=lambda episode, logits: jnp.max(logits),
  )
  inputs = jnp.array([[0.0, 0.0, 0.0], [2.0, 4.0, 1.0]])[..., None]
  episodes = sequences.Episode(inputs, inputs, jnp.ones((2, 3), bool))
  loss, error = learner.scores({}, _COUNTING, task, episodes)
  # Outputs are 0, 1, 2 and 2, 5, 3.
  np.testing.assert_allclose((loss, error), (6.5, 3.5))


def _accesses(core):
  inputs = jax.random.normal(jax.random.key(0), (4, 2))
  params = core.init(jax.random.key(1))
  return learner.accesses(params, core, inputs)


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
  found = learner.accesses({}, counting, jnp.zeros(3))
  np.testing.assert_array_equal(found, [[1, 2, 3], [-1, -2, -3]])


def test_a_core_without_a_memory_has_no_accesses():
  assert _accesses(cores.make("gru", 2, 1, hidden_size=3)) is None


def make(**options):
  task = algorithmic.task("copy", 3)
  core = cores.make("gru", task.num_inputs, task.num_outputs, hidden_size=4)
  optimiser = lambda hyper: optax.sgd(hyper["learning_rate"])
  learner_of = learner.make(
    core, task, optimiser=optimiser, batch_size=2, **options
  )
  state = learner_of.init(
    jax.random.key(0), {"learning_rate": jnp.float32(0.1)}, ()
  )
  return core, task, jax.jit(lambda state: learner_of.update(state, ())), state


def test_an_update_descends_the_mean_loss_of_its_episodes():
  core, task, update, state = make()
  found, metrics = update(state)
  # Its episodes, drawn one by one at the hardest level.
  _, _, key = jax.random.split(jax.random.clone(state.key), 3)
  episodes = [task.sample(k, 3, ()) for k in jax.random.split(key, 2)]
  losses, grads = [], []

  def loss(params, episode):
    start = core.initial_state()
    _, logits = recurrent.unroll(core, params, episode.inputs, start)
    return task.loss(episode, logits)

  for episode in episodes:
    value, grad = jax.value_and_grad(loss)(state.params, episode)
    losses.append(value)
    grads.append(grad)
  np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
  jax.tree.map(
    lambda new, old, a, b: np.testing.assert_allclose(
      new, old - 0.05 * (a + b), atol=1e-6
    ),
    found.params,
    state.params,
    *grads,
  )


@pytest.mark.parametrize(
  ("threshold", "bounds"), [(2.0, [1, 2, 3, 3]), (0.0, [1, 1, 1, 1])]
)
def test_a_curriculum_doubles_the_bound_of_what_is_solved(threshold, bounds):
  _, _, update, state = make(
    has_curriculum=True, threshold=threshold, patience=1
  )
  seen = []
  for _ in range(4):
    seen.append(int(state.level.bound))
    state, metrics = update(state)
    assert metrics["level"] == seen[-1]
  assert seen == bounds


def test_without_a_curriculum_all_is_as_hard_as_it_gets():
  _, task, update, state = make(threshold=2.0, patience=1)
  assert state.level.bound == task.max_level
  assert update(state)[0].level.bound == task.max_level


def test_an_evaluation_is_the_same_for_the_same_key():
  core, task, _, state = make()
  first, second, other = (
    learner.evaluate(
      jax.random.key(i), state.params, core, task, num_episodes=3
    )
    for i in (1, 1, 2)
  )
  assert first == second and first["loss"] != other["loss"]
  assert 0 <= first["error"] <= 100


def test_a_batch_of_nothing_is_refused():
  with pytest.raises(ValueError, match="batch_size is 0"):
    learner.make(None, None, optimiser=None, batch_size=0)
