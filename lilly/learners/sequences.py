"""Trains any recurrent core on any sequence task, perhaps with a curriculum."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly import checks
from lilly.learners import descent
from lilly.nets import recurrent
from lilly.tasks import curriculum, sequences

__all__ = ["State", "accesses", "evaluate", "make", "scores"]


class State(NamedTuple):
  """State of one run."""

  params: Any
  opt_state: optax.OptState
  hyper: Mapping[str, Any]  # hyper-parameters that may be swept
  level: curriculum.State
  key: jax.Array


def make(
  core: recurrent.Core,
  task: sequences.Task,
  *,
  optimiser: Callable[[Mapping[str, Any]], optax.GradientTransformation],
  batch_size: int = 8,
  has_curriculum: bool = False,
  threshold: float = 0.05,
  patience: int = 20,
) -> descent.Learner:
  """Makes a learner that minimises the mean loss of a batch of episodes.

  Args:
    core: the recurrent network.
    task: task that episodes are drawn from.
    optimiser: maps the run's hyper-parameters to a gradient transformation.
    batch_size: episodes per update, B.
    has_curriculum: whether levels are drawn from 1 up to a bound that doubles;
      otherwise every episode has the task's hardest level.
    threshold: error below which an update counts as solved, see
      `curriculum.update`.
    patience: number of consecutive solved updates that doubles the bound.

  Returns:
    The learner; its metrics are loss, error (per cent) and level.

  Raises:
    ValueError: batch_size or, in an update, patience is not positive.

  Reference:
    Rae et al., 2016 (arXiv 1610.09027), section 4.
  """
  batch_size = checks.whole_number("batch_size", batch_size, least=1)
  gradient = jax.value_and_grad(scores, has_aux=True)

  def init(key, hyper, data):
    del data
    key, key_core = jax.random.split(key)
    level = curriculum.init(1 if has_curriculum else task.max_level)
    params = core.init(key_core)
    return State(params, optimiser(hyper).init(params), hyper, level, key)

  def update(state, data):
    key, key_level, key_episode = jax.random.split(state.key, 3)

    def draw(key_level, key_episode):
      level = state.level.bound
      if has_curriculum:
        level = curriculum.sample_level(key_level, state.level)
      return task.sample(key_episode, level, data)

    episodes = jax.vmap(draw)(
      jax.random.split(key_level, batch_size),
      jax.random.split(key_episode, batch_size),
    )
    (loss, error), grads = gradient(state.params, core, task, episodes)
    steps, opt_state = optimiser(state.hyper).update(
      grads, state.opt_state, state.params
    )
    level = curriculum.update(
      state.level,
      error,
      threshold=threshold,
      patience=patience,
      max_level=task.max_level,
    )
    metrics = {"loss": loss, "error": 100 * error, "level": state.level.bound}
    params = optax.apply_updates(state.params, steps)
    return State(params, opt_state, state.hyper, level, key), metrics

  return descent.Learner(init, update)


def evaluate(
  key: jax.Array,
  params: Any,
  core: recurrent.Core,
  task: sequences.Task,
  data: Any = (),
  *,
  num_episodes: int = 64,
) -> dict[str, jax.Array]:
  """Evaluates a core on test episodes of the task's hardest level.

  Args:
    key: typed key; the same key draws the same episodes.
    params: parameters of the core.
    core: the recurrent network.
    task: task that episodes are drawn from.
    data: data of the task.
    num_episodes: number of test episodes.

  Returns:
    Mean loss, and mean error in per cent, [] each.
  """

  def draw(key):
    return task.test(key, task.max_level, data)

  episodes = jax.vmap(draw)(jax.random.split(key, num_episodes))
  loss, error = scores(params, core, task, episodes)
  return {"loss": loss, "error": 100 * error}


def scores(
  params: Any,
  core: recurrent.Core,
  task: sequences.Task,
  episodes: sequences.Episode,
) -> tuple[jax.Array, jax.Array]:
  """Evaluates a core on a batch of episodes, each from the initial state.

  Args:
    params: parameters of the core.
    core: the recurrent network.
    task: task of the episodes.
    episodes: with a leading axis [B, ...].

  Returns:
    Mean loss and mean error of the task, [] each, as a loss and its auxiliary
    output for `jax.value_and_grad(scores, has_aux=True)`.
  """

  def score(episode):
    start = core.initial_state()
    _, logits = recurrent.unroll(core, params, episode.inputs, start)
    return task.loss(episode, logits), task.error(episode, logits)

  loss, error = jax.vmap(score)(episodes)
  return jnp.mean(loss), jnp.mean(error)


def accesses(
  params: Any, core: recurrent.Core, inputs: jax.Array
) -> tuple[jax.Array, jax.Array] | None:
  """Records where a core's memory is accessed along a sequence.

  Args:
    params: parameters of the core.
    core: the recurrent network.
    inputs: [T, D].

  Returns:
    Write and read weights, summed over heads, [T, N] each; None for a core
    without a memory or without accesses to show.
  """
  if core.accesses is None:
    return None
  accesses_of_step = core.accesses

  def step(state, x):
    state, _ = core.apply(params, x, state)
    return state, accesses_of_step(state)

  return jax.lax.scan(step, core.initial_state(), inputs)[1]
