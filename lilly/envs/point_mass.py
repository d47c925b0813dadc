"""Point mass: move a ball in the plane to the centre.

The DM Control suite's easy point mass, with its mass, friction, motors and
integration: semi-implicit Euler, implicit in the friction. Its walls are soft;
here they stop the ball.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lilly import checks
from lilly.envs import environment, rendering, rewards, wrappers
from lilly.envs.environment import Environment

__all__ = ["State", "dynamics", "make", "observe", "render", "reward"]

_WALL = 0.29  # m from the centre
_FORCE = 0.1  # newtons at an action of 1
_TARGET_SIZE = 0.015


class State(NamedTuple):
  """State of the ball."""

  position: jax.Array  # [2] m
  velocity: jax.Array  # [2] m/s


def dynamics(
  state: State,
  force: jax.Array,
  *,
  dt: float = 0.02,
  mass: float = 0.3,
  damping: float = 1.0,
  wall: float = _WALL,
) -> State:
  """Simulates one time step.

  v' = v + dt (f - b v) / (m + dt b),  x' = x + dt v'; a ball that would pass a
  wall stops there, with zero velocity across it.

  Args:
    state: x and v.
    force: force f, [2].
    dt: time step in seconds.
    mass: mass m of the ball.
    damping: damping b.
    wall: bound of each coordinate's |x|; inf: no walls.

  Returns:
    The next state.

  Raises:
    ValueError: dt, mass or wall is not positive, damping is negative, or a
      constant is not finite.

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), `point_mass.xml`.

  >>> state = State(jnp.array([0.289, 0.0]), jnp.array([0.1, 0.1]))
  >>> print(dynamics(state, jnp.zeros(2)).velocity.round(3))
  [0.    0.094]
  """
  x = checks.real("state.position", state.position, "2")
  v = checks.real("state.velocity", state.velocity, "2")
  force = checks.real("force", force, "2")
  dt = checks.number("dt", dt, above=0)
  mass = checks.number("mass", mass, above=0)
  damping = checks.number("damping", damping, least=0)
  wall = checks.number("wall", wall, above=0, may_be_infinite=True)
  push = force - damping * v
  velocity = v + dt * push / (mass + dt * damping)
  position = x + dt * velocity
  velocity = jnp.where(jnp.abs(position) > wall, 0, velocity)
  return State(jnp.clip(position, -wall, wall), velocity)


def reward(
  state: State, action: jax.Array, *, margin: float = _TARGET_SIZE
) -> jax.Array:
  """Rewards a ball at the centre and small actions.

  tolerance(|x|) (4 + mean(1 - u²)) / 5; the tolerance is 1 up to 0.015.

  Args:
    state: state after the step.
    action: action u in [-1, 1], [2].
    margin: distance beyond 0.015 where the tolerance is 0.1.

  Returns:
    The reward, [], from 0 to 1.

  Raises:
    ValueError: margin is negative or not finite.

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), `point_mass.py`.

  >>> float(reward(State(jnp.zeros(2), jnp.zeros(2)), jnp.zeros(2)))
  1.0
  """
  # A safe norm: its gradient is finite at the centre.
  distance = optax.safe_norm(state.position, 1e-6)
  near = rewards.tolerance(distance, upper=_TARGET_SIZE, margin=margin)
  return near * rewards.small_control(action)


def observe(state: State) -> jax.Array:
  """Observes position and velocity.

  Args:
    state: x and v.

  Returns:
    The observation, [4].

  >>> observe(State(jnp.ones(2), jnp.zeros(2))).tolist()
  [1.0, 1.0, 0.0, 0.0]
  """
  return jnp.concatenate(state)


def make(
  *,
  num_steps: int | None = 1000,
  margin: float = _TARGET_SIZE,
  **constants: float,
) -> Environment:
  """Makes the task.

  Actions are in [-1, 1], scaled by 0.1 N. The ball starts at rest at a random
  position. Episodes do not terminate.

  Args:
    num_steps: time limit of an episode; None: no limit.
    margin: margin of the reward; one wider than the DM Control suite's rewards
      distant positions too.
    **constants: keyword arguments of `dynamics`.

  Returns:
    The environment.

  Raises:
    ValueError: num_steps is not positive, or margin or a constant is out of
      range.

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), point_mass, easy.

  >>> make().observation_spec.shape, make().action_spec.shape
  ((4,), (2,))
  """
  wall = constants.get("wall", _WALL)
  move = functools.partial(dynamics, **constants)
  # Refuses constants out of range now, not in the first step.
  pair: Any = jax.ShapeDtypeStruct((2,), jnp.float32)
  jax.eval_shape(move, State(pair, pair), pair)
  margin = checks.number("margin", margin, least=0)

  def reset(key):
    # Distant or infinite walls do not change the starts.
    high = min(wall, _WALL)
    position = jax.random.uniform(key, (2,), minval=-high, maxval=high)
    state = State(position, jnp.zeros(2))
    return state, observe(state)

  def cut(action):
    return jnp.clip(checks.real("action", action, "2"), -1, 1)

  def reward_of(_, action, following):
    return reward(following, cut(action), margin=margin)

  def step(key, state, action):
    del key
    state = move(state, _FORCE * cut(action))
    r = reward_of(None, action, state)
    return state, environment.make_step(observe(state), r)

  high = [wall, wall, np.inf, np.inf]
  env = Environment(
    reset,
    step,
    observation_spec=environment.box(np.negative(high), high),
    action_spec=environment.box([-1.0] * 2, [1.0] * 2),
    render=render,
    observe=observe,
    reward=reward_of,
  )
  return wrappers.time_limit(env, num_steps)


def render(state: State, size: int = 64) -> jax.Array:
  """Renders walls, target and ball, larger than their true sizes.

  Args:
    state: x and v.
    size: height and width of the image, in pixels.

  Returns:
    [size, size, 3] uint8.

  >>> render(State(jnp.zeros(2), jnp.zeros(2)), size=8).shape
  (8, 8, 3)
  """
  scene = rendering.canvas(size, 2.4 * _WALL)
  floor = rendering.box(scene, (0.0, 0.0), (_WALL + 0.02, _WALL + 0.02))
  wall = jnp.abs(floor) - 0.008
  target = rendering.circle(scene, (0.0, 0.0), 0.04)
  ball = rendering.circle(scene, state.position, 0.025)
  scene = rendering.paint(scene, wall, rendering.GREY)
  scene = rendering.paint(scene, target, rendering.GREEN)
  return rendering.image(rendering.paint(scene, ball, rendering.ORANGE))
