"""Asynchronous learners: workers that push gradients into shared parameters.

A worker acts with its own copy of the parameters in one or several environments
for a segment of T steps, and computes the gradient of the segment's loss, a sum
over its steps and environments. Then it pushes the gradient into the shared
parameters, through one shared optimiser, and pulls them anew: since it pulled,
the other N - 1 workers have pushed. What is learnt is a method of
`learners.asynchronous_methods`.

`play_round` simulates N such workers in one program: their gradients are
computed together, for their copies are known when the round begins, and pushed
one after another. `play_synchronous_round` is A2C, one push of the summed
gradients. Real threads around `segment_gradient` are `training.hogwild`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly import checks
from lilly.control import exploration
from lilly.envs import environment
from lilly.envs.environment import Environment
from lilly.learners.asynchronous_methods import Method, Rows

__all__ = [
  "Shared",
  "State",
  "Worker",
  "init",
  "init_worker",
  "play_round",
  "play_synchronous_round",
  "push",
  "segment_gradient",
]

Metrics = dict[str, jax.Array]


class Worker(NamedTuple):
  """One worker and its E environments."""

  key: jax.Array
  envs: Any  # states of auto-resetting environments, [E, ...]
  memory: Any  # of the network, [E, ...]
  target_memory: Any  # of the target network, [E, ...]; () without one
  action: jax.Array  # to be executed next, [E, ...]
  epsilon: jax.Array  # [], final probability of a random action
  total: jax.Array  # [E], returns of the episodes so far
  last_total: jax.Array  # [E], returns of the last complete episodes


class Shared(NamedTuple):
  """What all workers share."""

  params: Any
  target_params: Any  # () for a method without a target network
  opt_state: optax.OptState
  frames: jax.Array  # [] int32, steps of all workers


class State(NamedTuple):
  """State of simulated workers."""

  shared: Shared
  workers: Worker  # [N, ...] each
  copies: Any  # the workers' copies of the parameters, [N, ...] each
  key: jax.Array


def init_worker(
  key: jax.Array,
  method: Method,
  env: Environment,
  params: Any,
  *,
  num_envs: int = 1,
  epsilon: float | jax.Array = 0.1,
) -> Worker:
  """Makes a worker at the start of an episode in each environment.

  Args:
    key: typed key.
    method: the learning algorithm.
    env: an auto-resetting environment.
    params: the shared parameters.
    num_envs: number of environments, E.
    epsilon: final probability of a random action.

  Returns:
    The worker.

  Raises:
    ValueError: num_envs is not positive.
  """
  num_envs = checks.whole_number("num_envs", num_envs, least=1)
  key, key_env, key_act = jax.random.split(key, 3)
  envs, _ = jax.vmap(env.reset)(jax.random.split(key_env, num_envs))
  memory = _repeat(method.network.initial_state(), num_envs)
  target_memory = ()
  if method.has_target:
    target_memory = _repeat(method.network.initial_state(), num_envs)

  def choose(key, observation, memory):
    _, output = method.network.apply(params, observation, memory)
    return method.act(key, output, jnp.ones(()))

  keys = jax.random.split(key_act, num_envs)
  action = jax.vmap(choose)(keys, envs.observation, memory)
  zeros = jnp.zeros(num_envs)
  return Worker(
    key=key,
    envs=envs,
    memory=memory,
    target_memory=target_memory,
    action=action,
    epsilon=jnp.asarray(epsilon, jnp.float32),
    total=zeros,
    last_total=zeros,
  )


def _repeat(tree, count):
  return jax.tree.map(lambda x: jnp.stack([x] * count), tree)


class _Stream(NamedTuple):
  """What one environment of a worker carries from step to step."""

  env: Any
  memory: Any
  target_memory: Any
  action: jax.Array
  total: jax.Array
  last_total: jax.Array


def segment_gradient(
  params: Any,
  target_params: Any,
  worker: Worker,
  epsilon: jax.Array | float = 0.0,
  *,
  method: Method,
  env: Environment,
  segment_length: int = 5,
  discount: float = 0.99,
  reward_scale: float = 1.0,
) -> tuple[Worker, Any, Metrics]:
  """Acts for a segment, and computes the gradient of its loss.

  The memory is carried over segments, detached between them, and reset where an
  episode ends.

  Args:
    params: the worker's copy of the parameters, with which it acts and computes
      the gradient.
    target_params: parameters of the target network; () for a method without.
    worker: the worker.
    epsilon: probability of a random action.
    method: the learning algorithm.
    env: an auto-resetting environment.
    segment_length: steps of a segment, T.
    discount: γ.
    reward_scale: factor of the rewards in the loss.

  Returns:
    The worker after the segment; the gradient, summed over steps and
    environments; and metrics: the loss of a step, and the return, the mean of
    the last complete episodes.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), algorithms 1, S2 and S3.
  """
  num_envs = worker.total.size
  key, key_segment = jax.random.split(worker.key)
  streams = _Stream(
    env=worker.envs,
    memory=worker.memory,
    target_memory=worker.target_memory,
    action=worker.action,
    total=worker.total,
    last_total=worker.last_total,
  )
  keys = jax.random.split(key_segment, num_envs)

  def loss(params):
    def step(carry, _):
      key, key_step = jax.random.split(carry[0])
      stream, row = _step(
        key_step,
        carry[1],
        params,
        target_params,
        epsilon,
        method,
        env,
        discount,
      )
      return (key, stream), row

    def play(key, stream):
      memory = method.network.detach(stream.memory)
      carry = (key, stream._replace(memory=memory))
      (_, stream), rows = jax.lax.scan(step, carry, length=segment_length)
      return stream, rows

    after, rows = jax.vmap(play)(keys, streams)
    rows = rows._replace(r_t=reward_scale * rows.r_t)
    return jnp.sum(jax.vmap(method.loss)(rows)), after

  (total, after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  after = jax.lax.stop_gradient(after)
  metrics = {
    "loss": total / (num_envs * segment_length),
    "return": jnp.mean(after.last_total),
  }
  worker = worker._replace(
    key=key,
    envs=after.env,
    memory=after.memory,
    target_memory=after.target_memory,
    action=after.action,
    total=after.total,
    last_total=after.last_total,
  )
  return worker, gradient, metrics


def _step(key, stream, params, target_params, epsilon, method, env, discount):
  """Takes one step in one environment: the stream, and a row."""
  network = method.network
  frozen = jax.lax.stop_gradient(params)
  key_act, key_env, key_next = jax.random.split(key, 3)
  observation = stream.env.observation
  memory, output = network.apply(params, observation, stream.memory)
  action = stream.action
  if not method.plans_action:
    action = method.act(key_act, jax.lax.stop_gradient(output), epsilon)
  state, step = env.step(key_env, stream.env, action)
  is_last = environment.is_last(step)
  _, output_t = network.apply(frozen, step.observation, memory)
  action_t = method.act(key_next, output_t, epsilon)

  def reset(memory):
    fresh = network.initial_state()
    return jax.tree.map(lambda x, y: jnp.where(is_last, x, y), fresh, memory)

  target_memory = stream.target_memory
  following = action_t
  if method.plans_action:
    # At the start of an episode another observation is acted on.
    _, first = network.apply(frozen, state.observation, network.initial_state())
    following = jnp.where(
      is_last, method.act(key_act, first, epsilon), action_t
    )
  if method.has_target:
    target_memory, _ = network.apply(target_params, observation, target_memory)
    _, output_t = network.apply(target_params, step.observation, target_memory)
    target_memory = reset(target_memory)
  total = stream.total + step.reward
  after = _Stream(
    env=state,
    memory=reset(memory),
    target_memory=target_memory,
    action=following,
    total=jnp.where(is_last, 0, total),
    last_total=jnp.where(is_last, total, stream.last_total),
  )
  rows = Rows(
    outputs_tm1=output,
    actions_tm1=jax.lax.stop_gradient(action),
    r_t=step.reward,
    discount_t=discount * step.discount,
    is_truncated_t=step.truncated,
    outputs_t=jax.lax.stop_gradient(output_t),
    actions_t=jax.lax.stop_gradient(action_t),
  )
  return after, rows


def push(
  shared: Shared,
  gradient: Any,
  optimiser: optax.GradientTransformation,
  *,
  num_frames: int,
  target_period: int = 40_000,
) -> Shared:
  """Pushes a gradient into the shared parameters.

  Args:
    shared: what the workers share.
    gradient: gradient of a segment's loss.
    optimiser: its state is shared as well.
    num_frames: steps that the gradient was computed from.
    target_period: frames between copies to the target network; it is copied by
      the push that crosses a multiple.

  Returns:
    What the workers share after the push.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), algorithms 1, S2 and S3.
  """
  updates, opt_state = optimiser.update(
    gradient, shared.opt_state, shared.params
  )
  params = optax.apply_updates(shared.params, updates)
  frames = shared.frames + num_frames
  is_due = frames // target_period > shared.frames // target_period
  target_params = shared.target_params
  if target_params != ():
    target_params = jax.tree.map(
      lambda new, old: jnp.where(is_due, new, old), params, target_params
    )
  return Shared(params, target_params, opt_state, frames)


def init(
  key: jax.Array,
  method: Method,
  env: Environment,
  optimiser: optax.GradientTransformation,
  *,
  num_workers: int = 16,
  num_envs: int = 1,
  epsilons: jax.Array | float = 0.1,
) -> State:
  """Starts a run of simulated workers.

  Args:
    key: typed key.
    method: the learning algorithm.
    env: an auto-resetting environment.
    optimiser: optimiser of the shared parameters.
    num_workers: number of workers, N.
    num_envs: environments of each worker, E.
    epsilons: final probabilities of random actions, [N] or [].

  Returns:
    The state.

  Raises:
    ValueError: a number is not positive, or epsilons have another shape.
  """
  num_workers = checks.whole_number("num_workers", num_workers, least=1)
  epsilons = jnp.asarray(epsilons, jnp.float32)
  if epsilons.ndim:
    checks.real("epsilons", epsilons, f"{num_workers}")
  key, key_params, key_workers = jax.random.split(key, 3)
  params = method.network.init(key_params)
  target_params = jax.tree.map(jnp.copy, params) if method.has_target else ()
  shared = Shared(
    params, target_params, optimiser.init(params), jnp.zeros((), jnp.int32)
  )

  def start(key, epsilon):
    return init_worker(
      key, method, env, params, num_envs=num_envs, epsilon=epsilon
    )

  workers = jax.vmap(start)(
    jax.random.split(key_workers, num_workers),
    jnp.broadcast_to(epsilons, (num_workers,)),
  )
  return State(shared, workers, _repeat(params, num_workers), key)


def play_round(
  state: State,
  optimiser: optax.GradientTransformation,
  *,
  method: Method,
  env: Environment,
  segment_length: int = 5,
  discount: float = 0.99,
  reward_scale: float = 1.0,
  target_period: int = 40_000,
  exploration_frames: int = 4_000_000,
  is_order_random: bool = False,
) -> tuple[State, Metrics]:
  """Lets each of N workers push once, with copies that are N - 1 pushes old.

  Args:
    state: state of the run.
    optimiser: as given to `init`.
    method: as given to `init`.
    env: as given to `init`.
    segment_length: steps of a segment, T.
    discount: γ.
    reward_scale: factor of the rewards in the loss.
    target_period: frames between copies to the target network.
    exploration_frames: frames until the probabilities of random actions have
      fallen from 1 to their final values.
    is_order_random: whether the workers push in a random order, so that delays
      vary from 0 to 2 (N - 1) pushes, instead of one after another.

  Returns:
    The state and the metrics, means over the workers.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783); the simulation is ours.
  """
  key, key_order = jax.random.split(state.key)
  num_workers, num_envs = state.workers.total.shape
  num_frames = num_envs * segment_length

  workers, gradients, metrics = _compute_gradients(
    state,
    state.copies,
    copies_axis=0,
    exploration_frames=exploration_frames,
    method=method,
    env=env,
    segment_length=segment_length,
    discount=discount,
    reward_scale=reward_scale,
  )
  order = jnp.arange(num_workers)
  if is_order_random:
    order = jax.random.permutation(key_order, order)

  def apply(carry, index):
    shared, copies = carry
    gradient = jax.tree.map(lambda x: x[index], gradients)
    shared = push(
      shared,
      gradient,
      optimiser,
      num_frames=num_frames,
      target_period=target_period,
    )
    copies = jax.tree.map(
      lambda old, new: old.at[index].set(new), copies, shared.params
    )
    return (shared, copies), None

  (shared, copies), _ = jax.lax.scan(apply, (state.shared, state.copies), order)
  state = State(shared, workers, copies, key)
  return state, jax.tree.map(jnp.mean, metrics)


def _compute_gradients(
  state, params, *, copies_axis, exploration_frames, **options
):
  """Computes a segment's gradient for every worker, [N, ...] each."""

  def compute(params, worker):
    epsilon = exploration.anneal(
      state.shared.frames, exploration_frames, 1.0, worker.epsilon
    )
    return segment_gradient(
      params, state.shared.target_params, worker, epsilon, **options
    )

  return jax.vmap(compute, in_axes=(copies_axis, 0))(params, state.workers)


def play_synchronous_round(
  state: State,
  optimiser: optax.GradientTransformation,
  *,
  method: Method,
  env: Environment,
  segment_length: int = 5,
  discount: float = 0.99,
  reward_scale: float = 1.0,
  target_period: int = 40_000,
  exploration_frames: int = 4_000_000,
) -> tuple[State, Metrics]:
  """Pushes the sum of all workers' gradients once: A2C for `a3c`.

  Args:
    state: state of the run.
    optimiser: as given to `init`.
    method: as given to `init`.
    env: as given to `init`.
    segment_length: steps of a segment, T.
    discount: γ.
    reward_scale: factor of the rewards in the loss.
    target_period: frames between copies to the target network.
    exploration_frames: as in `play_round`.

  Returns:
    The state and the metrics, means over the workers.
  """
  num_workers, num_envs = state.workers.total.shape

  workers, gradients, metrics = _compute_gradients(
    state,
    state.shared.params,
    copies_axis=None,
    exploration_frames=exploration_frames,
    method=method,
    env=env,
    segment_length=segment_length,
    discount=discount,
    reward_scale=reward_scale,
  )
  gradient = jax.tree.map(lambda x: jnp.sum(x, axis=0), gradients)
  shared = push(
    state.shared,
    gradient,
    optimiser,
    num_frames=num_workers * num_envs * segment_length,
    target_period=target_period,
  )
  state = state._replace(shared=shared, workers=workers)
  return state, jax.tree.map(jnp.mean, metrics)
