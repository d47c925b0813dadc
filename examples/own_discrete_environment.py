"""Train A3C on a custom environment of discrete actions: walk to the right."""

import functools

import jax
import jax.numpy as jnp

from lilly.envs import environment, wrappers
from lilly.learners import asynchronous
from lilly.learners import asynchronous_methods as methods
from lilly.nets import policy_value, recurrent


def reset(key):
  return jnp.zeros((), jnp.int32), jax.nn.one_hot(0, 8)  # state, observation


def step(key, place, action):
  place = jnp.clip(place + 2 * action - 1, 0, 7)
  ends, seen = place == 7, jax.nn.one_hot(place, 8)
  return place, environment.make_step(seen, 1.0 * ends, ends)


SEEN = environment.box([0.0] * 8, [1.0] * 8)
ENV = environment.Environment(reset, step, SEEN, environment.discrete(2))
ENV = wrappers.auto_reset(wrappers.time_limit(ENV, 30))
CORE = functools.partial(recurrent.feedforward, hidden_size=16)
METHOD = methods.a3c(policy_value.categorical(8, 2, make_core=CORE))
OPTIMISER = methods.clipped_rmsprop(1e-2)
PLAY = functools.partial(asynchronous.play_round, method=METHOD, env=ENV)


def main(key, num_rounds=500):
  state = asynchronous.init(key, METHOD, ENV, OPTIMISER, num_workers=8)
  play = lambda state, _: PLAY(state, OPTIMISER)
  return jax.lax.scan(play, state, length=num_rounds)[1]["return"][-1]


if __name__ == "__main__":
  print("goals reached:", jax.jit(main)(jax.random.key(0)))  # all: 1.0
