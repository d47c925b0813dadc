"""Seeds times learning rates by `vmap`, without the driver: one program."""

import jax
import jax.numpy as jnp

from lilly.rules import feedback_alignment


def train(key, learning_rate, num_updates):
  """Learns a random linear map by feedback alignment; returns the error."""
  key_w, key_x = jax.random.split(key)
  draws = jax.random.uniform(key_w, (3, 30, 20), minval=-1.0)
  target, feedback = draws[0, :, :10], 0.5 * draws[1, :10]
  start = 0.01 * draws[2], jnp.zeros((20, 10))

  def loss(weights, x):
    output = feedback_alignment.linear(x @ weights[0], weights[1], feedback)
    return 0.5 * jnp.sum((x @ target - output) ** 2)

  def update(weights, x):
    grads = jax.grad(loss)(weights, x)
    step = lambda w, g: w - learning_rate * g
    return jax.tree.map(step, weights, grads), None

  examples = jax.random.normal(key_x, (num_updates, 30))
  weights, _ = jax.lax.scan(update, start, examples)
  return jnp.sum((target - weights[0] @ weights[1]) ** 2) / jnp.sum(target**2)


def main(num_seeds=10, rates=(3e-4, 1e-3, 3e-3), num_updates=1000):
  one = lambda key, rate: train(key, rate, num_updates)
  keys = jax.random.split(jax.random.key(0), num_seeds)
  grid = jax.vmap(jax.vmap(one, (0, None)), (None, 0))  # [rates, seeds]
  return dict(zip(rates, jax.jit(grid)(keys, jnp.array(rates)), strict=True))


if __name__ == "__main__":
  for rate, errors in main().items():
    print(f"rate {rate}: median error {jnp.median(errors):.4f} of the target")
