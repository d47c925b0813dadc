"""Tests of the Dynamic Kanerva Machine: naive loops, closed forms, bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import dynamic_kanerva, kanerva
from tests.oracles import assert_close

METHODS = ("ridge", "squared", "mean_field")
K, C, T = 3, 5, 4
NOISE, SPREAD = 0.5, 1.7  # σ², s_w²
VARIANCES = {"noise_variance": NOISE, "weight_variance": SPREAD}


pytestmark = pytest.mark.usefixtures("float64")


def episode(rows=K, code_size=C, length=T, seed=0):
  rng = np.random.default_rng(seed)
  root = rng.normal(size=(rows, rows))
  mean = rng.normal(size=(rows, code_size))
  state = kanerva.State(mean, 0.3 * root @ root.T + 0.2 * np.eye(rows))
  return state, rng.normal(size=(length, code_size))


def naive_address(state, z, method):
  mean, strength = state.mean, NOISE / SPREAD * np.eye(len(state.mean))
  gram = mean @ mean.T
  if method == "ridge":
    # Least squares on what is seen and on zeros, no normal equations.
    tall = np.vstack([mean.T, np.sqrt(strength)])
    right = np.concatenate([z, np.zeros(len(mean))])
    return np.linalg.lstsq(tall, right, rcond=None)[0]
  if method == "squared":
    return np.linalg.inv(gram @ gram + strength) @ gram @ mean @ z
  more = mean.shape[1] * state.cov
  return np.linalg.solve(gram + more + strength, mean @ z)


def naive_kl(after, before):
  inverse, moved = np.linalg.inv(before.cov), after.mean - before.mean
  size, count = after.mean.shape
  kl = count * np.trace(inverse @ after.cov) - size * count
  kl += np.trace(moved.T @ inverse @ moved)
  logs = [np.linalg.slogdet(state.cov)[1] for state in (before, after)]
  return 0.5 * (kl + count * (logs[0] - logs[1]))


def naive_write(state, values, num_iterations, method, stddev=0.3):
  info = []
  for z in values:
    written = state
    for _ in range(num_iterations):
      w = naive_address(written, z, method)
      c = state.cov @ w
      total = w @ c + NOISE
      written = kanerva.State(
        state.mean + np.outer(c, z - w @ state.mean) / total,
        state.cov - np.outer(c, c) / total,
      )
    kl_w = 0.5 * (
      len(w) * (stddev**2 / SPREAD - 1 - 2 * np.log(stddev / SPREAD**0.5))
      + w @ w / SPREAD
    )
    info.append((w, kl_w, naive_kl(written, state), True))
    state = written
  return state, tuple(np.stack(x) for x in zip(*info, strict=True))


@functools.partial(jax.jit, static_argnames=("method", "num_iterations"))
def write(state, values, method="ridge", num_iterations=1, stddev=0.3):
  return dynamic_kanerva.write(
    *(state, values),
    **VARIANCES,
    weight_stddev=stddev,
    num_iterations=num_iterations,
    method=method,
  )


@jax.jit
def addresses(state, z):
  return {
    method: dynamic_kanerva.address(state, z, **VARIANCES, method=method)
    for method in METHODS
  }


def test_addresses_are_regressions():
  state, values = episode()
  found = addresses(state, values[0])
  for method in METHODS:
    assert_close(found[method], naive_address(state, values[0], method))
  assert len({round(float(w[0]), 3) for w in found.values()}) == 3
  # Along a singular direction of the memory both shrink by its strength.
  u, s, v = np.linalg.svd(state.mean, full_matrices=False)
  ratio = NOISE / SPREAD
  for method, power in (("ridge", 2), ("squared", 4)):
    shrunk = s**power / (s**power + ratio)
    assert_close(found[method], u @ (shrunk / s * (v @ values[0])))
  # Its uncertainty makes a memory worth less.
  sure = addresses(state._replace(cov=0 * state.cov), values[0])
  assert_close(sure["mean_field"], found["ridge"])


def test_only_the_ratio_of_the_variances_matters_to_an_address():
  state, values = episode()

  @jax.jit
  def scaled(scale):
    return [
      dynamic_kanerva.address(
        *(state, values[0]),
        noise_variance=scale * 2.0,
        weight_variance=scale * 3.0,
        method=method,
      )
      for method in METHODS[:2]
    ]

  assert_close(scaled(1.0), scaled(7.0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_iterations", [1, 3])
def test_writes_are_a_naive_loop(method, num_iterations):
  state, values = episode()
  found, info = write(state, values, method, num_iterations)
  wanted, wanted_info = naive_write(state, values, num_iterations, method)
  assert_close(tuple(found), tuple(wanted))
  assert_close(tuple(info), wanted_info)


def test_an_item_is_written_once_however_often_it_is_addressed():
  state, values = episode()
  item = values[:1]
  once, _ = write(state, item)
  refined, info = write(state, item, num_iterations=2)
  twice, _ = write(state, np.concatenate([item, item]))
  assert np.trace(refined.cov) > np.trace(twice.cov) + 0.02
  assert np.abs(refined.mean - once.mean).max() > 0.01
  # It is the plain write at the address that was found last.
  plain = kanerva.rank_one_write(
    state, info.weights[0], item[0], noise_variance=NOISE
  )
  assert_close(tuple(refined), tuple(plain))


def test_the_order_of_items_matters():
  state, values = episode()
  forward, _ = write(state, values)
  backward, _ = write(state, values[::-1])
  assert np.abs(forward.mean - backward.mean).max() > 0.01


def test_writes_are_at_the_mean_and_reads_may_be_drawn():
  state, values = episode()
  given = [write(state, values, stddev=stddev) for stddev in (0.1, 0.9)]
  assert_close(given[0][0], given[1][0])
  mean = functools.partial(dynamic_kanerva.read, **VARIANCES)
  read = jax.jit(mean)(state, values[0])
  assert_close(read.weights, naive_address(state, values[0], "ridge"))
  assert_close(read.code, read.weights @ state.mean)
  draw = functools.partial(
    dynamic_kanerva.sample_read, **VARIANCES, weight_stddev=0.4
  )
  keys = jax.random.split(jax.random.key(0), 20_000)
  drawn = jax.jit(jax.vmap(draw, (0, None, None)))(keys, state, values[0])
  assert_close(drawn.weights, np.tile(read.weights, (len(keys), 1)))
  wanted = 0.4**2 * state.mean.T @ state.mean
  assert_close(np.mean(drawn.code, 0), read.code, atol=0.02)
  assert_close(np.cov(drawn.code.T), wanted, atol=0.03)


def test_the_divergence_of_an_address_is_of_a_standard_deviation():
  rng = np.random.default_rng(1)
  mean, stddev, variance = np.array([0.5, -1.0, 2.0]), 0.6, 1.7
  draws = mean + stddev * rng.normal(size=(200_000, 3))
  of_q = np.sum(((draws - mean) / stddev) ** 2, 1) + 6 * np.log(stddev)
  of_p = np.sum(draws**2 / variance, 1) + 3 * np.log(variance)
  error = np.std(of_p - of_q) / 2 / len(draws) ** 0.5
  found = dynamic_kanerva.weight_kl(
    mean, weight_stddev=stddev, weight_variance=variance
  )
  assert error < 0.01
  assert_close(found, np.mean(of_p - of_q) / 2, atol=4 * error)
  zero = dynamic_kanerva.weight_kl(
    np.zeros(3), weight_stddev=2.0, weight_variance=4.0
  )
  assert_close(zero, 0.0)


def test_the_best_spread_of_addresses_is_where_the_bound_is_flat():
  state, _ = episode()
  best = dynamic_kanerva.optimal_weight_stddev(state, **VARIANCES)

  def bound(stddev):
    # What depends on it: E |Mᵀ (w - μ)|² = σ_q² |R|².
    misses = stddev**2 * jnp.sum(jnp.square(state.mean)) / (2 * NOISE)
    return -misses - dynamic_kanerva.weight_kl(
      jnp.zeros(K), weight_stddev=stddev, weight_variance=SPREAD
    )

  assert_close(jax.grad(bound)(best), 0.0)
  assert bound(best) > max(bound(0.9 * best), bound(1.1 * best))


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0))
def item_bounds(state, z):
  """Bounds of one item after 1 to 3 iterations, and by ridge after 1 and 2."""
  bounds = []
  for method, count in zip(
    ("mean_field",) * 3 + ("ridge",) * 2, (1, 2, 3, 1, 2), strict=True
  ):
    new, info = write(state, z[None], method, count)
    w = info.weights[0]
    missed = jnp.sum(jnp.square(z - w @ new.mean))
    missed += z.size * w @ new.cov @ w
    kl = info.kl_memory[0]
    bounds.append(-missed / (2 * NOISE) - w @ w / (2 * SPREAD) - kl)
  return jnp.stack(bounds)


def test_mean_field_addresses_never_lower_the_bound():
  episodes = [episode(length=1, seed=seed) for seed in range(64)]
  states, values = jax.tree.map(lambda *x: np.stack(x), *episodes)
  bounds = np.asarray(item_bounds(states, values[:, 0]))
  changes = np.diff(bounds, axis=1)
  assert changes[:, :2].min() > -1e-9
  assert (changes[:, :2].max(axis=0) > 0.01).all()
  # A ridge address does, which does not see that M is uncertain.
  assert changes[:, 3].min() < -0.01


def retrieved(state, x, **settings):
  settings = {
    "encode": lambda x: x,
    "decode": lambda z: z,
    "log_likelihood": lambda x, z: -jnp.sum((x - z) ** 2) / (2 * NOISE),
    "num_steps": 6,
  } | settings
  call = functools.partial(dynamic_kanerva.retrieve, **VARIANCES, **settings)
  return jax.jit(call)(state, x)


def test_linear_reads_follow_a_closed_form_and_decay():
  state, values = episode()
  found = retrieved(state, values[0])
  _, s, v = np.linalg.svd(state.mean, full_matrices=False)
  for n in range(1, 7):
    shrunk = (s**2 / (s**2 + NOISE / SPREAD)) ** n
    assert_close(found.items[n], v.T @ (shrunk * (v @ values[0])))
  assert_close(found.items[0], values[0])
  # Of Gaussian codes each half of a read lowers the value.
  assert found.lyapunov.shape == (6,)
  assert (np.diff(found.lyapunov) < 0).all()
  w = naive_address(state, values[0], "ridge")
  misses = np.sum((values[0] - w @ state.mean) ** 2) / (2 * NOISE)
  spread = dynamic_kanerva.weight_kl(w, weight_variance=SPREAD)
  assert_close(found.lyapunov[0], misses + spread)
  assert_close(dynamic_kanerva.lyapunov(-misses, spread), misses + spread)


def test_retrieval_encodes_decodes_and_projects():
  state, _ = episode()
  mix = np.random.default_rng(2).normal(size=(C, 7))
  encode, decode = (lambda x: mix @ x), (lambda z: jax.nn.sigmoid(mix.T @ z))
  start = np.float32([1, 0, 1, 1, 0, 0, 1])

  def of_code(x, z):
    return jnp.sum(jnp.log(jnp.where(x > 0.5, decode(z), 1 - decode(z))))

  found = retrieved(
    state,
    start,
    encode=encode,
    decode=decode,
    log_likelihood=of_code,
    project=lambda x: x > 0.5,
    num_steps=3,
    weight_stddev=0.8,
  )
  x, items, values = start, [start], []
  for _ in range(3):
    w = naive_address(state, mix @ x, "ridge")
    p = 1 / (1 + np.exp(-mix.T @ (w @ state.mean)))
    spread = dynamic_kanerva.weight_kl(
      w, weight_stddev=0.8, weight_variance=SPREAD
    )
    values.append(spread - np.sum(np.log(np.where(x > 0.5, p, 1 - p))))
    x = np.float32(p > 0.5)
    items.append(x)
  assert found.items.dtype == jnp.float32
  np.testing.assert_array_equal(found.items, items)
  assert_close(found.lyapunov, values, rtol=1e-6)


def objective(parameters, method):
  """Some function of an episode that was written and read."""
  mean, log_variance, values = parameters
  state = kanerva.prior(mean, log_variance)
  written, info = write(state, values, method, 2)
  read = functools.partial(dynamic_kanerva.read, **VARIANCES, method=method)
  codes = jax.vmap(read, (None, 0))(written, values).code
  return (
    jnp.sum(jnp.sin(codes))
    + jnp.sum(info.kl_weights)
    + jnp.sum(info.kl_memory)
    + kanerva.kl(written, state)
  )


@pytest.mark.parametrize(
  "method", [pytest.param("ridge", marks=pytest.mark.slow), "mean_field"]
)
def test_gradients_are_central_differences(method):
  rng, step = np.random.default_rng(3), 1e-6
  shapes = (2, K, C), (2,), (2, T, C)
  parameters = [rng.normal(size=shape) for shape in shapes]
  # Of two episodes side by side.
  both = jax.jit(
    jax.vmap(jax.value_and_grad(functools.partial(objective, method=method)))
  )
  _, grads = both(parameters)
  for i, shape in enumerate(shapes):
    direction = rng.normal(size=shape)
    sides = []
    for sign in (1, -1):
      moved = list(parameters)
      moved[i] = moved[i] + sign * step * direction
      sides.append(both(moved)[0])
    axes = tuple(range(1, len(shape)))
    slopes = np.sum(grads[i] * direction, axis=axes)
    assert_close(slopes, (sides[0] - sides[1]) / (2 * step), rtol=1e-6)


def test_without_noise_all_is_recalled():
  state, values = episode(K, C, K)
  quiet = {"noise_variance": 1e-9}

  @jax.jit
  def recalled(state, values):
    written, _ = dynamic_kanerva.write(state, values, **quiet)
    read = functools.partial(dynamic_kanerva.read, **quiet)
    return jax.vmap(read, (None, 0))(written, values).code

  assert_close(recalled(state, values), values, atol=1e-5)


def test_a_memory_of_zeros_says_that_nothing_is_written():
  state, values = episode()
  zeros = state._replace(mean=np.zeros((K, C)))
  # While tracing nothing is known but in the end.
  written, info = write(zeros, values)
  assert_close(tuple(written), tuple(zeros))
  assert_close(info.weights, np.zeros((T, K)))
  assert_close(info.kl_memory, np.zeros(T))
  np.testing.assert_array_equal(info.is_written, [False] * T)
  # A code of zeros has no address either; the others are written.
  values[1] = 0
  _, info = write(state, values)
  np.testing.assert_array_equal(info.is_written, [True, False, True, True])
  for function, given in (
    (dynamic_kanerva.address, values[0]),
    (dynamic_kanerva.read, values[0]),
    (dynamic_kanerva.write, values),
  ):
    with pytest.raises(ValueError, match=r"state\.mean is 0"):
      function(zeros, given)
  with pytest.raises(ValueError, match=r"state\.mean is 0"):
    dynamic_kanerva.sample_read(jax.random.key(0), zeros, values[0])
  with pytest.raises(ValueError, match=r"state\.mean is 0"):
    dynamic_kanerva.retrieve(
      *(zeros, values[0], jnp.sin, jnp.sin), jnp.vdot, num_steps=1
    )


def test_a_mean_of_zero_has_no_gradient():
  state, values = episode()

  def read_what_was_written(mean):
    written, _ = write(state._replace(mean=mean), values)
    return jnp.sum(dynamic_kanerva.read(written, values[0]).code)

  grads = jax.jit(jax.grad(read_what_was_written))
  assert_close(grads(np.zeros((K, C))), np.zeros((K, C)))
  assert np.abs(grads(np.full((K, C), 0.1))).min() > 0


def misses(rows, code_size):
  """How far reads in the right and in another episode's memory are off."""
  (prior, right), (_, wrong) = (
    episode(rows, code_size, 2, seed) for seed in (0, 1)
  )
  quiet = {"noise_variance": 1e-4}
  read = jax.vmap(functools.partial(dynamic_kanerva.read, **quiet), (None, 0))

  @jax.jit
  def missed(stored):
    state, _ = dynamic_kanerva.write(prior, stored, **quiet)
    return jnp.abs(read(state, right).code - right).max()

  return missed(right), missed(wrong)


def test_a_memory_that_spans_all_codes_stores_nothing():
  right, wrong = misses(2, 6)
  assert right < 0.01
  assert wrong > 0.5
  right, wrong = misses(6, 6)
  assert right < 0.01
  assert wrong < 0.05


def test_a_loss_counts_the_memory_once():
  log_px, of_weights = jnp.array([-8.0, -12.0]), jnp.array([3.0, 5.0])
  total, terms = dynamic_kanerva.loss(
    log_px, of_weights, jnp.asarray(6.0), jnp.array([-1.0, -2.0])
  )
  assert terms._asdict() == {
    "bound": -17.0,
    "log_likelihood": -10.0,
    "kl_weights": 4.0,
    "kl_memory": 3.0,
    "autoencoder": -1.5,
  }
  assert total == 18.5


def test_lapack_is_left_alone():
  # On CPU, batches of its calls on several devices may wait for each other.
  given = jax.tree.map(lambda x: np.stack([x, x]), episode(13, 14, 2))

  def total(state, values):
    written, info = write(state, values, "mean_field", 2)
    found = retrieved(written, values[0])
    best = dynamic_kanerva.optimal_weight_stddev(written)
    return found.items.sum() + info.kl_memory.sum() + best

  text = jax.jit(jax.vmap(jax.grad(total))).lower(*given).as_text()
  assert "while" in text
  assert "lapack" not in text


def test_bad_arguments_are_refused():
  state, values = jax.tree.map(jnp.asarray, episode())
  z, same = values[0], lambda x: x
  functions = (
    functools.partial(dynamic_kanerva.address, state, z),
    functools.partial(dynamic_kanerva.read, state, z),
    functools.partial(dynamic_kanerva.sample_read, jax.random.key(0), state, z),
    functools.partial(dynamic_kanerva.write, state, values),
    functools.partial(
      *(dynamic_kanerva.retrieve, state, z, same, same),
      lambda x, z: -jnp.sum((x - z) ** 2),
      num_steps=1,
    ),
  )
  for function in functions:
    for name in ("noise_variance", "weight_variance"):
      for bad in (0.0, -1.0, float("nan"), float("inf"), np.float32(0)):
        with pytest.raises(ValueError, match=f"{name} is {bad}"):
          function(**{name: bad})
      with pytest.raises(ValueError, match=f"{name} has shape"):
        function(**{name: jnp.ones(K)})
    with pytest.raises(ValueError, match="method is 'cholesky'; it must be"):
      function(method="cholesky")
  for function in (
    *functions[2:4],
    functools.partial(dynamic_kanerva.weight_kl, z),
  ):
    with pytest.raises(ValueError, match=r"weight_stddev is 0\.0"):
      function(weight_stddev=0.0)
  with pytest.raises(ValueError, match="weight_variance is -1"):
    dynamic_kanerva.weight_kl(z, weight_variance=-1)
  for name in ("noise_variance", "weight_variance"):
    with pytest.raises(ValueError, match=f"{name} is 0"):
      dynamic_kanerva.optimal_weight_stddev(state, **{name: 0})
  with pytest.raises(ValueError, match="num_iterations is 0"):
    functions[3](num_iterations=0)
  with pytest.raises(ValueError, match="num_steps is 0"):
    functions[4](num_steps=0)
  with pytest.raises(ValueError, match="values has 0 items"):
    dynamic_kanerva.write(state, values[:0])
  with pytest.raises(ValueError, match="log_px has 0 items"):
    dynamic_kanerva.loss(z[:0], z[:0], z[0], z[:0])
  for bad in (z[1:], values):
    with pytest.raises(ValueError, match="z has shape"):
      dynamic_kanerva.address(state, bad)
  with pytest.raises(ValueError, match=r"state\.cov has shape"):
    dynamic_kanerva.address(state._replace(cov=jnp.eye(2)), z)
  with pytest.raises(ValueError, match=r"encode\(x\) has shape"):
    retrieved(state, z, encode=lambda x: x[1:])
  with pytest.raises(ValueError, match="values has shape"):
    dynamic_kanerva.write(state, values[:, 1:])
  with pytest.raises(ValueError, match="kl_memory has shape"):
    dynamic_kanerva.loss(z, z, z, z)
  with pytest.raises(ValueError, match="kl_weights has shape"):
    dynamic_kanerva.loss(z, z[1:], z[0], z)


def test_whole_numbers_are_retrieved_as_floats():
  # Not rounded to whole numbers at each step.
  state, values = episode()
  found = retrieved(state, np.int32([2, 1, 0, -1, 3]))
  wanted = retrieved(state, np.array([2.0, 1.0, 0.0, -1.0, 3.0]))
  assert_close(found.items, wanted.items)
  assert values.dtype == found.items.dtype
