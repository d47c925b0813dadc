"""Plans for environments: iLQG with the simulator, or with a fitted model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.control import exploration, kl_limited, linear_models, lqr
from lilly.envs import state_vectors
from lilly.envs.environment import Environment

__all__ = ["Plan", "act", "best_return", "blank", "mean_return", "replan"]

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
    ValueError: max_kl is not positive, or the environment lacks a function.

  Reference:
    Levine and Abbeel, 2014; Gu et al., 2016 (arXiv 1603.00748), algorithm 2.
    Whether its step was limited is not stated (unconfirmed).
  """
  form, (_, known) = state_vectors.vectors(env), state_vectors.known(env)
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
  window: int = 40,
  execute: int = 5,
  num_guesses: int = 16,
  num_passes: int = 5,
) -> jax.Array:
  """Plans an episode with the simulator: iLQG in a window that moves along.

  A plan is the best that iLQG makes of the plan before it and of some guesses:
  from one alone it stays where small changes bring nothing. In the end all that
  was executed is improved once more, as one plan for the whole episode.

  Args:
    key: typed key.
    env: without a time limit, with actions in [-1, 1].
    state: where the episode starts.
    horizon: steps of the episode.
    window: steps of a plan.
    execute: how many of them are executed.
    num_guesses: sequences of actions from which a plan begins.
    num_passes: of iLQG, for each; ten times as many in the end.

  Returns:
    The return of what is planned in the end, [].

  Raises:
    ValueError: num_passes is not positive, or execute is not 1 to window.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 4: a planner scores 1.
  """
  if not 1 <= execute <= window:
    raise ValueError(f"execute is {execute}; it must be from 1 to {window}.")
  form, (m,) = state_vectors.vectors(env), env.action_spec.shape

  def improve(x, actions, times=1):
    given: Any = {"dynamics": form.dynamics, "reward": form.reward}
    passes = times * num_passes
    return lqr.plan(x, actions, num_iterations=passes, limit=_LIMIT, **given)[0]

  def move(carry, _):
    key, x, actions = carry
    key, key_guess = jax.random.split(key)
    guesses = _guesses(key_guess, (num_guesses - 1, window, m))
    guesses = jnp.concatenate([actions[None], guesses])
    plans = jax.vmap(improve, (None, 0))(x, guesses)
    best = jax.tree.map(lambda y: y[jnp.argmax(plans.total)], plans)
    done, left = best.actions[:execute], best.actions[execute:]
    left = jnp.concatenate([left, jnp.zeros((execute, m))])
    return (key, best.states[execute], left), done

  start, count = form.flatten(state), -(-horizon // execute)
  carry = key, start, jnp.zeros((window, m))
  actions = jax.lax.scan(move, carry, length=count)[1].reshape(-1, m)
  return improve(start, actions[:horizon], times=10).total


def mean_return(
  key: jax.Array,
  env: Environment,
  horizon: int,
  *,
  num_starts: int = 50,
  **options: Any,
) -> jax.Array:
  """Plans from the starts that `episodes.mean_return` plays from.

  Args:
    key: typed key; the one of `episodes.mean_return`.
    env: as of `best_return`.
    horizon: as of `best_return`.
    num_starts: how many.
    **options: of `best_return`.

  Returns:
    The mean return, [].
  """

  def of_start(key):
    key_start, key_plan = jax.random.split(key)  # as `episodes.play` does
    start, _ = env.reset(key_start)
    return best_return(key_plan, env, start, horizon, **options)

  keys = jax.random.split(key, num_starts)
  return jnp.mean(jax.lax.map(of_start, keys))


def _guesses(key, shape):
  """Noise that wanders, of several strengths, [n, T, m]."""
  n, length, m = shape

  def step(carry, _):
    key, noise = carry
    key, key_noise = jax.random.split(key)
    noise = exploration.ornstein_uhlenbeck(key_noise, noise, sigma=1.0)
    return (key, noise), noise

  noise = jax.lax.scan(step, (key, jnp.zeros((n, m))), length=length)[1]
  strengths = jnp.geomspace(0.01, 1.0, n)[:, None, None]
  return jnp.clip(strengths * noise.swapaxes(0, 1), -_LIMIT, _LIMIT)
