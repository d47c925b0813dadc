"""Tests of lilly.nets.kanerva_model against loops over items."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import kanerva
from lilly.nets import kanerva_memories, recurrent, set_memories
from lilly.nets import kanerva_model as model
from tests.whole import whole

T, C, S, K = 3, 2, 2, 2
NOISE = 0.5
NETS = model.networks(
  (2, 2, 1), code_size=C, address_size=S, num_features=4, hidden_size=5
)
# Each compiled for itself, for oracles that go item by item.
LAYERS = NETS._replace(
  **{k: jax.jit(f) for k, f in NETS._asdict().items() if callable(f)}
)
make_prior, write_one = whole(kanerva.prior), whole(kanerva.rank_one_write)
MEMORIES = {
  "vae": kanerva_memories.none(C),
  "kanerva": kanerva_memories.matrix(K, C, S, noise_variance=NOISE),
  "unwritten": kanerva_memories.matrix(
    K, C, S, noise_variance=NOISE, is_written=False
  ),
  "gru": kanerva_memories.recurrent(
    functools.partial(recurrent.gru, hidden_size=4), C, S
  ),
}


def images(seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 2, size=(T, 2, 2, 1)).astype(np.float32)


@functools.cache
def started(name):
  memory = MEMORIES[name]
  init = lambda key: model.init(key, NETS, memory, images()[0])
  params = jax.device_get(jax.jit(init)(jax.random.key(0)))
  rng = np.random.default_rng(1)
  return memory, jax.tree.map(
    lambda x: x + np.float32(0.3 * rng.normal(size=x.shape)), params
  )


def bound_of(name, **options):
  memory, _ = started(name)

  def of(params, key, images):
    given = {"noise_variance": NOISE} | options
    return model.bound(key, NETS, memory, params, images, **given)

  return of


@functools.cache
def bounded(name, **options):
  return jax.jit(bound_of(name, **options))


def divergence(mean, scale, prior, variance):
  ratio = scale**2 / variance
  squares = (mean - prior) ** 2 / variance
  return 0.5 * np.sum(ratio + squares - 1 - np.log(ratio))


@pytest.mark.parametrize(
  ("name", "one_draw"), [("vae", False), ("kanerva", False), ("kanerva", True)]
)
def test_the_bound_is_that_of_items_one_by_one(name, one_draw):
  _, params = started(name)
  own, x, key = params["nets"], images(), jax.random.key(7)
  drawn = jax.random.normal(jax.random.clone(key), (T, 2 * (S + C)))
  parts = np.split(np.asarray(drawn), [S, S + C, S + C + S], axis=1)

  e = [LAYERS.features(own, image) for image in x]
  q_y = [LAYERS.address(own, e) for e in e]
  state = None
  if name == "kanerva":
    noise_y, noise_z = parts[:2]
    state = make_prior(
      params["memory"]["mean"], params["memory"]["log_variance"]
    )
    for t in range(T):
      mean, scale = LAYERS.code(own, e[t])
      y = q_y[t][0] + q_y[t][1] * noise_y[t]
      w = params["memory"]["addresses"] @ LAYERS.expand(own, y)
      z = mean + scale * noise_z[t]
      state = write_one(state, w, z, noise_variance=NOISE)
  noise_y, noise_z = parts[0 if one_draw else 2], parts[3]
  log_px, of_address, of_code = [], [], []
  for t in range(T):
    y = q_y[t][0] + q_y[t][1] * noise_y[t]
    prior = jnp.zeros(C)
    if state is not None:
      w = params["memory"]["addresses"] @ LAYERS.expand(own, y)
      prior = w @ state.mean
      of_address.append(divergence(*q_y[t], 0.0, 1.0))
    mean, scale = LAYERS.reading(own, e[t], prior)
    of_code.append(divergence(mean, scale, prior, NOISE))
    logits = LAYERS.decode(own, mean + scale * noise_z[t])
    p = 1 / (1 + np.exp(-np.asarray(logits)))
    log_px.append(np.log(np.where(x[t] > 0, p, 1 - p)).sum())

  options = {"one_draw": True} if one_draw else {}
  bound, terms = bounded(name, **options)(params, key, x)
  wanted = [np.mean(log_px), np.mean(of_address or [0.0]), np.mean(of_code)]
  np.testing.assert_allclose(tuple(terms), wanted, rtol=1e-4)
  np.testing.assert_allclose(bound, wanted[0] - sum(wanted[1:]), rtol=1e-4)


def test_what_is_written_is_learnt_through_the_write():
  for name, is_learnt in (("kanerva", True), ("unwritten", False)):
    _, params = started(name)
    slope = jax.jit(jax.grad(bound_of(name), has_aux=True))
    grads, _ = slope(params, jax.random.key(0), images())
    of_codes = grads["nets"]["code/~/linear_1"]["w"]
    assert (np.abs(of_codes).max() > 1e-5) == is_learnt
    assert np.abs(grads["memory"]["mean"]).max() > 1e-5


def test_where_it_is_written_is_learnt_through_the_write():
  memory, params = started("kanerva")

  @jax.jit
  @jax.grad
  def of(params):
    state = model.write(jax.random.key(0), NETS, memory, params, images())
    return jnp.sum(jnp.sin(state.mean))

  grads = of(params)
  assert np.abs(grads["memory"]["addresses"]).max() > 1e-4
  for name in ("address", "expand", "code"):
    of_layer = grads["nets"][f"{name}/~/linear_1"]["w"]
    assert np.abs(of_layer).max() > 1e-4


def test_an_expectation_over_the_memory_costs_its_variance():
  _, params = started("kanerva")
  given = params, jax.random.key(0), images()
  at_mean = bounded("kanerva")(*given)[1]
  given = params, jax.random.key(0), images()
  expected = bounded("kanerva", expected=True)(*given)[1]
  assert expected.kl_code > at_mean.kl_code + 1e-3
  assert expected.kl_address == at_mean.kl_address


def test_addresses_are_found_from_noisy_images():
  _, params = started("kanerva")
  found = [
    bounded("kanerva", **options)(params, jax.random.key(0), images())[1]
    for options in ({}, {"address_noise": 0.5})
  ]
  assert found[0].kl_address != found[1].kl_address
  # Codes do not see it: without a memory their divergence is the image's.
  _, params = started("vae")
  found = [
    bounded("vae", **options)(params, jax.random.key(0), images())[1]
    for options in ({}, {"address_noise": 0.5})
  ]
  np.testing.assert_allclose(found[0].kl_code, found[1].kl_code, rtol=1e-6)


def test_codes_are_written_from_images_without_noise():
  """A memory that gives back the mean of the codes, which have no spread."""
  zero = jnp.zeros(())
  memory = set_memories.SetMemory(
    init=lambda key: ((), {}),
    write=lambda params, state, b, z: z.mean(0),
    read=lambda params, state, content, b: kanerva_memories.Reading(
      content, zero, zero
    ),
  )
  _, params = started("vae")
  last = params["nets"]["code/~/linear_1"]
  last = jax.tree.map(np.copy, last)
  last["w"][:, C:] = 0
  last["b"][C:] = -30.0
  own = params["nets"] | {"code/~/linear_1": last}
  params, x = params | {"nets": own}, images()

  @functools.partial(jax.jit, static_argnums=1)
  def bound(key, address_noise):
    given = key, NETS, memory, params, x
    return model.bound(*given, address_noise=address_noise)[1]

  found = [bound(jax.random.key(0), noise) for noise in (0.0, 0.5)]
  np.testing.assert_allclose(found[0].kl_code, found[1].kl_code, rtol=1e-5)
  _, key = jax.random.split(jax.random.key(0))
  noise = 0.5 * np.asarray(jax.random.normal(key, x.shape))
  for terms, seen in zip(found, (x, x + noise), strict=True):
    q_y = [LAYERS.address(own, LAYERS.features(own, image)) for image in seen]
    wanted = np.mean([divergence(*normal, 0.0, 1.0) for normal in q_y])
    np.testing.assert_allclose(terms.kl_address, wanted, rtol=1e-4)


def test_a_core_is_asked_without_being_changed():
  memory, params = started("gru")
  b = np.ones((T, S), np.float32)
  z = np.arange(T * C, dtype=np.float32).reshape(T, C)
  own, write, read = params["memory"], whole(memory.write), whole(memory.read)
  content = write(own, {}, b, z)
  before = read(own, {}, content, b[0]).code
  other = read(own, {}, content, -b[0]).code
  np.testing.assert_array_equal(read(own, {}, content, b[0]).code, before)
  assert np.abs(np.subtract(other, before)).max() > 1e-4
  # And it has seen what was written.
  empty = write(own, {}, b[:0], z[:0])
  unseen = read(own, {}, empty, b[0]).code
  assert np.abs(np.subtract(unseen, before)).max() > 1e-4


def test_a_core_is_told_whether_it_is_shown_or_asked():
  # It forgets half of what it has seen at each step.
  core = recurrent.Core(
    init=lambda key: (),
    initial_state=lambda: jnp.zeros(3),
    apply=lambda params, x, state: (0.5 * state + x,) * 2,
  )
  sizes = []
  make_core = lambda *given: sizes.append(given) or core
  memory = kanerva_memories.recurrent(make_core, 1, 1)
  assert sizes == [(3, 1)]  # b, z and whether it is shown; z
  b, z = jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [5.0]])
  content = memory.write((), {}, b, z)
  code, variance, kl = memory.read((), {}, content, jnp.array([7.0]))
  # A half of [2.5, 6.5, 1.5], and the question [7, 0, 0].
  np.testing.assert_allclose(code, [8.25, 3.25, 0.75])
  assert variance == kl == 0


def test_sizes_are_positive():
  for name in ("code_size", "address_size"):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least"):
      model.networks((2, 2, 1), **{name: 0})
  given = {"num_rows": 2, "code_size": 3, "address_size": 2}
  for name in given:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least"):
      kanerva_memories.matrix(**(given | {name: 0}))


def test_what_is_written_read_and_made_by_hand():
  memory, params = started("kanerva")
  own, x, key = params["nets"], images(), jax.random.key(3)
  e = [LAYERS.features(own, image) for image in x]
  drawn = np.asarray(jax.random.normal(jax.random.clone(key), (T, S + C)))

  def weights(y):
    return params["memory"]["addresses"] @ LAYERS.expand(own, y)

  state = make_prior(params["memory"]["mean"], params["memory"]["log_variance"])
  for t in range(T):
    (mean_y, scale_y), (mean_z, scale_z) = (
      f(own, e[t]) for f in (NETS.address, NETS.code)
    )
    w = weights(mean_y + scale_y * drawn[t, :S])
    z = mean_z + scale_z * drawn[t, S:]
    state = write_one(state, w, z, noise_variance=NOISE)
  found = model.write(key, NETS, memory, params, x)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), found, state
  )

  ink = lambda logits: 1 / (1 + np.exp(-np.asarray(logits)))
  y = LAYERS.address(own, e[0])[0]
  prior = weights(y) @ state.mean
  given = NETS, memory, params, state
  np.testing.assert_allclose(
    model.imagine(*given, y), ink(LAYERS.decode(own, prior)), atol=1e-5
  )
  z = LAYERS.reading(own, e[0], prior)[0]
  np.testing.assert_array_equal(
    model.reread(*given, x[0]), LAYERS.decode(own, z) > 0
  )
  key_y, key_z = jax.random.split(jax.random.key(4))
  z = weights(jax.random.normal(key_y, (S,))) @ state.mean
  z += np.sqrt(NOISE) * jax.random.normal(key_z, (C,))
  made = model.generate(jax.random.key(4), *given, noise_variance=NOISE)
  np.testing.assert_allclose(made, ink(LAYERS.decode(own, z)), atol=1e-5)


def test_a_memory_begins_with_the_scales_that_are_said():
  memory = kanerva_memories.matrix(400, 50, 25)
  params, state = memory.init(jax.random.key(0))
  assert state == {}
  np.testing.assert_allclose(params["mean"].std(), 1.0, rtol=0.03)
  np.testing.assert_allclose(params["addresses"].std(), 1 / 5, rtol=0.03)
  assert not params["log_variance"].any()


@pytest.mark.parametrize("name", list(MEMORIES))
def test_images_are_read_and_made(name):
  memory, params = started(name)

  @jax.jit
  def run(params, x):
    state = model.write(jax.random.key(1), NETS, memory, params, x)
    read = model.reread(NETS, memory, params, state, x[0])
    made = model.generate(jax.random.key(2), NETS, memory, params, state)
    return read, made

  read, made = run(params, images())
  assert read.shape == made.shape == (2, 2, 1)
  assert set(np.unique(read)) <= {0.0, 1.0}
  assert made.min() > 0
  assert made.max() < 1
