"""One update of DDPG: a critic, its policy, and slow copies of both."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from lilly.envs.streams import Transition
from lilly.losses import dpg
from lilly.nets import actor_critic, weights
from lilly.nets.weights import Weights

__all__ = [
  "Networks",
  "State",
  "act",
  "greedy",
  "init",
  "networks",
  "update",
  "value",
]


class Networks(NamedTuple):
  """Functions of one example, `hk.transform_with_state`d."""

  policy: hk.TransformedWithState  # (observation, is_training) -> action [m]
  critic: hk.TransformedWithState  # (observation, action, is_training) -> []


class State(NamedTuple):
  """What an agent has learnt."""

  policy: Weights
  critic: Weights
  target_policy: Weights
  target_critic: Weights
  policy_moments: optax.OptState
  critic_moments: optax.OptState


def networks(
  num_actions: int,
  hidden_sizes: Sequence[int] = (400, 300),
  *,
  pixels: bool = False,
  batch_norm: dict[str, Any] | None = None,
) -> Networks:
  """Makes the paper's networks.

  Args:
    num_actions: numbers in an action, m.
    hidden_sizes: units of the dense layers; with pixels the paper has 200, 200.
    pixels: whether observations are images; then policy and critic have
      convolutions of their own, and actions enter at the first dense layer.
    batch_norm: as in `actor_critic.DeterministicPolicy`.

  Returns:
    The networks.

  Raises:
    ValueError: when called, if a size is not positive.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), supplement 7.
  """
  options: dict[str, Any] = {"batch_norm": batch_norm}
  options["output_bound"] = 3e-4 if pixels else 3e-3

  def seen(observation):
    return actor_critic.PixelEncoder()(observation) if pixels else observation

  def policy(observation, is_training=False):
    network = actor_critic.DeterministicPolicy(
      num_actions, hidden_sizes, **options
    )
    return network(seen(observation), is_training)

  def critic(observation, action, is_training=False):
    network = actor_critic.LateActionCritic(
      hidden_sizes, action_layer=0 if pixels else 1, **options
    )
    return network(seen(observation), action, is_training)

  return Networks(
    hk.transform_with_state(policy), hk.transform_with_state(critic)
  )


def init(
  key: jax.Array,
  nets: Networks,
  observations: jax.Array,
  policy_optimiser: optax.GradientTransformation,
  critic_optimiser: optax.GradientTransformation,
) -> State:
  """Starts an agent; the slow copies begin equal to what they copy.

  Args:
    key: typed key.
    nets: as from `networks`.
    observations: a batch, from whose moments batch normalisation begins,
      [B, ...].
    policy_optimiser: of the policy.
    critic_optimiser: of the critic.

  Returns:
    The state.
  """
  keys = jax.random.split(key)
  policy, actions = weights.init(keys[0], nets.policy, observations)
  critic, _ = weights.init(keys[1], nets.critic, observations, actions)
  copies = jax.tree.map(jnp.array, (policy, critic))
  return State(
    policy=policy,
    critic=critic,
    target_policy=copies[0],
    target_critic=copies[1],
    policy_moments=policy_optimiser.init(policy.params),
    critic_moments=critic_optimiser.init(critic.params),
  )


def act(nets: Networks, policy: Weights, observation: jax.Array) -> jax.Array:
  """Acts greedily: batch normalisation uses its running averages.

  Args:
    nets: as from `networks`.
    policy: of the state.
    observation: one.

  Returns:
    The action, in (-1, 1), [m].
  """
  return weights.apply_one(nets.policy, policy, observation)


def greedy(
  nets: Networks, policy: Weights
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Makes `act` of one policy, as `envs.episodes` play it: the key is unused.

  Args:
    nets: as from `networks`.
    policy: of the state.

  Returns:
    Maps a key and an observation to an action.
  """
  return lambda key, observation: act(nets, policy, observation)


def value(
  nets: Networks, critic: Weights, observation: jax.Array, action: jax.Array
) -> jax.Array:
  """Returns the critic's Q(s, a), [], as `act` uses the policy.

  Args:
    nets: as from `networks`.
    critic: of the state.
    observation: one.
    action: [m].

  Returns:
    The expected sum of discounted rewards.
  """
  return weights.apply_one(nets.critic, critic, observation, action)


def update(
  nets: Networks,
  state: State,
  batch: Transition,
  policy_optimiser: optax.GradientTransformation,
  critic_optimiser: optax.GradientTransformation,
  *,
  discount: float | jax.Array = 0.99,
  tau: float | jax.Array = 1e-3,
) -> tuple[State, dict[str, jax.Array]]:
  """Takes a step of the critic, one of the policy, and moves the copies.

  y = r + γ Q'(s', μ'(s')); the critic descends the mean of (y - Q(s, a))², the
  policy ascends the mean of Q(s, μ(s)) of the new critic, and then
  θ' <- τ θ + (1 - τ) θ'.

  Batch normalisation uses the batch's moments in what learns, and running
  averages in the copies, whose averages follow slowly as their parameters do.
  The paper does not say what the copies use (unconfirmed).

  Args:
    nets: as from `networks`.
    state: of the agent.
    batch: transitions, [B, ...] each.
    policy_optimiser: of the policy.
    critic_optimiser: of the critic; it adds the weight decay.
    discount: γ.
    tau: τ; 1 is learning without slow copies.

  Returns:
    The state, and scalars: critic_loss, q (mean of Q(s, a)) and policy_value
    (mean of Q(s, μ(s))).

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), algorithm 1.
  """
  following = batch.next_observation
  a_next, _ = weights.apply(nets.policy, state.target_policy, following)
  q_next, _ = weights.apply(nets.critic, state.target_critic, following, a_next)
  discounts = discount * batch.discount
  state, of_critic = _critic_step(
    nets, state, batch, discounts, q_next, critic_optimiser
  )
  state, of_policy = _policy_step(nets, state, batch, policy_optimiser)
  new = (state.policy, state.critic)
  slow = weights.follow(new, (state.target_policy, state.target_critic), tau)
  state = state._replace(target_policy=slow[0], target_critic=slow[1])
  return state, of_critic | of_policy


def _critic_step(nets, state, batch, discounts, q_next, optimiser):
  """Descends the mean squared error; returns state and metrics."""

  def loss(params):
    critic = state.critic._replace(params=params)
    inputs = (batch.observation, batch.action)
    q, norms = weights.apply(nets.critic, critic, *inputs, is_training=True)
    losses = jax.vmap(dpg.critic_loss)(q, batch.reward, discounts, q_next)
    return jnp.mean(losses), (norms, jnp.mean(q))

  slope = jax.value_and_grad(loss, has_aux=True)
  (value, (norms, q)), grads = slope(state.critic.params)
  critic, moments = weights.step(
    optimiser, grads, state.critic_moments, state.critic, norms
  )
  state = state._replace(critic=critic, critic_moments=moments)
  return state, {"critic_loss": value, "q": q}


def _policy_step(nets, state, batch, optimiser):
  """Ascends the mean value; returns state and metrics."""

  def loss(params):
    policy = state.policy._replace(params=params)
    actions, norms = weights.apply(
      nets.policy, policy, batch.observation, is_training=True
    )
    inputs = (batch.observation, actions)
    values, _ = weights.apply(
      nets.critic, state.critic, *inputs, is_training=True
    )
    return -jnp.mean(values), norms

  slope = jax.value_and_grad(loss, has_aux=True)
  (minus_value, norms), grads = slope(state.policy.params)
  policy, moments = weights.step(
    optimiser, grads, state.policy_moments, state.policy, norms
  )
  state = state._replace(policy=policy, policy_moments=moments)
  return state, {"policy_value": -minus_value}
