"""Cart-pole: swing the pole up, or balance it, by pushing the cart.

The DM Control suite's cartpole, with its masses and rewards, integrated by the
fourth-order Runge-Kutta method with steps of 0.01 s.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.envs import (
  environment,
  rendering,
  rewards,
  rigid_bodies,
  wrappers,
)
from lilly.envs.environment import Environment

__all__ = [
  "State",
  "acceleration",
  "dynamics",
  "make",
  "observe",
  "render",
  "reward",
]

_FORCE = 10.0  # newtons at an action of 1
_RADIUS = 0.045  # of the pole


class State(NamedTuple):
  """State of cart and pole."""

  position: jax.Array  # [] m, of the cart
  angle: jax.Array  # [] rad, 0 upright, positive to the right, not wrapped
  velocity: jax.Array  # [] m/s
  angular_velocity: jax.Array  # [] rad/s


def acceleration(
  state: State,
  force: jax.Array,
  *,
  cart_mass: float = 1.0,
  pole_mass: float = 0.1,
  length: float = 1.0,
  gravity: float = 9.81,
  cart_damping: float = 5e-4,
  pole_damping: float = 2e-6,
  rail: float = 1.8,
) -> tuple[jax.Array, jax.Array]:
  """Computes the accelerations of the cart and the pole.

  (M + m) a + m h cos θ α = F - b v + m h ω² sin θ
  m h cos θ a + (I + m h²) α = m g h sin θ - c ω

  with h the half length and I the pole's moment of inertia about its centre. A
  damped spring pushes the cart back from beyond the rail's end.

  Args:
    state: x, θ, v and ω.
    force: force F on the cart, [].
    cart_mass: mass M of the cart.
    pole_mass: mass m of the pole.
    length: length 2 h of the pole.
    gravity: gravitational acceleration g.
    cart_damping: damping b of the cart.
    pole_damping: damping c of the pole.
    rail: half length of the rail, beyond which the cart is stopped; inf: no
      end.

  Returns:
    a and α, [] each.

  Raises:
    ValueError: a mass or the length is not positive, a damping or the rail is
      negative, or a constant is not finite.

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), `cartpole.xml`; the end of the rail
    follows MuJoCo's "solreflimit", with constant impedance.

  >>> a, _ = acceleration(State(0.0, 0.0, 0.0, 0.0), jnp.array(1.1))
  >>> bool(a > 1.0)
  True
  """
  cart_mass = checks.number("cart_mass", cart_mass, above=0)
  pole_mass = checks.number("pole_mass", pole_mass, above=0)
  length = checks.number("length", length, above=0)
  gravity = checks.number("gravity", gravity)
  cart_damping = checks.number("cart_damping", cart_damping, least=0)
  pole_damping = checks.number("pole_damping", pole_damping, least=0)
  rail = checks.number("rail", rail, least=0, may_be_infinite=True)
  x, angle, v, w = state
  half = length / 2
  inertia = rigid_bodies.capsule_inertia(pole_mass, length, _RADIUS)
  lever = pole_mass * half
  coupling = lever * jnp.cos(angle)
  total, pole = cart_mass + pole_mass, inertia + lever * half
  determinant = total * pole - coupling**2
  push = force - cart_damping * v + lever * jnp.sin(angle) * w**2
  twist = lever * gravity * jnp.sin(angle) - pole_damping * w
  free = (pole * push - coupling * twist) / determinant
  push = push + _stop(x, v, free, rail) * determinant / pole
  return (
    (pole * push - coupling * twist) / determinant,
    (total * twist - coupling * push) / determinant,
  )


def _stop(x, v, free, rail):
  """Computes the acceleration of the cart due to the end of the rail."""
  impedance, time = 0.95, 0.08
  side, beyond = jnp.sign(x), jnp.abs(x) - rail
  damping = 2 / (impedance * time)
  stiffness = 1 / (impedance * time**2)
  wanted = -damping * side * v - stiffness * beyond
  change = jnp.minimum(impedance * (wanted - side * free), 0)
  return jnp.where(beyond > 0, side * change, 0.0)


def dynamics(
  state: State, force: jax.Array, *, dt: float = 0.01, **constants: float
) -> State:
  """Simulates one time step by the fourth-order Runge-Kutta method.

  Args:
    state: x, θ, v and ω.
    force: force on the cart, [], constant during the step.
    dt: time step in seconds.
    **constants: keyword arguments of `acceleration`.

  Returns:
    The next state.

  Raises:
    ValueError: dt is not positive, or as in `acceleration`.

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), `cartpole.xml`.

  >>> still = State(0.0, 0.0, 0.0, 0.0)
  >>> bool(dynamics(still, jnp.array(1.0)).angle < 0)
  True
  """
  dt = checks.number("dt", dt, above=0)

  def slope(state):
    a = acceleration(state, force, **constants)
    return State(state.velocity, state.angular_velocity, *a)

  def ahead(slope, time):
    return jax.tree.map(lambda x, dx: x + time * dx, state, slope)

  k1 = slope(state)
  k2 = slope(ahead(k1, dt / 2))
  k3 = slope(ahead(k2, dt / 2))
  k4 = slope(ahead(k3, dt))
  mean = jax.tree.map(
    lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4
  )
  return ahead(mean, dt)


def reward(state: State, action: jax.Array) -> jax.Array:
  """Rewards an upright and still pole, a centred cart and small actions.

  (1 + cos θ) / 2 times (1 + tolerance(x, 2)) / 2 times (4 + 1 - u²) / 5 times
  (1 + tolerance(ω, 5)) / 2, where the tolerances' second arguments are margins.

  Args:
    state: state after the step.
    action: action u in [-1, 1], [1].

  Returns:
    The reward, [], from 0 to 1.

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), `cartpole.py`, the smooth reward.

  >>> float(reward(State(0.0, 0.0, 0.0, 0.0), jnp.zeros(1)))
  1.0
  """
  upright = (1 + jnp.cos(state.angle)) / 2
  centred = (1 + rewards.tolerance(state.position, margin=2.0)) / 2
  still = (1 + rewards.tolerance(state.angular_velocity, margin=5.0)) / 2
  return upright * centred * still * rewards.small_control(action)


def observe(state: State) -> jax.Array:
  """Observes x, cos θ, sin θ, v and ω.

  Args:
    state: x, θ, v and ω.

  Returns:
    The observation, [5].

  >>> observe(State(1.0, 0.0, 2.0, 3.0)).tolist()
  [1.0, 1.0, 0.0, 2.0, 3.0]
  """
  x, angle, v, w = map(jnp.asarray, state)
  return jnp.stack([x, jnp.cos(angle), jnp.sin(angle), v, w])


def make(
  *, swing_up: bool = True, num_steps: int | None = 1000, **constants: float
) -> Environment:
  """Makes the task.

  Actions are in [-1, 1], scaled by 10 N. For swing-up the pole initially hangs,
  with x and θ perturbed by N(0, 0.01²); for balancing, x ~ U[-0.1, 0.1] and
  θ ~ U[-0.034, 0.034]. Velocities start at N(0, 0.01²). Episodes do not
  terminate.

  Args:
    swing_up: whether the pole initially hangs.
    num_steps: time limit of an episode; None: no limit.
    **constants: keyword arguments of `dynamics` and `acceleration`.

  Returns:
    The environment.

  Raises:
    ValueError: num_steps is not positive, or a constant is out of range.

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), swingup and balance.

  >>> make(swing_up=False).observation_spec.shape
  (5,)
  """
  move = functools.partial(dynamics, **constants)
  # Refuses constants out of range now, not in the first step.
  number: Any = jax.ShapeDtypeStruct((), jnp.float32)
  jax.eval_shape(move, State(*[number] * 4), number)

  def reset(key):
    place_key, speed_key = jax.random.split(key)
    if swing_up:
      noise = 0.01 * jax.random.normal(place_key, (2,))
      place = noise + jnp.array([0.0, jnp.pi])
    else:
      high = jnp.array([0.1, 0.034])
      place = jax.random.uniform(place_key, (2,), minval=-high, maxval=high)
    state = State(*place, *0.01 * jax.random.normal(speed_key, (2,)))
    return state, observe(state)

  def cut(action):
    return jnp.clip(checks.real("action", action, "1"), -1, 1)

  def reward_of(_, action, following):
    return reward(following, cut(action))

  def step(key, state, action):
    del key
    state = move(state, _FORCE * cut(action)[0])
    r = reward_of(None, action, state)
    return state, environment.make_step(observe(state), r)

  high = [np.inf, 1.0, 1.0, np.inf, np.inf]
  env = Environment(
    reset,
    step,
    observation_spec=environment.box(np.negative(high), high),
    action_spec=environment.box([-1.0], [1.0]),
    render=render,
    observe=observe,
    reward=reward_of,
  )
  return wrappers.time_limit(env, num_steps)


def render(state: State, size: int = 64) -> jax.Array:
  """Renders rail, cart and pole.

  Args:
    state: x, θ, v and ω.
    size: height and width of the image, in pixels.

  Returns:
    [size, size, 3] uint8.

  >>> render(State(0.0, 0.0, 0.0, 0.0), size=8).shape
  (8, 8, 3)
  """
  scene = rendering.canvas(size, 4.6)
  x, angle = state.position, state.angle
  tip = (x + jnp.sin(angle), jnp.cos(angle))
  rail = rendering.capsule(scene, (-1.8, 0.0), (1.8, 0.0), 0.03)
  cart = rendering.box(scene, (x, 0.0), (0.25, 0.15))
  pole = rendering.capsule(scene, (x, 0.0), tip, 0.07)
  scene = rendering.paint(scene, rail, rendering.GREY)
  scene = rendering.paint(scene, cart, rendering.BLACK)
  return rendering.image(rendering.paint(scene, pole, rendering.ORANGE))
