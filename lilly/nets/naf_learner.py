"""One update of NAF: a value, its best action, its curvature, slow copies."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from lilly.envs.streams import Transition
from lilly.losses import naf
from lilly.nets import actor_critic, weights
from lilly.nets.weights import Weights

__all__ = [
  "Outputs",
  "State",
  "greedy",
  "init",
  "network",
  "outputs",
  "update",
]


class Outputs(NamedTuple):
  """What is known of an observation: Q(x, u) = V + A(u; μ, L)."""

  value: jax.Array  # V, []
  mean: jax.Array  # μ, [m]: the best action
  factor: jax.Array | None  # L, [m, m], of the curvature P = L Lᵀ


class State(NamedTuple):
  """What an agent has learnt."""

  online: Weights
  target: Weights  # the slow copy, of which V' alone is used
  moments: optax.OptState


def network(
  num_actions: int,
  hidden_sizes: Sequence[int] = (200, 200),
  *,
  batch_norm: dict[str, Any] | None = None,
) -> hk.TransformedWithState:
  """Makes the paper's networks, as one function of an observation.

  Args:
    num_actions: numbers in an action, m.
    hidden_sizes: units of each layer, of each of the three.
    batch_norm: as in `actor_critic.NormalizedAdvantage`.

  Returns:
    The network: (observation, is_training) -> `Outputs`.

  Raises:
    ValueError: when called, if a size is not positive.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 6.
  """

  def of_one(observation, is_training=False):
    three = actor_critic.NormalizedAdvantage(
      num_actions, hidden_sizes, batch_norm=batch_norm
    )
    value, mean, numbers = three(observation, is_training)
    return Outputs(value, mean, naf.triangle(numbers))

  return hk.transform_with_state(of_one)


def init(
  key: jax.Array,
  net: hk.TransformedWithState,
  observations: jax.Array,
  optimiser: optax.GradientTransformation,
) -> State:
  """Starts an agent; the slow copy begins equal to what it copies.

  Args:
    key: typed key.
    net: as from `network`.
    observations: a batch, from whose moments batch normalisation begins,
      [B, ...].
    optimiser: of the parameters.

  Returns:
    The state.
  """
  online, _ = weights.init(key, net, observations)
  target = jax.tree.map(jnp.array, online)
  return State(online, target, optimiser.init(online.params))


def outputs(
  net: hk.TransformedWithState, state: State, observation: jax.Array
) -> Outputs:
  """Says what is known of an observation, by the running averages.

  Args:
    net: as from `network`.
    state: of the agent.
    observation: one.

  Returns:
    V, μ and L.
  """
  return weights.apply_one(net, state.online, observation)


def greedy(
  net: hk.TransformedWithState, state: State
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Makes the policy of the best actions, as `envs.episodes` play it.

  Args:
    net: as from `network`.
    state: of the agent.

  Returns:
    Maps a key, which is unused, and an observation to an action, [m].
  """
  return lambda key, observation: outputs(net, state, observation).mean


def update(
  net: hk.TransformedWithState,
  state: State,
  batch: Transition,
  optimiser: optax.GradientTransformation,
  *,
  discount: float | jax.Array = 0.99,
  tau: float | jax.Array = 1e-3,
) -> tuple[State, dict[str, jax.Array]]:
  """Descends the mean of (y - Q(x, u))², y = r + γ V'(x'), moves the copy.

  Batch normalisation uses the batch's moments in what learns and running
  averages in the copy, as in `policy_gradient_learner.update` (unconfirmed).

  Args:
    net: as from `network`.
    state: of the agent.
    batch: transitions, [B, ...] each.
    optimiser: of the parameters.
    discount: γ; the paper does not state it (unconfirmed), DDPG's.
    tau: τ; likewise.

  Returns:
    The state, and scalars: critic_loss, q (mean of Q(x, u)) and value (mean of
    V(x)).

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), algorithm 1.
  """
  following, _ = weights.apply(net, state.target, batch.next_observation)
  discounts = discount * batch.discount

  def loss(params):
    online = state.online._replace(params=params)
    found, norms = weights.apply(
      net, online, batch.observation, is_training=True
    )
    advantages = jax.vmap(naf.advantage)(batch.action, found.mean, found.factor)
    losses = jax.vmap(naf.loss)(
      found.value, advantages, batch.reward, discounts, following.value
    )
    values = {"q": found.value + advantages, "value": found.value}
    return jnp.mean(losses), (norms, jax.tree.map(jnp.mean, values))

  slope = jax.value_and_grad(loss, has_aux=True)
  (error, (norms, metrics)), grads = slope(state.online.params)
  online, moments = weights.step(
    optimiser, grads, state.moments, state.online, norms
  )
  target = weights.follow(online, state.target, tau)
  return State(online, target, moments), metrics | {"critic_loss": error}
