"""Cue recall: remember a number shown once, and output it at the end.

A delayed bandit of one number, without dynamics: it tests memory alone, over
any number of steps. Rendered images always show the cue.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.envs import environment, rendering
from lilly.envs.environment import Environment

__all__ = ["State", "make", "observe", "render"]


class State(NamedTuple):
  """The cue and its age."""

  cue: jax.Array  # [], from -1 to 1
  age: jax.Array  # [] int32, steps since the cue was shown


def observe(state: State) -> jax.Array:
  """Observes the cue before the first step, and zero afterwards.

  Args:
    state: the cue and its age.

  Returns:
    The observation, [1].

  >>> observe(State(0.5, 0)).tolist(), observe(State(0.5, 1)).tolist()
  ([0.5], [0.0])
  """
  return jnp.where(jnp.asarray(state.age) == 0, state.cue, 0.0)[None]


def make(num_steps: int = 10) -> Environment:
  """Makes the task.

  o_1 = c ~ U[-1, 1],  o_2 = ... = o_T = 0,  r_T = -(a_T - c)²; other rewards
  are 0. The last step terminates the episode; it is not a time limit, so no
  value is bootstrapped. Actions are clipped to [-1, 1].

  Args:
    num_steps: steps of an episode, T, at least 2: only the last action is
      rewarded, and the cue must be remembered for T - 1.

  Returns:
    The environment.

  Raises:
    ValueError: num_steps is None or below 2.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), whose tasks combine such a memory
    with control.

  >>> env = make(num_steps=2)
  >>> state = State(jnp.float32(0.5), jnp.int32(1))
  >>> _, step = env.step(jax.random.key(0), state, jnp.ones(1))
  >>> float(step.reward), float(step.discount), bool(step.truncated)
  (-0.25, 0.0, False)
  """
  num_steps = checks.whole_number("num_steps", num_steps, least=2)

  def reset(key):
    cue = jax.random.uniform(key, (), jnp.float32, -1, 1)
    state = State(cue, jnp.zeros((), jnp.int32))
    return state, observe(state)

  def reward(state, action, following):
    action = checks.real("action", action, "1")
    error = jnp.clip(action[0], -1, 1) - state.cue
    return jnp.where(following.age == num_steps, -jnp.square(error), 0.0)

  def step(key, state, action):
    del key
    following = State(state.cue, state.age + 1)
    r = reward(state, action, following)
    is_over = following.age >= num_steps
    return following, environment.make_step(observe(following), r, is_over)

  return Environment(
    reset,
    step,
    observation_spec=environment.box([-1.0], [1.0]),
    action_spec=environment.box([-1.0], [1.0]),
    render=render,
    observe=observe,
    reward=reward,
  )


def render(state: State, size: int = 64) -> jax.Array:
  """Renders the cue on a scale from -1 to 1, in blue while it is observed.

  Args:
    state: the cue and its age.
    size: height and width of the image, in pixels.

  Returns:
    [size, size, 3] uint8.

  >>> render(State(0.0, 0), size=8).shape
  (8, 8, 3)
  """
  scene = rendering.canvas(size, 2.6)
  scale = rendering.capsule(scene, (-1.0, 0.0), (1.0, 0.0), 0.05)
  scene = rendering.paint(scene, scale, rendering.GREY)
  cue = rendering.circle(scene, (state.cue, 0.0), 0.2)
  seen = rendering.paint(scene, cue, rendering.BLUE)
  hidden = rendering.paint(scene, cue, rendering.BLACK)
  colours = jnp.where(state.age == 0, seen.colours, hidden.colours)
  return rendering.image(scene._replace(colours=colours))
