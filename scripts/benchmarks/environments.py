"""Environments: steps per second under random actions, with resets."""

from typing import Any

from benchmarks import timing

_NUM_ENVIRONMENTS = 1024
_NUM_STEPS = 1000


def measure() -> dict[str, Any]:
  """Measures 1,024 copies of each task in one scan, and pixel pendulums."""
  from lilly.envs import catalog, rendering

  numbers = {name: _rollout(catalog.make(name)) for name in catalog.names()}
  pixels = _rollout(rendering.pixels(catalog.make("pendulum")), 16, 100)
  return {
    "numbers": _speeds(numbers, _NUM_ENVIRONMENTS * _NUM_STEPS)
    | {"target": "pendulum at least 3e6"},
    "pixels_16_pendulums": _speeds({"pendulum": pixels}, 16 * 100),
  }


def _rollout(env, num_environments=_NUM_ENVIRONMENTS, num_steps=_NUM_STEPS):
  """Makes a function that steps a batch and returns its summed rewards."""
  import jax
  import jax.numpy as jnp

  from lilly.envs import environment, wrappers

  env = wrappers.auto_reset(env)
  spec = env.action_spec
  actions_spec = spec._replace(shape=(num_environments, *spec.shape))

  @jax.jit
  def run(key):
    start_key, key = jax.random.split(key)

    def step(carry, key):
      state, total = carry
      action_key, step_key = jax.random.split(key)
      actions = environment.sample(action_key, actions_spec)
      keys = jax.random.split(step_key, num_environments)
      state, step = jax.vmap(env.step)(keys, state, actions)
      # Uses the observation, or the compiler would remove it.
      seen = step.observation.reshape(num_environments, -1)[:, 0]
      return (state, total + step.reward + seen), None

    starts = jax.random.split(start_key, num_environments)
    carry = jax.vmap(env.reset)(starts)[0], jnp.zeros(num_environments)
    keys = jax.random.split(key, num_steps)
    return jax.lax.scan(step, carry, keys)[0][1]

  return lambda: run(jax.random.key(0))


def _speeds(candidates, num_steps):
  found = timing.compare(candidates, rounds=5)
  return {
    "steps_per_second": {
      name: {"median": num_steps / s["median"], "max": num_steps / s["min"]}
      for name, s in found["seconds"].items()
    }
  }
