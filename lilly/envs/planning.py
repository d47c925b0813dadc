"""Plans for environments: iLQG with the simulator, or with a fitted model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.control import exploration, kl_limited, linear_models, lqr
from lilly.envs import state_vectors
from lilly.envs.environment import Environment

__all__ = ["Plan", "act", "best_return", "blank", "replan"]

# At 1 the environment cuts actions, and the slope with them.
_LIMIT = 0.999


class Plan(NamedTuple):
  """A controller around the mean of some episodes."""

  states: jax.Array  # x̂, [T, d]
  actions: jax.Array  # û, [T, m]
  controller: kl_limited.Controller


def blank(env: Environment, horizon: int) -> Plan:
  """Makes a plan of zeros, for its form.

  Args:
    env: without a time limit.
    horizon: T.

  Returns:
    The plan.
  """
  d, (m,) = state_vectors.vectors(env).size, env.action_spec.shape
  shapes = ((m,), (m, d), (m, m))
  zeros = [jnp.zeros((horizon, *shape)) for shape in shapes]
  controller = kl_limited.Controller(*zeros)
  return Plan(jnp.zeros((horizon, d)), zeros[0], controller)


def act(plan: Plan, env: Environment, state: Any) -> jax.Array:
  """Acts by a plan, without its noise: u = û + k + K (x - x̂).

  Args:
    plan: for episodes of the environment.
    env: without a time limit.
    state: a `TimeLimitState`.

  Returns:
    The action, which may be beyond the bounds, [m].

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 5.1.
  """
  t, controller = state.age, plan.controller
  x = state_vectors.vectors(env).flatten(state.state)
  change = controller.feedback[t] @ (x - plan.states[t])
  return plan.actions[t] + controller.feedforward[t] + change


def replan(
  env: Environment,
  model: linear_models.LinearGaussian,
  visits: Any,
  *,
  max_kl: float = 10.0,
  least_variance: float | jax.Array = 0.04,
) -> Plan:
  """Takes one step of iLQG on a fitted model, near what was done lately.

  Args:
    env: without a time limit, with `reward`.
    model: of episodes of T steps.
    visits: of the latest episodes, as of `state_vectors.trajectories`.
    max_kl: nats between the rollouts of the plan and of what was done: actions
      of their mean and variance at each step, blind to states.
    least_variance: added to that variance.

  Returns:
    The plan.

  Raises:
    ValueError: max_kl is not positive.

  Reference:
    Levine and Abbeel, 2014; Gu et al., 2016 (arXiv 1603.00748), algorithm 2.
    Whether its step was limited is not stated (unconfirmed).
  """
  form, known = state_vectors.vectors(env), env.reward
  horizon = len(model.offset)
  xs, us, following = state_vectors.trajectories(env, visits, horizon)
  states, actions = xs.mean(0), us.mean(0)

  def dynamics(t, x, u):
    return linear_models.mean(model, t, x, u)

  def reward(t, x, u):
    new = form.unflatten(dynamics(t, x, u))
    return known(form.unflatten(x), u, new)

  ends = following.mean(0)[-1:]
  expansion = lqr.expand(
    jnp.concatenate([states, ends]), actions, dynamics=dynamics, reward=reward
  )
  plan = blank(env, horizon)
  variance = jnp.square(us - actions[None]).mean(0) + least_variance
  previous = plan.controller._replace(
    covariance=variance[..., None] * jnp.eye(us.shape[-1])[None]
  )
  starts = xs[:, 0] - states[None, 0]
  found = kl_limited.improve(
    expansion,
    previous,
    max_kl=max_kl,
    noise=model.covariance,
    start_covariance=starts.T @ starts / len(starts),
  )
  return Plan(states, actions, found.controller)


def best_return(
  key: jax.Array,
  env: Environment,
  state: Any,
  horizon: int,
  *,
  num_passes: int = 50,
) -> jax.Array:
  """Plans an episode with the simulator: iLQG from eight first guesses.

  Actions guessed are noise of several strengths: from none, a planner stays
  where a small change of them brings nothing.

  Args:
    key: typed key.
    env: without a time limit, with actions in [-1, 1].
    state: where the episode starts.
    horizon: steps.
    num_passes: of iLQG, for each guess.

  Returns:
    The return of the best plan, [].

  Raises:
    ValueError: num_passes is not positive.

  Reference:
    Tassa et al., 2012; Lillicrap et al., 2016 (arXiv 1509.02971), section 4,
    where such a planner's return is 1.
  """
  form, shape = state_vectors.vectors(env), env.action_spec.shape

  def guess(key, sigma):
    def step(carry, _):
      key, noise = carry
      key, key_noise = jax.random.split(key)
      noise = exploration.ornstein_uhlenbeck(key_noise, noise, sigma=sigma)
      return (key, noise), jnp.clip(noise, -_LIMIT, _LIMIT)

    return jax.lax.scan(step, (key, jnp.zeros(shape)), length=horizon)[1]

  def plan(actions):
    best, _ = lqr.plan(
      form.flatten(state),
      actions,
      dynamics=form.dynamics,
      reward=form.reward,
      num_iterations=num_passes,
      limit=_LIMIT,
    )
    return best.total

  sigmas = jnp.array([0.0, 0.05, 0.1, 0.1, 0.2, 0.2, 0.5, 0.5])
  guesses = jax.vmap(guess)(jax.random.split(key, len(sigmas)), sigmas)
  return jnp.max(jax.vmap(plan)(guesses))
