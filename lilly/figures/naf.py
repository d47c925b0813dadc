"""Figures of NAF: values, rollouts in models, precision."""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lilly.envs import pendulum, reacher
from lilly.figures import curves, heatmaps
from lilly.learners import imagination
from lilly.learners.agents import Agent
from lilly.learners.imagination import State, World
from lilly.nets import world_models
from lilly.nets.world_models import Model
from lilly.replay import ring

__all__ = [
  "measure_distances",
  "plot_distances",
  "plot_imagined",
  "plot_pendulum_values",
  "roll_out",
]


def plot_pendulum_values(
  agent: Agent,
  state: State,
  world: World,
  path: pathlib.Path,
  reward_scale: float = 1.0,
) -> None:
  """Plots V, the observed discounted return and the greedy action.

  Args:
    agent: agent from `learners.agents`.
    state: state of one run.
    world: world of the pendulum.
    path: PNG to write.
    reward_scale: factor of the rewards in learning.
  """
  angles, speeds = np.linspace(-np.pi, np.pi, 41), np.linspace(-8, 8, 41)

  def evaluate(angle, speed):
    start = pendulum.State(jnp.float32(angle), jnp.float32(speed))
    observation = pendulum.observe(start)
    outputs = agent.outputs(state.agent, observation)
    discounted_return = world_models.value(
      world.plain,
      start,
      observation,
      imagination.greedy(agent, state),
      discount=state.hyper["discount"],
    )
    return outputs.value, reward_scale * discounted_return, outputs.mean[0]

  over_angles = jax.vmap(evaluate, (0, None))
  over_states = jax.jit(jax.vmap(over_angles, (None, 0)))
  v, returns, actions = jax.device_get(over_states(angles, speeds))
  limits = min(v.min(), returns.min()), max(v.max(), returns.max())
  maps = {
    "V": (v, limits),
    "observed discounted return": (returns, limits),
    "greedy action": (actions, (-1.0, 1.0)),
  }
  labels = ("angle (rad, 0 upright)", "velocity (rad/s)")
  heatmaps.plot_functions(maps, path, angles, speeds, labels)


def roll_out(
  model: Model, agent: Agent, state: State, world: World
) -> tuple[np.ndarray, np.ndarray]:
  """Rolls the policy out in a model and in the environment.

  Args:
    model: dynamics model.
    agent: agent from `learners.agents`.
    state: state of one run.
    world: world of the run.

  Returns:
    The last component of the observations of 6 rollouts, [6, 15] each.
  """
  starts = ring.sample(jax.random.key(6), state.visited, 6)
  policy = imagination.greedy(agent, state)
  in_model, in_world = world_models.compare(
    model, state.fit, world.limited, starts, policy, length=15
  )
  return np.asarray(in_model[..., -1]), np.asarray(in_world[..., -1])


def plot_imagined(
  rollouts: Mapping[str, tuple[np.ndarray, np.ndarray]], path: pathlib.Path
) -> None:
  """Plots rollouts in models together with those in the environment.

  Args:
    rollouts: name -> result of `roll_out`; if empty, nothing is plotted.
    path: PNG to write.
  """
  if rollouts:
    labels = ("step of the rollout", "last component of the observation")
    curves.plot_pairs(rollouts, path, ("model", "environment"), labels)


def measure_distances(
  agent: Agent, states: State, world: World, num_starts: int
) -> np.ndarray:
  """Measures the distance of the reacher's tip from the target over an episode.

  Args:
    agent: agent from `learners.agents`.
    states: states of all runs, [R, ...] each.
    world: world of the reacher.
    num_starts: number of greedy episodes per run.

  Returns:
    The mean distance at each step, [R, T], in cm.
  """

  def measure(state):
    found = reacher.play_distances(
      jax.random.key(1),
      world.limited,
      imagination.greedy(agent, state),
      world.horizon,
      num_starts,
    )
    return jnp.mean(found, axis=0)

  return 100 * np.asarray(jax.jit(jax.vmap(measure))(states))


def plot_distances(
  values: Mapping[str, np.ndarray], path: pathlib.Path
) -> None:
  """Plots distances over an episode, with intervals over runs.

  Args:
    values: name -> result of `measure_distances`; if empty, nothing is plotted.
    path: PNG to write.
  """
  if values:
    labels = ("step", "distance of the tip to the target (cm)")
    curves.plot_lines(values, path, labels, from_zero=True)
