"""States of environments as vectors, for planners and linear models.

The environment must be deterministic and without a time limit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import flatten_util

from lilly.envs import environment
from lilly.envs.environment import Environment
from lilly.envs.wrappers import TimeLimitState

__all__ = ["Vectors", "known", "model", "trajectories", "vectors"]

# predict(key, time, state vector, action) -> the next state vector
Predict = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


class Vectors(NamedTuple):
  """An environment in the form that `control.lqr` takes."""

  size: int  # d
  flatten: Callable[[Any], jax.Array]  # state -> [d]
  unflatten: Callable[[jax.Array], Any]  # [d] -> state
  # dynamics(t, x, u) -> the next x
  dynamics: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
  # reward(t, x, u) -> []
  reward: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def vectors(env: Environment) -> Vectors:
  """Expresses an environment's dynamics and rewards by state vectors.

  Args:
    env: deterministic environment without a time limit; all arrays of its
      states are float32.

  Returns:
    The functions, which ignore the time.

  Raises:
    ValueError: the state has arrays that are not float32.

  >>> from lilly.envs import pendulum
  >>> found = vectors(pendulum.make(num_steps=None))
  >>> found.dynamics(0, jnp.zeros(2), jnp.zeros(1)).tolist()
  [0.0, 0.0]
  """
  form, _ = jax.eval_shape(env.reset, jax.random.key(0))
  kinds = {x.dtype.name for x in jax.tree.leaves(form)}
  if kinds != {"float32"}:
    raise ValueError(
      f"env has a state of {', '.join(sorted(kinds))}; it must be float32: "
      "leave out its time limit."
    )
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)
  unflatten = flatten_util.ravel_pytree(zeros)[1]

  def flatten(state):
    return flatten_util.ravel_pytree(state)[0]

  def step(x, u):
    state, found = env.step(jax.random.key(0), unflatten(x), u)
    return flatten(state), found.reward

  return Vectors(
    sum(x.size for x in jax.tree.leaves(form)),
    flatten,
    unflatten,
    dynamics=lambda t, x, u: step(x, u)[0],
    reward=lambda t, x, u: step(x, u)[1],
  )


def trajectories(
  env: Environment, visits: Any, horizon: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Cuts consecutive steps into episodes of equal length.

  Args:
    env: an environment without a time limit.
    visits: has fields state (a `TimeLimitState`), action and following (the
      next state), [n T, ...] each.
    horizon: steps of an episode, T.

  Returns:
    States [n, T, d], actions [n, T, m] and next states [n, T, d].
  """
  flatten = jax.vmap(vectors(env).flatten)
  count = len(visits.action) // horizon

  def cut(x):
    return x.reshape(count, horizon, -1)

  states, following = flatten(visits.state.state), flatten(visits.following)
  return cut(states), cut(visits.action), cut(following)


def known(
  env: Environment,
) -> tuple[Callable[[Any], jax.Array], Callable[..., jax.Array]]:
  """Returns an environment's observation and reward functions.

  Args:
    env: an environment.

  Returns:
    Its `observe` and `reward`.

  Raises:
    ValueError: one of them is missing.
  """
  if env.observe is None or env.reward is None:
    raise ValueError(
      "env has no observe or no reward function of states; define both, and "
      "repeat no actions."
    )
  return env.observe, env.reward


def model(
  env: Environment, predict: Predict, horizon: int
) -> Callable[[jax.Array, Any, jax.Array], tuple[Any, environment.Step]]:
  """Makes an environment's step function from a model of its states.

  The environment's observation and reward functions are taken as known and
  applied to the predicted states.

  Args:
    env: an environment without a time limit, with `observe` and `reward`.
    predict: dynamics model of state vectors.
    horizon: steps of an episode; the last one is truncated.

  Returns:
    A step function of `TimeLimitState`s, for `control.imagination`.

  Raises:
    ValueError: as in `known`.
  """
  form, (observe, reward) = vectors(env), known(env)

  def step(key, state, action):
    x = predict(key, state.age, form.flatten(state.state), action)
    following = form.unflatten(x)
    found = environment.make_step(
      observe(following), reward(state.state, action, following)
    )
    age = state.age + 1
    found = found._replace(truncated=age >= horizon)
    return TimeLimitState(following, age), found

  return step
