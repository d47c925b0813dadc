"""Train DDPG on a custom environment: bring a cart to the origin.

In the checkout: python -m examples.own_environment --num_updates=3000
"""

import sys

import jax
import jax.numpy as jnp

from experiments import ddpg
from lilly import training
from lilly.envs import environment, wrappers


def reset(key):
  x = jax.random.uniform(key, (2,), minval=-1.0)  # position and velocity
  return x, x  # state and observation


def step(key, x, action):
  x = x + 0.1 * jnp.stack([x[1], action[0]])
  return x, environment.make_step(x, reward=1 - jnp.sum(x**2))


def main(settings, options):
  seen = environment.box([-9.0, -9.0], [9.0, 9.0])
  cart = environment.Environment(reset, step, seen, environment.box([-1], [1]))
  experiment = ddpg.make_experiment(wrappers.time_limit(cart, 50), settings)
  results = training.run(
    {"cart": experiment}, options, key_metric="eval/return"
  )
  return results.metrics["cart"]["eval/return"][1]


if __name__ == "__main__":
  print("greedy returns:", main(*training.parse(ddpg.SCRIPT, sys.argv)))
