"""Rounds of learning with imagination: algorithm 2 of NAF, for any agent.

A round is several episodes of one length, after which models and plans are
refitted: between scans, not in a branch of each step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.control import exploration, imagination
from lilly.envs import episodes, planning, streams, wrappers
from lilly.envs.environment import Environment
from lilly.learners import interaction
from lilly.learners.agents import Agent
from lilly.losses import naf
from lilly.nets.world_models import Model, Visit
from lilly.replay import ring

__all__ = [
  "Constants",
  "State",
  "World",
  "evaluate",
  "greedy",
  "init",
  "make_world",
  "update",
]


class World(NamedTuple):
  """An environment in the forms used by rounds."""

  plain: Environment  # no time limit, actions in [-1, 1]
  limited: Environment
  acting: Environment  # with automatic reset
  horizon: int  # steps per episode
  block: int  # steps between imagined rollouts, a divisor of the horizon


class Constants(NamedTuple):
  """Fixed hyper-parameters of algorithm 2; the paper's by default."""

  imagines: bool = False  # also learns from imagined transitions
  plans: bool = False  # explores by iLQG on a linear model
  more_updates: bool = False  # as many as imagination, on real transitions
  refit_every: int = 5  # n, episodes per round
  updates_per_step: int = 5  # I
  imagined_steps: int = 10  # l
  imagine_until: int = 0  # episodes; 0: always
  planner_share: float = 0.5  # fraction of episodes in which the planner acts
  max_kl: float = 10.0  # nats per episode, between successive controllers
  batch_size: int = 64
  capacity: int = 1_000_000  # transitions in replay
  start_steps: int = 1000  # random steps before the first update
  reward_scale: float = 1.0
  keep_truncated: bool = True
  dt: float = 1.0  # time step of the noise
  precision_noise: bool = False  # noise shaped by P
  imagined_sigma: float = 0.0  # σ in imagination; 0: as in the environment
  # Episodes are counted until the greedy policy's mean return over num_starts
  # episodes reaches goal_return.
  goal_return: float | None = None
  num_starts: int = 50


class State(NamedTuple):
  """State of one run."""

  agent: Any
  replay: ring.State
  imagined: Any  # replay of imagined transitions, or ()
  visited: Any  # the latest visits, or ()
  fit: Any  # fit of the model, or ()
  plan: Any  # plan of the planner, or ()
  stream: streams.State
  num_episodes: jax.Array  # [] int32
  goal: jax.Array  # [], episodes until the goal; num_episodes + 1 before it
  hyper: Any  # theta, sigma, discount, tau and the agent's rates
  key: jax.Array


def make_world(
  plain: Environment, horizon: int, pool_size: int | None = None
) -> World:
  """Wraps an environment with episodes of one length.

  Args:
    plain: environment without a time limit, with actions in [-1, 1].
    horizon: steps per episode.
    pool_size: `num_starts` of `wrappers.auto_reset`.

  Returns:
    The world.

  Raises:
    ValueError: horizon is not positive.
  """
  limited = wrappers.time_limit(plain, horizon)
  block = max(size for size in range(1, 51) if horizon % size == 0)
  acting = wrappers.auto_reset(limited, pool_size)
  return World(plain, limited, acting, horizon, block)


def init(
  key: jax.Array,
  hyper: Any,
  world: World,
  agent: Agent,
  model: Model | None,
  constants: Constants,
) -> State:
  """Starts an agent, with replay filled by random actions.

  Args:
    key: typed key.
    hyper: theta, sigma, discount, tau and the agent's learning rates.
    world: world from `make_world`.
    agent: agent from `agents`.
    model: model from `world_models`; None: no imagination or planning.
    constants: constants of the algorithm.

  Returns:
    The state.
  """
  key, *keys = jax.random.split(key, 6)
  _, replay = interaction.fill(
    keys[0],
    world.acting,
    capacity=constants.capacity,
    num_steps=constants.start_steps,
    reward_scale=constants.reward_scale,
    keep_truncated=constants.keep_truncated,
  )
  stream = streams.start(keys[1], world.acting)
  observations = ring.sample(keys[2], replay, constants.batch_size).observation
  visited = imagined = fit = plan = ()
  if model is not None:
    visited = _empty_visits(stream, world, model, constants)
    fit = model.init(keys[4])
  if constants.imagines:
    imagined = ring.init(replay.example, constants.capacity)
  if constants.plans:
    plan = planning.blank(world.plain, world.horizon)
  return State(
    agent.init(keys[3], observations, hyper),
    replay,
    imagined,
    visited,
    fit,
    plan,
    stream,
    num_episodes=jnp.zeros((), jnp.int32),
    goal=jnp.ones(()),
    hyper=hyper,
    key=key,
  )


def _empty_visits(stream, world, model, constants):
  """Makes a ring of visits, for fitting and as starts of imagination."""
  state, observation = stream.env.state, stream.env.observation
  visit = Visit(state, observation, stream.noise, state.state)
  steps_per_round = constants.refit_every * world.horizon
  capacity = steps_per_round if model.is_local else constants.capacity
  return ring.init(visit, capacity)


def update(
  state: State,
  world: World,
  agent: Agent,
  model: Model | None,
  constants: Constants,
) -> tuple[State, dict[str, jax.Array]]:
  """Plays a round, learning at every step; then refits the model.

  Args:
    state: state of the run.
    world: as in `init`.
    agent: as in `init`.
    model: as in `init`.
    constants: as in `init`.

  Returns:
    The state; the agent's metrics, return (the mean of the round's episodes),
    episodes_to_goal if there is a goal, and model_error.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), algorithm 2. Imagination starts from any
    visited state; with a local model, from those of the latest n episodes
    rather than of the last fit.
  """

  def episode(state, _):
    return _play_episode(state, world, agent, model, constants)

  state, metrics = jax.lax.scan(
    episode, state, None, length=constants.refit_every
  )
  metrics = jax.tree.map(jnp.mean, metrics)
  if constants.goal_return is not None:
    metrics["episodes_to_goal"] = state.goal
  if model is None:
    return state, metrics
  key, key_fit = jax.random.split(state.key)
  fit, found = model.refit(key_fit, state.fit, state.visited)
  state = state._replace(key=key, fit=fit)
  if constants.plans:
    plan = planning.replan(
      world.plain,
      fit.model,
      ring.contents(state.visited),
      max_kl=constants.max_kl,
      least_variance=state.hyper["sigma"] ** 2,
    )
    state = state._replace(plan=plan)
  return state, metrics | found


def greedy(
  agent: Agent, state: State
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Makes a policy for `envs.episodes` from the agent's greedy actions.

  Args:
    agent: as in `init`.
    state: state of the run.

  Returns:
    Maps a key, which is unused, and an observation to an action, [m].
  """
  return lambda key, observation: agent.outputs(state.agent, observation).mean


def evaluate(
  key: jax.Array, state: State, world: World, agent: Agent, num_starts: int = 50
) -> dict[str, jax.Array]:
  """Plays greedy episodes; evaluates V at visited states.

  Args:
    key: typed key; the same key gives the same starts.
    state: state of the run.
    world: as in `init`.
    agent: as in `init`.
    num_starts: number of episodes.

  Returns:
    return, the episodes' mean, and value_median and value_max over 1,000
    observations of the replay, the same at each call; [] each.
  """
  mean_return = episodes.mean_return(
    key, world.limited, greedy(agent, state), num_starts
  )
  visited = ring.sample(jax.random.key(2), state.replay, 1000).observation
  values = jax.vmap(lambda x: agent.outputs(state.agent, x).value)(visited)
  return {
    "return": mean_return,
    "value_median": jnp.median(values),
    "value_max": jnp.max(values),
  }


def _play_episode(state, world, agent, model, constants):
  """Plays an episode, learning at every step; returns state and metrics."""
  key, key_plan = jax.random.split(state.key)
  state = state._replace(key=key)
  plans = jnp.array(False)
  if constants.plans:
    plans = jax.random.bernoulli(key_plan, constants.planner_share)
    plans &= state.num_episodes >= constants.refit_every  # a plan was made

  def block(state, _):
    if constants.imagines:
      state = _imagine(state, world, agent, model, constants)

    def step(state, _):
      state = _interact(state, world, agent, constants, plans)
      return _learn(state, agent, model, constants)

    return jax.lax.scan(step, state, None, length=world.block)

  num_blocks = world.horizon // world.block
  state, metrics = jax.lax.scan(block, state, None, length=num_blocks)
  state = state._replace(num_episodes=state.num_episodes + 1)
  if constants.goal_return is not None:
    goal = _episodes_to_goal(state, world, agent, constants)
    state = state._replace(goal=goal)
  return state, metrics | {"return": state.stream.last_total}


def _episodes_to_goal(state, world, agent, constants):
  """Counts the episodes to the goal; one more than so far if not reached."""
  total = episodes.mean_return(
    jax.random.key(1),  # the initial states of the driver's evaluations
    world.limited,
    greedy(agent, state),
    constants.num_starts,
  )
  count = state.num_episodes.astype(jnp.float32)
  latest = jnp.where(total >= constants.goal_return, count, count + 1)
  return jnp.where(state.goal < count, state.goal, latest)


def _interact(state, world, agent, constants, plans):
  """Takes a step of the environment and stores it in replay."""
  key, key_shape, key_noise, key_step, key_after = jax.random.split(
    state.key, 5
  )
  stream, hyper = state.stream, state.hyper
  outputs = agent.outputs(state.agent, stream.env.observation)
  action, innovation = outputs.mean, None
  if constants.plans:
    planned = planning.act(state.plan, world.plain, stream.env.state)
    action = jnp.where(plans, planned, action)
  if constants.precision_noise and outputs.factor is not None:
    innovation = naf.noise(key_shape, outputs.factor)
  noise, action = interaction.explore(
    key_noise,
    stream.noise,
    action,
    theta=hyper["theta"],
    sigma=hyper["sigma"],
    dt=constants.dt,
    innovation=innovation,
  )
  next_stream, replay = interaction.step(
    key_step,
    stream,
    state.replay,
    world.acting,
    action,
    noise=noise,
    reward_scale=constants.reward_scale,
    keep_truncated=constants.keep_truncated,
  )
  state = state._replace(replay=replay, stream=next_stream, key=key)
  if state.visited == ():
    return state
  # The next state, also at the end of an episode, from an extra step.
  next_state, _ = world.plain.step(key_after, stream.env.state.state, action)
  visit = Visit(stream.env.state, stream.env.observation, action, next_state)
  return state._replace(visited=ring.add(state.visited, visit))


def _has_model(state, model, constants):
  """Whether imagination is on: a model is fitted, imagine_until not reached."""
  count = state.num_episodes
  has = True if not model.needs_fit else count >= constants.refit_every
  until = constants.imagine_until
  return has & (count < until) if until else has


def _learn(state, agent, model, constants):
  """Makes I l updates on imagined, then I on real transitions."""
  num_real, size = constants.updates_per_step, constants.batch_size
  num_more = num_real * constants.imagined_steps
  total = num_real + num_more * (constants.more_updates or constants.imagines)
  if constants.imagines:
    has = _has_model(state, model, constants)
    # A loop bound shared by all runs is cheaper than one per run.
    total = total if has is True else jnp.where(has, total, num_real)
  key, key_learn = jax.random.split(state.key)

  def learn_once(i, carry):
    agent_state, key, _ = carry
    key, key_real, key_imagined = jax.random.split(key, 3)
    batch = ring.sample(key_real, state.replay, size)
    if constants.imagines:
      imagined = ring.sample(key_imagined, state.imagined, size)
      is_real = (i >= total - num_real) | (state.imagined.size == 0)
      batch = jax.tree.map(
        lambda x, y: jnp.where(is_real, x, y), batch, imagined
      )
    agent_state, metrics = agent.update(agent_state, batch, state.hyper)
    return agent_state, key, metrics

  carry = state.agent, key_learn, None
  form = jax.eval_shape(lambda carry: learn_once(0, carry)[2], carry)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)
  carry = state.agent, key_learn, zeros
  agent_state, _, metrics = jax.lax.fori_loop(0, total, learn_once, carry)
  return state._replace(agent=agent_state, key=key), metrics


def _imagine(state, world, agent, model, constants):
  """Rolls the policy out in the model, once for each step of the next block."""
  key, *keys = jax.random.split(state.key, 4)
  count, length, hyper = world.block, constants.imagined_steps, state.hyper
  starts = ring.sample(keys[0], state.visited, count)
  shape = (count, *world.plain.action_spec.shape)

  def drift(carry, _):
    key, noise = carry
    key, key_noise = jax.random.split(key)
    noise = exploration.ornstein_uhlenbeck(
      key_noise,
      noise,
      theta=hyper["theta"],
      sigma=constants.imagined_sigma or hyper["sigma"],
      dt=constants.dt,
    )
    return (key, noise), noise

  # Ten steps are discarded, for noise as in the middle of an episode.
  carry = keys[1], jnp.zeros(shape)
  noise = jax.lax.scan(drift, carry, length=10 + length)[1][10:]

  def roll(key, start, noise):
    return imagination.rollout(
      key,
      start.state,
      start.observation,
      step=lambda *given: model.step(state.fit, *given),
      act=greedy(agent, state),
      length=length,
      noise=noise,
    )

  rolls = jax.vmap(roll, (0, 0, 1))
  found = rolls(jax.random.split(keys[2], count), starts, noise)
  possible = jax.vmap(lambda x: _are_possible(x, world))(found)
  found = found._replace(is_valid=found.is_valid & possible)
  found = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
  reward = constants.reward_scale * found.reward
  steps = streams.Transition(*found._replace(reward=reward)[:-1])
  is_kept = found.is_valid & (state.visited.size > 0)
  is_kept &= _has_model(state, model, constants)
  imagined = ring.extend(state.imagined, steps, is_kept=is_kept)
  return state._replace(imagined=imagined, key=key)


def _are_possible(found, world):
  """Masks a rollout from where a wrong model leaves the observation space."""
  spec, seen = world.plain.observation_spec, found.next_observation
  low, high = (jnp.asarray(x)[None] for x in (spec.minimum, spec.maximum))
  possible = (low <= seen) & (seen <= high) & jnp.isfinite(seen)
  return jnp.cumprod(possible.all(-1) & jnp.isfinite(found.reward)) > 0
