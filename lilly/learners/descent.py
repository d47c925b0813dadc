"""A learner that minimises the mean loss of a batch of episodes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly import checks

__all__ = ["Learner", "Loss", "State", "make", "measure"]

Hyper = Mapping[str, Any]
Metrics = dict[str, jax.Array]
# loss(key, params, state, episode) -> loss [], metrics [] of one episode
Loss = Callable[[jax.Array, Any, Any, Any], tuple[jax.Array, Metrics]]


class State(NamedTuple):
  """State of one run."""

  params: Any
  opt_state: optax.OptState
  state: Any  # network state, not learnt by gradients, or ()
  hyper: Hyper  # hyper-parameters that may be swept
  key: jax.Array


class Learner(NamedTuple):
  """Functions of one run, as `training.Experiment` takes them."""

  # init(key, hyper, data) -> state
  init: Callable[[jax.Array, Hyper, Any], Any]
  # update(state, data) -> (state, metrics [])
  update: Callable[[Any, Any], tuple[Any, Metrics]]


def make(
  *,
  init: Callable[[jax.Array], tuple[Any, Any]],
  sample: Callable[[jax.Array, Any], Any],
  loss: Loss,
  optimiser: Callable[[Hyper], optax.GradientTransformation],
  batch_size: int,
  observe: Callable[[Any, Any, Any], Any] | None = None,
  measure_gradient: Callable[[Any], Metrics] | None = None,
) -> Learner:
  """Makes a learner from the loss of one episode.

  θ <- θ - optimiser(∇_θ mean_b loss(key_b, θ, episode_b)).

  Args:
    init: maps a key to parameters and network state, or ().
    sample: maps a key and the data to an episode.
    loss: loss of one episode; it is mapped over the batch.
    optimiser: maps the run's hyper-parameters to a gradient transformation.
    batch_size: episodes per update, B.
    observe: maps the parameters before the step, the network state and the
      episodes, [B, ...], to the next network state; None: it does not change.
    measure_gradient: maps the gradient of the batch to further metrics, such as
      its norm; or None.

  Returns:
    The learner; its metrics are means over the batch.

  Raises:
    ValueError: batch_size is not positive.
  """
  batch_size = checks.whole_number("batch_size", batch_size, least=1)

  def start(key, hyper, data):
    del data
    key, key_params = jax.random.split(key)
    params, state = init(key_params)
    return State(params, optimiser(hyper).init(params), state, hyper, key)

  def update(state, data):
    key, key_sample, key_loss = jax.random.split(state.key, 3)
    draw = lambda key: sample(key, data)
    episodes = jax.vmap(draw)(jax.random.split(key_sample, batch_size))

    def mean_loss(params):
      keys = jax.random.split(key_loss, batch_size)
      one = lambda key, episode: loss(key, params, state.state, episode)
      return jax.tree.map(jnp.mean, jax.vmap(one)(keys, episodes))

    grads, metrics = jax.grad(mean_loss, has_aux=True)(state.params)
    steps, opt_state = optimiser(state.hyper).update(
      grads, state.opt_state, state.params
    )
    networks_state = state.state
    if observe is not None:
      networks_state = observe(state.params, networks_state, episodes)
    params = optax.apply_updates(state.params, steps)
    if measure_gradient is not None:
      metrics = metrics | measure_gradient(grads)
    return State(params, opt_state, networks_state, state.hyper, key), metrics

  return Learner(start, update)


def measure(
  key: jax.Array,
  loss: Loss,
  params: Any,
  state: Any,
  draw: Callable[[jax.Array], Any],
  *,
  num_episodes: int,
) -> Metrics:
  """Measures the mean metrics of test episodes, sequentially.

  Args:
    key: typed key; the same key draws the same episodes.
    loss: as in `make`.
    params: parameters of the networks.
    state: state of the networks.
    draw: maps a key to a test episode.
    num_episodes: number of test episodes.

  Returns:
    The means of the metrics, [] each.
  """
  keys = jax.random.split(key, (num_episodes, 2))
  one = lambda keys: loss(keys[1], params, state, draw(keys[0]))[1]
  return jax.tree.map(jnp.mean, jax.lax.map(one, keys))
