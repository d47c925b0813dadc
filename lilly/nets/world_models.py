"""Models of an environment's dynamics: the simulator, linear, or neural.

A model has a fit, which is updated from time to time, and a step function that
replaces the environment's. Environments provide observation and reward as
functions of states (`Environment.observe`, `reward`); models predict states
only.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from lilly.control import imagination, linear_models
from lilly.envs import state_vectors
from lilly.envs.environment import Environment, Step
from lilly.replay import ring

__all__ = [
  "LinearFit",
  "Model",
  "Visit",
  "compare",
  "linear",
  "neural",
  "simulator",
  "value",
]


class Visit(NamedTuple):
  """A step of the environment, as data for models."""

  state: Any  # state with its time limit, where imagination may start
  observation: jax.Array
  action: jax.Array
  following: Any  # next state, without its step count


class Model(NamedTuple):
  """A dynamics model as functions of its fit."""

  # init(key) -> fit
  init: Callable[[jax.Array], Any]
  # refit(key, fit, visited) -> fit, metrics; visited is a ring of `Visit`s
  refit: Callable[
    [jax.Array, Any, ring.State], tuple[Any, dict[str, jax.Array]]
  ]
  # step(fit, key, state, action) -> state, step
  step: Callable[[Any, jax.Array, Any, jax.Array], tuple[Any, Step]]
  needs_fit: bool = True  # whether it must be fitted before use
  # whether it is fitted to the latest round's visits only, in order
  is_local: bool = False


class LinearFit(NamedTuple):
  """A linear model, and the factors of its noise."""

  model: linear_models.LinearGaussian
  factors: jax.Array  # from `linear_models.roots`


def simulator(limited: Environment) -> Model:
  """Makes a model from the environment itself: an upper bound.

  Args:
    limited: environment with its time limit.

  Returns:
    The model.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), table 2.
  """
  return Model(
    init=lambda key: (),
    refit=lambda key, fit, visited: (fit, {}),
    step=lambda fit, key, state, action: limited.step(key, state, action),
    needs_fit=False,
  )


def linear(plain: Environment, horizon: int, *, ridge: float = 1e-3) -> Model:
  """Fits a linear-Gaussian model for each step of an episode.

  Args:
    plain: environment without a time limit, with `observe` and `reward`.
    horizon: steps per episode, T, the same for all episodes.
    ridge: see `linear_models.fit`; its prior is pooled over the episodes.

  Returns:
    The model of the latest episodes. It is valid near them, if they start in
    similar states.

  Raises:
    ValueError: the environment has no `observe` or `reward`.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 5.3. Its prior is not stated
    (unconfirmed).
  """
  form, _ = state_vectors.vectors(plain), state_vectors.known(plain)
  d, m = form.size, plain.action_spec.shape[0]

  def init(key):
    del key
    shapes = ((horizon, d, d + m), (horizon, d), (horizon, d, d))
    model = linear_models.LinearGaussian(*map(jnp.zeros, shapes))
    return LinearFit(model, model.covariance)

  def refit(key, fit, visited):
    del key, fit
    visits = ring.contents(visited)
    found = state_vectors.trajectories(plain, visits, horizon)
    prior = linear_models.pooled_prior(*found)
    model = linear_models.fit(*found, prior=prior, ridge=ridge)
    of_step = jax.vmap(linear_models.mean, (None, 0, 0, 0))
    mean = jax.vmap(of_step, (None, None, 0, 0))
    guess = mean(model, jnp.arange(horizon), *found[:2])
    error = jnp.sqrt(jnp.mean(jnp.square(guess - found[2])))
    fit = LinearFit(model, linear_models.roots(model))
    return fit, {"model_error": error}

  def step(fit, key, state, action):
    def predict(key, time, x, u):
      return linear_models.sample(
        key, fit.model, time, x, u, factors=fit.factors
      )

    return state_vectors.model(plain, predict, horizon)(key, state, action)

  return Model(init, refit, step, is_local=True)


def neural(
  plain: Environment,
  horizon: int,
  *,
  hidden_sizes: Sequence[int] = (200, 200),
  learning_rate: float = 1e-3,
  num_updates: int = 1000,
  batch_size: int = 64,
) -> Model:
  """Fits a network that predicts the change of state under an action.

  Args:
    plain: as in `linear`.
    horizon: as in `linear`.
    hidden_sizes: units of each layer; not stated in the paper.
    learning_rate: learning rate of Adam.
    num_updates: updates per fit; each fit starts from the previous one.
    batch_size: visits per update.

  Returns:
    The model.

  Reference: Gu et al., 2016 (arXiv 1603.00748), section 5.2.
  """
  form, (observe, _) = state_vectors.vectors(plain), state_vectors.known(plain)
  optimiser, net = (
    optax.adam(learning_rate),
    _perceptron(hidden_sizes, form.size),
  )

  def init(key):
    specs = plain.observation_spec, plain.action_spec
    params = net.init(key, *(jnp.zeros(spec.shape) for spec in specs))
    return params, optimiser.init(params), jnp.ones(form.size)

  def refit(key, fit, visited):
    key, key_scale = jax.random.split(key)
    some = _changes(ring.sample(key_scale, visited, 1000), form)
    spread = jnp.sqrt(jnp.mean(jnp.square(some), 0)) + 1e-3

    def step(carry, _):
      key, params, opt_state = carry
      key, key_batch = jax.random.split(key)
      batch = ring.sample(key_batch, visited, batch_size)
      error, grads = _error(net, params, batch, form, spread)
      updates, opt_state = optimiser.update(grads, opt_state)
      return (key, optax.apply_updates(params, updates), opt_state), error

    carry, errors = jax.lax.scan(step, (key, *fit[:2]), length=num_updates)
    return (*carry[1:], spread), {"model_error": jnp.mean(errors[-100:])}

  def step(fit, key, state, action):
    params, _, spread = fit

    def predict(_, time, x, u):
      return x + spread * net.apply(params, observe(form.unflatten(x)), u)

    return state_vectors.model(plain, predict, horizon)(key, state, action)

  return Model(init, refit, step)


def compare(
  model: Model,
  fit: Any,
  limited: Environment,
  starts: Visit,
  act: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  length: int = 10,
) -> tuple[jax.Array, jax.Array]:
  """Rolls a policy out in a model and in the environment.

  Args:
    model: dynamics model.
    fit: fit of the model.
    limited: environment with its time limit.
    starts: initial states of the rollouts, [N, ...] each.
    act: a policy that does not use its key.
    length: steps of a rollout, l.

  Returns:
    Observations in the model and in the environment, [N, l, o] each; NaN after
    termination.
  """

  def roll(step, start):
    found = imagination.rollout(
      jax.random.key(0),
      start.state,
      start.observation,
      step=step,
      act=act,
      length=length,
    )
    is_valid = found.is_valid[:, None]
    return jnp.where(is_valid, found.next_observation, jnp.nan)

  def imagined(*given):
    return model.step(fit, *given)

  steps = imagined, limited.step
  model_seen, seen = (
    jax.vmap(lambda start, step=step: roll(step, start))(starts)
    for step in steps
  )
  return model_seen, seen


def value(
  plain: Environment,
  state: Any,
  observation: jax.Array,
  act: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  discount: float | jax.Array = 0.99,
  num_steps: int = 400,
) -> jax.Array:
  """Sums the discounted rewards of a policy, without a time limit.

  Args:
    plain: environment without a time limit.
    state: initial state.
    observation: observation of that state.
    act: a policy that does not use its key.
    discount: discount factor γ.
    num_steps: steps to sum over; the remainder is discounted by γ^num_steps.

  Returns:
    The sum, [].
  """
  found = imagination.rollout(
    jax.random.key(0),
    state,
    observation,
    step=plain.step,
    act=act,
    length=num_steps,
  )
  return jnp.sum(discount ** jnp.arange(num_steps) * found.reward)


def _changes(visits, form):
  """Computes the change of state in each visit, [B, d]."""
  flatten = jax.vmap(form.flatten)
  return flatten(visits.following) - flatten(visits.state.state)


def _error(net, params, batch, form, spread):
  """Mean squared error, in units of the spread, and its gradient."""
  wanted = _changes(batch, form) / spread[None]

  def error(params):
    guess = jax.vmap(net.apply, (None, 0, 0))
    found = guess(params, batch.observation, batch.action)
    return jnp.mean(jnp.square(found - wanted))

  return jax.value_and_grad(error)(params)


def _perceptron(hidden_sizes, num_outputs):
  """Makes a network of an observation and an action."""

  @hk.without_apply_rng
  @hk.transform
  def net(seen, action):
    layers = hk.nets.MLP([*hidden_sizes, num_outputs])
    return layers(jnp.concatenate([seen, action]))

  return net
