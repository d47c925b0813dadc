"""Tests of lilly.nets.world_models on worlds whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.control import imagination
from lilly.envs import environment, pendulum, state_vectors, wrappers
from lilly.envs.wrappers import TimeLimitState
from lilly.nets import world_models
from lilly.replay import ring

T, N = 4, 6  # steps of an episode, episodes
A = np.array([[1.0, 0.1], [-0.2, 0.9]], np.float32)
B = np.array([[0.0], [0.3]], np.float32)


def linear_world():
  """x' = A x + B u; x is seen, r = -|x'|² - u²."""

  def reset(key):
    x = jax.random.normal(key, (2,))
    return x, x

  def reward(x, u, following):
    del x
    return -jnp.sum(following**2) - jnp.sum(u**2)

  def step(key, x, u):
    del key
    following = A @ x + B @ u
    return following, environment.make_step(following, reward(x, u, following))

  return environment.Environment(
    reset,
    step,
    observation_spec=environment.box([-np.inf] * 2, [np.inf] * 2),
    action_spec=environment.box([-1.0], [1.0]),
    observe=lambda x: x,
    reward=reward,
  )


def visited(env):
  """A ring of N episodes of T random steps."""
  limited = wrappers.time_limit(env, T)
  state, seen = limited.reset(jax.random.key(0))
  visit = world_models.Visit(state, seen, jnp.zeros(1), state.state)
  found = ring.init(visit, N * T)

  def episode(key):
    key, key_reset = jax.random.split(key)
    state, seen = limited.reset(key_reset)

    def step(carry, _):
      key, state, seen = carry
      key, key_action, key_step = jax.random.split(key, 3)
      action = jax.random.uniform(key_action, (1,), minval=-1.0)
      following, step = limited.step(key_step, state, action)
      visit = world_models.Visit(state, seen, action, following.state)
      return (key, following, step.observation), visit

    return jax.lax.scan(step, (key, state, seen), length=T)[1]

  visits = jax.vmap(episode)(jax.random.split(jax.random.key(1), N))
  flat = jax.tree.map(lambda x: x.reshape(N * T, *x.shape[2:]), visits)
  return ring.extend(found, flat)


def roll(model, fit, state, seen):
  return imagination.rollout(
    jax.random.key(5),
    state,
    seen,
    step=lambda *given: model.step(fit, *given),
    act=lambda key, x: -0.5 * x[:1],
    length=T,
  )


@pytest.mark.parametrize(
  ("make", "tolerance"),
  [
    (lambda env: world_models.simulator(wrappers.time_limit(env, T)), 1e-5),
    (lambda env: world_models.linear(env, T, ridge=1e-6), 0.02),
    (
      lambda env: world_models.neural(
        env, T, hidden_sizes=(32,), learning_rate=1e-2, num_updates=600
      ),
      0.3,
    ),
  ],
)
def test_a_model_of_a_linear_world_rolls_as_the_world_does(make, tolerance):
  env = linear_world()
  model = make(env)

  @jax.jit
  def run(key):
    fit, metrics = model.refit(key, model.init(jax.random.key(2)), visited(env))
    x = jnp.array([0.5, -0.5])
    start = TimeLimitState(x, jnp.ones((), jnp.int32))
    return roll(model, fit, start, x), metrics

  found, metrics = run(jax.random.key(3))
  x = np.array([0.5, -0.5])
  for i in range(3):
    u = -0.5 * x[:1]
    x = A @ x + B @ u
    np.testing.assert_allclose(
      found.next_observation[i], x, atol=tolerance, err_msg=str(i)
    )
    reward = -np.sum(x**2) - np.sum(u**2)
    np.testing.assert_allclose(found.reward[i], reward, atol=3 * tolerance)
  # It began at the second of four steps.
  np.testing.assert_array_equal(found.is_valid, [1, 1, 1, 0])
  assert all(value < 0.3 for value in metrics.values())


def test_a_linear_model_is_of_its_step_of_the_episode():
  # What a step does depends on its time: a model that mistakes the time errs.
  env = linear_world()

  def step(key, state, u):
    x, age = state.state, state.age
    gain = jnp.where(age % 2 == 0, 1.0, -1.0)
    following = A @ x + gain * (B @ u)
    made = environment.make_step(following, 0.0)
    return TimeLimitState(following, age + 1), made

  limited = wrappers.time_limit(env, T)
  visits = ring.contents(visited(env))
  after = jax.vmap(lambda s, u: step(None, s, u)[0].state)(
    visits.state, visits.action
  )
  model = world_models.linear(env, T, ridge=1e-6)
  full = ring.extend(visited(env), visits._replace(following=after))
  fit, _ = jax.jit(model.refit)(jax.random.key(0), model.init(None), full)
  for age, gain in enumerate([1, -1, 1, -1]):
    state = limited.reset(jax.random.key(1))[0]._replace(age=jnp.int32(age))
    new, _ = model.step(fit, jax.random.key(2), state, jnp.ones(1))
    wanted = A @ state.state + gain * B[:, 0]
    # The prior is of all steps: it draws a step towards the others.
    np.testing.assert_allclose(new.state, wanted, atol=0.25)


def test_environments_that_do_not_say_are_refused():
  env = wrappers.action_repeat(pendulum.make(num_steps=None), 2)
  for make in (world_models.linear, world_models.neural):
    with pytest.raises(ValueError, match="repeat no actions"):
      make(env, T)
  with pytest.raises(ValueError, match="leave out its time limit"):
    state_vectors.vectors(pendulum.make())
