"""A memory with a custom energy: Hopfield's, with learnt rates."""

import jax
import optax

from lilly.memory import energy
from lilly.tasks import patterns

OPTIMISER = optax.adam(1e-2)


def hopfield(weights, x):  # a write step on it is Hebb's rule
  return -0.5 * (2 * x - 1) @ weights @ (2 * x - 1)


def recall(learnt, key):  # the loss of a set, and wrong bits of a pattern
  keys = jax.random.split(key, (2, 4))
  stored = jax.vmap(lambda key: patterns.draw_bits(key, 32))(keys[0])
  redraw = lambda key, x: patterns.redraw_bits(key, x, 16).pattern
  given = learnt["weights"], stored, jax.vmap(redraw)(keys[1], stored), hopfield
  loss, reads = energy.loss(*given, *learnt["rates"], num_steps=2)
  return loss, jax.vmap(energy.error_bits)(reads[:, -1], stored).mean()


def update(carry, keys):
  mean = lambda p: tuple(x.mean() for x in jax.vmap(recall, (None, 0))(p, keys))
  grads, wrong = jax.grad(mean, has_aux=True)(carry[0])
  step, opt_state = OPTIMISER.update(grads, carry[1])
  return (optax.apply_updates(carry[0], step), opt_state), wrong


def main(num_updates=500):
  keys = jax.random.split(jax.random.key(0), (num_updates, 16))
  rates = energy.write_rates(0, initial=1e-3), energy.read_rates(5)
  learnt = {"weights": jax.numpy.zeros((32, 32)), "rates": rates}
  return jax.lax.scan(update, (learnt, OPTIMISER.init(learnt)), keys)[1]


if __name__ == "__main__":
  print("wrong bits (queries: about 8):", jax.jit(main)()[-50:].mean())
