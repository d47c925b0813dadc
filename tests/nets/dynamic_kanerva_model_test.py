"""Tests of lilly.nets.dynamic_kanerva_model against loops over items."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import dynamic_kanerva, kanerva
from lilly.nets import dynamic_kanerva_model as model
from lilly.nets import kanerva_memories, recurrent

T, C, K = 3, 4, 2
NOISE = 0.5
NETS = model.networks((2, 2, 1), code_size=C, hidden_size=5)
MEMORIES = {
  "dkm": kanerva_memories.dynamic(K, C, noise_variance=NOISE),
  "gru": kanerva_memories.recurrent(
    functools.partial(recurrent.gru, hidden_size=4), C
  ),
  "list": kanerva_memories.code_list(2),
}


def images(seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, 2, size=(T, 2, 2, 1)), jnp.float32)


@functools.cache
def started(name):
  memory = MEMORIES[name]
  params = model.init(jax.random.key(0), NETS, memory, images()[0])
  rng = np.random.default_rng(1)
  return memory, jax.tree.map(
    lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), params
  )


def log_density(logits, image):
  p = 1 / (1 + np.exp(-np.asarray(logits)))
  return np.log(np.where(image > 0, p, 1 - p)).sum()


def test_the_loss_is_that_of_items_one_by_one():
  memory, params = started("dkm")
  own, of_memory, x = params["nets"], params["memory"], images()
  key = jax.random.key(3)
  noise = [
    np.asarray(jax.random.normal(k, (K,)))
    for k in jax.random.split(jax.random.clone(key), T)
  ]
  codes = [NETS.encode(own, image) for image in x]
  prior = state = kanerva.prior(of_memory["mean"], of_memory["log_variance"])
  for z in codes:
    w = dynamic_kanerva.address(state, z, noise_variance=NOISE)
    state = kanerva.rank_one_write(state, w, z, noise_variance=NOISE)
  scale = np.exp(of_memory["log_weight_stddev"])
  log_px, of_weights, autoencoder = [], [], []
  for z, nu, image in zip(codes, noise, x, strict=True):
    mean = dynamic_kanerva.address(state, z, noise_variance=NOISE)
    kl = np.sum(scale**2 + np.square(mean) - 1 - 2 * np.log(scale)) / 2
    of_weights.append(kl)
    read = (mean + scale * nu) @ state.mean
    log_px.append(log_density(NETS.decode(own, read), image))
    autoencoder.append(log_density(NETS.decode(own, z), image))

  of = jax.jit(
    lambda key, params, x, autoencodes: model.loss(
      key, NETS, memory, params, x, autoencodes=autoencodes
    ),
    static_argnums=3,
  )
  loss, terms = of(key, params, x, True)
  wanted = [np.mean(log_px), np.mean(of_weights)]
  wanted += [float(kanerva.kl(state, prior)) / T, np.mean(autoencoder)]
  np.testing.assert_allclose(tuple(terms)[1:], wanted, rtol=1e-4)
  bound = wanted[0] - wanted[1] - wanted[2]
  np.testing.assert_allclose(terms.bound, bound, rtol=1e-4)
  np.testing.assert_allclose(loss, -bound - wanted[3], rtol=1e-4)
  less, _ = of(jax.random.key(3), params, x, False)
  np.testing.assert_allclose(less, -bound, rtol=1e-4)


def test_each_term_teaches_encoder_and_memory():
  memory, params = started("dkm")

  @jax.jit
  @jax.jacrev
  def slopes(params):
    return model.loss(jax.random.key(0), NETS, memory, params, images())[1]

  for name, of in slopes(params)._asdict().items():
    of_encoder = of["nets"]["encoder/~/layers/~/linear_1"]["w"]
    assert jnp.abs(of_encoder).max() > 1e-4
    of_memory = of["memory"]
    is_learnt = name != "autoencoder"
    assert bool(jnp.abs(of_memory["mean"]).max() > 1e-4) == is_learnt
    assert bool(jnp.abs(of_memory["log_variance"]) > 1e-5) == is_learnt
    # It is drawn from to read alone.
    is_learnt = name in ("bound", "log_likelihood", "kl_weights")
    spread = jnp.abs(of_memory["log_weight_stddev"])
    assert bool(spread > 1e-4) == is_learnt


@pytest.mark.parametrize("name", list(MEMORIES))
def test_a_query_is_read_again_and_again(name):
  memory, params = started(name)

  @jax.jit
  def run(params, x, query):
    state = model.write(NETS, memory, params, x)
    given = NETS, memory, params, state, query
    return state, model.recall(*given, num_reads=3)

  query = 1 - images()[0]
  state, (seen, values) = run(params, images(), query)
  assert seen.shape == (4, 2, 2, 1) and values.shape == (3,)
  np.testing.assert_array_equal(seen[0], query)
  own = params["nets"]
  for t in range(3):
    z = NETS.encode(own, seen[t])
    found = memory.read(params["memory"], {}, state, z)
    logits = NETS.decode(own, found.code)
    np.testing.assert_array_equal(seen[t + 1], logits > 0)
    value = found.kl - log_density(logits, seen[t])
    np.testing.assert_allclose(values[t], value, rtol=1e-4)


def test_a_list_keeps_the_last_codes_and_finds_the_nearest():
  memory = MEMORIES["list"]
  codes = jnp.array([[1.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 3]])
  state = memory.write((), {}, codes)
  assert memory.write_with_kl is None
  np.testing.assert_array_equal(state, codes[1:])
  read = lambda *z: memory.read((), {}, state, jnp.array(z)).code
  np.testing.assert_array_equal(read(0.0, 0.5, 0.0, 0.1), codes[1])
  np.testing.assert_array_equal(read(9.0, 0.0, 0.0, 1.0), codes[2])


def test_a_core_has_seen_what_was_written():
  memory, params = started("gru")
  codes = jnp.arange(T * C, dtype=jnp.float32).reshape(T, C) / 10
  own = params["memory"]
  state = memory.write(own, {}, codes)
  empty = memory.write(own, {}, codes[:0])
  found = memory.read(own, {}, state, codes[0]).code
  other = memory.read(own, {}, empty, codes[0]).code
  assert jnp.abs(found - other).max() > 1e-4
  assert memory.sample is None  # nothing in it is drawn


def test_a_core_is_told_whether_it_is_shown_or_asked():
  # It forgets half of what it has seen at each step.
  core = recurrent.Core(
    init=lambda key: (),
    initial_state=lambda: jnp.zeros(2),
    apply=lambda params, x, state: (0.5 * state + x,) * 2,
  )
  memory = kanerva_memories.recurrent(lambda *sizes: core, 1)
  state = memory.write((), {}, jnp.array([[3.0], [5.0]]))
  np.testing.assert_allclose(state, [6.5, 1.5])
  assert memory.write_with_kl is None
  found = memory.read((), {}, state, jnp.array([7.0]))
  np.testing.assert_allclose(found.code, [10.25, 0.75])
  assert found.kl == 0


def test_how_an_episode_is_written_and_read_is_passed_on():
  codes = jnp.asarray(np.random.default_rng(2).normal(size=(T, C)), jnp.float32)
  _, params = started("dkm")
  own = params["memory"]
  prior = kanerva.prior(own["mean"], own["log_variance"])
  given = {"noise_variance": NOISE, "method": "squared"}
  memory = kanerva_memories.dynamic(K, C, num_iterations=2, **given)
  state = memory.write(own, {}, codes)
  wanted, _ = dynamic_kanerva.write(prior, codes, num_iterations=2, **given)
  np.testing.assert_allclose(state.mean, wanted.mean, rtol=1e-5)
  read = memory.read(own, {}, state, codes[0])
  wanted = dynamic_kanerva.read(state, codes[0], **given)
  np.testing.assert_allclose(read.code, wanted.code, rtol=1e-5)


def test_sizes_are_positive():
  for rows, size, name in ((0, 4, "num_rows"), (2, -1, "code_size")):
    with pytest.raises(ValueError, match=f"{name} is .*; it must be at least"):
      kanerva_memories.dynamic(rows, size)
  with pytest.raises(ValueError, match="num_codes is 0; it must be at least"):
    kanerva_memories.code_list(0)


def test_parts_begin_as_in_the_released_module():
  params, _ = MEMORIES["dkm"].init(jax.random.key(0))
  assert params["log_variance"] == 0
  np.testing.assert_allclose(np.exp(params["log_weight_stddev"]), 0.3, 1e-6)
  large = kanerva_memories.dynamic(50, 60).init(jax.random.key(0))[0]["mean"]
  assert abs(large).max() <= 2 and 0.8 < large.std() < 0.95
