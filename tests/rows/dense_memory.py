"""Conformance rows of memories whose every word takes part in a step."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lilly.memory import addressing, dense_access
from lilly.memory import differentiable_neural_computer as dnc
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]


def _sharpened(weights, exponent):
  return addressing.sharpen(jnp.abs(weights), 1 + exponent**2)


_NUM_SLOTS, _WORD_SIZE, _NUM_HEADS = 4, 3, 2


def _made(make):
  """Makes inputs of a random generator and a type."""

  def make_inputs(seed, dtype):
    inputs = make(np.random.default_rng(seed))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), inputs)

  return make_inputs


def _weights(rng, *leading):
  return rng.dirichlet(np.ones(_NUM_SLOTS), leading)


def _words(rng, *leading):
  return rng.normal(size=(*leading, _WORD_SIZE))


def _dam(rng):
  return dense_access.State(
    memory=_words(rng, _NUM_SLOTS),
    read_weights=_weights(rng, _NUM_HEADS),
    write_weights=_weights(rng, _NUM_HEADS),
    usage=rng.random(_NUM_SLOTS),
  )


def _dam_write(rng):
  gates = rng.random((2, _NUM_HEADS))
  return _dam(rng), _words(rng, _NUM_HEADS), *gates


def _dam_read(rng):
  return _dam(rng), _words(rng, _NUM_HEADS), rng.random(_NUM_HEADS)


def _ntm(rng):
  return dense_access.NtmState(*_dam(rng)[:3])


def _ntm_addresses(rng, *leading):
  return dense_access.NtmAddress(
    query=_words(rng, *leading),
    strength=rng.random(leading),
    gate=rng.random(leading),
    kernel=rng.dirichlet(np.ones(3), leading),
    exponent=1 + rng.random(leading),
  )


def _ntm_address(rng):
  return _weights(rng), _words(rng, _NUM_SLOTS), _ntm_addresses(rng)


def _ntm_write(rng):
  erase = rng.random((_NUM_HEADS, _WORD_SIZE))
  return _ntm(rng), _ntm_addresses(rng, _NUM_HEADS), erase, _words(rng, 2)


def _ntm_read(rng):
  return _ntm(rng), _ntm_addresses(rng, _NUM_HEADS)


# `init` has no arrays as inputs: the type of one says which it is to have.
def _dam_init(like, *, num_heads=_NUM_HEADS, **hyper):
  return dense_access.init(
    _NUM_SLOTS, _WORD_SIZE, num_heads=num_heads, dtype=like.dtype, **hyper
  )


def _ntm_init(like, *, num_heads=_NUM_HEADS, **hyper):
  return dense_access.ntm_init(
    _NUM_SLOTS, _WORD_SIZE, num_heads=num_heads, dtype=like.dtype, **hyper
  )


# Weights and kernels are not negative, exponents are at least 1.
def _in_range(address):
  return address._replace(
    kernel=jnp.abs(address.kernel), exponent=1 + jnp.abs(address.exponent)
  )


def _ntm_address_of(previous_weights, words, address):
  previous_weights = jnp.abs(previous_weights)
  return dense_access.ntm_address(previous_weights, words, _in_range(address))


def _ntm_write_of(state, address, erase, word):
  return dense_access.ntm_write(state, _in_range(address), erase, word)


def _ntm_read_of(state, address):
  return dense_access.ntm_read(state, _in_range(address))


def _dnc(rng):
  return dnc.State(
    memory=_words(rng, _NUM_SLOTS),
    read_weights=_weights(rng, _NUM_HEADS),
    write_weights=_weights(rng),
    usage=rng.random(_NUM_SLOTS),
    links=_weights(rng, _NUM_SLOTS) / 2,
    precedence=_weights(rng),
  )


def _dnc_write(rng):
  return _dnc(rng), dnc.WriteInterface(
    key=_words(rng),
    strength=rng.random(),
    erase=rng.random(_WORD_SIZE),
    word=_words(rng),
    free_gates=rng.random(_NUM_HEADS),
    allocation_gate=rng.random(),
    write_gate=rng.random(),
  )


def _dnc_read(rng):
  return _dnc(rng), dnc.ReadInterface(
    keys=_words(rng, _NUM_HEADS),
    strengths=rng.random(_NUM_HEADS),
    modes=rng.dirichlet(np.ones(3), _NUM_HEADS),
  )


def _dnc_usage(rng):
  state = _dnc(rng)
  weights = state.write_weights, state.read_weights
  return state.usage, *weights, rng.random(_NUM_HEADS)


def _dnc_links(rng):
  state = _dnc(rng)
  return state.links, state.precedence, state.write_weights


def _dnc_directions(rng):
  return _weights(rng, _NUM_SLOTS) / 2, _weights(rng)


def _dnc_init(like, *, num_reads=_NUM_HEADS, **hyper):
  return dnc.init(
    _NUM_SLOTS, _WORD_SIZE, num_reads=num_reads, dtype=like.dtype, **hyper
  )


def _blank(make, init):
  """Zeros for a memory of zeros, at its first step."""

  def make_inputs(seed, dtype):
    _, *inputs = _made(make)(seed, dtype)
    return init(jnp.zeros((), dtype), fill=0.0), *map(_zeros, inputs)

  return make_inputs


def _zeros(tree):
  return jax.tree.map(jnp.zeros_like, tree)


def _step_row(function, make, init, **kinds):
  return Row(
    function,
    "memory",
    _made(make),
    state=0,
    edges={"a blank memory": _blank(make, init)},
    **kinds,
  )


def _init_row(function, call, heads):
  return Row(
    function,
    "memory",
    arrays(()),
    call=call,
    any_rank=frozenset({"like"}),
    constants={heads: (0, -1), "fill": (math.inf, -math.inf)},
  )


ROWS: tuple[Row, ...] = (
  Row(
    addressing.cosine_similarity,
    "function",
    arrays(3, (4, 3)),
    constants={"epsilon": (0.0, -1.0)},
    free=frozenset({"words.0"}),
  ),
  Row(
    addressing.euclidean_similarity,
    "function",
    arrays(3, (4, 3)),
    constants={"epsilon": (0.0, -1.0)},
    free=frozenset({"words.0"}),
  ),
  Row(
    addressing.content_weights,
    "function",
    arrays(3, (4, 3), ()),
    free=frozenset({"words.0"}),
  ),
  Row(addressing.interpolate, "function", arrays(4, 4, ())),
  Row(
    addressing.shift,
    "function",
    arrays(4, 3),
    edges={"a kernel of one": arrays(4, 1)},
    free=frozenset({"weights.0", "kernel.0"}),
  ),
  Row(
    addressing.sharpen,
    "function",
    arrays(4, ()),
    call=_sharpened,
    free=frozenset({"weights.0"}),
  ),
  Row(
    addressing.weighted_sum,
    "function",
    arrays(4, (4, 3)),
    free=frozenset({"words.1"}),
  ),
  _step_row(dense_access.write, _dam_write, _dam_init),
  _step_row(
    dense_access.read,
    _dam_read,
    _dam_init,
    constants={"usage_discount": (-0.1, 2.0, math.inf)},
  ),
  _init_row(dense_access.init, _dam_init, "num_heads"),
  _step_row(
    dense_access.ntm_write,
    _ntm_write,
    _ntm_init,
    call=_ntm_write_of,
    free=frozenset({"address.kernel.1"}),
  ),
  _step_row(
    dense_access.ntm_read,
    _ntm_read,
    _ntm_init,
    call=_ntm_read_of,
    free=frozenset({"address.kernel.1"}),
  ),
  _init_row(dense_access.ntm_init, _ntm_init, "num_heads"),
  Row(
    dense_access.ntm_address,
    "function",
    _made(_ntm_address),
    call=_ntm_address_of,
    free=frozenset({"address.kernel.0"}),
  ),
  _step_row(dnc.write, _dnc_write, _dnc_init),
  _step_row(dnc.read, _dnc_read, _dnc_init),
  _init_row(dnc.init, _dnc_init, "num_reads"),
  Row(dnc.update_usage, "function", _made(_dnc_usage)),
  Row(
    dnc.allocation,
    "function",
    _made(lambda rng: (rng.random(4),)),
    edges={"no free slot": lambda _, dtype: (jnp.ones(4, dtype),)},
    free=frozenset({"usage.0"}),
  ),
  Row(dnc.update_links, "function", _made(_dnc_links)),
  Row(dnc.directional_weights, "function", _made(_dnc_directions)),
)
