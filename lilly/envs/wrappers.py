"""Environment wrappers: time limits, auto-reset, repeated actions.

The recommended order, innermost first: the task, `time_limit`,
`normalize_actions`, `action_repeat` or `rendering.pixels`, `auto_reset`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.envs import environment
from lilly.envs.environment import Environment, Step

__all__ = [
  "AutoResetState",
  "TimeLimitState",
  "action_repeat",
  "auto_reset",
  "normalize_actions",
  "time_limit",
]


class TimeLimitState(NamedTuple):
  """A state and its age."""

  state: Any
  age: jax.Array  # [] int32, steps since the reset


class AutoResetState(NamedTuple):
  """A state that is never past the end of an episode."""

  state: Any
  observation: jax.Array  # the observation to act on next
  starts: Any  # (state, observation) with a leading axis, or ()


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)


def time_limit(env: Environment, num_steps: int | None) -> Environment:
  """Truncates episodes after a number of steps.

  An episode that terminates at its last step is not truncated.

  Args:
    env: an environment.
    num_steps: most steps of an episode; None: returns `env` unchanged.

  Returns:
    The environment; its states are `TimeLimitState`.

  Raises:
    ValueError: num_steps is not positive.

  Reference:
    Pardo et al., 2018 (arXiv 1712.00378): values are bootstrapped at a limit
    that is not part of the task.

  >>> from lilly.envs import point_mass
  >>> env = time_limit(point_mass.make(num_steps=None), 1)
  >>> state, _ = env.reset(jax.random.key(0))
  >>> _, step = env.step(jax.random.key(1), state, jnp.zeros(2))
  >>> bool(step.truncated), float(step.discount)
  (True, 1.0)
  """
  if num_steps is None:
    return env
  num_steps = checks.whole_number("num_steps", num_steps, least=1)

  def reset(key):
    state, observation = env.reset(key)
    return TimeLimitState(state, jnp.zeros((), jnp.int32)), observation

  def step(key, state, action):
    inner, step = env.step(key, state.state, action)
    age = state.age + 1
    is_over = (age >= num_steps) & (step.discount != 0)
    step = step._replace(truncated=step.truncated | is_over)
    return TimeLimitState(inner, age), step

  def restart(key, state):
    assert env.restart is not None
    state, observation = env.restart(key, state.state)
    return TimeLimitState(state, jnp.zeros((), jnp.int32)), observation

  return env._replace(
    reset=reset,
    step=step,
    restart=None if env.restart is None else restart,
    **_of_inner(env),
  )


def auto_reset(env: Environment, num_starts: int | None = None) -> Environment:
  """Starts a new episode in the step that ends one.

  `state.observation` is the observation to act on next; after the end of an
  episode it is the first of the new one. `Step.observation` remains the true
  next observation.

  Under `vmap` a reset is computed at every step, whether an episode ends or
  not. Where resets are expensive, as in physics engines, `num_starts` start
  states are computed once, at the first reset, and then sampled from. Each
  environment of a batch has its own, so a few suffice. An environment with
  `restart` starts its episodes by that function.

  Args:
    env: an environment.
    num_starts: number of start states kept; None: every reset is computed.

  Returns:
    The environment; its states are `AutoResetState`.

  Raises:
    ValueError: num_starts is not positive, or given for an environment whose
      episodes depend on the one before (`Environment.restart`).

  >>> from lilly.envs import point_mass
  >>> env = auto_reset(point_mass.make(num_steps=1))
  >>> state, _ = env.reset(jax.random.key(0))
  >>> state, step = env.step(jax.random.key(1), state, jnp.zeros(2))
  >>> int(state.state.age), bool((state.observation == step[0]).all())
  (0, False)
  """
  if num_starts is not None:
    num_starts = checks.whole_number("num_starts", num_starts, least=1)
    if env.restart is not None:
      raise ValueError(
        f"num_starts is {num_starts}; it must be None: an episode of env "
        "starts from where the one before ended."
      )

  def reset(key):
    if num_starts is None:
      state, observation = env.reset(key)
      return AutoResetState(state, observation, ()), observation
    starts = jax.vmap(env.reset)(jax.random.split(key, num_starts))
    state, observation = jax.tree.map(lambda x: x[0], starts)
    return AutoResetState(state, observation, starts), observation

  def start(key, ended, starts):
    if env.restart is not None:
      return env.restart(key, ended)
    if num_starts is None:
      return env.reset(key)
    index = jax.random.randint(key, (), 0, num_starts)
    return jax.tree.map(lambda x: x[index], starts)

  def step(key, state, action):
    # Faster than a split, where tasks without noise use only one of the keys.
    step_key, start_key = (jax.random.fold_in(key, i) for i in range(2))
    inner, step = env.step(step_key, state.state, action)
    fresh = start(start_key, inner, state.starts)
    is_last = environment.is_last(step)
    inner, following = _where(is_last, fresh, (inner, step.observation))
    return AutoResetState(inner, following, state.starts), step

  return env._replace(reset=reset, step=step, restart=None, **_of_inner(env))


def action_repeat(
  env: Environment, num_repeats: int, *, stack: bool = False
) -> Environment:
  """Repeats each action; repetition stops at the end of an episode.

  R = Σ_i r_i Π_{j<i} d_j,  discount = Π_i d_i: the sum of the rewards, up to
  the end.

  Args:
    env: an environment. A time limit inside it counts unrepeated steps.
    num_repeats: times each action is repeated.
    stack: whether to stack the observations of all repeats, oldest first along
      the last axis, instead of returning the last alone. After the end of an
      episode the last observation is repeated, at a reset the first.

  Returns:
    The environment, with unchanged states.

  Raises:
    ValueError: num_repeats is not positive.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 4: 3 repeats with pixels.

  >>> from lilly.envs import pendulum
  >>> env = action_repeat(pendulum.make(num_steps=2), 3)
  >>> state, _ = env.reset(jax.random.key(0))
  >>> state, step = env.step(jax.random.key(1), state, jnp.zeros(1))
  >>> int(state.age), bool(step.truncated)
  (2, True)
  """
  num_repeats = checks.whole_number("num_repeats", num_repeats, least=1)
  spec = env.observation_spec

  def reset(key):
    state, observation = env.reset(key)
    if stack:
      observation = _stacked([observation] * num_repeats)
    return state, observation

  def step(key, state, action):
    def repeat(carry, i):
      repeat_key = jax.random.fold_in(key, i)
      carry = _accumulate(carry, *env.step(repeat_key, carry[0], action))
      return carry, carry[1].observation if stack else ()

    nothing = environment.make_step(jnp.zeros(spec.shape, spec.dtype), 0.0)
    (state, total), observations = jax.lax.scan(
      repeat, (state, nothing), jnp.arange(num_repeats)
    )
    if stack:
      total = total._replace(observation=_stacked(observations))
    return state, total

  # The intermediate states, and so their rewards, are unknown.
  made = env._replace(step=step, reward=env.reward if num_repeats < 2 else None)
  if not stack:
    return made
  longer = spec._replace(shape=(*spec.shape[:-1], spec.shape[-1] * num_repeats))
  return made._replace(reset=reset, observe=None, observation_spec=longer)


def _stacked(observations):
  return jnp.concatenate(list(observations), axis=-1)


def _accumulate(
  carry: tuple[Any, Step], state: Any, step: Step
) -> tuple[Any, Step]:
  """Adds a step to the previous ones, unless the episode has ended."""
  total = carry[1]
  reward = total.reward + total.discount * step.reward
  discount = total.discount * step.discount
  new = state, step._replace(reward=reward, discount=discount)
  return _where(environment.is_last(total), carry, new)


def normalize_actions(env: Environment) -> Environment:
  """Rescales actions to [-1, 1], whatever the task's own range.

  a = minimum + (action + 1) / 2 (maximum - minimum).

  Args:
    env: an environment with bounded, continuous actions.

  Returns:
    The environment; actions outside [-1, 1] are not clipped here.

  Raises:
    ValueError: actions are discrete, or the distance of their bounds is not
      finite.

  >>> from lilly.envs import pendulum
  >>> env = normalize_actions(pendulum.make())
  >>> float(env.action_spec.maximum[0])
  1.0
  """
  spec = env.action_spec
  low, high = np.asarray(spec.minimum), np.asarray(spec.maximum)
  if spec.num_values is not None or not environment.is_bounded(spec):
    kind = "continuous" if spec.num_values is None else "discrete"
    raise ValueError(
      f"env has {kind} actions from {low.tolist()} to {high.tolist()}; they "
      "must be bounded numbers whose distance is finite."
    )

  def own(action):
    action = checks.real("action", action, " ".join(map(str, spec.shape)))
    return low + (action + 1) / 2 * (high - low)

  def step(key, state, action):
    return env.step(key, state, own(action))

  ones, reward = np.ones_like(high), env.reward
  return env._replace(
    step=step,
    action_spec=spec._replace(minimum=-ones, maximum=ones),
    reward=reward and (lambda s, a, new: reward(s, own(a), new)),
  )


def _of_inner(env: Environment) -> dict[str, Any]:
  """Lifts the state functions of `env` to wrapped states."""
  render, observe, reward = env.render, env.observe, env.reward
  return {
    "render": render and (lambda s, size: render(s.state, size)),
    "observe": observe and (lambda s: observe(s.state)),
    "reward": reward and (lambda s, a, new: reward(s.state, a, new.state)),
  }
