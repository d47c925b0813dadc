"""Iterative LQG on custom dynamics: a boat crosses a river.

In the checkout: python -m examples.linear_quadratic_control
"""

import jax
import jax.numpy as jnp

from lilly.control import lqr


def dynamics(t, x, u):
  place, speed = x[:2], x[2:]  # position and velocity over ground; u: thrust
  current = jnp.stack([2 * jnp.sin(jnp.pi * place[1] / 4), 0.0])
  drag = (current - speed) * jnp.sqrt(1 + jnp.sum((current - speed) ** 2))
  return x + 0.1 * jnp.concatenate([speed, u + drag])


def reward(t, x, u):  # The pier is straight across, at (0, 4).
  return -0.1 * (x[0] ** 2 + (x[1] - 4) ** 2 + 0.1 * u @ u)


@jax.jit
def improve(states, actions):
  functions = {"dynamics": dynamics, "reward": reward}
  gains = lqr.backward(lqr.expand(states, actions, **functions), damping=0.1)
  return lqr.forward(gains, states, actions, **functions)


def main(num_passes=10, num_steps=80):
  actions = jnp.zeros((num_steps, 2))  # at rest, where there is no current
  states, costs = jnp.zeros((num_steps + 1, 4)), [num_steps * 1.6]
  for _ in range(num_passes):
    states, actions, total = improve(states, actions)
    costs.append(-float(total))
  return costs, states


if __name__ == "__main__":
  print("cost of each pass:", [round(cost, 1) for cost in main()[0]])
