"""Tests of lilly.envs.planning: plans that are right, or better than acting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import pendulum, planning, state_vectors, wrappers
from tests.nets import world_models_test as linear


def test_a_plan_of_a_linear_world_is_its_best():
  # Quadratic rewards: the best return is that of the dense least squares.
  env, x, horizon = linear.linear_world(), np.array([0.2, -0.1]), 6
  found = jax.jit(
    lambda key: planning.best_return(
      key, env, jnp.float32(x), horizon, window=4, execute=2, num_guesses=2
    )
  )(jax.random.key(0))
  # x_t = A^t x + sum over s of A^(t-1-s) B u_s.
  powers = [np.linalg.matrix_power(linear.A, t) for t in range(horizon + 1)]
  effect = np.zeros((2 * horizon, horizon))
  for t in range(1, horizon + 1):
    for s in range(t):
      effect[2 * t - 2 : 2 * t, s] = (powers[t - 1 - s] @ linear.B)[:, 0]
  free = np.concatenate([powers[t] @ x for t in range(1, horizon + 1)])
  system = np.concatenate([effect, np.eye(horizon)])
  target = np.concatenate([-free, np.zeros(horizon)])
  _, cost, *_ = np.linalg.lstsq(system, target, rcond=None)
  np.testing.assert_allclose(found, -cost[0], rtol=1e-4)


@pytest.mark.slow
def test_the_pendulum_is_swung_up():
  env = wrappers.normalize_actions(pendulum.make(num_steps=None))
  found = jax.jit(
    lambda key: planning.best_return(
      key, env, pendulum.State(jnp.pi, jnp.zeros(())), 120, window=40
    )
  )(jax.random.key(0))
  assert found > -500  # staying below costs 10 a step


def test_plans_of_a_fitted_model_are_better_than_what_was_done():
  env, max_kl = linear.linear_world(), 5.0
  seen = linear.visited(env)
  model = linear.world_models.linear(env, linear.T, ridge=1e-6)
  fit, _ = jax.jit(model.refit)(jax.random.key(0), model.init(None), seen)
  visits = linear.ring.contents(seen)
  plan = jax.jit(
    lambda limit: planning.replan(
      env, fit.model, visits, max_kl=max_kl, least_variance=limit
    )
  )(0.01)
  states, actions, _ = state_vectors.trajectories(env, visits, linear.T)

  reward = jax.jit(env.reward)
  act = jax.jit(lambda state: planning.act(plan, env, state))

  def total(choose):
    found = 0.0
    for episode in range(linear.N):
      x = np.asarray(states[episode, 0])
      for t in range(linear.T):
        u = choose(x, t, episode)
        new = linear.A @ x + linear.B @ u
        found += float(reward(x, u, new))
        x = new
    return found / linear.N

  def planned(x, t, _):
    state = wrappers.TimeLimitState(jnp.float32(x), jnp.int32(t))
    return np.asarray(act(state))

  def mean(x, t, _):
    return np.asarray(actions[:, t].mean(0))

  assert total(planned) > total(mean) + 0.1
  # Off the plan: û + k + K (x - x̂).
  controller, off = plan.controller, np.full_like(plan.states[1], 0.3)
  expected = plan.actions[1] + controller.feedforward[1]
  expected += controller.feedback[1] @ off
  found = planned(plan.states[1] + off, 1, None)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(plan.states, states.mean(0), rtol=1e-6)


def test_bad_windows_are_refused():
  env = linear.linear_world()
  for execute in (0, 5):
    with pytest.raises(ValueError, match="execute is"):
      planning.best_return(
        jax.random.key(0), env, jnp.zeros(2), 4, window=4, execute=execute
      )
