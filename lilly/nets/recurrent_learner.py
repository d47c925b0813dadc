"""One update of RDPG or RSVG(0): actor and critic with memories of their own.

A network encodes what it sees, remembers with any `Core`, and reads both with a
head. The critic's action enters at its head: one unroll over the stored history
serves the stored actions and those of the policy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from lilly.losses import recurrent_dpg, svg
from lilly.nets import actor_critic
from lilly.nets.recurrent import Core, unroll
from lilly.nets.weights import follow
from lilly.replay.episodes import Episode

__all__ = [
  "Network",
  "Networks",
  "State",
  "act",
  "init",
  "networks",
  "recall",
  "update",
]


class Network(NamedTuple):
  """What sees, remembers, and concludes; functions of one example."""

  encoder: hk.Transformed  # input -> [E]
  core: Core  # [E] and state -> state and [O]
  head: hk.Transformed  # features [E + O], and an action -> outputs


class Networks(NamedTuple):
  """An actor and its critic."""

  actor: Network
  critic: Network
  is_stochastic: bool  # RSVG(0), else RDPG
  num_actions: int
  # Whether the previous action is seen. Without it, and with a core that has no
  # memory, these are DDPG and SVG(0).
  sees_actions: bool = True


class State(NamedTuple):
  """What an agent has learnt."""

  actor: Any
  critic: Any
  target_actor: Any
  target_critic: Any
  actor_moments: optax.OptState
  critic_moments: optax.OptState


def networks(
  observation_shape: tuple[int, ...],
  num_actions: int,
  make_core: Callable[[int, int], Core],
  *,
  encoder_size: int = 32,
  core_size: int = 32,
  hidden_size: int = 32,
  is_stochastic: bool = False,
  sees_actions: bool = True,
  least_scale: float = 0.1,
) -> Networks:
  """Makes networks whose heads also see what was encoded just now.

  Args:
    observation_shape: of one; three axes are a picture.
    num_actions: numbers in an action, m; they are in (-1, 1).
    make_core: maps sizes of input and output to a core: one of `cores.CORES`,
      or one's own.
    encoder_size: units of the encoder, E.
    core_size: outputs of the core, O.
    hidden_size: units of each head's hidden layer.
    is_stochastic: whether actions are drawn, tanh(m + s ν).
    sees_actions: whether the previous action is seen.
    least_scale: the least s: nothing else keeps the policy from losing its
      noise.

  Returns:
    The networks.

  Raises:
    ValueError: a size is not positive, when called.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), section 4: separate recurrent actor
    and critic. Sizes, and that heads see beyond the memory, are ours
    (unconfirmed).
  """
  num_outputs = num_actions * (2 if is_stochastic else 1)

  def encoder(seen):
    return _encoded(seen, encoder_size, len(observation_shape) == 3)

  def actor_head(features):
    x = jax.nn.relu(hk.Linear(hidden_size, name="hidden")(features))
    return _actions(_output(num_outputs)(x), is_stochastic, least_scale)

  def critic_head(features, action):
    x = jnp.concatenate([features, action])
    x = jax.nn.relu(hk.Linear(hidden_size, name="hidden")(x))
    return _output(1)(x)[0]

  def network(head):
    encode, conclude = (
      hk.without_apply_rng(hk.transform(x)) for x in (encoder, head)
    )
    return Network(encode, make_core(encoder_size, core_size), conclude)

  both = network(actor_head), network(critic_head)
  return Networks(*both, is_stochastic, num_actions, sees_actions)


def _encoded(seen, size, is_picture):
  observation, before = seen
  if is_picture:
    observation = actor_critic.PixelEncoder()(observation)
  x = jnp.concatenate([observation.astype(jnp.float32), before])
  return jax.nn.relu(hk.Linear(size, name="encoder")(x))


def _output(size):
  small = hk.initializers.RandomUniform(-3e-3, 3e-3)
  return hk.Linear(size, w_init=small, b_init=small, name="output")


def _actions(numbers, is_stochastic, least_scale):
  """Gives m and s before the squashing; s is 0 where nothing is drawn."""
  if not is_stochastic:
    return numbers, jnp.zeros_like(numbers)
  mean, scale = jnp.split(numbers, 2)
  # 0.4 at first: a policy that does little must still see what more would do.
  return mean, least_scale + jax.nn.softplus(scale - 1)


def init(
  key: jax.Array,
  nets: Networks,
  observation: jax.Array,
  actor_optimiser: optax.GradientTransformation,
  critic_optimiser: optax.GradientTransformation,
) -> State:
  """Starts an agent; the slow copies begin equal to what they copy.

  Args:
    key: typed key.
    nets: as from `networks`.
    observation: one.
    actor_optimiser: of the actor.
    critic_optimiser: of the critic.

  Returns:
    The state.
  """
  action = jnp.zeros(nets.num_actions)
  keys = jax.random.split(key)
  actor = _init(keys[0], nets.actor, (observation, action))
  critic = _init(keys[1], nets.critic, (observation, action), action)
  copies = jax.tree.map(jnp.array, (actor, critic))
  return State(
    actor=actor,
    critic=critic,
    target_actor=copies[0],
    target_critic=copies[1],
    actor_moments=actor_optimiser.init(actor),
    critic_moments=critic_optimiser.init(critic),
  )


def _init(key, network, seen, *actions):
  keys = jax.random.split(key, 3)
  encoder = network.encoder.init(keys[0], seen)
  encoded = network.encoder.apply(encoder, seen)
  core = network.core.init(keys[1])
  start = network.core.initial_state()
  output = network.core.apply(core, encoded, start)[1]
  features = jnp.concatenate([encoded, output])
  head = network.head.init(keys[2], features, *actions)
  return {"encoder": encoder, "core": core, "head": head}


def recall(
  network: Network, params: Any, seen: Any, state: Any
) -> tuple[Any, jax.Array]:
  """Goes through a history, from the state of a memory.

  Args:
    network: an actor or a critic.
    params: its parameters.
    seen: as from `recurrent_dpg.history`, [T, ...] each.
    state: of the core, before the first step.

  Returns:
    The state after the last step, and features of each, [T, E + O].
  """
  encode = lambda seen: network.encoder.apply(params["encoder"], seen)
  encoded = jax.vmap(encode)(seen)
  state, outputs = unroll(network.core, params["core"], encoded, state)
  return state, jnp.concatenate([encoded, outputs], axis=-1)


def act(
  nets: Networks,
  actor: Any,
  state: Any,
  observation: jax.Array,
  before: jax.Array,
  noise: jax.Array | float = 0.0,
) -> tuple[Any, jax.Array]:
  """Acts on one observation and on what is remembered.

  Args:
    nets: as from `networks`.
    actor: of the agent's state.
    state: of the actor's core; at first `nets.actor.core.initial_state()`.
    observation: o_t.
    before: a_{t-1}, as executed, [m]; at first zeros.
    noise: ν of a stochastic policy, [m]; 0: it acts by its median.

  Returns:
    The state of the core, and the action in (-1, 1), [m].
  """
  seen = _seen(nets, observation[None], before[None])
  state, features = recall(nets.actor, actor, seen, state)
  return state, _policy(nets, *_before_squashing(nets, actor, features[0]))(
    noise
  )


def _seen(nets, observation, before):
  return observation, before if nets.sees_actions else jnp.zeros_like(before)


def _before_squashing(nets, actor, features):
  """Gives m and s at some features, [..., m]."""
  head = lambda x: nets.actor.head.apply(actor["head"], x)
  for _ in range(features.ndim - 1):
    head = jax.vmap(head)
  return head(features)


def _policy(nets, mean, scale):
  """Makes the function from noise to actions."""
  if not nets.is_stochastic:
    return lambda noise: jnp.tanh(mean)

  def drawn(noise):
    noise = jnp.broadcast_to(noise, mean.shape)
    return jnp.tanh(svg.action(mean, scale, noise))

  return drawn


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
  """Takes a step of the critic and one of the actor, and moves the copies.

  The actor ascends the critic as it was before this step, so that one unroll
  of the critic serves both.

  Args:
    key: typed key; RDPG does not use it.
    nets: as from `networks`.
    state: of the agent.
    batch: episodes, [B, ...] each.
    actor_optimiser: of the actor; it should clip gradients.
    critic_optimiser: of the critic; likewise.
    discount: γ.
    tau: τ.
    num_samples: of a stochastic policy's noise, in targets and loss.
    squash_penalty: of what goes into the actor's tanh: of its mean square.

  Returns:
    The state, and scalars from before the step: critic_loss, q (mean of
    Q(h, a)) and policy_value (that of the policy's actions).

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), algorithm 1.
  """
  seen = _seen(nets, *recurrent_dpg.history(batch.observation, batch.action))
  noise = _noise(key, nets, (num_samples, *seen[1].shape))
  y = _targets(nets, state, batch, seen, noise[0], discount)
  past = jax.tree.map(lambda x: x[:, :-1], seen)  # o_{T+1} is for targets

  def critic_loss(critic):
    memories = _features(nets.critic, critic, past)
    values = _values(nets, critic, memories, batch.action)
    loss = recurrent_dpg.critic_loss(values, y, batch.mask)
    return loss, (memories, values)

  slope = jax.value_and_grad(critic_loss, has_aux=True)
  (loss, (memories, values)), grads = slope(state.critic)
  slope = jax.grad(_actor_loss, has_aux=True)
  given = nets, state.critic, past, memories, noise[1][:, :, :-1], batch.mask
  ascent, minus_value = slope(state.actor, *given, squash_penalty)
  optimisers = actor_optimiser, critic_optimiser
  state = _moved(state, (ascent, grads), optimisers, tau)
  q = _average(values, batch.mask)
  metrics = {"critic_loss": loss, "q": q, "policy_value": -minus_value}
  return state, metrics


def _actor_loss(
  actor, nets, critic, past, memories, noise, mask, squash_penalty
):
  """What is descended, and without the penalty.

  Where an action does not count, the critic's slopes are its errors; followed
  far enough they leave the tanh without a slope. Hence the penalty.
  """
  features = _features(nets.actor, actor, past)
  mean, scale = _before_squashing(nets, actor, features)
  policy, q = _policy(nets, mean, scale), _value(nets, critic)
  loss = svg.actor_loss(q, memories, policy, noise, mask)
  size = _average(jnp.mean(jnp.square(mean), axis=-1), mask)
  return loss + squash_penalty * size, loss


def _average(values, mask):
  """Over the steps of episodes that run."""
  return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def _noise(key, nets, shape):
  """Draws ν for the targets and for the actor."""
  if not nets.is_stochastic:
    return [jnp.zeros((1, *shape[1:]))] * 2
  return [jax.random.normal(k, shape) for k in jax.random.split(key)]


def _moved(state, grads, optimisers, tau):
  """Steps actor and critic, then their slow copies."""
  actor, actor_moments = _step(
    optimisers[0], grads[0], state.actor_moments, state.actor
  )
  critic, critic_moments = _step(
    optimisers[1], grads[1], state.critic_moments, state.critic
  )
  slow = (state.target_actor, state.target_critic)
  slow = follow((actor, critic), slow, tau)
  return State(
    actor=actor,
    critic=critic,
    target_actor=slow[0],
    target_critic=slow[1],
    actor_moments=actor_moments,
    critic_moments=critic_moments,
  )


def _features(network, params, seen):
  """Of episodes, [B, T, E + O], each from an empty memory."""

  def of_episode(seen):
    return recall(network, params, seen, network.core.initial_state())[1]

  return jax.vmap(of_episode)(seen)


def _value(nets, critic):
  return lambda memory, a: nets.critic.head.apply(critic["head"], memory, a)


def _values(nets, critic, memories, actions):
  """Of episodes, [B, T]."""
  return jax.vmap(jax.vmap(_value(nets, critic)))(memories, actions)


def _targets(nets, state, batch, seen, noise, discount):
  slow = state.target_actor
  features = _features(nets.actor, slow, seen)
  policy = _policy(nets, *_before_squashing(nets, slow, features))
  memories = _features(nets.critic, state.target_critic, seen)
  q = lambda nu: _values(nets, state.target_critic, memories, policy(nu))
  value = svg.expected(jax.vmap(q)(noise))
  return recurrent_dpg.targets(batch.reward, discount * batch.discount, value)


def _step(optimiser, grads, moments, params):
  updates, moments = optimiser.update(grads, moments, params)
  return optax.apply_updates(params, updates), moments
