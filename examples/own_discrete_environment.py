"""Train A3C on a custom environment of discrete actions: walk to the right."""

import functools

import jax
import jax.numpy as jnp

from lilly.envs import environment, wrappers
from lilly.learners import asynchronous
from lilly.nets import policy_value, recurrent

_LENGTH = 8


def reset(key):
  del key
  return jnp.zeros((), jnp.int32), jax.nn.one_hot(0, _LENGTH)


def step(key, place, action):
  place = jnp.clip(place + 2 * action - 1, 0, _LENGTH - 1)
  is_there = place == _LENGTH - 1
  seen = jax.nn.one_hot(place, _LENGTH)
  return place, environment.make_step(seen, 1.0 * is_there, is_there)


SEEN = environment.box([0.0] * _LENGTH, [1.0] * _LENGTH)
ENV = environment.Environment(reset, step, SEEN, environment.discrete(2))
ENV = wrappers.auto_reset(wrappers.time_limit(ENV, 30))
CORE = functools.partial(recurrent.feedforward, hidden_size=16)
METHOD = asynchronous.a3c(policy_value.categorical(_LENGTH, 2, make_core=CORE))
OPTIMISER = asynchronous.clipped_rmsprop(1e-2)


def main(key, num_rounds=500):
  state = asynchronous.init(key, METHOD, ENV, OPTIMISER, num_workers=8)
  play = functools.partial(asynchronous.play_round, method=METHOD, env=ENV)
  one_round = lambda state, _: play(state, OPTIMISER)
  state, metrics = jax.lax.scan(one_round, state, length=num_rounds)
  return metrics["return"][-1]


if __name__ == "__main__":
  print("share of goals reached:", jax.jit(main)(jax.random.key(0)))  # about 1
