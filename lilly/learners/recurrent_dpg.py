"""RDPG and RSVG(0): recurrent actor and critic, trained on whole episodes.

`init`, `act` and `update` define the agent, which learns from batches of
episodes of any origin. `start` and `update_round` are the complete algorithm,
with an environment, exploration and replay.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly.control import exploration
from lilly.envs import episodes
from lilly.envs.environment import Environment
from lilly.losses import recurrent_dpg, svg
from lilly.nets import network
from lilly.nets import recurrent_actor_critic as networks
from lilly.nets.recurrent_actor_critic import Networks
from lilly.replay import ring
from lilly.replay.episodes import Episode

__all__ = [
  "Run",
  "State",
  "act",
  "collect",
  "export",
  "init",
  "play",
  "start",
  "update",
  "update_round",
]

# Optimisers of actor and critic.
Optimisers = tuple[optax.GradientTransformation, optax.GradientTransformation]


class State(NamedTuple):
  """Parameters and optimiser states of an agent."""

  actor: Any
  critic: Any
  target_actor: Any
  target_critic: Any
  actor_opt_state: optax.OptState
  critic_opt_state: optax.OptState


class Run(NamedTuple):
  """State of one run."""

  agent: State
  replay: ring.State  # of `Episode`s
  # theta, sigma, discount, tau, and hyper-parameters of the optimisers
  hyper: Mapping[str, Any]
  key: jax.Array


def init(
  key: jax.Array,
  nets: Networks,
  observation: jax.Array,
  actor_optimiser: optax.GradientTransformation,
  critic_optimiser: optax.GradientTransformation,
) -> State:
  """Initialises an agent; target networks are copies of its networks.

  Args:
    key: typed key.
    nets: actor and critic from `nets.recurrent_actor_critic.networks`.
    observation: one observation.
    actor_optimiser: optimiser of the actor.
    critic_optimiser: optimiser of the critic.

  Returns:
    The state.
  """
  action = jnp.zeros(nets.num_actions)
  inputs = observation, action
  keys = jax.random.split(key)
  actor = networks.init(keys[0], nets.actor, inputs)
  critic = networks.init(keys[1], nets.critic, inputs, action)
  target_actor, target_critic = jax.tree.map(jnp.array, (actor, critic))
  return State(
    actor=actor,
    critic=critic,
    target_actor=target_actor,
    target_critic=target_critic,
    actor_opt_state=actor_optimiser.init(actor),
    critic_opt_state=critic_optimiser.init(critic),
  )


def act(
  nets: Networks,
  actor: Any,
  state: Any,
  observation: jax.Array,
  previous_action: jax.Array,
  noise: jax.Array | float = 0.0,
) -> tuple[Any, jax.Array]:
  """Acts on one observation, given the state of the recurrent core.

  Args:
    nets: actor and critic.
    actor: parameters of the actor.
    state: state of the actor's core; initially
      `nets.actor.core.initial_state()`.
    observation: the observation o_t.
    previous_action: the executed action a_{t-1}, [m]; initially zeros.
    noise: noise ν of a stochastic policy, [m]; 0: the median action.

  Returns:
    The state of the core, and the action in (-1, 1), [m].
  """
  inputs = networks.make_inputs(nets, observation[None], previous_action[None])
  state, features = networks.unroll(nets.actor, actor, inputs, state)
  mean, scale = networks.mean_and_scale(nets, actor, features[0])
  return state, networks.policy(nets, mean, scale)(noise)


def export(state: State) -> dict[str, Any]:
  """Selects actor and critic, without target networks and optimisers.

  Args:
    state: state of the agent.

  Returns:
    Parameters of actor and critic.
  """
  return {"actor": state.actor, "critic": state.critic}


def update(
  key: jax.Array,
  nets: Networks,
  state: State,
  batch: Episode,
  actor_optimiser: optax.GradientTransformation,
  critic_optimiser: optax.GradientTransformation,
  *,
  discount: float | jax.Array = 0.99,
  tau: float | jax.Array = 1e-2,
  num_samples: int = 1,
  squash_penalty: float = 0.0,
) -> tuple[State, dict[str, jax.Array]]:
  """Takes one gradient step of critic and actor; updates the targets.

  y_t = r_t + γ Q'(h_{t+1}, μ'(h_{t+1})); the critic descends the mean of
  (y_t - Q(h_t, a_t))² over the steps of episodes, the actor ascends that of
  Q(h_t, μ(h_t)), and then θ' <- τ θ + (1 - τ) θ'. The actor's Q is that of the
  critic before this step, so that one unroll of the critic serves both.

  Args:
    key: typed key; RDPG does not use it.
    nets: actor and critic.
    state: state of the agent.
    batch: episodes, [B, ...] each.
    actor_optimiser: optimiser of the actor; it should clip gradients.
    critic_optimiser: optimiser of the critic; likewise.
    discount: discount factor γ.
    tau: target update rate τ.
    num_samples: noise samples of a stochastic policy, in targets and loss.
    squash_penalty: coefficient of the mean square of m, the pre-tanh action, in
      the actor's loss.

  Returns:
    The state, and scalars from before the step: critic_loss, q (mean of
    Q(h, a)) and policy_value (mean of Q(h, μ(h))).

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), algorithm 1.
  """
  observation, previous = recurrent_dpg.history(batch.observation, batch.action)
  inputs = networks.make_inputs(nets, observation, previous)
  noise = _sample_noise(key, nets, (num_samples, *previous.shape))
  y = _targets(nets, state, batch, inputs, noise[0], discount)
  past = jax.tree.map(lambda x: x[:, :-1], inputs)  # o_{T+1} is for targets

  def critic_loss(critic):
    features = networks.unroll_episodes(nets.critic, critic, past)
    values = networks.evaluate(nets, critic, features, batch.action)
    loss = recurrent_dpg.critic_loss(values, y, batch.mask)
    return loss, (features, values)

  value_and_grad = jax.value_and_grad(critic_loss, has_aux=True)
  (loss, (features, values)), critic_grads = value_and_grad(state.critic)
  actor_grads, minus_value = jax.grad(_actor_loss, has_aux=True)(
    state.actor,
    nets,
    state.critic,
    past,
    features,
    noise[1][:, :, :-1],
    batch.mask,
    squash_penalty,
  )
  state = _descend(
    state,
    (actor_grads, critic_grads),
    (actor_optimiser, critic_optimiser),
    tau,
  )
  return state, {
    "critic_loss": loss,
    "q": _mean_over_steps(values, batch.mask),
    "policy_value": -minus_value,
  }


def _actor_loss(
  actor, nets, critic, past, features, noise, mask, squash_penalty
):
  """Returns the loss with and without the penalty.

  Where an action has no effect, dQ/da is pure critic error; following it
  saturates tanh, whose gradient vanishes. Hence the penalty.
  """
  own = networks.unroll_episodes(nets.actor, actor, past)
  mean, scale = networks.mean_and_scale(nets, actor, own)
  policy = networks.policy(nets, mean, scale)
  q = functools.partial(networks.evaluate, nets, critic)
  loss = svg.actor_loss(q, features, policy, noise, mask)
  square = jnp.mean(jnp.square(mean), axis=-1)
  return loss + squash_penalty * _mean_over_steps(square, mask), loss


def _mean_over_steps(values, mask):
  """Averages over the steps of episodes."""
  return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def _sample_noise(key, nets, shape):
  """Draws ν for the targets and for the actor."""
  if not nets.is_stochastic:
    return [jnp.zeros((1, *shape[1:]))] * 2
  return [jax.random.normal(k, shape) for k in jax.random.split(key)]


def _targets(nets, state, batch, inputs, noise, discount):
  target_actor, target_critic = state.target_actor, state.target_critic
  features = networks.unroll_episodes(nets.actor, target_actor, inputs)
  mean, scale = networks.mean_and_scale(nets, target_actor, features)
  policy = networks.policy(nets, mean, scale)
  features = networks.unroll_episodes(nets.critic, target_critic, inputs)

  def q(noise):
    return networks.evaluate(nets, target_critic, features, policy(noise))

  value = svg.average_samples(jax.vmap(q)(noise))
  return recurrent_dpg.targets(batch.reward, discount * batch.discount, value)


def _descend(state, grads, optimisers, tau):
  """Steps actor and critic, then their target networks."""
  actor_updates, actor_opt_state = optimisers[0].update(
    grads[0], state.actor_opt_state, state.actor
  )
  critic_updates, critic_opt_state = optimisers[1].update(
    grads[1], state.critic_opt_state, state.critic
  )
  actor = optax.apply_updates(state.actor, actor_updates)
  critic = optax.apply_updates(state.critic, critic_updates)
  target_actor, target_critic = network.update_targets(
    (actor, critic), (state.target_actor, state.target_critic), tau
  )
  return State(
    actor=actor,
    critic=critic,
    target_actor=target_actor,
    target_critic=target_critic,
    actor_opt_state=actor_opt_state,
    critic_opt_state=critic_opt_state,
  )


def play(
  key: jax.Array,
  env: Environment,
  nets: Networks,
  actor: Any,
  *,
  num_steps: int,
  is_greedy: bool = True,
  theta: float | jax.Array = 0.15,
  sigma: float | jax.Array = 0.2,
) -> Any:
  """Plays an episode, from the core's initial state.

  Deterministic policies explore by Ornstein-Uhlenbeck noise, stochastic ones by
  their own noise.

  Args:
    key: typed key.
    env: an environment with actions in [-1, 1].
    nets: actor and critic.
    actor: parameters of the actor.
    num_steps: steps of the episode, T.
    is_greedy: whether to act without noise.
    theta: mean-reversion rate θ.
    sigma: volatility σ.

  Returns:
    As `envs.episodes.rollout_with_memory`: states, observations, actions and
    steps, [T, ...] each.
  """
  zeros = jnp.zeros(nets.num_actions)

  def act_with_noise(key, memory, observation, previous_action):
    state, noise = memory
    own_noise = zeros
    if not is_greedy:
      key, key_own = jax.random.split(key)
      own_noise = jax.random.normal(key_own, zeros.shape)
      noise = exploration.ornstein_uhlenbeck(
        key, noise, theta=theta, sigma=sigma
      )
    if nets.is_stochastic:
      noise = zeros
    state, action = act(
      nets, actor, state, observation, previous_action, own_noise
    )
    return (state, noise), jnp.clip(action + noise, -1.0, 1.0)

  memory = nets.actor.core.initial_state(), zeros
  return episodes.rollout_with_memory(
    key, env, act_with_noise, memory, num_steps
  )


def collect(
  key: jax.Array,
  env: Environment,
  nets: Networks,
  actor: Any,
  *,
  num_episodes: int,
  num_steps: int,
  is_greedy: bool = False,
  theta: float | jax.Array = 0.15,
  sigma: float | jax.Array = 0.2,
) -> Episode:
  """Plays episodes, for replay or, greedily, for evaluation.

  Args:
    key: typed key.
    env: as in `play`.
    nets: as in `play`.
    actor: as in `play`.
    num_episodes: number of episodes, N.
    num_steps: as in `play`.
    is_greedy: as in `play`.
    theta: as in `play`.
    sigma: as in `play`.

  Returns:
    The episodes, masked after their ends, [N, ...] each.
  """

  def collect_one(key):
    return episodes.recorded(
      play(
        key,
        env,
        nets,
        actor,
        num_steps=num_steps,
        is_greedy=is_greedy,
        theta=theta,
        sigma=sigma,
      )
    )

  return jax.vmap(collect_one)(jax.random.split(key, num_episodes))


def start(
  key: jax.Array,
  hyper: Mapping[str, Any],
  env: Environment,
  nets: Networks,
  optimisers: Callable[[Mapping[str, Any]], Optimisers],
  *,
  num_steps: int,
  start_episodes: int = 16,
  capacity: int = 2000,
) -> Run:
  """Starts a run: a new agent, and replay with its first episodes.

  Args:
    key: typed key.
    hyper: theta, sigma, discount, tau, and hyper-parameters of the optimisers.
    env: an environment with actions in [-1, 1].
    nets: actor and critic.
    optimisers: maps hyper to the optimisers of actor and critic.
    num_steps: steps per episode, T.
    start_episodes: episodes in replay before the first update.
    capacity: capacity of the replay, in episodes.

  Returns:
    The run's state.
  """
  key, key_agent, key_play = jax.random.split(key, 3)
  spec = env.observation_spec
  observation = jnp.zeros(spec.shape, spec.dtype)
  agent = init(key_agent, nets, observation, *optimisers(hyper))
  found = collect(
    key_play,
    env,
    nets,
    agent.actor,
    num_episodes=start_episodes,
    num_steps=num_steps,
    theta=hyper["theta"],
    sigma=hyper["sigma"],
  )
  example = jax.tree.map(lambda x: x[0], found)
  replay = ring.extend(ring.init(example, capacity), found)
  return Run(agent, replay, hyper, key)


def update_round(
  run: Run,
  env: Environment,
  nets: Networks,
  optimisers: Callable[[Mapping[str, Any]], Optimisers],
  *,
  num_steps: int,
  num_episodes: int = 2,
  num_updates: int = 40,
  batch_size: int = 16,
  reward_scale: float = 1.0,
  num_samples: int = 1,
  squash_penalty: float = 0.0,
) -> tuple[Run, dict[str, jax.Array]]:
  """Collects new episodes, then updates on batches from replay.

  Args:
    run: the run's state.
    env: as in `start`.
    nets: as in `start`.
    optimisers: as in `start`.
    num_steps: as in `start`.
    num_episodes: number of new episodes.
    num_updates: number of updates after them.
    batch_size: episodes per update, B.
    reward_scale: rewards are multiplied by this before learning.
    num_samples: as in `update`.
    squash_penalty: as in `update`.

  Returns:
    The run's state; means of the metrics of `update`, and return: the mean
    return of the new episodes.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), algorithm 1.
  """
  key, key_play, key_learn = jax.random.split(run.key, 3)
  found = collect(
    key_play,
    env,
    nets,
    run.agent.actor,
    num_episodes=num_episodes,
    num_steps=num_steps,
    theta=run.hyper["theta"],
    sigma=run.hyper["sigma"],
  )
  replay = ring.extend(run.replay, found)

  def learn(carry, _):
    key, agent = carry
    key, key_sample, key_update = jax.random.split(key, 3)
    batch = ring.sample(key_sample, replay, batch_size)
    agent, metrics = update(
      key_update,
      nets,
      agent,
      batch._replace(reward=reward_scale * batch.reward),
      *optimisers(run.hyper),
      discount=run.hyper["discount"],
      tau=run.hyper["tau"],
      num_samples=num_samples,
      squash_penalty=squash_penalty,
    )
    return (key, agent), metrics

  (_, agent), metrics = jax.lax.scan(
    learn, (key_learn, run.agent), length=num_updates
  )
  metrics = jax.tree.map(jnp.mean, metrics)
  metrics["return"] = jnp.mean(jnp.sum(found.reward, axis=1))
  return Run(agent, replay, run.hyper, key), metrics
