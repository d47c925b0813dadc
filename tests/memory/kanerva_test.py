"""Tests of the Kanerva memory against one dense Gaussian over M and Z."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from lilly.memory import kanerva, kanerva_bounds
from tests.oracles import assert_close

METHODS = ("sequential", "batch", "information", "joseph")
NOISE = 0.7


pytestmark = pytest.mark.usefixtures("float64")


def episode(rows=3, code_size=2, length=4, seed=0):
  """A memory of any mean and covariance, addresses and codes."""
  rng = np.random.default_rng(seed)
  root = rng.normal(size=(rows, rows))
  mean = rng.normal(size=(rows, code_size))
  state = kanerva.State(mean, root @ root.T + 0.3 * np.eye(rows))
  weights = rng.normal(size=(length, rows))
  return state, weights, rng.normal(size=(length, code_size))


class Dense:
  """vec(M) and vec(Z), columns one below the other, as one Gaussian."""

  def __init__(self, state, weights, values, noise=NOISE):
    code_size = state.mean.shape[1]
    self.mean = np.asarray(state.mean).T.ravel()
    self.cov = np.kron(np.eye(code_size), state.cov)
    see = np.kron(np.eye(code_size), weights)
    self.of_values = see @ self.mean
    self.values_cov = see @ self.cov @ see.T
    self.values_cov += noise * np.eye(len(self.values_cov))
    self.cross = self.cov @ see.T
    self.error = np.asarray(values).T.ravel() - self.of_values

  def posterior(self):
    gain = self.cross @ np.linalg.inv(self.values_cov)
    return self.mean + gain @ self.error, self.cov - gain @ self.cross.T

  def log_evidence(self):
    return log_normal(self.error, self.values_cov)


def log_normal(error, cov):
  cov = np.atleast_2d(cov)
  squares = error @ np.linalg.solve(cov, error)
  return -0.5 * (squares + np.linalg.slogdet(2 * np.pi * cov)[1])


def dense_kl(mean, cov, prior_mean, prior_cov):
  inverse, moved = np.linalg.inv(prior_cov), mean - prior_mean
  logs = np.linalg.slogdet(prior_cov)[1] - np.linalg.slogdet(cov)[1]
  trace = np.trace(inverse @ cov)
  return 0.5 * (trace + moved @ inverse @ moved - len(mean) + logs)


def flat(state):
  """The mean and covariance of vec(M)."""
  code_size = state.mean.shape[1]
  return np.asarray(state.mean).T.ravel(), np.kron(np.eye(code_size), state.cov)


@functools.partial(jax.jit, static_argnames=("method",))
def write(state, weights, values, noise=NOISE, method="sequential"):
  return kanerva.write(
    state, weights, values, noise_variance=noise, method=method
  )


@jax.jit
def write_by_all(state, weights, values):
  whole = [write(state, weights, values, method=method) for method in METHODS]
  every = kanerva.write_all(state, weights, values, noise_variance=NOISE)
  return whole, every


@jax.jit
def step_kl(state, w, z):
  return kanerva.step_kl(state, w, z, noise_variance=NOISE)


kl = jax.jit(kanerva.kl)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (9, 2, 3)])
def test_writes_are_the_dense_posterior(shape):
  given = episode(*shape)
  wanted = Dense(*given).posterior()
  whole, every = write_by_all(*given)
  for found in whole:
    assert_close(flat(found), wanted)
    np.testing.assert_array_equal(found.cov, np.transpose(found.cov))
  state, weights, values = given
  for t in range(shape[-1]):
    before = Dense(state, weights[: t + 1], values[: t + 1]).posterior()
    assert_close(flat(jax.tree.map(lambda x, t=t: x[t], every)), before)


def test_two_items_by_hand():
  state = kanerva.prior(jnp.zeros((2, 1)), jnp.zeros(()))
  weights = jnp.array([[1.0, 0.0], [1.0, 1.0]])
  found = write(state, weights, jnp.array([[2.0], [3.0]]), 1.0)
  assert_close(found.mean, [[1.4], [0.8]])
  assert_close(found.cov, [[0.4, -0.2], [-0.2, 0.6]])
  assert_close(kl(found, state), 1.604719, atol=5e-7)


def test_the_prior_is_diagonal():
  mean, log_variance = jnp.ones((2, 3)), jnp.log(jnp.array([2.0, 0.5]))
  assert_close(
    tuple(kanerva.prior(mean, log_variance)), (mean, np.diag([2.0, 0.5]))
  )
  assert_close(kanerva.prior(mean, jnp.log(3.0)).cov, np.diag([3.0, 3.0]))


def test_the_order_of_items_does_not_matter():
  state, weights, values = episode(3, 2, 5)
  order = np.random.default_rng(1).permutation(5)
  for method in METHODS:
    found = write(state, weights[order], values[order], method=method)
    assert_close(found, write(state, weights, values, method=method))


def test_equal_addresses_are_one_item_of_half_the_noise():
  # Not so where two items' corrections are added up at once.
  state, weights, values = episode(3, 2, 2)
  same = np.stack([weights[0]] * 2)
  mean = values.mean(0, keepdims=True)
  once = write(state, weights[:1], mean, NOISE / 2)
  for method in METHODS:
    assert_close(write(state, same, values, method=method), once)


def test_the_covariance_knows_no_codes_and_shrinks():
  state, weights, values = episode(3, 2, 5)
  _, every = write_by_all(state, weights, values)
  _, other = write_by_all(state, weights, 5 - 3 * values)
  assert_close(every.cov, other.cov)
  traces = np.trace(every.cov, axis1=1, axis2=2)
  assert (np.diff([np.trace(state.cov), *traces]) < 0).all()


def test_much_noise_writes_nothing_and_none_writes_all():
  state, weights, values = episode(3, 2, 2)
  for method in METHODS:
    unchanged = write(state, weights, values, 1e14, method)
    assert_close(unchanged, state, atol=1e-10)
    exact = write(state, weights, values, 1e-10, method)
    assert_close(weights @ exact.mean, values, atol=1e-6)
    assert_close(weights @ exact.cov @ weights.T, np.zeros((2, 2)), atol=1e-6)


def test_what_is_erased_was_never_written():
  state, weights, values = episode(3, 2, 5)
  items, rest = np.array([1, 2, 4]), np.array([0, 3])
  erase = jax.jit(functools.partial(kanerva.erase, noise_variance=NOISE))
  found = erase(write(state, weights, values), weights[items], values[items])
  assert_close(found, write(state, weights[rest], values[rest]))


def test_parts_written_on_two_devices_and_merged_are_the_whole():
  state, weights, values = episode(3, 2, 4)
  mesh = jax.make_mesh((2,), ("part",), axis_types=(AxisType.Auto,))
  part, everywhere = PartitionSpec("part"), PartitionSpec()

  def merged(state, weights, values):
    mine = kanerva.write(state, weights, values, noise_variance=NOISE)
    both = jax.lax.all_gather(mine, "part")
    parts = [jax.tree.map(lambda x, i=i: x[i], both) for i in range(2)]
    return kanerva.merge(*parts, state)

  found = jax.jit(
    jax.shard_map(
      merged,
      mesh=mesh,
      in_specs=(everywhere, part, part),
      out_specs=everywhere,
      check_vma=False,
    )
  )(state, weights, values)
  assert_close(found, write(state, weights, values))


def test_reads_are_the_dense_prediction():
  state, weights, values = episode(3, 2, 5)
  written = write(state, weights[:4], values[:4])
  mean, cov = Dense(state, weights[:4], values[:4]).posterior()
  see = np.kron(np.eye(2), weights[4])
  code, variance = jax.jit(kanerva.read)(written, weights[4])
  assert_close(code, see @ mean)
  assert_close(variance * np.eye(2), see @ cov @ see.T)


def test_addresses_are_not_normalised():
  matrix, b = np.array([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]]), np.ones(2)
  assert_close(kanerva.address(matrix, b), [-1.0, 0.5, 3.0])
  assert_close(kanerva.address(2 * matrix, b), [-2.0, 1.0, 6.0])


def test_evidence_is_found_in_three_ways():
  state, weights, values = episode(3, 2, 5)
  found = jax.jit(
    functools.partial(kanerva_bounds.log_evidence, noise_variance=NOISE)
  )(state, weights, values)
  assert found.shape == (5,)
  for t in (1, 5):
    dense = Dense(state, weights[:t], values[:t]).log_evidence()
    assert_close(found[:t].sum(), dense)
  # As a bound, which is tight at the posterior.
  posterior = write(state, weights, values)
  expected = 0.0
  for w, z in zip(weights, values, strict=True):
    expected += log_normal(z - w @ posterior.mean, NOISE * np.eye(2))
    expected -= 2 * w @ posterior.cov @ w / (2 * NOISE)
  assert_close(expected - kl(posterior, state), found.sum())


def test_divergences_are_dense_ones():
  state, weights, values = episode(3, 2, 5, seed=1)
  written = write(state, weights, values)
  assert_close(kl(written, state), dense_kl(*flat(written), *flat(state)))
  assert_close(kl(state, written), dense_kl(*flat(state), *flat(written)))
  assert_close(kl(state, state), 0.0, atol=1e-12)
  # What an item moves, and that this does not add up over items.
  steps, before = [], state
  for w, z in zip(weights, values, strict=True):
    after = write(before, w[None], z[None])
    steps.append(float(step_kl(before, w, z)))
    assert_close(steps[-1], dense_kl(*flat(after), *flat(before)))
    before = after
  assert abs(sum(steps) - float(kl(written, state))) > 0.5


def test_the_released_divergence_leaves_out_a_half_and_a_determinant():
  state, weights, values = episode(3, 2, 4)
  prior = kanerva.prior(jnp.asarray(state.mean), jnp.array([0.1, -0.2, 0.3]))
  written = write(prior, weights, values)
  variances, moved = np.diag(prior.cov), written.mean - prior.mean
  wanted = 2 * np.sum(np.diag(written.cov) / variances) - 2 * 3
  wanted += np.sum(moved**2 / variances[:, None])
  wanted += 2 * np.sum(np.log(variances) - np.log(np.diag(written.cov)))
  released = jax.jit(functools.partial(kanerva.kl, diagonal=True, scale=2.0))
  assert_close(released(written, prior), wanted)
  exact = float(kl(written, prior))
  assert wanted < 2 * exact - 0.03


def objective(parameters, method, is_stopped=False):
  """Some function of a memory that was written, and of all that went in."""
  mean, log_variance, matrix, values = parameters
  latent = np.random.default_rng(3).normal(size=(4, 2))
  weights = jax.vmap(kanerva.address, in_axes=(None, 0))(matrix, latent)
  state = kanerva.prior(mean, log_variance)
  written = kanerva.write(
    *(state, weights, values), noise_variance=NOISE, method=method
  )
  if is_stopped:
    written = jax.lax.stop_gradient(written)
  codes, variances = jax.vmap(kanerva.read, (None, 0))(written, weights[:2])
  stddev = jnp.full(2, 0.8)
  read, variance = kanerva.read(written, weights[2])
  divergence = kanerva_bounds.code_kl(
    *(values[2], stddev, read), noise_variance=NOISE, read_variance=variance
  )
  return (
    jnp.sum(jnp.sin(codes))
    + jnp.sum(variances**2)
    + divergence
    + kanerva.kl(written, state)
  )


@pytest.mark.parametrize(
  "method",
  ["sequential", "batch"]
  + [pytest.param(x, marks=pytest.mark.slow) for x in METHODS[2:]],
)
def test_gradients_through_the_write_are_central_differences(method):
  rng, step = np.random.default_rng(4), 1e-6
  shapes = (3, 2), (3,), (3, 2), (4, 2)
  parameters = [rng.normal(size=shape) for shape in shapes]
  both = jax.jit(
    jax.value_and_grad(functools.partial(objective, method=method))
  )
  _, grads = both(parameters)
  for i, shape in enumerate(shapes):
    direction = rng.normal(size=shape)
    sides = []
    for sign in (1, -1):
      moved = list(parameters)
      moved[i] = moved[i] + sign * step * direction
      sides.append(both(moved)[0])
    slope = (sides[0] - sides[1]) / (2 * step)
    assert_close(np.vdot(grads[i], direction), slope, rtol=1e-6)
  if method == "sequential":
    stopped = jax.jit(
      jax.grad(functools.partial(objective, method=method, is_stopped=True))
    )(parameters)
    for of_write, without in zip(grads, stopped, strict=True):
      assert np.abs(of_write - without).max() > 0.01


def singular(name):
  """A memory whose covariance has no inverse."""
  state, weights, values = episode(3, 2, 4)
  if name == "a row known exactly":
    cov = np.array(state.cov)
    cov[1] = cov[:, 1] = 0
    return state._replace(cov=cov), weights, values
  if name == "equal rows":
    rows = np.array([0, 0, 1])
    mean, cov = state.mean[rows], state.cov[rows][:, rows]
    return kanerva.State(mean, cov), weights, values
  return state._replace(cov=0 * state.cov), weights, values


SINGULAR = ("a row known exactly", "equal rows", "all rows known")


@pytest.mark.parametrize("name", SINGULAR)
def test_a_singular_memory_is_written_like_any_other(name):
  state, weights, values = singular(name)
  whole, every = write_by_all(state, weights, values)
  for t in range(len(weights)):
    # The dense posterior inverts the covariance of the values only.
    wanted = Dense(state, weights[: t + 1], values[: t + 1]).posterior()
    assert_close(flat(jax.tree.map(lambda x, t=t: x[t], every)), wanted)
  for method, found in zip(METHODS, whole, strict=True):
    if (method, name) == ("information", "equal rows"):
      assert np.isnan(found.mean).all()
      continue
    assert_close(flat(found), wanted)
  np.testing.assert_array_equal(every.mean[-1], whole[0].mean)
  np.testing.assert_array_equal(every.cov[-1], whole[0].cov)


def without_row(state, row=1):
  kept = np.array([i for i in range(len(state.mean)) if i != row])
  return kanerva.State(state.mean[kept], state.cov[kept][:, kept])


def test_rows_known_exactly_are_left_out_of_a_divergence():
  state, weights, values = singular("a row known exactly")
  written = write(state, weights, values)
  parts = without_row(written), without_row(state)
  means_and_covs = [*flat(parts[0]), *flat(parts[1])]
  assert_close(kl(*parts), dense_kl(*means_and_covs))
  # Otherwise the result says that there is none.
  assert np.isnan(kl(written, state))
  assert np.isnan(kl(written, episode()[0]))
  assert np.isnan(kl(episode()[0], written))
  equal, weights, values = singular("equal rows")
  assert np.isnan(kl(write(equal, weights, values), equal))


@pytest.mark.parametrize("name", ["a row known exactly", "all rows known"])
def test_parts_are_merged_though_the_prior_knows_rows_exactly(name):
  state, weights, values = singular(name)
  parts = [write(state, weights[i:][:2], values[i:][:2]) for i in (0, 2)]
  merged = jax.jit(kanerva.merge)(*parts, state)
  assert_close(merged, write(state, weights, values))
  equal, weights, values = singular("equal rows")
  parts = [write(equal, weights[i:][:2], values[i:][:2]) for i in (0, 2)]
  assert np.isnan(kanerva.merge(*parts, equal).mean).all()


def test_whole_numbers_make_a_memory_of_floats():
  mean = np.array([[1, 2], [3, 4]])
  state = kanerva.prior(mean, np.array(0))
  assert state.mean.dtype == state.cov.dtype == jnp.result_type(float)
  assert not any(x.weak_type for x in state)
  weights, values = np.array([[1, 0]]), np.array([[2, 5]])
  written = kanerva.write(
    kanerva.State(mean, np.eye(2, dtype=int)),
    weights,
    values,
    noise_variance=np.float32(0.5),
  )
  assert_close(written.mean, [[5 / 3, 4.0], [3.0, 4.0]])
  assert_close(written.cov, np.diag([1 / 3, 1.0]))


def test_thousands_of_writes_in_single_precision_stay_positive():
  rng = np.random.default_rng(0)
  weights = jnp.asarray(3 * rng.normal(size=(2000, 16)), jnp.float32)
  values = jnp.zeros((2000, 1), jnp.float32)
  state = kanerva.prior(jnp.zeros((16, 1), jnp.float32), 0.0)
  wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (weights, values))
  exact = write(kanerva.prior(jnp.zeros((16, 1)), 0.0), *wide, 1e-4).cov
  least = np.linalg.eigvalsh(exact)[0]
  for method in ("sequential", "joseph"):
    found = write(state, weights, values, 1e-4, method).cov
    assert found.dtype == jnp.float32
    found = np.asarray(found, np.float64)
    assert_close(np.linalg.eigvalsh(found)[0], least, rtol=0.01)
    assert np.abs(found - exact).max() < 0.01 * np.abs(exact).max()

  # Not so where what is taken off is not symmetric to the last digit.
  def take_off(cov, w):
    c = cov @ w
    return cov - (c / (w @ c + 1e-4))[:, None] * c[None], None

  found = jax.jit(lambda *x: jax.lax.scan(take_off, *x)[0])(state.cov, weights)
  found = np.asarray(found, np.float64)
  assert np.linalg.eigvalsh(0.5 * (found + found.T))[0] < 0


def test_one_item_is_written_as_an_episode_of_one():
  state, weights, values = episode()
  for joseph in (False, True):
    one = functools.partial(
      kanerva.rank_one_write, noise_variance=NOISE, joseph=joseph
    )
    found = jax.jit(one)(state, weights[0], values[0])
    assert_close(found, write(state, weights[:1], values[:1]))


def test_the_divergence_of_a_code_is_a_mean_over_its_samples():
  rng = np.random.default_rng(5)
  state, weights, _ = episode(3, 2, 1)
  w, mean, stddev = weights[0], np.array([0.5, -1.0]), np.array([0.4, 1.3])
  draws = mean + stddev * rng.normal(size=(200_000, 2))
  of_q = np.sum(((draws - mean) / stddev) ** 2 + 2 * np.log(stddev), axis=1)

  def estimate(codes):
    of_p = np.sum((draws - codes) ** 2 / NOISE + np.log(NOISE), axis=1)
    return np.mean(of_p - of_q) / 2, np.std(of_p - of_q) / 2 / len(draws) ** 0.5

  divergence = functools.partial(
    kanerva_bounds.code_kl,
    *(mean, stddev, w @ state.mean),
    noise_variance=NOISE,
  )
  found, error = estimate(w @ state.mean)
  assert error < 0.02
  assert_close(divergence(), found, atol=4 * error)
  # And over memories: of M only Mᵀ w is seen.
  variance = w @ state.cov @ w
  spread = variance**0.5
  codes = w @ state.mean + spread * rng.normal(size=draws.shape)
  found, error = estimate(codes)
  expected = divergence(read_variance=variance)
  assert_close(expected, found, atol=4 * error)
  assert expected > divergence() + 10 * error


def test_the_bound_has_no_divergence_of_the_memory():
  # Of logits 0 each of 6 pixels costs ln 2.
  log_px = jnp.full(4, -6 * jnp.log(2.0))
  of_address, of_code = jnp.array([1.0, 2.0, 3.0, 6.0]), jnp.full(4, 0.5)
  bound, terms = kanerva_bounds.conditional_bound(log_px, of_address, of_code)
  assert_close(bound, -6 * np.log(2) - 3.0 - 0.5)
  assert terms._fields == ("log_likelihood", "kl_address", "kl_code")
  assert_close(tuple(terms), (-6 * np.log(2), 3.0, 0.5))


def test_lapack_is_left_alone():
  # On CPU, batches of its calls on several devices may wait for each other.
  given = jax.tree.map(lambda x: np.stack([x, x]), episode(13, 2, 14))

  def all_of_it(state, weights, values):
    def total(state):
      states = [
        kanerva.write(state, weights, values, noise_variance=1.0, method=method)
        for method in METHODS
      ]
      every = kanerva.write_all(state, weights, values, noise_variance=1.0)
      merged = kanerva.merge(states[0], states[1], state)
      return kanerva.kl(merged, state) + every.cov.sum()

    return jax.grad(total)(state)

  text = jax.jit(jax.vmap(all_of_it)).lower(*given).as_text()
  assert "while" in text
  assert "lapack" not in text


def test_bad_arguments_are_refused():
  state, weights, values = jax.tree.map(jnp.asarray, episode())
  noisy = {"noise_variance": 1.0}
  item = weights[0], values[0]
  functions = (
    (kanerva.write, (weights, values)),
    (kanerva.write_all, (weights, values)),
    (kanerva.erase, (weights, values)),
    (kanerva_bounds.log_evidence, (weights, values)),
    (kanerva.rank_one_write, item),
    (kanerva.step_kl, item),
  )
  for function, given in functions:
    for bad in (0.0, -1, float("nan"), float("inf"), np.float32(0)):
      with pytest.raises(ValueError, match="noise_variance is"):
        function(state, *given, noise_variance=bad)
    # One for all: neither of each row nor of each item.
    with pytest.raises(ValueError, match="noise_variance has shape"):
      function(state, *given, noise_variance=jnp.ones(3))
    with pytest.raises(ValueError, match="weights has shape"):
      function(state, given[0][..., 1:], *given[1:], **noisy)
    with pytest.raises(ValueError, match=r"values? has shape"):
      function(state, given[0], *(x[..., 1:] for x in given[1:]), **noisy)
    with pytest.raises(ValueError, match=r"state\.cov has shape"):
      function(state._replace(cov=jnp.eye(2)), *given, **noisy)
  code = values[0]
  with pytest.raises(ValueError, match="noise_variance is"):
    kanerva_bounds.code_kl(code, code, code, noise_variance=0.0)
  with pytest.raises(ValueError, match="read_mean has shape"):
    kanerva_bounds.code_kl(code, code, code[1:], **noisy)
  for name in ("noise_variance", "read_variance"):
    with pytest.raises(ValueError, match=f"{name} has shape"):
      kanerva_bounds.code_kl(code, code, code, **(noisy | {name: jnp.ones(2)}))
  for function, _ in functions[:4]:
    with pytest.raises(ValueError, match="weights has 0 items"):
      function(state, weights[:0], values[:0], **noisy)
    with pytest.raises(ValueError, match="values has shape"):
      function(state, weights[1:], values, **noisy)
  with pytest.raises(ValueError, match="method is 'cholesky'; it must be"):
    kanerva.write(state, weights, values, **noisy, method="cholesky")
  for shape in ((0, 2), (2, 0)):
    with pytest.raises(ValueError, match="mean has 0"):
      kanerva.prior(jnp.ones(shape), jnp.zeros(()))
    empty = kanerva.State(jnp.ones(shape), jnp.eye(shape[0]))
    with pytest.raises(ValueError, match=r"state\.mean has 0"):
      kanerva.read(empty, jnp.ones(shape[0]))
  with pytest.raises(ValueError, match="log_variance has shape"):
    kanerva.prior(jnp.ones((2, 2)), jnp.ones(3))
  with pytest.raises(ValueError, match=r"prior\.mean has shape"):
    kanerva.kl(state, state._replace(mean=state.mean[:2]))
  with pytest.raises(ValueError, match=r"prior\.mean has shape"):
    kanerva.merge(state, state, state._replace(mean=state.mean[:, :1]))
  with pytest.raises(ValueError, match="b has shape"):
    kanerva.address(jnp.ones((3, 2)), jnp.ones(3))
  with pytest.raises(ValueError, match="weights has shape"):
    kanerva.read(state, jnp.ones(2))
  terms = jnp.ones(2)
  with pytest.raises(ValueError, match="log_px has 0 items"):
    kanerva_bounds.conditional_bound(terms[:0], terms[:0], terms[:0])
  with pytest.raises(ValueError, match="kl_code has shape"):
    kanerva_bounds.conditional_bound(terms, terms, terms[:1])
