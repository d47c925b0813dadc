"""Sparse access memory: a step, its bytes, an endless stream, the search."""

import time
from typing import Any

from benchmarks import timing

# Milliseconds of a step, forward and backward, of the one public SAM (PyTorch,
# ixaxaar/pytorch-dnc with an exact search in place of its index), by words:
# batch 1, 4 heads that read 4 words of 32 numbers, 50 steps, one thread. They
# were measured once, on 2 shared cores of the development machine; on another
# machine the ratio says little.
_PYTORCH_MS = {1000: 6.1, 10_000: 16.6}
_CONTROLLED_STEPS = 50
_SEGMENT = 100


def measure() -> dict[str, Any]:
  """Measures memories alone, a whole core, a stream, and the index."""
  return {
    "sam_lsh_2_10_and_2_20_words": _flatness(),
    "ntm_and_sam_lsh_2_18_words": _against_ntm(),
    "dnc_and_sdnc_lsh_4_heads_2048_words": _against_dnc(),
    "sam_core_4_heads_exact_50_steps": _core(),
    "stream_of_100000_steps_2_16_words": _stream(),
    "recall_of_lsh_100000_words": _recall(),
  }


def _sparse(kind, num_slots, num_steps, search="lsh", **options):
  """Makes a sparse memory for gradients over a number of steps."""
  import jax

  from lilly.memory import nearest_neighbors
  from lilly.nets import cores

  if search == "lsh":
    options["make_index"] = lambda: nearest_neighbors.init(
      jax.random.key(0), num_slots, 32
    )
  return cores.make_memory(
    kind,
    num_slots=num_slots,
    word_size=32,
    num_reads=4,
    gradient_rows=num_steps * options["num_heads"] * (4 + 1),
    **options,
  )


def _dense(kind, num_slots, num_heads):
  from lilly.nets import cores

  return cores.make_memory(
    kind, num_slots=num_slots, word_size=32, num_heads=num_heads
  )


def _cost(make, lengths, **options):
  import jax

  from scripts import step_cost

  return step_cost.of_memory(jax.random.key(0), make, lengths, **options)


def _flatness():
  """Times a step of the memory alone, with few and many words."""
  seconds = {
    f"seconds_2_{exponent}": _cost(
      lambda steps, n=2**exponent: _sparse("sam", n, steps, num_heads=1),
      (200, 1000),
    ).seconds
    for exponent in (10, 20)
  }
  ratio = seconds["seconds_2_20"] / seconds["seconds_2_10"]
  return seconds | {"ratio_2_20_to_2_10": ratio, "target": "at most 3"}


def _against_ntm():
  """Compares with a dense memory, whose 100 steps are compiled, not run."""
  makers = {
    "ntm": lambda steps: _dense("ntm", 2**18, 1),
    "sam_lsh": lambda steps: _sparse("sam", 2**18, steps, num_heads=1),
  }
  lengths = {"ntm": (1, 3), "sam_lsh": (200, 1000)}
  found = {}
  for name, make in makers.items():
    run = _cost(make, lengths[name])
    planned = _cost(make, (10, 100), max_bytes=0)
    found[name] = {
      "seconds": run.seconds,
      "bytes_of_100_steps": planned.bytes_in_all,
    }
  return found | _ratios(found, "ntm", "sam_lsh")


def _against_dnc():
  """Compares the memories with temporal links, DNC and SDNC."""
  dnc = _cost(lambda steps: _dense("dnc", 2048, 4), (2, 6))
  sdnc = _cost(
    lambda steps: _sparse("sdnc", 2048, steps, num_heads=4), (100, 500)
  )
  found = {
    name: {"seconds": row.seconds, "bytes_per_step": row.bytes_per_step}
    for name, row in (("dnc", dnc), ("sdnc_lsh", sdnc))
  }
  return found | _ratios(found, "dnc", "sdnc_lsh")


def _ratios(found, dense, sparse):
  """Returns the ratios of the dense memory's cost to the sparse one's."""
  return {
    f"{dense}_to_{sparse}_{unit}": found[dense][unit] / found[sparse][unit]
    for unit in found[dense]
  }


def _trained(num_slots, search, num_steps):
  """Returns a core, its initial state, and a truncated-backpropagation step.

  LSTM of 100 units, 4 heads; the loss is the squared error of 8 outputs. The
  step maps (parameters, state), (inputs, targets) to the updated pair and the
  loss, for a scan.
  """
  import jax
  import jax.numpy as jnp

  from lilly.nets import recurrent

  memory = _sparse("sam", num_slots, num_steps, search, num_heads=4)
  core = recurrent.with_memory(memory, 8, 8, hidden_size=100)

  def start():
    return core.init(jax.random.key(1)), core.initial_state()

  def loss(params, state, inputs, targets):
    state, y = recurrent.unroll(core, params, inputs, core.detach(state))
    return jnp.mean((y - targets) ** 2), state

  def segment(carry, data):
    params, state = carry
    gradient = jax.value_and_grad(loss, has_aux=True)
    (value, state), grads = gradient(params, state, *data)
    params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)
    return (params, state), value

  return start, segment


def _core():
  """Times the complete core, segment by segment, against pytorch-dnc's."""
  import jax

  data = jax.random.normal(jax.random.key(0), (2, _CONTROLLED_STEPS, 8))

  def candidate(num_slots):
    start, segment = _trained(num_slots, "exact", _CONTROLLED_STEPS)
    run = jax.jit(segment, donate_argnums=0)
    carry = start()

    def call():
      nonlocal carry
      carry, value = run(carry, data)
      return jax.block_until_ready((carry, value))[1]

    return call

  found = timing.compare({str(n): candidate(n) for n in _PYTORCH_MS})
  step_ms = {
    n: 1000 * found["seconds"][str(n)]["median"] / _CONTROLLED_STEPS
    for n in _PYTORCH_MS
  }
  return {
    "step_ms": step_ms,
    "pytorch_step_ms": _PYTORCH_MS,
    "pytorch": "constants of pytorch-dnc on one thread, measured once",
    "pytorch_to_here": {n: _PYTORCH_MS[n] / step_ms[n] for n in _PYTORCH_MS},
    "target": "at least 20",
  }


def _stream():
  """Trains on a stream; the cost must not grow with its length."""
  import jax
  import jax.numpy as jnp

  start, segment = _trained(2**16, "lsh", _SEGMENT)
  train = jax.jit(
    lambda carry, data: jax.lax.scan(segment, carry, data), donate_argnums=0
  )
  compiled, temporary = {}, {}
  for count in (10, 1000):
    shape = jax.ShapeDtypeStruct((count, _SEGMENT, 8), jnp.float32)
    lowered = train.lower(jax.eval_shape(start), (shape, shape))
    compiled[count] = lowered.compile()
    analysis = compiled[count].memory_analysis()
    temporary[f"temporary_bytes_{count}_segments"] = analysis.temp_size_in_bytes
  shape = (2, 1000, _SEGMENT, 8)
  data = tuple(jax.random.normal(jax.random.key(0), shape))
  carry = jax.block_until_ready(start())
  begun = time.perf_counter()
  jax.block_until_ready(compiled[1000](carry, data))
  spent = time.perf_counter() - begun
  return temporary | {
    "steps_per_s": 1000 * _SEGMENT / spent,
    "seconds": spent,
    "target": "as many temporary bytes for 1000 segments as for 10",
  }


def _recall(num_slots=100_000, num_queries=500):
  """Finds words from noisy queries, by the index and by exact search."""
  import jax
  import jax.numpy as jnp

  from lilly.memory import nearest_neighbors

  keys = jax.random.split(jax.random.key(0), 4)
  words = jax.random.normal(keys[0], (num_slots, 32))
  index = nearest_neighbors.init(keys[1], num_slots, 32)
  index = jax.jit(nearest_neighbors.file)(index, words)
  chosen = words[jax.random.choice(keys[2], num_slots, (num_queries,))]
  noise = jax.random.normal(keys[3], chosen.shape)

  @jax.jit
  def recall(index, words, queries):
    def both(query):
      found = nearest_neighbors.query(index, words, query, 4)
      return found, nearest_neighbors.exact(words, query, 4)

    found, wanted = jax.lax.map(both, queries)
    is_found = jnp.any(wanted[:, :, None] == found[:, None], axis=2)
    return jnp.mean(is_found[:, 0]), jnp.mean(is_found)

  results: dict[str, Any] = {"queries": num_queries}
  for scale in (0.1, 0.3):
    at_1, at_4 = recall(index, words, chosen + scale * noise)
    results[f"noise_{scale}"] = {"recall_at_1": at_1, "recall_at_4": at_4}
  return results | {"target": "recall_at_1 at least 0.99 and 0.8"}
