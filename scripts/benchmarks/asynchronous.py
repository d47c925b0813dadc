"""Asynchronous learners on catch: frames per second, simulated and threaded.

Compared with a minimal synchronous actor-critic, a scan written out here.
"""

import functools
import time
from typing import Any

_UNITS, _LENGTH, _RATE = 64, 5, 1e-2


def measure() -> dict[str, Any]:
  """Measures rounds of workers, a minimal A2C, and threads."""
  return {
    "simulated": _compare_rounds(),
    "threads": _measure_threads(),
    "targets": "simulated_16 at least 200k frames/s, a2c_16 at least 600k; 2 "
    "threads at least 1.3 times 1; 16 environments a worker at least 8 times 1",
  }


def _method():
  from lilly.learners import asynchronous_methods
  from lilly.nets import policy_value, recurrent

  core = functools.partial(recurrent.feedforward, hidden_size=_UNITS)
  return asynchronous_methods.a3c(
    policy_value.categorical(50, 3, make_core=core)
  )


def _compare_rounds(num_rounds=500):
  """Frames per second of programs of as many rounds, timed alternately."""
  import jax

  from benchmarks import timing
  from lilly.envs import catch, wrappers
  from lilly.learners import asynchronous, asynchronous_methods

  env, method = wrappers.auto_reset(catch.make()), _method()
  optimiser = asynchronous_methods.clipped_rmsprop(_RATE)

  def program(play, num_workers, num_envs):
    @jax.jit
    def run(key):
      state = asynchronous.init(
        key,
        method,
        env,
        optimiser,
        num_workers=num_workers,
        num_envs=num_envs,
      )
      step = lambda state, _: (
        play(state, optimiser, method=method, env=env, segment_length=_LENGTH)[
          0
        ],
        None,
      )
      return jax.lax.scan(step, state, length=num_rounds)[0].shared.params

    return lambda: run(jax.random.key(0))

  simulated, together = (
    asynchronous.play_round,
    asynchronous.play_synchronous_round,
  )
  candidates = {
    "minimal_a2c_16": _minimal(16, num_rounds),
    "a2c_16": program(together, 1, 16),
    "simulated_1": program(simulated, 1, 1),
    "simulated_16": program(simulated, 16, 1),
    "simulated_16_with_16_environments": program(simulated, 16, 16),
  }
  environments = [16, 16, 1, 16, 256]
  found = timing.compare(candidates)
  found["frames_per_second"] = {
    name: num_rounds * _LENGTH * count / found["seconds"][name]["median"]
    for name, count in zip(candidates, environments, strict=True)
  }
  return found


def _minimal(num_envs, num_rounds):
  """A2C with nothing that it does not need, as a yardstick."""
  import jax
  import jax.numpy as jnp
  import optax

  optimiser = optax.rmsprop(
    _RATE, decay=0.99, eps=0.1, eps_in_sqrt=True, initial_scale=0.0
  )

  def see(ball, column, paddle):
    return jax.nn.one_hot(5 * ball + column, 50) + jax.nn.one_hot(
      45 + paddle, 50
    )

  def apply(params, x):
    hidden = jax.nn.relu(x @ params[0])
    out = hidden @ params[1]
    return out[:, :3], out[:, 3]

  def segment(params, world, key):
    def step(world, key):
      ball, column, paddle = world
      key_act, key_column = jax.random.split(key)
      logits, value = apply(params, see(ball, column, paddle))
      action = jax.random.categorical(key_act, logits)
      paddle = jnp.clip(paddle + action - 1, 0, 4)
      ball = ball + 1
      ends = ball == 9
      reward = jnp.where(ends, jnp.where(paddle == column, 1.0, -1.0), 0.0)
      fresh = jax.random.randint(key_column, (num_envs,), 0, 5)
      world = (
        jnp.where(ends, 0, ball),
        jnp.where(ends, fresh, column),
        jnp.where(ends, 2, paddle),
      )
      return world, (logits, value, action, reward, 1.0 - ends)

    world, rows = jax.lax.scan(step, world, jax.random.split(key, _LENGTH))
    logits, values, actions, rewards, goes_on = rows
    last = jax.lax.stop_gradient(apply(params, see(*world))[1])

    def back(total, row):
      total = row[0] + 0.99 * row[1] * total
      return total, total

    returns = jax.lax.scan(back, last, (rewards, goes_on), reverse=True)[1]
    errors = jax.lax.stop_gradient(returns) - values
    log_probs = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probs, actions[..., None], -1)[..., 0]
    gains = chosen * jax.lax.stop_gradient(errors)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs)
    loss = 0.5 * jnp.sum(errors**2) - jnp.sum(gains) - 0.01 * entropy
    return loss, world

  @jax.jit
  def run(key):
    key_1, key_2, key = jax.random.split(key, 3)
    params = [
      jax.random.normal(key_1, (50, _UNITS)) / 50**0.5,
      jax.random.normal(key_2, (_UNITS, 4)) / _UNITS**0.5,
    ]
    zeros = jnp.zeros(num_envs, jnp.int32)

    def step(carry, _):
      params, state, world, key = carry
      key, key_now = jax.random.split(key)
      gradient, world = jax.grad(segment, has_aux=True)(params, world, key_now)
      update, state = optimiser.update(gradient, state)
      return (optax.apply_updates(params, update), state, world, key), None

    carry = params, optimiser.init(params), (zeros, zeros, zeros + 2), key
    return jax.lax.scan(step, carry, length=num_rounds)[0][0]

  return lambda: run(jax.random.key(0))


def _measure_threads(num_updates=20):
  """Frames per second of 1, 2 and 4 threads, with 1 and 16 environments."""
  import jax

  from lilly import training
  from lilly.envs import catch, wrappers
  from lilly.learners import asynchronous
  from lilly.training import hogwild

  env, method = wrappers.auto_reset(catch.make()), _method()
  found = {}
  for num_envs in (1, 16):
    segment = jax.jit(
      functools.partial(
        asynchronous.segment_gradient,
        method=method,
        env=env,
        segment_length=_LENGTH,
      )
    )
    problem = hogwild.Problem(
      init=method.network.init,
      init_worker=lambda key, params, index, n=num_envs: (
        asynchronous.init_worker(key, method, env, params, num_envs=n)
      ),
      compute=lambda params, targets, worker, frames, segment=segment: segment(
        params, targets, worker
      ),
      evaluate=lambda params: {},
      num_frames=num_envs * _LENGTH,
    )
    for num_threads in (1, 2, 4):
      program = hogwild.make_program(
        problem,
        training.Options(log_every=num_updates),
        num_threads=num_threads,
        frames_per_update=50 * num_envs * _LENGTH,
      )
      state, _ = program.step_chunk(program.init())  # compiles
      before, start = int(state.frames[0]), time.perf_counter()
      state, _ = program.step_chunk(state)
      spent = time.perf_counter() - start
      name = f"{num_threads}_threads_{num_envs}_environments"
      found[name] = (int(state.frames[0]) - before) / spent
  return found
