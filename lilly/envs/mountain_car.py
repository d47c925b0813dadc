"""Mountain car: drive out of a valley with a motor weaker than its slopes.

Gym's MountainCarContinuous-v0, with its constants and its integration. Episodes
terminate at the flag.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.envs import environment, rendering, wrappers
from lilly.envs.environment import Environment

__all__ = ["State", "dynamics", "is_at_goal", "make", "observe", "render"]

_LEFT, _RIGHT, _GOAL = -1.2, 0.6, 0.45
_MAX_SPEED = 0.07


class State(NamedTuple):
  """State of the car."""

  position: jax.Array  # []
  velocity: jax.Array  # [], distance per step


def dynamics(
  state: State,
  force: jax.Array,
  *,
  power: float = 0.0015,
  gravity: float = 0.0025,
) -> State:
  """Simulates one time step.

  v' = clip(v + p f - g cos 3x, -0.07, 0.07),  x' = clip(x + v', -1.2, 0.6); at
  the left end the car stops.

  Args:
    state: x and v.
    force: force f, [], not clipped.
    power: power p of the motor.
    gravity: gravity g.

  Returns:
    The next state.

  Raises:
    ValueError: power is negative, or a constant is not finite.

  Reference:
    Gymnasium, MountainCarContinuous-v0.

  >>> float(dynamics(State(-1.19, -0.07), jnp.array(-1.0)).velocity)
  0.0
  """
  power = checks.number("power", power, least=0)
  gravity = checks.number("gravity", gravity)
  x, v = state
  v = v + power * force - gravity * jnp.cos(3 * x)
  v = jnp.clip(v, -_MAX_SPEED, _MAX_SPEED)
  x = jnp.clip(x + v, _LEFT, _RIGHT)
  return State(x, jnp.where((x <= _LEFT) & (v < 0), 0.0, v))


def is_at_goal(state: State) -> jax.Array:
  """Tells whether the car is at the flag, x >= 0.45, with v >= 0.

  Args:
    state: x and v.

  Returns:
    [] bool.

  Reference:
    Gymnasium, MountainCarContinuous-v0.

  >>> bool(is_at_goal(State(jnp.array(0.5), jnp.array(0.0))))
  True
  """
  return (state.position >= _GOAL) & (state.velocity >= 0)


def observe(state: State) -> jax.Array:
  """Observes x and v.

  Args:
    state: x and v.

  Returns:
    The observation, [2].

  >>> observe(State(0.5, 0.0)).tolist()
  [0.5, 0.0]
  """
  return jnp.stack([jnp.asarray(value) for value in state])


def make(*, num_steps: int | None = 999, **constants: float) -> Environment:
  """Makes the task.

  Actions are forces, clipped to [-1, 1]. The reward is 100 at the flag, minus
  0.1 times the squared force at every step. Initially x ~ U[-0.6, -0.4] and
  v = 0.

  Args:
    num_steps: time limit of an episode; None: no limit.
    **constants: keyword arguments of `dynamics`.

  Returns:
    The environment.

  Raises:
    ValueError: num_steps is not positive, or a constant is out of range.

  Reference:
    Gymnasium, MountainCarContinuous-v0, where the cost is that of the unclipped
    action.

  >>> make().observation_spec.shape, make().action_spec.shape
  ((2,), (1,))
  """
  move = functools.partial(dynamics, **constants)
  # Refuses constants out of range now, not in the first step.
  number: Any = jax.ShapeDtypeStruct((), jnp.float32)
  jax.eval_shape(move, State(number, number), number)

  def reset(key):
    position = jax.random.uniform(key, minval=-0.6, maxval=-0.4)
    state = State(position, jnp.zeros(()))
    return state, observe(state)

  def cut(action):
    return jnp.clip(checks.real("action", action, "1")[0], -1, 1)

  def reward(state, action, following):
    del state
    return 100.0 * is_at_goal(following) - 0.1 * cut(action) ** 2

  def step(key, state, action):
    del key
    following = move(state, cut(action))
    r, is_over = reward(state, action, following), is_at_goal(following)
    return following, environment.make_step(observe(following), r, is_over)

  env = Environment(
    reset,
    step,
    observation_spec=environment.box(
      [_LEFT, -_MAX_SPEED], [_RIGHT, _MAX_SPEED]
    ),
    action_spec=environment.box([-1.0], [1.0]),
    render=render,
    observe=observe,
    reward=reward,
  )
  return wrappers.time_limit(env, num_steps)


def render(state: State, size: int = 64) -> jax.Array:
  """Renders the valley, the flag and the car.

  Args:
    state: x and v.
    size: height and width of the image, in pixels.

  Returns:
    [size, size, 3] uint8.

  >>> render(State(-0.5, 0.0), size=8).shape
  (8, 8, 3)
  """
  scene = rendering.canvas(size, _RIGHT - _LEFT, (-0.3, 0.6))
  x = state.position
  slope = jnp.arctan(1.35 * jnp.cos(3 * x))
  # The wheels' height above the ground, along its normal.
  middle = (x - 0.07 * jnp.sin(slope), _height(x) + 0.07 * jnp.cos(slope))
  # Near the curve, the distance is the height above it times cos(slope angle).
  steep = jnp.sqrt(1 + jnp.square(1.35 * jnp.cos(3 * scene.x)))
  ground = (scene.y - _height(scene.x)) / steep
  foot, top = _height(_GOAL), _height(_GOAL) + 0.25
  pole = rendering.capsule(scene, (_GOAL, foot), (_GOAL, top), 0.012)
  flag = rendering.box(scene, (_GOAL - 0.06, top - 0.04), (0.06, 0.04))
  car = rendering.box(scene, middle, (0.09, 0.045), slope)
  scene = rendering.paint(scene, ground, rendering.GREY)
  scene = rendering.paint(scene, pole, rendering.BLACK)
  scene = rendering.paint(scene, flag, rendering.GREEN)
  return rendering.image(rendering.paint(scene, car, rendering.ORANGE))


def _height(x):
  return 0.45 * jnp.sin(3 * x) + 0.55
