"""Planning in environments: iLQG with the simulator or with a fitted model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.control import exploration, kl_limited, linear_models, lqr
from lilly.envs import state_vectors
from lilly.envs.environment import Environment

__all__ = ["Plan", "act", "best_return", "blank", "mean_return", "replan"]

# The environment clips actions at 1, where their gradient vanishes.
_LIMIT = 0.999


class Plan(NamedTuple):
  """A controller around the mean of some episodes."""

  states: jax.Array  # x̂, [T, d]
  actions: jax.Array  # û, [T, m]
  controller: kl_limited.Controller


def blank(env: Environment, horizon: int) -> Plan:
  """Makes a plan of zeros, as a template.

  Args:
    env: an environment without a time limit.
    horizon: steps of an episode, T.

  Returns:
    The plan.
  """
  d, (m,) = state_vectors.vectors(env).size, env.action_spec.shape
  shapes = ((m,), (m, d), (m, m))
  zeros = [jnp.zeros((horizon, *shape)) for shape in shapes]
  controller = kl_limited.Controller(*zeros)
  return Plan(jnp.zeros((horizon, d)), zeros[0], controller)


def act(plan: Plan, env: Environment, state: Any) -> jax.Array:
  """Computes a plan's action, without noise: u = û + k + K (x - x̂).

  Args:
    plan: a plan for episodes of the environment.
    env: an environment without a time limit.
    state: a `TimeLimitState`.

  Returns:
    The unclipped action, [m].

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
  """Takes one KL-limited iLQG step on a fitted model, near recent episodes.

  Args:
    env: an environment without a time limit, with `reward`.
    model: dynamics model of episodes of T steps.
    visits: steps of the latest episodes, as in `state_vectors.trajectories`.
    max_kl: KL limit in nats between rollouts of the plan and of an open-loop
      Gaussian policy with the recent actions' mean and variance at each step.
    least_variance: number added to that variance, positive.

  Returns:
    The plan.

  Raises:
    ValueError: max_kl or least_variance is not positive, or the environment
      lacks a function.

  Reference:
    Levine and Abbeel, 2014; Gu et al., 2016 (arXiv 1603.00748), algorithm 2.
    Whether that step was KL-limited is not stated (unconfirmed).
  """
  least_variance = checks.number("least_variance", least_variance, above=0)
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
  """Plans an episode with the simulator: iLQG in a receding horizon.

  iLQG starts from the previous plan and from several random guesses, and the
  best result is kept: a single start can get stuck where gradients vanish. In
  the end the executed actions are improved once more, as one plan for the whole
  episode.

  Args:
    key: typed key.
    env: an environment without a time limit, with actions in [-1, 1].
    state: initial state of the episode.
    horizon: steps of the episode.
    window: steps of a plan.
    execute: steps of a plan that are executed before replanning.
    num_guesses: initial action sequences per plan.
    num_passes: iLQG iterations for each; ten times as many in the end.

  Returns:
    The return of the final plan, [].

  Raises:
    ValueError: a number is not positive, or execute is not in 1..window.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 4: returns are normalised
    so that a planner scores 1.
  """
  horizon = checks.whole_number("horizon", horizon, least=1)
  window = checks.whole_number("window", window, least=1)
  execute = checks.whole_number("execute", execute, least=1, most=window)
  num_guesses = checks.whole_number("num_guesses", num_guesses, least=1)
  num_passes = checks.whole_number("num_passes", num_passes, least=1)
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
  """Plans episodes with the same starts as `episodes.mean_return`.

  Args:
    key: typed key; the same key gives the starts of `episodes.mean_return`.
    env: as in `best_return`.
    horizon: as in `best_return`.
    num_starts: number of episodes.
    **options: further arguments of `best_return`.

  Returns:
    The mean return, [].
  """

  def of_start(key):
    key_start, key_plan = jax.random.split(key)  # as `episodes.play` does
    start, _ = env.reset(key_start)
    return best_return(key_plan, env, start, horizon, **options)

  num_starts = checks.whole_number("num_starts", num_starts, least=1)
  keys = jax.random.split(key, num_starts)
  return jnp.mean(jax.lax.map(of_start, keys))


def _guesses(key, shape):
  """Ornstein-Uhlenbeck noise of several scales, [n, T, m]."""
  n, length, m = shape

  def step(carry, _):
    key, noise = carry
    key, key_noise = jax.random.split(key)
    noise = exploration.ornstein_uhlenbeck(key_noise, noise, sigma=1.0)
    return (key, noise), noise

  noise = jax.lax.scan(step, (key, jnp.zeros((n, m))), length=length)[1]
  strengths = jnp.geomspace(0.01, 1.0, n)[:, None, None]
  return jnp.clip(strengths * noise.swapaxes(0, 1), -_LIMIT, _LIMIT)
