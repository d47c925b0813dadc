"""The four asynchronous methods, on one skeleton: A3C and three of Q-values.

A `Method` says how to act and what the loss of a segment is;
`learners.asynchronous` plays and pushes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly import checks
from lilly.control import exploration
from lilly.envs import episodes
from lilly.envs.environment import Environment
from lilly.losses import actor_critic
from lilly.nets import policy_value
from lilly.nets.recurrent import Core

__all__ = [
  "Method",
  "Rows",
  "a3c",
  "act_greedily",
  "clipped_rmsprop",
  "n_step_q",
  "play_greedily",
  "q_learning",
  "sarsa",
]


class Rows(NamedTuple):
  """What the loss of a segment is made of, [T, ...] each."""

  outputs_tm1: Any  # of the network, at the observations acted on
  actions_tm1: jax.Array  # executed actions
  r_t: jax.Array
  discount_t: jax.Array  # γ, or 0 where the episode terminated
  is_truncated_t: jax.Array
  # of the worker's network, or of the target network if the method has one, at
  # the true next observations
  outputs_t: Any
  actions_t: jax.Array  # next actions; Sarsa bootstraps from them


class Method(NamedTuple):
  """A learning algorithm on the common skeleton."""

  network: Core
  # act(key, output, epsilon) -> action
  act: Callable[[jax.Array, Any, jax.Array], jax.Array]
  # loss(rows) -> [], a sum over the segment
  loss: Callable[[Rows], jax.Array]
  # whether it bootstraps from a target network
  has_target: bool = False
  # whether the action that a step bootstraps from is executed next
  plans_action: bool = False


def a3c(
  network: Core,
  *,
  value_cost: float | jax.Array = 0.5,
  entropy_cost: float | jax.Array = 0.01,
  bootstraps: bool = True,
) -> Method:
  """Makes the asynchronous advantage actor-critic.

  Args:
    network: outputs `policy_value.Choice`s or `policy_value.Gaussian`s.
    value_cost: weight of the squared errors of values.
    entropy_cost: weight of the entropy; the paper has 1e-4 for Gaussians.
    bootstraps: False: a segment's end and a time limit are worth 0, as in
      the paper's continuous control, whose segments are whole episodes.

  Returns:
    The method.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), algorithm S3.
  """

  def act(key, output, epsilon):
    del epsilon
    if isinstance(output, policy_value.Choice):
      return jax.random.categorical(key, output.logits)
    noise = jax.random.normal(key, output.mean.shape, output.mean.dtype)
    return output.mean + jnp.sqrt(output.variance) * noise

  def loss(rows):
    values = rows.outputs_t.value
    returns = actor_critic.n_step_returns(
      rows.r_t,
      rows.discount_t,
      values if bootstraps else jnp.zeros_like(values),
      rows.is_truncated_t,
    )
    outputs = rows.outputs_tm1
    if isinstance(outputs, policy_value.Choice):
      return actor_critic.a3c_loss(
        outputs.logits,
        outputs.value,
        rows.actions_tm1,
        returns,
        value_cost=value_cost,
        entropy_cost=entropy_cost,
      )
    return actor_critic.gaussian_a3c_loss(
      outputs.mean,
      outputs.variance,
      outputs.value,
      rows.actions_tm1,
      returns,
      value_cost=value_cost,
      entropy_cost=entropy_cost,
    )

  return Method(network, act, loss)


def q_learning(network: Core) -> Method:
  """Makes asynchronous one-step Q-learning.

  Args:
    network: outputs action values, [A].

  Returns:
    The method.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), algorithm 1.
  """

  def loss(rows):
    targets = actor_critic.q_targets(rows.r_t, rows.discount_t, rows.outputs_t)
    return actor_critic.value_loss(rows.outputs_tm1, rows.actions_tm1, targets)

  return Method(network, exploration.epsilon_greedy, loss, has_target=True)


def sarsa(network: Core) -> Method:
  """Makes asynchronous one-step Sarsa.

  The action that a target bootstraps from is the one that is executed next,
  also in the next segment. After a time limit no action is executed, so that
  one is drawn to bootstrap from.

  Args:
    network: outputs action values, [A].

  Returns:
    The method.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), section 4.
  """

  def loss(rows):
    targets = actor_critic.sarsa_targets(
      rows.r_t, rows.discount_t, rows.outputs_t, rows.actions_t
    )
    return actor_critic.value_loss(rows.outputs_tm1, rows.actions_tm1, targets)

  return Method(
    network,
    exploration.epsilon_greedy,
    loss,
    has_target=True,
    plans_action=True,
  )


def n_step_q(network: Core) -> Method:
  """Makes asynchronous n-step Q-learning.

  Args:
    network: outputs action values, [A].

  Returns:
    The method.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), algorithm S2.
  """

  def loss(rows):
    targets = actor_critic.n_step_returns(
      rows.r_t,
      rows.discount_t,
      jnp.max(rows.outputs_t, axis=1),
      rows.is_truncated_t,
    )
    return actor_critic.value_loss(rows.outputs_tm1, rows.actions_tm1, targets)

  return Method(network, exploration.epsilon_greedy, loss, has_target=True)


def clipped_rmsprop(
  learning_rate: optax.ScalarOrSchedule,
  *,
  max_norm: float = 40.0,
  decay: float = 0.99,
  epsilon: float = 0.1,
) -> optax.GradientTransformation:
  """Makes the optimiser of the paper: a clipped gradient, then RMSProp.

  g <- α g + (1 - α) Δθ²,  θ <- θ - η Δθ / sqrt(g + ε),  initially g = 0.

  Args:
    learning_rate: η, or a function of the number of pushes.
    max_norm: largest norm of a gradient.
    decay: α.
    epsilon: ε, inside the root.

  Returns:
    The gradient transformation.

  Raises:
    ValueError: a constant is out of range.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), section 4 and supplement 7, without
    ε and the largest norm, which the authors stated elsewhere.
  """
  max_norm = checks.number("max_norm", max_norm, above=0, may_be_infinite=True)
  decay = checks.number("decay", decay, least=0, below=1)
  epsilon = checks.number("epsilon", epsilon, least=0)
  rmsprop = optax.rmsprop(
    learning_rate,
    decay=decay,
    eps=epsilon,
    initial_scale=0.0,
    eps_in_sqrt=True,
    bias_correction=False,
  )
  return optax.chain(optax.clip_by_global_norm(max_norm), rmsprop)


def act_greedily(output: Any) -> jax.Array:
  """Returns the action of the largest logit or value, or the Gaussian's mean.

  Args:
    output: output of a method's network.

  Returns:
    The action.
  """
  if isinstance(output, policy_value.Gaussian):
    return output.mean
  values = output
  if isinstance(output, policy_value.Choice):
    values = output.logits
  return jnp.argmax(values).astype(jnp.int32)


def play_greedily(
  key: jax.Array, env: Environment, method: Method, params: Any
) -> jax.Array:
  """Plays one episode of the greedy policy.

  Args:
    key: typed key.
    env: an environment whose episodes end, not auto-resetting.
    method: the learning algorithm.
    params: parameters of its network.

  Returns:
    The return, [].
  """

  def act(key, memory, observation):
    del key
    memory, output = method.network.apply(params, observation, memory)
    return memory, act_greedily(output)

  memory = method.network.initial_state()
  return episodes.play_with_memory(key, env, act, memory)
