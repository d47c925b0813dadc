"""Water maze: find a hidden platform, and find it again from memory.

Morris' water maze, simplified. The platform is fixed during an episode, while
the agent is repeatedly moved away after reaching it: the first search is blind,
later ones can go straight to the remembered place. The published task's sizes
and durations are not known (unconfirmed); those here are our own.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly import checks
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
  """State of agent and platform; the pool is a disc of radius 1."""

  position: jax.Array  # [2], of the agent
  platform: jax.Array  # [2], centre of the platform
  stay: jax.Array  # [] int32, steps on the platform since the last move


def _cut(x):
  """Shortens a vector to length 1."""
  # The safe norm's gradient is finite at zero; the clip bounds rounding errors.
  return jnp.clip(x / jnp.maximum(1, optax.safe_norm(x, 1e-6)), -1, 1)


def _is_on(position, platform, platform_radius):
  distance = optax.safe_norm(position - platform, 1e-6)
  return distance <= platform_radius


def _arrive(state, action, speed, platform_radius):
  """Computes the next position, and whether it is on the platform."""
  action = checks.real("action", action, "2")
  position = _cut(state.position + speed * _cut(jnp.clip(action, -1, 1)))
  return position, _is_on(position, state.platform, platform_radius)


def _place(key, radius):
  """Draws a position uniformly from a disc."""
  high = jnp.array([1.0, jnp.pi])
  low = jnp.array([0.0, -jnp.pi])
  area, angle = jax.random.uniform(key, (2,), jnp.float32, low, high)
  direction = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
  return radius * jnp.sqrt(area) * direction


def observe(
  state: State, *, platform_radius: float = _PLATFORM_RADIUS
) -> jax.Array:
  """Observes the agent's position, and 1 if it is on the platform, else 0.

  Args:
    state: state of agent and platform.
    platform_radius: radius of the platform.

  Returns:
    The observation, [3].

  >>> state = State(jnp.zeros(2), jnp.array([0.0, 0.25]), 0)
  >>> observe(state).tolist()
  [0.0, 0.0, 1.0]
  """
  is_on = _is_on(state.position, state.platform, platform_radius)
  return jnp.append(state.position, jnp.asarray(is_on, jnp.float32))


def seek(state: State, *, speed: float = _SPEED) -> jax.Array:
  """Goes straight to the platform, as an agent that knew its position would.

  Args:
    state: state of agent and platform.
    speed: length of the longest step.

  Returns:
    The action, [2], of norm at most 1.

  >>> state = State(jnp.zeros(2), jnp.array([0.0, 0.5]), 0)
  >>> seek(state).tolist()
  [0.0, 1.0]
  """
  return _cut((state.platform - state.position) / speed)


def latencies(
  on_platform: jax.Array, *, num_stay: int = _NUM_STAY, max_visits: int = 8
) -> jax.Array:
  """Measures the duration of each search in an episode.

  A search begins with the episode or when the agent is moved away, and ends
  with the first step onto the platform, which is counted. With memory, the
  first search is long and later ones are short.

  Args:
    on_platform: whether each step ended on the platform, before the agent was
      moved away: where the reward is 1. [T] bool.
    num_stay: steps on the platform after which the agent is moved away.
    max_visits: number of searches to report, starting with the first.

  Returns:
    Steps of each search, [max_visits] float32; NaN for searches that did not
    end or did not take place.

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
  # Steps that are not arrivals get an index out of bounds, which is dropped.
  visit = jnp.where(is_arrival, jnp.cumsum(is_arrival) - 1, max_visits)
  empty = jnp.full(max_visits, jnp.nan, jnp.float32)
  return empty.at[visit].set(age.astype(jnp.float32), mode="drop")


def searches(
  on_platform: jax.Array, *, num_stay: int = _NUM_STAY, max_visits: int = 40
) -> dict[str, jax.Array]:
  """Compares the first search of an episode with later ones; see `latencies`.

  Both are averaged over the episodes that have both; later searches are first
  averaged within each episode. So an agent without memory takes equally long
  for both, although episode ends cut long searches off and some platforms are
  easy to find.

  Args:
    on_platform: whether each step ended on the platform, [N, T] bool.
    num_stay: steps on the platform after which the agent is moved away.
    max_visits: number of searches per episode to count, starting with the
      first.

  Returns:
    missed: fraction of episodes in which the platform was never found; once:
    fraction in which it was found only once; first and later: mean steps, NaN
    if no episode has both.

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

  p' = cut(p + speed cut(a)), with cut(x) = x / max(1, |x|), after clipping
  actions to [-1, 1]. The reward is 1 for a step that ends on the platform.
  After `num_stay` such steps the agent is moved to a random position. Initial
  positions are random, with the platform wholly inside the pool. Episodes do
  not terminate.

  Args:
    platform_radius: radius of the platform; the pool's is 1.
    speed: length of the longest step.
    num_stay: steps on the platform after which the agent is moved away, at
      least 2: moved away at once, it would never observe that it was there.
    num_steps: time limit of an episode; None: no limit.

  Returns:
    The environment.

  Raises:
    ValueError: platform_radius, speed, num_stay or num_steps is out of range.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455); Morris, 1984 (with rats).

  >>> make().observation_spec.shape, make().action_spec.shape
  ((3,), (2,))
  """
  # The pool's radius is 1.
  platform_radius = checks.number(
    "platform_radius", platform_radius, above=0, most=1
  )
  speed = checks.number("speed", speed, above=0)
  num_stay = checks.whole_number("num_stay", num_stay, least=2)
  see = functools.partial(observe, platform_radius=platform_radius)

  def reset(key):
    state = _start(key, platform_radius)
    return state, see(state)

  def reward(state, action, _):  # the agent may have been moved since
    return 1.0 * _arrive(state, action, speed, platform_radius)[1]

  def step(key, state, action):
    position, is_on = _arrive(state, action, speed, platform_radius)
    # Not only consecutive steps: agents would learn to leave before the last.
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


def render(
  state: State, size: int = 64, *, platform_radius: float = _PLATFORM_RADIUS
) -> jax.Array:
  """Renders pool, platform and agent, including the hidden platform.

  Args:
    state: state of agent and platform.
    size: height and width of the image, in pixels.
    platform_radius: radius of the platform.

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
