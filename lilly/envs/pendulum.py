"""Pendulum: swing a rod up with a torque too weak to lift it directly.

Gym's Pendulum-v1, with its constants and its semi-implicit Euler integration.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.envs import environment, rendering, wrappers
from lilly.envs.environment import Environment

__all__ = ["State", "cost", "dynamics", "make", "observe", "render"]

_MAX_TORQUE, _MAX_SPEED = 2.0, 8.0


class State(NamedTuple):
  """State of the rod."""

  angle: jax.Array  # [] rad, 0 upright, not wrapped
  velocity: jax.Array  # [] rad/s


def dynamics(
  state: State,
  torque: jax.Array,
  *,
  dt: float = 0.05,
  gravity: float = 10.0,
  mass: float = 1.0,
  length: float = 1.0,
  max_speed: float = _MAX_SPEED,
) -> State:
  """Simulates one time step.

  ω' = clip(ω + (3 g / 2 l sin θ + 3 / (m l²) u) dt),  θ' = θ + ω' dt.

  Args:
    state: θ and ω.
    torque: torque u, [], not clipped.
    dt: time step in seconds.
    gravity: gravitational acceleration g.
    mass: mass m of the rod.
    length: length l of the rod.
    max_speed: bound of |ω'|; where it is reached, ω' has gradient 0. inf: no
      bound.

  Returns:
    The next state.

  Raises:
    ValueError: dt, mass, length or max_speed is not positive, or a constant is
      not finite.

  Reference:
    Gymnasium, Pendulum-v1.

  >>> round(float(dynamics(State(0.0, 0.0), jnp.array(1.0)).velocity), 3)
  0.15
  """
  dt = checks.number("dt", dt, above=0)
  gravity = checks.number("gravity", gravity)
  mass = checks.number("mass", mass, above=0)
  length = checks.number("length", length, above=0)
  max_speed = checks.number(
    "max_speed", max_speed, above=0, may_be_infinite=True
  )
  fall = 3 * gravity / (2 * length) * jnp.sin(state.angle)
  velocity = state.velocity + (fall + 3 / (mass * length**2) * torque) * dt
  velocity = jnp.clip(velocity, -max_speed, max_speed)
  return State(state.angle + velocity * dt, velocity)


def cost(state: State, torque: jax.Array) -> jax.Array:
  """Computes the cost of not resting upright: minus the reward.

  θ² + 0.1 ω² + 0.001 u², θ wrapped to [-π, π).

  Args:
    state: θ and ω, before the torque acts.
    torque: torque u, [].

  Returns:
    The cost, [].

  Reference:
    Gymnasium, Pendulum-v1.

  >>> round(float(cost(State(2 * jnp.pi, 1.0), jnp.array(0.0))), 3)
  0.1
  """
  turns = jnp.floor((state.angle + jnp.pi) / (2 * jnp.pi))
  angle = state.angle - 2 * jnp.pi * turns
  return angle**2 + 0.1 * state.velocity**2 + 0.001 * torque**2


def observe(state: State) -> jax.Array:
  """Observes cos θ, sin θ and ω.

  Args:
    state: θ and ω.

  Returns:
    The observation, [3].

  >>> observe(State(0.0, 2.0)).tolist()
  [1.0, 0.0, 2.0]
  """
  angle, velocity = state
  return jnp.stack([jnp.cos(angle), jnp.sin(angle), jnp.asarray(velocity)])


def make(
  num_steps: int | None = 200,
  *,
  start: tuple[float, float] | None = None,
  **constants: float,
) -> Environment:
  """Makes the task.

  Actions are torques, clipped to [-2, 2]. Initially θ ~ U[-π, π] and
  ω ~ U[-1, 1]. Episodes do not terminate.

  Args:
    num_steps: time limit of an episode; None: no limit.
    start: initial θ and ω; None: drawn as above.
    **constants: keyword arguments of `dynamics`.

  Returns:
    The environment.

  Raises:
    ValueError: num_steps is not positive, start is not two finite numbers, or a
      constant is out of range.

  Reference:
    Gymnasium, Pendulum-v1.

  >>> make().observation_spec.shape, make().action_spec.maximum.tolist()
  ((3,), [2.0])
  """
  move = functools.partial(dynamics, **constants)
  # Refuses constants out of range now, not in the first step.
  number: Any = jax.ShapeDtypeStruct((), jnp.float32)
  jax.eval_shape(move, State(number, number), number)
  max_speed = constants.get("max_speed", _MAX_SPEED)
  if start is not None:
    _check_start(start)

  def reset(key):
    high = jnp.array([jnp.pi, 1.0])
    drawn = jax.random.uniform(key, (2,), minval=-high, maxval=high)
    state = State(*map(jnp.float32, drawn if start is None else start))
    return state, observe(state)

  def cut(action):
    action = checks.real("action", action, "1")
    return jnp.clip(action[0], -_MAX_TORQUE, _MAX_TORQUE)

  def reward(state, action, following):
    del following
    return -cost(state, cut(action))

  def step(key, state, action):
    following = move(state, cut(action))
    r = reward(state, action, following)
    return following, environment.make_step(observe(following), r)

  high = [1.0, 1.0, max_speed]
  env = Environment(
    reset,
    step,
    observation_spec=environment.box(np.negative(high), high),
    action_spec=environment.box([-_MAX_TORQUE], [_MAX_TORQUE]),
    render=render,
    observe=observe,
    reward=reward,
  )
  return wrappers.time_limit(env, num_steps)


def _check_start(start):
  for x in start:
    checks.number("start", x)
  if len(start) != 2:
    raise ValueError(f"start is {start}; it must be two numbers.")


def render(state: State, size: int = 64) -> jax.Array:
  """Renders the rod.

  Args:
    state: θ and ω.
    size: height and width of the image, in pixels.

  Returns:
    [size, size, 3] uint8.

  >>> render(State(0.0, 0.0), size=8).shape
  (8, 8, 3)
  """
  scene = rendering.canvas(size, 2.6)
  # Positive angles are counter-clockwise, as in Gym's rendering.
  tip = (-jnp.sin(state.angle), jnp.cos(state.angle))
  rod = rendering.capsule(scene, (0.0, 0.0), tip, 0.12)
  axle = rendering.circle(scene, (0.0, 0.0), 0.06)
  scene = rendering.paint(scene, rod, rendering.ORANGE)
  return rendering.image(rendering.paint(scene, axle, rendering.BLACK))
