"""Tests of lilly.nets.filters: by hand, and what each must not do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import sphering
from lilly.nets import cores, filters, recurrent, set_memories
from tests.oracles import assert_close
from tests.whole import whole

D, N, M, W, Q = 6, 5, 4, 3, 2
ELEMENTS = np.random.default_rng(0).integers(0, 2, (N, D)).astype(np.float32)
OTHER = np.array([0.0, 1.0, 1.0, 1.0, 0.0, 1.0], np.float32)
SIZES = {"num_slots": M, "word_size": W, "query_size": Q, "hidden_size": 8}


def encoder():
  return filters.encoder(hidden_size=7, output_size=5)


def compiled(memory):
  """The same memory, each of its functions one program."""
  functions = memory._asdict().items()
  return memory._replace(**{k: jax.jit(f) for k, f in functions if callable(f)})


@functools.cache
def made(**options):
  return compiled(filters.bloom(encoder(), **(SIZES | options)))


def make_lstm(input_size, output_size):
  return recurrent.lstm(input_size, output_size, hidden_size=3)


@functools.cache
def with_lstm():
  return compiled(filters.recurrent(encoder(), make_lstm, hidden_size=8))


@functools.cache
def memory_network():
  return compiled(filters.memory_network(encoder(), word_size=2))


@functools.cache
def started(memory):
  """Parameters none of which is as it begins, and the state."""
  params, state = memory.init(jax.random.key(0), ELEMENTS[0])
  rng = np.random.default_rng(9)
  moved = lambda x: x + np.float32(0.3 * rng.normal(size=x.shape))
  return jax.tree.map(moved, jax.device_get(params)), state


def count_numbers(memory, num_items=N):
  return set_memories.num_floats(memory, num_items, ELEMENTS[0])


def linear(params, name, x):
  return x @ np.asarray(params[name]["w"]) + np.asarray(params[name]["b"])


def leaky(x):
  return np.where(x > 0, x, 0.01 * x)


def normalised(params, name, x):
  centred = x - x.mean()
  x = centred / np.sqrt((centred**2).mean() + 1e-5)
  return x * np.asarray(params[name]["scale"]) + params[name]["offset"]


def embedded(params, x):
  hidden = leaky(linear(params, "encoder/~/linear_0", x))
  z = linear(params, "encoder/~/linear_1", hidden)
  found = [z]
  for name in ("query", "word"):
    layers = f"{name}_layers/~/linear_"
    hidden = leaky(linear(params, f"{layers}0", leaky(z)))
    x = linear(params, f"{layers}1", hidden)
    found.append(normalised(params, f"{name}_norm", x))
  return found


def scored(params, given):
  h = linear(params, "layer_0", given)
  for l in (1, 2):
    h = h + linear(params, f"layer_{l}", leaky(h))
  return linear(params, "logit", leaky(h))[0]


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


@pytest.mark.parametrize("read", filters.READS)
def test_a_neural_bloom_filter_by_hand(read):
  memory = made(read_scale=0.5, read=read)
  params, state = started(memory)
  expected, keys = np.zeros((M, W)), np.asarray(params["keys"])
  for x in ELEMENTS:
    _, query, word = embedded(params["embed"], x)
    expected += np.outer(softmax(keys @ query), word)
  written = memory.write(params, state, ELEMENTS)
  assert_close(written, expected, rtol=1e-4, atol=1e-5)
  assert written.size == count_numbers(memory)
  z, query, word = embedded(params["embed"], OTHER)
  weights = softmax(keys @ query)
  assert_close(memory.address(params, state, OTHER), weights, rtol=1e-4)
  found = (weights[:, None] * expected).ravel()
  found = weights @ expected if read == "summed" else found
  expected = scored(params["output"], np.concatenate([0.5 * found, word, z]))
  score = memory.read(params, state, written, OTHER)
  assert_close(score, expected, rtol=1e-4, atol=1e-5)


@functools.cache
def slopes(memory):
  """Gradients of a score through the write, through the read, and both."""

  def score(of_write, of_read, state):
    written = memory.write(of_write, state, ELEMENTS)
    return memory.read(of_read, state, written, OTHER)

  def all_of(params, state):
    apart = jax.grad(score, (0, 1))(params, params, state)
    return *apart, jax.grad(lambda p: score(p, p, state))(params)

  return jax.jit(all_of)


def test_gradients_go_through_the_write_unless_detached():
  params, state = started(made())
  of_write, of_read, both = slopes(made())(params, state)
  of_write = jax.device_get(of_write)
  assert max(np.abs(x).max() for x in jax.tree.leaves(of_write["embed"])) > 1e-3
  assert np.abs(of_write["keys"]).max() > 1e-5
  jax.tree.map(
    lambda x, y, z: assert_close(x, np.add(y, z), rtol=1e-3, atol=1e-5),
    *(both, of_write, of_read),
  )
  *_, detached = slopes(made(is_detached=True))(params, state)
  jax.tree.map(
    lambda x, y: assert_close(x, y, rtol=1e-4, atol=1e-6), detached, of_read
  )


def test_sparse_is_dense_where_all_slots_are_kept():
  dense, sparse = made(), made(num_sparse=M)
  params, state = started(dense)
  of_sparse = {k: v for k, v in params.items() if k != "keys"}
  given = of_sparse, {"keys": params["keys"]}
  written = dense.write(params, state, ELEMENTS)
  assert_close(sparse.write(*given, ELEMENTS), written, rtol=1e-5, atol=1e-6)
  score = dense.read(params, state, written, OTHER)
  assert_close(sparse.read(*given, written, OTHER), score, rtol=1e-5)
  assert_close(
    *(sparse.address(*given, OTHER), dense.address(params, state, OTHER)),
    rtol=1e-5,
  )


@pytest.mark.parametrize("read", filters.READS)
def test_few_slots_are_written_and_read(read):
  memory = made(num_sparse=1, read=read)
  params, state = started(memory)
  assert "keys" not in params  # not learnt
  written = memory.write(params, state, ELEMENTS[:1])
  where = np.asarray(memory.address(params, state, ELEMENTS[0]))
  assert (np.abs(written).max(axis=1) > 0).tolist() == (where > 0).tolist()
  assert where.sum() == 1 and (where > 0).sum() == 1
  slope = jax.jit(jax.grad(memory.read, argnums=2))
  of_memory = slope(params, state, written, ELEMENTS[0])
  assert (np.abs(of_memory).max(axis=1) > 0).tolist() == (where > 0).tolist()


def test_queries_are_sphered_by_moments_of_what_was_seen():
  memory = made(is_sphered=True, sphering_decay=0.0, sphering_every=2)
  params, state = started(memory)
  plain = made()
  assert_close(
    *(memory.address(params, state, OTHER), plain.address(params, {}, OTHER)),
    rtol=1e-5,  # at first the projection is the identity
  )
  seen = memory.observe(params, state, ELEMENTS)
  queries = np.stack([embedded(params["embed"], x)[1] for x in ELEMENTS])
  observe = whole(sphering.update)
  expected = observe(sphering.init(Q), queries)
  assert_close(seen["sphere"].second_moment, expected.second_moment, rtol=1e-4)
  np.testing.assert_array_equal(seen["sphere"].projection, np.eye(Q))
  again = memory.observe(params, seen, ELEMENTS)
  moments = observe(expected, queries)
  refreshed = whole(sphering.refresh)(moments, decay=0.0, every=2)
  assert_close(again["sphere"].projection, refreshed.projection, rtol=1e-3)
  _, query, _ = embedded(params["embed"], OTHER)
  query = np.asarray(again["sphere"].projection) @ query
  weights = softmax(np.asarray(params["keys"]) @ query)
  assert_close(memory.address(params, again, OTHER), weights, rtol=1e-4)
  assert plain.observe(params, {}, ELEMENTS) == {}


def test_a_core_sees_the_set_as_a_sequence():
  memory = with_lstm()
  params, state = started(memory)
  core = make_lstm(5, 1)
  step, held = jax.jit(core.apply), core.initial_state()
  for x in ELEMENTS:
    hidden = leaky(linear(params["embed"], "encoder/~/linear_0", x))
    z = linear(params["embed"], "encoder/~/linear_1", hidden)
    held, _ = step(params["core"], z, held)
  written = memory.write(params, state, ELEMENTS)
  jax.tree.map(lambda x, y: assert_close(x, y, rtol=1e-4), written, held)
  assert count_numbers(memory) == count_numbers(memory, 7) == 6
  hidden = leaky(linear(params["embed"], "encoder/~/linear_0", OTHER))
  z = linear(params["embed"], "encoder/~/linear_1", hidden)
  given = np.concatenate([held.hidden, held.cell, z])
  expected = scored(params["output"], given)
  score = memory.read(params, state, written, OTHER)
  assert_close(score, expected, rtol=1e-4, atol=1e-5)
  assert memory.address is None
  with pytest.raises(ValueError, match="makes a core without a state"):
    filters.recurrent(encoder(), stateless)


def stateless(input_size, output_size):
  core = recurrent.lstm(input_size, output_size)
  return core._replace(initial_state=lambda: ())


def test_all_of_a_large_core_is_counted_and_read():
  options = {"hidden_size": 2, "num_slots": 4, "word_size": 3, "num_heads": 1}
  make_core = lambda i, o: cores.make("dnc", i, o, **options)
  memory = compiled(filters.recurrent(encoder(), make_core, hidden_size=8))
  params, state = started(memory)
  written = memory.write(params, state, ELEMENTS)
  count = sum(x.size for x in jax.tree.leaves(written))
  assert count_numbers(memory) == count > 4 * 3 + 4 * 4
  assert np.isfinite(memory.read(params, state, written, OTHER))


def test_a_memory_network_knows_the_most_similar_word():
  memory = memory_network()
  params, state = started(memory)

  def words(x, name):
    hidden = leaky(linear(params["embed"], "encoder/~/linear_0", x))
    z = linear(params["embed"], "encoder/~/linear_1", hidden)
    return linear(params["embed"], name, leaky(z))

  written = memory.write(params, state, ELEMENTS)
  expected = np.stack([words(x, "word") for x in ELEMENTS])
  assert_close(written, expected, rtol=1e-4, atol=1e-6)
  assert written.size == count_numbers(memory) == 2 * N
  query = words(OTHER, "query")
  norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(query)
  similar = (expected @ query / norms).max()
  expected = params["gain"] * similar + params["bias"]
  score = memory.read(params, state, written, OTHER)
  assert_close(score, expected, rtol=1e-3, atol=1e-4)


def test_an_empty_set_can_be_asked():
  for memory in (made(), made(num_sparse=2), with_lstm(), memory_network()):
    params, state = started(memory)
    written = memory.write(params, state, ELEMENTS[:0])
    assert not any(map(np.any, jax.tree.leaves(written)))
    score = memory.read(params, state, written, OTHER)
    assert np.isfinite(score)
  # As little familiar as can be.
  assert_close(score, params["bias"] - params["gain"], rtol=1e-6)


def test_images_go_through_convolutions():
  encode = filters.encoder(output_size=5, num_filters=2)
  memory = filters.bloom(encode, **SIZES)
  images = jnp.asarray(np.random.default_rng(1).random((3, 8, 8, 1)))
  images = images.astype(jnp.float32)

  def of(key):
    params, state = memory.init(key, images[0])
    written = memory.write(params, state, images)
    return params, memory.read(params, state, written, images[0])

  params, score = jax.eval_shape(of, jax.random.key(0))  # takes no time
  assert any("convolutional" in name for name in params["embed"])
  assert score.shape == ()


def test_bad_sizes_are_refused():
  for name in SIZES:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be a positive"):
      made(**{name: 0})
  for text, options in (
    ("read is 'all'; it must be one of", {"read": "all"}),
    ("num_sparse is 5; it must be from 0 to 4", {"num_sparse": 5}),
    ("num_sparse is -1; it must be from 0 to 4", {"num_sparse": -1}),
    ("read_scale is 0.0; it must be positive, and", {"read_scale": 0.0}),
    ("read_scale is inf; it must", {"read_scale": float("inf")}),
    ("sphering_decay is 2; it must", {"is_sphered": True, "sphering_decay": 2}),
    ("sphering_every is 0", {"is_sphered": True, "sphering_every": 0}),
  ):
    with pytest.raises(ValueError, match=text):
      made(**options)
  for name in ("hidden_size", "output_size"):
    with pytest.raises(ValueError, match=f"{name} is 0"):
      filters.encoder(**{name: 0})
  with pytest.raises(ValueError, match="num_filters is -1"):
    filters.encoder(num_filters=-1)
  with pytest.raises(ValueError, match="word_size is 0"):
    filters.memory_network(encoder(), word_size=0)
  with pytest.raises(ValueError, match="hidden_size is 0"):
    filters.recurrent(encoder(), make_lstm, hidden_size=0)
