"""NAF: Q-learning for continuous actions, with a target network."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly.envs.streams import Transition
from lilly.losses import naf
from lilly.nets import network
from lilly.nets.network import Network, Variables
from lilly.nets.normalized_advantage import Outputs

__all__ = ["State", "greedy", "init", "outputs", "update"]


class State(NamedTuple):
  """Variables and optimiser state of an agent."""

  online: Variables
  target: Variables  # target network, of which only V' is used
  opt_state: optax.OptState


def init(
  key: jax.Array,
  net: Network,
  observations: jax.Array,
  optimiser: optax.GradientTransformation,
) -> State:
  """Initialises an agent; the target network is a copy of its network.

  Args:
    key: typed key.
    net: maps an observation to `normalized_advantage.Outputs`, such as from
      `normalized_advantage.network`.
    observations: batch that initialises the averages of batch normalisation,
      [B, ...].
    optimiser: optimiser of the parameters.

  Returns:
    The state.
  """
  online, _ = network.init(key, net, observations)
  target = jax.tree.map(jnp.array, online)
  return State(online, target, optimiser.init(online.params))


def outputs(net: Network, state: State, observation: jax.Array) -> Outputs:
  """Evaluates V, μ and L for one observation (batch norm in inference mode).

  Args:
    net: as in `init`.
    state: state of the agent.
    observation: one observation.

  Returns:
    V, μ and L.
  """
  return network.apply_one(net, state.online, observation)


def greedy(
  net: Network, state: State
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Makes a policy for `envs.episodes` from the greedy actions μ.

  Args:
    net: as in `init`.
    state: state of the agent.

  Returns:
    Maps a key, which is unused, and an observation to an action, [m].
  """
  return lambda key, observation: outputs(net, state, observation).mean


def update(
  net: Network,
  state: State,
  batch: Transition,
  optimiser: optax.GradientTransformation,
  *,
  discount: float | jax.Array = 0.99,
  tau: float | jax.Array = 1e-3,
) -> tuple[State, dict[str, jax.Array]]:
  """Minimises the mean of (y - Q(x, u))², y = r + γ V'(x'); updates the target.

  Batch normalisation uses the batch's mean and variance in the network that
  learns, and running averages in the target network, as in `ddpg.update`
  (unconfirmed).

  Args:
    net: as in `init`.
    state: state of the agent.
    batch: transitions, [B, ...] each.
    optimiser: optimiser of the parameters.
    discount: γ; not stated in the paper, here DDPG's (unconfirmed).
    tau: τ; likewise.

  Returns:
    The state, and scalars: critic_loss, q (mean of Q(x, u)) and value (mean of
    V(x)).

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), algorithm 1.
  """
  target_outputs, _ = network.apply(net, state.target, batch.next_observation)
  discounts = discount * batch.discount

  def loss(params):
    found, net_state = network.apply(
      net,
      state.online._replace(params=params),
      batch.observation,
      is_training=True,
    )
    advantages = jax.vmap(naf.advantage)(batch.action, found.mean, found.factor)
    losses = jax.vmap(naf.loss)(
      found.value, advantages, batch.reward, discounts, target_outputs.value
    )
    values = {"q": found.value + advantages, "value": found.value}
    return jnp.mean(losses), (net_state, jax.tree.map(jnp.mean, values))

  value_and_grad = jax.value_and_grad(loss, has_aux=True)
  (error, (net_state, metrics)), grads = value_and_grad(state.online.params)
  online, opt_state = network.step(
    optimiser, grads, state.opt_state, state.online, net_state
  )
  target = network.update_targets(online, state.target, tau)
  return State(online, target, opt_state), metrics | {"critic_loss": error}
