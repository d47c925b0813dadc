"""Partially observed environments: masking, noise, dropout, initial cues.

Only observations change. Rewards and rendered images still depend on the full
state, so `rendering.pixels` would reveal a hidden component again.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.envs.environment import Environment, Spec

__all__ = ["CueState", "add_noise", "cue_only", "drop_observations", "select"]


class CueState(NamedTuple):
  """A state and its age."""

  state: Any
  age: jax.Array  # [] int32, steps since the reset


def select(env: Environment, indices: Sequence[int]) -> Environment:
  """Keeps some components of the observation and hides the others.

  Args:
    env: an environment whose observations are vectors.
    indices: indices of the components to keep, in output order.

  Returns:
    The environment, with unchanged states.

  Raises:
    ValueError: observations are not vectors, or indices are empty, repeated,
      or out of range.

  Reference:
    Wierstra et al., 2007: poles balanced without their velocities.

  >>> from lilly.envs import pendulum
  >>> env = select(pendulum.make(), [0, 1])
  >>> env.reset(jax.random.key(0))[1].shape
  (2,)
  """
  places, spec, observe = _places(env, indices), env.observation_spec, None
  if env.observe is not None:
    whole = env.observe
    observe = lambda state: whole(state)[places]

  def reset(key):
    state, observation = env.reset(key)
    return state, observation[places]

  def step(key, state, action):
    state, step = env.step(key, state, action)
    return state, step._replace(observation=step.observation[places])

  low, high = (
    np.broadcast_to(bound, spec.shape)[places]
    for bound in (spec.minimum, spec.maximum)
  )
  spec = spec._replace(shape=(len(places),), minimum=low, maximum=high)
  return env._replace(
    reset=reset, step=step, observation_spec=spec, observe=observe
  )


def add_noise(env: Environment, scale: float) -> Environment:
  """Adds Gaussian noise to observations.

  õ_t = o_t + σ ε_t,  ε_t ~ N(0, I), independent at each step, including the
  first observation of an episode.

  Args:
    env: an environment with floating-point observations.
    scale: standard deviation σ.

  Returns:
    The environment, with unchanged states and without `observe`, since the
    state does not determine the observation.

  Raises:
    ValueError: scale is negative or infinite, or observations are integers.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455): memory averages noisy sensors.

  >>> from lilly.envs import pendulum
  >>> env = add_noise(pendulum.make(start=(0.0, 0.0)), 0.1)
  >>> bool((env.reset(jax.random.key(0))[1] == jnp.array([1.0, 0, 0])).any())
  False
  """
  spec = env.observation_spec
  scale = checks.number("scale", scale, least=0)
  if not jnp.issubdtype(spec.dtype, jnp.floating):
    raise ValueError(
      f"env has observations of type {np.dtype(spec.dtype)}; noise needs "
      "floating-point numbers."
    )

  def sense(key, observation):
    noise = jax.random.normal(key, spec.shape, spec.dtype)
    return observation + scale * noise

  far = np.full(spec.shape, np.inf, np.float32)
  return _sensed(env, sense, spec._replace(minimum=-far, maximum=far))


def drop_observations(env: Environment, probability: float) -> Environment:
  """Replaces whole observations by zeros at random steps.

  Args:
    env: an environment.
    probability: probability of dropping an observation, independently at each
      step, including the first observation of an episode.

  Returns:
    The environment, with unchanged states and without `observe`, since the
    state does not determine the observation.

  Raises:
    ValueError: probability is not from 0 to 1.

  Reference:
    Hausknecht and Stone, 2015 (arXiv 1507.06527): flickering Atari, with
    probability 0.5.

  >>> from lilly.envs import pendulum
  >>> env = drop_observations(pendulum.make(), 1.0)
  >>> env.reset(jax.random.key(0))[1].tolist()
  [0.0, 0.0, 0.0]
  """
  probability = checks.number("probability", probability, least=0, most=1)

  def sense(key, observation):
    is_lost = jax.random.bernoulli(key, probability)
    return jnp.where(is_lost, jnp.zeros_like(observation), observation)

  spec = env.observation_spec
  return _sensed(env, sense, _with_zero(spec, np.ones(spec.shape, bool)))


def cue_only(
  env: Environment, indices: Sequence[int], num_cue_steps: int = 1
) -> Environment:
  """Shows some components of the observation initially, then zeroes them.

  Args:
    env: an environment whose observations are vectors. Apply `time_limit`
      outside this wrapper, not inside.
    indices: indices of the components to zero: all that reveal the cue,
      including those measured relative to it.
    num_cue_steps: number of observations that show them, including the first;
      to hide components from the start, use `select`.

  Returns:
    The environment; its states are `CueState`.

  Raises:
    ValueError: observations are not vectors, indices are empty, repeated, or
      out of range, or num_cue_steps is not positive.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455): an arm has to reach for a target
    that was shown only initially.

  >>> from lilly.envs import pendulum
  >>> env = cue_only(pendulum.make(start=(0.0, 0.0)), [0])
  >>> state, observation = env.reset(jax.random.key(0))
  >>> _, step = env.step(jax.random.key(1), state, jnp.zeros(1))
  >>> observation.tolist(), step.observation.tolist()
  ([1.0, 0.0, 0.0], [0.0, 0.0, 0.0])
  """
  is_cue = np.zeros(env.observation_spec.shape, bool)
  is_cue[_places(env, indices)] = True
  num_cue_steps = checks.whole_number("num_cue_steps", num_cue_steps, least=1)

  def see(observation, age):
    is_hidden = is_cue & (age >= num_cue_steps)
    return jnp.where(is_hidden, jnp.zeros_like(observation), observation)

  def reset(key):
    state, observation = env.reset(key)
    age = jnp.zeros((), jnp.int32)
    return CueState(state, age), see(observation, age)

  def step(key, state, action):
    inner, step = env.step(key, state.state, action)
    age = state.age + 1
    step = step._replace(observation=see(step.observation, age))
    return CueState(inner, age), step

  render, observe, reward = env.render, env.observe, env.reward
  return env._replace(
    reset=reset,
    step=step,
    observation_spec=_with_zero(env.observation_spec, is_cue),
    render=render and (lambda s, size: render(s.state, size)),
    observe=observe and (lambda s: see(observe(s.state), s.age)),
    reward=reward and (lambda s, a, new: reward(s.state, a, new.state)),
  )


def _places(env: Environment, indices: Sequence[int]) -> np.ndarray:
  """Checks indices of an observation's components."""
  shape, given = env.observation_spec.shape, list(indices)
  for index in given:
    checks.whole_number("indices", index, least=-math.inf)
  if len(shape) != 1:
    raise ValueError(
      f"env has observations of shape {shape}; they must be vectors."
    )
  is_known = all(0 <= index < shape[0] for index in given)
  if not given or not is_known or len(set(given)) < len(given):
    raise ValueError(
      f"indices is {given}; it must be one or more distinct numbers from 0 to "
      f"{shape[0] - 1}."
    )
  return np.array(given, np.int32)


def _with_zero(spec: Spec, where: np.ndarray) -> Spec:
  """Widens the bounds to include zero."""
  low = np.where(where, np.minimum(spec.minimum, 0), spec.minimum)
  high = np.where(where, np.maximum(spec.maximum, 0), spec.maximum)
  dtype = np.asarray(spec.minimum).dtype
  return spec._replace(minimum=low.astype(dtype), maximum=high.astype(dtype))


def _sensed(
  env: Environment,
  sense: Callable[[jax.Array, jax.Array], jax.Array],
  spec: Spec,
) -> Environment:
  """Applies `sense(key, observation)` to every observation."""

  def reset(key):
    # Faster than a split, where tasks without noise use only one of the keys.
    inner_key, sensor_key = (jax.random.fold_in(key, i) for i in range(2))
    state, observation = env.reset(inner_key)
    return state, sense(sensor_key, observation)

  def step(key, state, action):
    inner_key, sensor_key = (jax.random.fold_in(key, i) for i in range(2))
    state, step = env.step(inner_key, state, action)
    seen = sense(sensor_key, step.observation)
    return state, step._replace(observation=seen)

  return env._replace(
    reset=reset, step=step, observation_spec=spec, observe=None
  )
