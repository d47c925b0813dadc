"""DDPG: a critic, a policy, and target networks of both.

`init`, `act`, `value` and `update` define the agent, which learns from batches
of transitions of any origin. `start` and `step` are the complete algorithm 1,
with an environment, exploration and replay.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly.envs import episodes, streams
from lilly.envs.environment import Environment
from lilly.learners import interaction
from lilly.losses import dpg
from lilly.nets import network
from lilly.nets.actor_critic import Networks
from lilly.nets.network import Variables
from lilly.replay import ring

__all__ = [
  "Run",
  "State",
  "act",
  "adam",
  "evaluate_critic",
  "export",
  "greedy",
  "init",
  "start",
  "step",
  "update",
  "value",
]

# Optimisers of policy and critic.
Optimisers = tuple[optax.GradientTransformation, optax.GradientTransformation]


class State(NamedTuple):
  """Variables and optimiser states of an agent."""

  policy: Variables
  critic: Variables
  target_policy: Variables
  target_critic: Variables
  policy_opt_state: optax.OptState
  critic_opt_state: optax.OptState


class Run(NamedTuple):
  """State of one run."""

  agent: State
  replay: ring.State
  stream: streams.State
  # theta, sigma, discount, tau, and hyper-parameters of the optimisers
  hyper: Mapping[str, Any]
  key: jax.Array


def adam(
  learning_rate: float | jax.Array, weight_decay: float | jax.Array = 0.0
) -> optax.GradientTransformation:
  """Makes Adam with L2 weight decay added to the gradient.

  Not AdamW: Adam's moment estimates are of g + λ w. Biases, and scales and
  offsets of batch normalisation, do not decay.

  Args:
    learning_rate: learning rate of Adam.
    weight_decay: coefficient λ of the penalty.

  Returns:
    The optimiser.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), supplement 7: 1e-2 for the
    critic; that it is coupled is our reading (unconfirmed).
  """

  def is_matrix(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)

  decay = optax.add_decayed_weights(weight_decay, mask=is_matrix)
  return optax.chain(decay, optax.adam(learning_rate))


def init(
  key: jax.Array,
  nets: Networks,
  observations: jax.Array,
  policy_optimiser: optax.GradientTransformation,
  critic_optimiser: optax.GradientTransformation,
) -> State:
  """Initialises an agent; target networks are copies of its networks.

  Args:
    key: typed key.
    nets: policy and critic, such as from `actor_critic.networks`.
    observations: batch that initialises the averages of batch normalisation,
      [B, ...].
    policy_optimiser: optimiser of the policy.
    critic_optimiser: optimiser of the critic.

  Returns:
    The state.
  """
  keys = jax.random.split(key)
  policy, actions = network.init(keys[0], nets.policy, observations)
  critic, _ = network.init(keys[1], nets.critic, observations, actions)
  target_policy, target_critic = jax.tree.map(jnp.array, (policy, critic))
  return State(
    policy=policy,
    critic=critic,
    target_policy=target_policy,
    target_critic=target_critic,
    policy_opt_state=policy_optimiser.init(policy.params),
    critic_opt_state=critic_optimiser.init(critic.params),
  )


def act(nets: Networks, policy: Variables, observation: jax.Array) -> jax.Array:
  """Acts greedily; batch normalisation uses its running averages.

  Args:
    nets: policy and critic.
    policy: variables of the policy.
    observation: one observation.

  Returns:
    The action, in (-1, 1), [m].
  """
  return network.apply_one(nets.policy, policy, observation)


def greedy(
  nets: Networks, policy: Variables
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Makes a deterministic policy for `envs.episodes` from `act`.

  Args:
    nets: policy and critic.
    policy: variables of the policy.

  Returns:
    Maps a key and an observation to an action.
  """
  return lambda key, observation: act(nets, policy, observation)


def value(
  nets: Networks, critic: Variables, observation: jax.Array, action: jax.Array
) -> jax.Array:
  """Returns the critic's Q(s, a), with running averages as in `act`.

  Args:
    nets: policy and critic.
    critic: variables of the critic.
    observation: one observation.
    action: an action, [m].

  Returns:
    The expected discounted return, [].
  """
  return network.apply_one(nets.critic, critic, observation, action)


def export(state: State) -> dict[str, Variables]:
  """Selects policy and critic, without target networks and optimisers.

  Args:
    state: state of the agent.

  Returns:
    Variables of policy and critic: parameters and running averages.
  """
  return {"policy": state.policy, "critic": state.critic}


def update(
  nets: Networks,
  state: State,
  batch: streams.Transition,
  policy_optimiser: optax.GradientTransformation,
  critic_optimiser: optax.GradientTransformation,
  *,
  discount: float | jax.Array = 0.99,
  tau: float | jax.Array = 1e-3,
) -> tuple[State, dict[str, jax.Array]]:
  """Takes one gradient step of critic and policy; updates the targets.

  y = r + γ Q'(s', μ'(s')); the critic descends the mean of (y - Q(s, a))², the
  policy ascends the mean of Q(s, μ(s)) of the new critic, and then
  θ' <- τ θ + (1 - τ) θ'.

  Batch normalisation uses the batch's mean and variance in the networks that
  learn, and running averages in the target networks, which are Polyak averaged
  like parameters. The paper does not state what its targets use (unconfirmed).

  Args:
    nets: policy and critic.
    state: state of the agent.
    batch: transitions, [B, ...] each.
    policy_optimiser: optimiser of the policy.
    critic_optimiser: optimiser of the critic, including weight decay.
    discount: discount factor γ.
    tau: target update rate τ; 1: no target networks.

  Returns:
    The state, and scalars: critic_loss, q (mean of Q(s, a)) and policy_value
    (mean of Q(s, μ(s))).

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), algorithm 1.
  """
  observation = batch.next_observation
  a_t, _ = network.apply(nets.policy, state.target_policy, observation)
  q_t, _ = network.apply(nets.critic, state.target_critic, observation, a_t)
  discounts = discount * batch.discount
  state, critic_metrics = _update_critic(
    nets, state, batch, discounts, q_t, critic_optimiser
  )
  state, policy_metrics = _update_policy(nets, state, batch, policy_optimiser)
  target_policy, target_critic = network.update_targets(
    (state.policy, state.critic),
    (state.target_policy, state.target_critic),
    tau,
  )
  state = state._replace(
    target_policy=target_policy, target_critic=target_critic
  )
  return state, critic_metrics | policy_metrics


def _update_critic(nets, state, batch, discounts, q_t, optimiser):
  """Descends the mean squared error; returns state and metrics."""

  def loss(params):
    q_tm1, net_state = network.apply(
      nets.critic,
      state.critic._replace(params=params),
      batch.observation,
      batch.action,
      is_training=True,
    )
    losses = jax.vmap(dpg.critic_loss)(q_tm1, batch.reward, discounts, q_t)
    return jnp.mean(losses), (net_state, jnp.mean(q_tm1))

  value_and_grad = jax.value_and_grad(loss, has_aux=True)
  (error, (net_state, q)), grads = value_and_grad(state.critic.params)
  critic, opt_state = network.step(
    optimiser, grads, state.critic_opt_state, state.critic, net_state
  )
  state = state._replace(critic=critic, critic_opt_state=opt_state)
  return state, {"critic_loss": error, "q": q}


def _update_policy(nets, state, batch, optimiser):
  """Ascends the mean value; returns state and metrics."""

  def loss(params):
    actions, net_state = network.apply(
      nets.policy,
      state.policy._replace(params=params),
      batch.observation,
      is_training=True,
    )
    values, _ = network.apply(
      nets.critic, state.critic, batch.observation, actions, is_training=True
    )
    return -jnp.mean(values), net_state

  value_and_grad = jax.value_and_grad(loss, has_aux=True)
  (minus_value, net_state), grads = value_and_grad(state.policy.params)
  policy, opt_state = network.step(
    optimiser, grads, state.policy_opt_state, state.policy, net_state
  )
  state = state._replace(policy=policy, policy_opt_state=opt_state)
  return state, {"policy_value": -minus_value}


def start(
  key: jax.Array,
  hyper: Mapping[str, Any],
  env: Environment,
  nets: Networks,
  optimisers: Callable[[Mapping[str, Any]], Optimisers],
  *,
  capacity: int = 1_000_000,
  start_steps: int = 1000,
  batch_size: int = 64,
  reward_scale: float = 1.0,
  keep_truncated: bool = True,
) -> Run:
  """Starts a run: a new agent, and replay filled by random actions.

  Args:
    key: typed key.
    hyper: theta, sigma, discount, tau, and hyper-parameters of the optimisers.
    env: environment with automatic reset and actions in [-1, 1].
    nets: policy and critic.
    optimisers: maps hyper to the optimisers of policy and critic.
    capacity: capacity of the replay, in transitions.
    start_steps: random steps before the first update.
    batch_size: transitions to initialise batch normalisation.
    reward_scale: rewards are multiplied by this before they are stored.
    keep_truncated: whether transitions truncated by the time limit are stored.

  Returns:
    The run's state.
  """
  key, key_fill, key_sample, key_init = jax.random.split(key, 4)
  stream, replay = interaction.fill(
    key_fill,
    env,
    capacity=capacity,
    num_steps=start_steps,
    reward_scale=reward_scale,
    keep_truncated=keep_truncated,
  )
  batch = ring.sample(key_sample, replay, batch_size)
  agent = init(key_init, nets, batch.observation, *optimisers(hyper))
  return Run(agent, replay, stream, hyper, key)


def step(
  run: Run,
  env: Environment,
  nets: Networks,
  optimisers: Callable[[Mapping[str, Any]], Optimisers],
  *,
  batch_size: int = 64,
  dt: float = 1.0,
  reward_scale: float = 1.0,
  keep_truncated: bool = True,
) -> tuple[Run, dict[str, jax.Array]]:
  """Takes one environment step and one update.

  Args:
    run: the run's state.
    env: as in `start`.
    nets: as in `start`.
    optimisers: as in `start`.
    batch_size: transitions per update.
    dt: time step of the Ornstein-Uhlenbeck noise.
    reward_scale: as in `start`.
    keep_truncated: as in `start`.

  Returns:
    The run's state; the metrics of `update`, and return: the return of the last
    complete episode.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), algorithm 1.
  """
  key, key_noise, key_step, key_sample = jax.random.split(run.key, 4)
  hyper, stream = run.hyper, run.stream
  noise, action = interaction.explore(
    key_noise,
    stream.noise,
    act(nets, run.agent.policy, stream.env.observation),
    theta=hyper["theta"],
    sigma=hyper["sigma"],
    dt=dt,
  )
  stream, replay = interaction.step(
    key_step,
    stream,
    run.replay,
    env,
    action,
    noise=noise,
    reward_scale=reward_scale,
    keep_truncated=keep_truncated,
  )
  agent, metrics = update(
    nets,
    run.agent,
    ring.sample(key_sample, replay, batch_size),
    *optimisers(hyper),
    discount=hyper["discount"],
    tau=hyper["tau"],
  )
  run = Run(agent, replay, stream, hyper, key)
  return run, metrics | {"return": stream.last_total}


def evaluate_critic(
  key: jax.Array,
  env: Environment,
  nets: Networks,
  state: State,
  *,
  discount: float | jax.Array = 0.99,
  num_steps: int = 200,
  num_steps_after: int = 400,
) -> tuple[jax.Array, jax.Array]:
  """Compares Q(s, a) with observed discounted returns in a greedy episode.

  Args:
    key: typed key.
    env: environment without a time limit.
    nets: policy and critic.
    state: state of the agent.
    discount: discount factor γ.
    num_steps: number of compared steps, T.
    num_steps_after: further steps whose rewards enter the returns; with a
      discount of 0.99, 400 steps leave out 2 %.

  Returns:
    Q and discounted returns, [T] each; NaN after a termination.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), figure 3.
  """
  _, observations, actions, steps = episodes.rollout(
    key, env, greedy(nets, state.policy), num_steps + num_steps_after
  )
  returns = episodes.discounted(steps, discount)
  q = jax.vmap(lambda s, a: value(nets, state.critic, s, a))
  return q(observations, actions)[:num_steps], returns[:num_steps]
