"""A sparse access memory in your own scan, on an endless stream."""

import jax
import jax.numpy as jnp
import optax

from lilly.nets import cores, recurrent

SEGMENT, LAG = 20, 6  # steps between updates; recall what was 6 steps ago
SIZES = {"hidden_size": 32, "num_slots": 4096, "word_size": 8, "num_heads": 1}
CORE = cores.make("sam", 1, 1, gradient_rows=SEGMENT * 5, **SIZES)  # K + 1
OPTIMISER = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(3e-3))


def loss(params, memory, bits, targets):
  start = CORE.detach(memory)  # keeps the words, stops the gradient
  memory, logits = recurrent.unroll(CORE, params, bits, start)
  return optax.sigmoid_binary_cross_entropy(logits, targets).mean(), memory


def segment(carry, data):
  params, moments, memory = carry
  gradient = jax.value_and_grad(loss, has_aux=True)
  (value, memory), grads = gradient(params, memory, *data)
  updates, moments = OPTIMISER.update(grads, moments)
  return (optax.apply_updates(params, updates), moments, memory), value


def main(num_segments=2000):
  bits = jax.random.bernoulli(jax.random.key(0), shape=(num_segments, SEGMENT))
  bits = bits.astype(jnp.float32).reshape(-1)
  stream = [x.reshape(-1, SEGMENT, 1) for x in (bits, jnp.roll(bits, LAG))]
  params = CORE.init(jax.random.key(1))
  carry = params, OPTIMISER.init(params), CORE.initial_state()
  losses = jax.jit(lambda *x: jax.lax.scan(segment, *x))(carry, stream)[1]
  return losses[:100].mean(), losses[-100:].mean()


if __name__ == "__main__":
  print("initial loss, final loss:", *main())
