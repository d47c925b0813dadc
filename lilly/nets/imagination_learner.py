"""Rounds of learning with imagination: algorithm 2 of NAF, for any agent.

A round is some episodes of one length, after which models and plans are made
anew: on a boundary of scans, not in a branch of each step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.control import exploration, imagination
from lilly.envs import episodes, planning, streams, wrappers
from lilly.envs.environment import Environment
from lilly.losses import naf
from lilly.nets.agents import Agent
from lilly.nets.world_models import Model, Visit
from lilly.replay import ring

__all__ = ["Settings", "State", "World", "init", "update", "world"]


class World(NamedTuple):
  """An environment in the forms that rounds need."""

  plain: Environment  # without a time limit, with actions in [-1, 1]
  limited: Environment
  acting: Environment  # resets itself
  horizon: int  # steps of an episode
  block: int  # steps between imaginations, a divisor of the horizon


class Settings(NamedTuple):
  """Hyper-parameters that do not change in a run; the paper's by default."""

  imagines: bool = False
  plans: bool = False  # explores by iLQG on a linear model
  more_updates: bool = False  # as many as with imagination, on real steps
  refit_every: int = 5  # n, episodes of a round
  updates_per_step: int = 5  # I
  imagined_steps: int = 10  # l
  imagine_until: int = 0  # episodes; 0: always
  planner_share: float = 0.5  # of episodes
  max_kl: float = 10.0  # of a plan
  batch_size: int = 64
  capacity: int = 1_000_000
  start_steps: int = 1000  # random, before the first update
  reward_scale: float = 1.0
  keep_truncated: bool = True
  dt: float = 1.0  # of the noise
  precision_noise: bool = False  # shaped by P
  imagined_sigma: float = 0.0  # of the noise in imagination; 0: as elsewhere
  # Episodes are counted until the greedy policy returns it, of so many starts.
  goal_return: float | None = None
  num_starts: int = 50


class State(NamedTuple):
  """Everything of one run that changes."""

  agent: Any
  replay: ring.State
  imagined: Any  # replay of what did not happen, or ()
  visited: Any  # the latest visits, or ()
  fit: Any  # of the model, or ()
  plan: Any  # or ()
  stream: streams.State
  num_episodes: jax.Array  # [] int32
  goal: jax.Array  # [], episodes until the goal; one more than there were
  hyper: Any  # theta, sigma, discount, tau and the agent's rates
  key: jax.Array


def world(plain: Environment, horizon: int, pool: int | None = None) -> World:
  """Gives episodes of one length to an environment.

  Args:
    plain: without a time limit, with actions in [-1, 1].
    horizon: steps of an episode.
    pool: as `num_starts` of `wrappers.auto_reset`.

  Returns:
    The world.

  Raises:
    ValueError: horizon is not positive.
  """
  limited = wrappers.time_limit(plain, horizon)
  block = max(size for size in range(1, 51) if horizon % size == 0)
  acting = wrappers.auto_reset(limited, pool)
  return World(plain, limited, acting, horizon, block)


def init(
  key: jax.Array,
  hyper: Any,
  world: World,
  agent: Agent,
  model: Model | None,
  settings: Settings,
) -> State:
  """Starts an agent, with a replay of random actions; episodes begin anew.

  Args:
    key: typed key.
    hyper: of the state.
    world: as from `world`.
    agent: as from `agents`.
    model: as from `world_models`; None: nothing is imagined or planned.
    settings: of the algorithm.

  Returns:
    The state.
  """
  key, *keys = jax.random.split(key, 6)
  _, replay = streams.fill(
    keys[0],
    world.acting,
    capacity=settings.capacity,
    num_steps=settings.start_steps,
    reward_scale=settings.reward_scale,
    keep_truncated=settings.keep_truncated,
  )
  stream = streams.start(keys[1], world.acting)
  seen = ring.sample(keys[2], replay, settings.batch_size).observation
  visited = imagined = fit = plan = ()
  if model is not None:
    visited = _unvisited(stream, world, model, settings)
    fit = model.init(keys[4])
  if settings.imagines:
    imagined = ring.init(replay.example, settings.capacity)
  if settings.plans:
    plan = planning.blank(world.plain, world.horizon)
  return State(
    agent.init(keys[3], seen, hyper),
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


def _unvisited(stream, world, model, settings):
  """A ring for what models are fitted to and where imagination starts."""
  state, seen = stream.env.state, stream.env.observation
  visit = Visit(state, seen, stream.noise, state.state)
  of_round = settings.refit_every * world.horizon
  return ring.init(visit, of_round if model.is_local else settings.capacity)


def update(
  state: State,
  world: World,
  agent: Agent,
  model: Model | None,
  settings: Settings,
) -> tuple[State, dict[str, jax.Array]]:
  """Plays a round, learning at every step; then fits the model anew.

  Args:
    state: of the run.
    world: as of `init`.
    agent: as of `init`.
    model: as of `init`.
    settings: as of `init`.

  Returns:
    The state, and the agent's metrics, the mean return of the round's episodes,
    episodes_to_goal where there is a goal, and the model's error.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), algorithm 2. Imagination starts from any
    state that was visited; with a local model, from those of the latest n
    episodes rather than of the last fit.
  """

  def episode(state, _):
    return _episode(state, world, agent, model, settings)

  state, metrics = jax.lax.scan(
    episode, state, None, length=settings.refit_every
  )
  metrics = jax.tree.map(jnp.mean, metrics)
  if settings.goal_return is not None:
    metrics["episodes_to_goal"] = state.goal
  if model is None:
    return state, metrics
  key, key_fit = jax.random.split(state.key)
  fit, found = model.refit(key_fit, state.fit, state.visited)
  state = state._replace(key=key, fit=fit)
  if settings.plans:
    plan = planning.replan(
      world.plain,
      fit.model,
      ring.contents(state.visited),
      max_kl=settings.max_kl,
      least_variance=state.hyper["sigma"] ** 2,
    )
    state = state._replace(plan=plan)
  return state, metrics | found


def _episode(state, world, agent, model, settings):
  key, key_plan = jax.random.split(state.key)
  state = state._replace(key=key)
  plans = jnp.array(False)
  if settings.plans:
    plans = jax.random.bernoulli(key_plan, settings.planner_share)
    plans &= state.num_episodes >= settings.refit_every  # there is one

  def block(state, _):
    if settings.imagines:
      state = _imagine(state, world, agent, model, settings)

    def step(state, _):
      state = _interact(state, world, agent, settings, plans)
      return _learn(state, agent, model, settings)

    return jax.lax.scan(step, state, None, length=world.block)

  num_blocks = world.horizon // world.block
  state, metrics = jax.lax.scan(block, state, None, length=num_blocks)
  state = state._replace(num_episodes=state.num_episodes + 1)
  if settings.goal_return is not None:
    state = state._replace(goal=_goal(state, world, agent, settings))
  return state, metrics | {"return": state.stream.last_total}


def _goal(state, world, agent, settings):
  """How many episodes it took, or one more than there were until now."""

  def act(key, seen):
    return agent.outputs(state.agent, seen).mean

  total = episodes.mean_return(world.limited, act, settings.num_starts)
  count = state.num_episodes.astype(jnp.float32)
  latest = jnp.where(total >= settings.goal_return, count, count + 1)
  return jnp.where(state.goal < count, state.goal, latest)


def _interact(state, world, agent, settings, plans):
  """Takes a step of the environment and remembers it."""
  key, *keys = jax.random.split(state.key, 5)
  stream, hyper = state.stream, state.hyper
  found = agent.outputs(state.agent, stream.env.observation)
  action, innovation = found.mean, None
  if settings.plans:
    planned = planning.act(state.plan, world.plain, stream.env.state)
    action = jnp.where(plans, planned, action)
  if settings.precision_noise and found.factor is not None:
    innovation = naf.noise(keys[0], found.factor)
  noise = exploration.ornstein_uhlenbeck(
    keys[1],
    stream.noise,
    theta=hyper["theta"],
    sigma=hyper["sigma"],
    dt=settings.dt,
    innovation=innovation,
  )
  action = jnp.clip(action + noise, -1.0, 1.0)
  following, (transition, truncated) = streams.step(
    keys[2],
    stream,
    world.acting,
    action,
    noise=noise,
    reward_scale=settings.reward_scale,
  )
  kept = True if settings.keep_truncated else ~truncated
  replay = ring.add(state.replay, transition, is_kept=kept)
  state = state._replace(replay=replay, stream=following, key=key)
  if state.visited == ():
    return state
  # The state that followed, also where an episode ended: stepped once more.
  after, _ = world.plain.step(keys[3], stream.env.state.state, action)
  visit = Visit(stream.env.state, stream.env.observation, action, after)
  return state._replace(visited=ring.add(state.visited, visit))


def _has_model(state, model, settings):
  """Whether there is a model, and still a use for it; True if ever there is."""
  count = state.num_episodes
  has = True if not model.needs_fit else count >= settings.refit_every
  until = settings.imagine_until
  return has & (count < until) if until else has


def _learn(state, agent, model, settings):
  """I updates on real transitions and I l on imagined ones, real ones last."""
  num_real, size = settings.updates_per_step, settings.batch_size
  num_more = num_real * settings.imagined_steps
  total = num_real + num_more * (settings.more_updates or settings.imagines)
  if settings.imagines:
    has = _has_model(state, model, settings)
    # A bound that runs share is cheaper than one that each may have.
    total = total if has is True else jnp.where(has, total, num_real)
  key, key_learn = jax.random.split(state.key)

  def one(i, carry):
    learner, key, _ = carry
    key, key_real, key_imagined = jax.random.split(key, 3)
    batch = ring.sample(key_real, state.replay, size)
    if settings.imagines:
      other = ring.sample(key_imagined, state.imagined, size)
      is_real = (i >= total - num_real) | (state.imagined.size == 0)
      batch = jax.tree.map(lambda x, y: jnp.where(is_real, x, y), batch, other)
    learner, metrics = agent.update(learner, batch, state.hyper)
    return learner, key, metrics

  carry = state.agent, key_learn, None
  form = jax.eval_shape(lambda carry: one(0, carry)[2], carry)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)
  learner, _, metrics = jax.lax.fori_loop(0, total, one, (*carry[:2], zeros))
  return state._replace(agent=learner, key=key), metrics


def _imagine(state, world, agent, model, settings):
  """Rolls the policy out in the model, once for each real step to come."""
  key, *keys = jax.random.split(state.key, 4)
  count, length, hyper = world.block, settings.imagined_steps, state.hyper
  starts = ring.sample(keys[0], state.visited, count)
  shape = (count, *world.plain.action_spec.shape)

  def drift(carry, _):
    key, noise = carry
    key, key_noise = jax.random.split(key)
    noise = exploration.ornstein_uhlenbeck(
      key_noise,
      noise,
      theta=hyper["theta"],
      sigma=settings.imagined_sigma or hyper["sigma"],
      dt=settings.dt,
    )
    return (key, noise), noise

  # Ten steps first: noise of an episode that is under way.
  carry = keys[1], jnp.zeros(shape)
  noise = jax.lax.scan(drift, carry, length=10 + length)[1][10:]

  def roll(key, start, noise):
    return imagination.rollout(
      key,
      start.state,
      start.observation,
      step=lambda *given: model.step(state.fit, *given),
      act=lambda key, seen: agent.outputs(state.agent, seen).mean,
      length=length,
      noise=noise,
    )

  rolls = jax.vmap(roll, (0, 0, 1))
  found = rolls(jax.random.split(keys[2], count), starts, noise)
  possible = jax.vmap(lambda x: _are_possible(x, world))(found)
  found = found._replace(is_valid=found.is_valid & possible)
  found = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
  reward = settings.reward_scale * found.reward
  steps = streams.Transition(*found._replace(reward=reward)[:-1])
  kept = found.is_valid & (state.visited.size > 0)
  kept &= _has_model(state, model, settings)
  imagined = ring.extend(state.imagined, steps, is_kept=kept)
  return state._replace(imagined=imagined, key=key)


def _are_possible(found, world):
  """Tells which steps of a rollout are before a wrong model left the world."""
  spec, seen = world.plain.observation_spec, found.next_observation
  low, high = (jnp.asarray(x)[None] for x in (spec.minimum, spec.maximum))
  possible = (low <= seen) & (seen <= high) & jnp.isfinite(seen)
  return jnp.cumprod(possible.all(-1) & jnp.isfinite(found.reward)) > 0
