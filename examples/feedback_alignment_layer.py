"""Feedback alignment in a haiku network: one layer has random feedback."""

import haiku as hk
import jax
import optax

from lilly.data import datasets
from lilly.nets import feedback


@hk.transform_with_state
def network(images):
  hidden = jax.nn.relu(hk.Linear(128)(images.reshape(-1, 64) / 255))
  return feedback.Linear(10, rule="fa")(hidden)  # "bp": backpropagation


def main(num_updates=100):
  (x, labels), test = (datasets.load("digits", s) for s in ("train", "test"))
  params, state = network.init(jax.random.key(0), x)
  optimiser = optax.adam(1e-2)
  opt_state = optimiser.init(params)

  def loss(params):  # the random feedback is state: no optimiser sees it
    y, _ = network.apply(params, state, None, x)
    return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()

  @jax.jit
  def update(params, opt_state):
    updates, opt_state = optimiser.update(jax.grad(loss)(params), opt_state)
    return optax.apply_updates(params, updates), opt_state

  for _ in range(num_updates):
    params, opt_state = update(params, opt_state)
  y, _ = network.apply(params, state, None, test.images)
  return (y.argmax(-1) == test.labels).mean()


if __name__ == "__main__":
  print(f"test accuracy: {main():.3f}")
