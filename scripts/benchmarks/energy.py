"""Energy-based memory: time of a training update, and of its compilation.

The update is that of the experiment's preset `cpu`, without drawing the sets:
16 sets of 4 patterns of 32 bits, gradients through the writes and the reads,
then AdamW. With loops of 3 steps, the preset's, and of 5, the paper's.
"""

import functools
import time
from typing import Any

from benchmarks import timing

_NUM_BITS, _NUM_PATTERNS, _NUM_SETS = 32, 4, 16


def measure() -> dict[str, Any]:
  """Measures full and first-order updates, and unrolled loops."""
  return {
    "3_steps_3_hops": _updates(3),
    "5_steps_5_hops": _updates(5),
    "one_set_3_steps_3_hops": _operation_by_operation(3),
  }


def _made(num_steps, num_sets):
  """Makes a network, its parameters, and sets with their queries."""
  import jax
  import jax.numpy as jnp

  from lilly.nets import energy_memory, energy_networks
  from lilly.tasks import patterns

  task = patterns.make_binary_task(
    num_bits=_NUM_BITS, num_redrawn=_NUM_BITS // 2
  )
  keys = jax.random.split(jax.random.key(0), 3)
  given = keys[0], (), num_sets * _NUM_PATTERNS
  stored = task.sample(*given)
  queries = jax.vmap(task.damage)(jax.random.split(keys[1], given[2]), stored)
  shape = num_sets, _NUM_PATTERNS, _NUM_BITS
  network = energy_networks.gated(
    hidden_size=64, dynamic_size=15, num_hops=num_steps
  )
  memory = energy_memory.make(
    network, write_steps=num_steps, read_steps=num_steps
  )
  params, _ = memory.init(keys[2], jnp.zeros(_NUM_BITS))
  return (
    network,
    params,
    stored.reshape(shape),
    queries.pattern.reshape(shape),
  )


def _update(set_loss, params, opt_state, stored, queries):
  """Updates on all sets in parallel; also returns the loss."""
  import jax
  import jax.numpy as jnp
  import optax

  def loss(params):
    return jnp.mean(jax.vmap(set_loss, (None, 0, 0))(params, stored, queries))

  value, grads = jax.value_and_grad(loss)(params)
  changes, opt_state = _optimiser().update(grads, opt_state, params)
  return optax.apply_updates(params, changes), opt_state, value, grads


def _optimiser():
  import optax

  adam = optax.adamw(2e-3, weight_decay=1e-6)
  return optax.chain(optax.clip_by_global_norm(1.0), adam)


def _set_loss(network, num_steps, first_order, params, stored, queries):
  """Computes the loss of one set by this library."""
  import jax
  import jax.numpy as jnp

  from lilly.memory import energy
  from lilly.nets import energy_memory, set_memories

  memory = energy_memory.make(
    network,
    write_steps=num_steps,
    read_steps=num_steps,
    first_order=first_order,
  )
  _, reads = set_memories.recall(memory, params, {}, stored, queries)
  return jnp.mean(jax.vmap(energy.reconstruction_loss)(reads, stored))


def _unrolled_loss(network, num_steps, params, stored, queries):
  """Computes the same loss literally as in the paper, by Python loops."""
  import jax
  import jax.numpy as jnp

  energy = functools.partial(network.energy, params.static)
  slope = jax.grad(energy, argnums=1)
  start = theta = params.written
  distance = lambda a, b: jnp.sum(jnp.square(a - b))
  terms = (
    lambda theta: jnp.mean(jax.vmap(lambda x: energy(theta, x))(stored)),
    lambda theta: jnp.mean(
      jax.vmap(lambda x: jnp.sum(jnp.square(slope(theta, x))))(stored)
    ),
    lambda theta: sum(jax.tree.leaves(jax.tree.map(distance, theta, start))),
  )
  for _ in range(num_steps):
    grads = [jax.grad(term)(theta) for term in terms]
    for rates, grad in zip(params.write, grads, strict=True):
      for layer, logit in rates.items():
        rate = jax.nn.softplus(logit)
        descend = lambda w, g, rate=rate: w - rate * g
        theta = theta | {
          layer: jax.tree.map(descend, theta[layer], grad[layer])
        }

  def read(x, pattern):
    size, momentum = params.read.step_size, params.read.momentum
    v, total = jnp.zeros_like(x), 0.0
    for k in range(num_steps):
      if k:
        size *= jax.nn.sigmoid(params.read.step_size_logits[k - 1])
        momentum *= jax.nn.sigmoid(params.read.momentum_logits[k - 1])
      ahead = jnp.clip(x + momentum * v, 0, 1)
      v = momentum * v - size * slope(theta, ahead)
      x = jnp.clip(x + v, 0, 1)
      total += distance(x, pattern)
    return total

  return jnp.mean(jax.vmap(read)(queries, stored))


def _compiled(update, given):
  """Compiles a program; also returns wall and processor time of compilation."""
  import jax

  start, start_cpu = time.perf_counter(), time.process_time()
  lowered = jax.jit(update).lower(*given)
  traced = time.perf_counter()
  program = lowered.compile()
  compiled = time.perf_counter()
  text = program.as_text() or ""
  return program, {
    "trace_s": traced - start,
    "compile_s": compiled - traced,
    "processor_s": time.process_time() - start_cpu,
    "instructions": text.count(" = "),
  }


def _agree(ours, theirs):
  """Checks that gradients and losses of two programs agree."""
  import jax
  import numpy as np

  np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-4)
  for a, b in zip(
    jax.tree.leaves(ours[3]), jax.tree.leaves(theirs[3]), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3 * np.abs(b).max())


def _updates(num_steps):
  """Measures times of programs and compilation, relative to the library's."""
  network, params, stored, queries = _made(num_steps, _NUM_SETS)
  given = params, _optimiser().init(params), stored, queries
  losses = {
    "second_order": functools.partial(_set_loss, network, num_steps, False),
    "first_order": functools.partial(_set_loss, network, num_steps, True),
    "unrolled": functools.partial(_unrolled_loss, network, num_steps),
  }
  made, candidates = {}, {}
  for name, loss in losses.items():
    program, made[name] = _compiled(functools.partial(_update, loss), given)
    candidates[name] = functools.partial(program, *given)
  _agree(candidates["second_order"](), candidates["unrolled"]())
  found = timing.compare(candidates)
  return {
    "update_ms": {
      name: 1000 * x["median"] for name, x in found["seconds"].items()
    },
    "time_to_second_order": found["ratio"],
    "made": made,
    "made_second_order_to_unrolled": {
      name: value / made["unrolled"][name]
      for name, value in made["second_order"].items()
    },
  }


def _operation_by_operation(num_steps):
  """Measures one set, compiled, and operation by operation in Python."""
  import jax

  network, params, stored, queries = _made(num_steps, 1)
  given = params, _optimiser().init(params), stored, queries
  loss = functools.partial(_set_loss, network, num_steps, False)
  program, _ = _compiled(functools.partial(_update, loss), given)

  def loop():
    with jax.disable_jit():
      return _update(loss, *given)

  _agree(program(*given), loop())
  candidates = {"compiled": lambda: program(*given), "python_loop": loop}
  found = timing.compare(candidates, rounds=3)["seconds"]
  one, other = (found[name]["median"] for name in candidates)
  return {
    "update_ms": {"compiled": 1000 * one, "python_loop": 1000 * other},
    "times_as_fast_as_the_python_loop": other / one,
  }
