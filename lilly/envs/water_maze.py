"""Water maze: find a platform that is not seen, and find it again.

Morris' water maze, simplified. The platform stays where it is for the episode,
while the agent is taken away from it again and again: the first search is
blind, and those after can go straight where memory says. The sizes and times of
the published task are not confirmed; those here are this library's own.
"""

import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from lilly.envs import environment, rendering, wrappers
from lilly.envs.environment import Environment

__all__ = [
  "State",
  "latencies",
  "make",
  "observe",
  "render",
  "searches",
  "seek",
]

_PLATFORM_RADIUS = 0.3
_SPEED = 0.1
_NUM_STAY = 5


class State(NamedTuple):
  """Where agent and platform are; the pool is a disc of radius 1."""

  position: jax.Array  # [2], of the agent
  platform: jax.Array  # [2], its centre
  stay: jax.Array  # [] int32, steps on the platform since it came here


def _cut(x):
  """Shortens a vector to length 1."""
  # Its gradient is finite at zero too. Rounding must not lead out of bounds.
  return jnp.clip(x / jnp.maximum(1, optax.safe_norm(x, 1e-6)), -1, 1)


def _is_on(position, platform, platform_radius):
  distance = optax.safe_norm(position - platform, 1e-6)
  return distance <= platform_radius


def _arrive(state, action, speed, platform_radius):
  """Where a step leads, and whether that is on the platform."""
  chex.assert_shape(action, (2,))
  position = _cut(state.position + speed * _cut(jnp.clip(action, -1, 1)))
  return position, _is_on(position, state.platform, platform_radius)


def _place(key, radius):
  """Draws a place, uniformly over a disc."""
  high = jnp.array([1.0, jnp.pi])
  low = jnp.array([0.0, -jnp.pi])
  area, angle = jax.random.uniform(key, (2,), jnp.float32, low, high)
  direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
  return radius * jnp.sqrt(area) * direction


def observe(
  state: State, *, platform_radius: float = _PLATFORM_RADIUS
) -> jax.Array:
  """Gives where the agent is, and whether that is on the platform, 0 or 1.

  Args:
    state: of agent and platform.
    platform_radius: of the platform.

  Returns:
    The observation, [3].

  >>> state = State(jnp.zeros(2), jnp.array([0.0, 0.25]), 0)
  >>> observe(state).tolist()
  [0.0, 0.0, 1.0]
  """
  is_on = _is_on(state.position, state.platform, platform_radius)
  return jnp.append(state.position, jnp.asarray(is_on, jnp.float32))


def seek(state: State, *, speed: float = _SPEED) -> jax.Array:
  """Goes straight to the platform: what one who knew its place would do.

  Args:
    state: of agent and platform.
    speed: of the agent.

  Returns:
    The action, [2], not longer than 1.

  >>> state = State(jnp.zeros(2), jnp.array([0.0, 0.5]), 0)
  >>> seek(state).tolist()
  [0.0, 1.0]
  """
  return _cut((state.platform - state.position) / speed)


def latencies(
  on_platform: jax.Array, *, num_stay: int = _NUM_STAY, max_visits: int = 8
) -> jax.Array:
  """Measures how long each search of an episode took.

  A search begins with the episode, or where the agent was taken away, and takes
  as many steps as there are until one ends on the platform, that one included.
  What a remembering agent needs is long first and short after.

  Args:
    on_platform: whether each step ended on the platform, before the agent was
      taken away: where the reward is 1. [T] bool.
    num_stay: after how many steps on the platform the agent is taken away.
    max_visits: how many searches are told of, the first ones.

  Returns:
    Steps of each search, [max_visits] float32; NaN where there was none, or
    none that ended.

  >>> on_platform = jnp.array([0, 0, 1, 1, 0, 1, 0], bool)
  >>> latencies(on_platform, num_stay=2, max_visits=3).tolist()
  [3.0, 2.0, nan]
  """

  def step(carry, is_on):
    age, stay, is_found = carry
    age, stay = age + 1, stay + is_on
    is_arrival = is_on & ~is_found
    is_moved = stay == num_stay
    age, stay = (jnp.where(is_moved, 0, x) for x in (age, stay))
    following = age, stay, (is_found | is_on) & ~is_moved
    return following, (is_arrival, carry[0] + 1)

  zero = jnp.zeros((), jnp.int32)
  start = zero, zero, jnp.zeros((), bool)
  on_platform = jnp.asarray(on_platform, bool)
  _, (is_arrival, age) = jax.lax.scan(step, start, on_platform)
  # What is not an arrival goes to a place that there is not.
  visit = jnp.where(is_arrival, jnp.cumsum(is_arrival) - 1, max_visits)
  empty = jnp.full(max_visits, jnp.nan, jnp.float32)
  return empty.at[visit].set(age.astype(jnp.float32), mode="drop")


def searches(
  on_platform: jax.Array, *, num_stay: int = _NUM_STAY, max_visits: int = 40
) -> dict[str, jax.Array]:
  """Compares the first search of an episode with later ones; see `latencies`.

  Both are averaged over the episodes that have both, later ones first within
  each: so an agent that remembers nothing takes as long for the one as for the
  other, though the end of an episode cuts long searches off and some platforms
  are easily found.

  Args:
    on_platform: whether each step ended on the platform, [N, T] bool.
    num_stay: after how many steps on the platform the agent is taken away.
    max_visits: how many searches of an episode count, the first ones.

  Returns:
    missed: the part of episodes in which the platform was never found; once:
    that in which it was not found again; first and later: mean steps, NaN if
    no episode has both.

  >>> found = searches(jnp.array([[0, 0, 1, 1, 0, 1]], bool), num_stay=2)
  >>> {name: float(x) for name, x in found.items()}
  {'missed': 0.0, 'once': 0.0, 'first': 3.0, 'later': 2.0}
  """
  measure = functools.partial(
    latencies, num_stay=num_stay, max_visits=max_visits
  )
  steps = jax.vmap(measure)(on_platform)
  has_both = ~jnp.isnan(steps[:, 1])
  mean = lambda steps: jnp.mean(steps, where=has_both)
  missed = jnp.mean(jnp.isnan(steps[:, 0]))
  return {
    "missed": missed,
    "once": 1 - missed - jnp.mean(has_both),
    "first": mean(steps[:, 0]),
    "later": mean(jnp.nanmean(steps[:, 1:], axis=1)),
  }


def make(
  *,
  platform_radius: float = _PLATFORM_RADIUS,
  speed: float = _SPEED,
  num_stay: int = _NUM_STAY,
  num_steps: int | None = 200,
) -> Environment:
  """Makes the task.

  p' = cut(p + speed cut(a)), with cut(x) = x / max(1, |x|); actions are in
  [-1, 1] before. A step that ends on the platform is worth 1. After `num_stay`
  of them the agent is put anywhere, and observes from there. Both are anywhere
  at first, the platform wholly in the pool. No state ends an episode.

  Args:
    platform_radius: of the platform; the pool's is 1.
    speed: how far a step leads.
    num_stay: after how many steps on the platform the agent is taken away.
    num_steps: of an episode; None: it never ends.

  Returns:
    The environment.

  Raises:
    ValueError: platform_radius, speed, num_stay or num_steps is out of range.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), and Morris, 1984, with rats.

  >>> make().observation_spec.shape, make().action_spec.shape
  ((3,), (2,))
  """
  _check(platform_radius, speed, num_stay)
  see = functools.partial(observe, platform_radius=platform_radius)

  def reset(key):
    state = _start(key, platform_radius)
    return state, see(state)

  def reward(state, action, _):  # what follows may be elsewhere
    return 1.0 * _arrive(state, action, speed, platform_radius)[1]

  def step(key, state, action):
    position, is_on = _arrive(state, action, speed, platform_radius)
    # Not those in a row: agents learn to step off before the last.
    stay = state.stay + is_on
    is_moved = stay == num_stay
    position = jnp.where(is_moved, _place(key, 1.0), position)
    following = State(position, state.platform, jnp.where(is_moved, 0, stay))
    return following, environment.make_step(see(following), is_on)

  env = Environment(
    reset,
    step,
    environment.box([-1.0, -1.0, 0.0], [1.0] * 3),
    environment.box([-1.0] * 2, [1.0] * 2),
    render=functools.partial(render, platform_radius=platform_radius),
    observe=see,
    reward=reward,
  )
  return wrappers.time_limit(env, num_steps)


def _start(key, platform_radius):
  position_key, platform_key = jax.random.split(key)
  platform = _place(platform_key, 1 - platform_radius)
  return State(_place(position_key, 1.0), platform, jnp.zeros((), jnp.int32))


def _check(platform_radius, speed, num_stay):
  if not 0 < platform_radius <= 1:
    raise ValueError(
      f"platform_radius is {platform_radius}; it must be above 0 and at most "
      "1, the pool's."
    )
  if not 0 < speed < math.inf:
    raise ValueError(f"speed is {speed}; it must be above 0 and finite.")
  if num_stay < 2:
    raise ValueError(
      f"num_stay is {num_stay}; it must be at least 2: an agent that is taken "
      "away at once never sees that it was on the platform."
    )


def render(
  state: State, size: int = 64, *, platform_radius: float = _PLATFORM_RADIUS
) -> jax.Array:
  """Draws pool, platform and agent: more than the agent sees.

  Args:
    state: of agent and platform.
    size: pixels of an edge.
    platform_radius: of the platform.

  Returns:
    [size, size, 3] uint8.

  >>> render(State(jnp.zeros(2), jnp.zeros(2), 0), size=8).shape
  (8, 8, 3)
  """
  scene = rendering.canvas(size, 2.4)
  pool = rendering.circle(scene, (0.0, 0.0), 1.0)
  platform = rendering.circle(scene, state.platform, platform_radius)
  agent = rendering.circle(scene, state.position, 0.08)
  scene = rendering.paint(scene, pool, rendering.GREY)
  scene = rendering.paint(scene, platform, rendering.GREEN)
  return rendering.image(rendering.paint(scene, agent, rendering.ORANGE))
