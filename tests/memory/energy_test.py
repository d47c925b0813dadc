"""Tests of energy-based memory: closed forms, a NumPy loop, differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import energy as uncompiled
from tests.oracles import assert_close
from tests.whole import each

energy = each(uncompiled)

D, H, N = 3, 4, 2


pytestmark = pytest.mark.usefixtures("float64")


def example(seed=0, num_read_steps=3):
  """All that a meta-loss depends on: what is learned, and a set."""
  rng = np.random.default_rng(seed)
  params = {"first": {"w": rng.normal(size=(H, D)), "b": rng.normal(size=H)}}
  params["last"] = {"w": rng.normal(size=H)}
  rates = jax.tree.map(
    lambda x: np.asarray(x + rng.normal(scale=0.3)),
    energy.write_rates(params, initial=0.1, dtype=np.float64),
  )
  schedule = energy.ReadRates(
    np.asarray(0.3),
    rng.normal(size=num_read_steps - 1),
    np.asarray(0.6),
    rng.normal(size=num_read_steps - 1),
  )
  learned = params, rates, schedule, rng.normal(size=D)
  patterns, queries = rng.uniform(size=(2, N, D))
  return learned, patterns, queries


def energy_of(static, params, x):
  """A network of one layer; all but `static` is written."""
  h = jnp.tanh(params["first"]["w"] @ x + params["first"]["b"])
  return params["last"]["w"] @ h + 0.5 * jnp.sum((x - static) ** 2)


def numpy_terms(static, params, prior_params, patterns):
  """The terms of the writing loss, by hand."""
  w, b, v = params["first"]["w"], params["first"]["b"], params["last"]["w"]
  value = norm = 0.0
  for x in patterns:
    h = np.tanh(w @ x + b)
    slope = w.T @ (v * (1 - h**2)) + x - static
    value += (v @ h + 0.5 * np.sum((x - static) ** 2)) / len(patterns)
    norm += slope @ slope / len(patterns)
  moved = zip(*map(jax.tree.leaves, (params, prior_params)), strict=True)
  return value, norm, sum(np.sum((a - b) ** 2) for a, b in moved)


def numpy_write(static, params, patterns, rates, num_steps):
  """Writes by central differences of the terms."""
  theta, step = jax.tree.map(np.copy, params), 1e-5
  for _ in range(num_steps):
    new = jax.tree.map(np.copy, theta)
    for layer, name in (("first", "w"), ("first", "b"), ("last", "w")):
      leaf = theta[layer][name]
      for i in np.ndindex(leaf.shape):
        value, sides = leaf[i], []
        for sign in (1, -1):
          leaf[i] = value + sign * step
          sides.append(np.array(numpy_terms(static, theta, params, patterns)))
        leaf[i] = value
        slopes = (sides[0] - sides[1]) / (2 * step)
        rho = np.array([term[layer][name] for term in rates])
        new[layer][name][i] -= np.log1p(np.exp(rho)) @ slopes
    theta = new
  return theta


@functools.partial(
  jax.jit, static_argnames=("num_steps", "first_order", "remat")
)
def meta(learned, patterns, queries, num_steps=2, **settings):
  params, rates, schedule, static = learned
  return energy.loss(
    *(params, patterns, queries, functools.partial(energy_of, static)),
    *(rates, schedule),
    num_steps=num_steps,
    **settings,
  )


@functools.partial(jax.jit, static_argnames=("num_steps", "first_order"))
def write(learned, patterns, num_steps=2, **settings):
  params, rates, _, static = learned
  function = functools.partial(energy_of, static)
  return energy.write(
    params, patterns, function, rates, num_steps=num_steps, **settings
  )


def test_writing_is_a_loop_of_differences_in_numpy():
  (params, rates, _, static), patterns, _ = example()
  found = energy.writing_terms(
    *(params, params, patterns, functools.partial(energy_of, static))
  )
  assert_close(tuple(found), numpy_terms(static, params, params, patterns))
  written = write((params, rates, None, static), patterns)
  expected = numpy_write(static, params, patterns, rates, 2)
  assert_close(written, expected, rtol=1e-7, atol=1e-7)
  found = energy.writing_terms(
    *(written, params, patterns, functools.partial(energy_of, static))
  )
  terms = numpy_terms(static, expected, params, patterns)
  assert_close(tuple(found), terms, rtol=1e-6)


def scalar_write(theta, x, slope_of, num_steps=1, first_order=False, **rates):
  """Writes to one number, at rates that are given as they are."""
  logits = {name: jnp.log(jnp.expm1(rate)) for name, rate in rates.items()}
  none = energy.WriteRates(None, None, None)
  x = jnp.asarray(x, jnp.float64)[:, None]
  return energy.write(
    jnp.asarray(theta, jnp.float64),
    *(x, slope_of, none._replace(**logits)),
    num_steps=num_steps,
    first_order=first_order,
  )


def test_the_gradients_norm_is_differentiated_by_theta():
  # E = θ x² / 2: |∇_x E|² = θ² x², and that by θ is 2 θ x².
  half_square = lambda theta, x: 0.5 * theta * jnp.sum(x**2)
  found = scalar_write(3.0, [1.0, 2.0], half_square, gradient_norm=0.01)
  assert_close(found, 3.0 - 0.01 * 2 * 3 * (1 + 4) / 2)
  # x² / 2 of the energy itself.
  found = scalar_write(3.0, [1.0, 2.0], half_square, energy=0.01)
  assert_close(found, 3.0 - 0.01 * (1 + 4) / 4)


def test_the_prior_pulls_to_where_writing_began():
  nothing = lambda theta, x: 0 * theta * jnp.sum(x)
  found = scalar_write(3.0, [1.0], nothing, num_steps=3, energy=1.0, prior=0.2)
  np.testing.assert_array_equal(found, 3.0)
  # The energy's slope is 2, the distance moved d <- d - 0.1 * 2 - 0.2 * 2 d.
  line = lambda theta, x: theta * jnp.sum(x)
  function = functools.partial(
    scalar_write, x=[2.0], slope_of=line, num_steps=3, energy=0.1, prior=0.2
  )
  expected = -0.2 * (1 + 0.6 + 0.36)
  assert_close(function(3.0) - 3.0, expected)
  # θ̄ is where it begins and where it is pulled to: all moves along with it.
  assert_close(jax.grad(function)(3.0), 1.0)


def test_reading_a_quadratic_is_gradient_descent():
  rng = np.random.default_rng(1)
  root, mean, query = rng.normal(size=(D, D)), *rng.normal(size=(2, D))
  matrix = root @ root.T / D
  function = lambda a, x: 0.5 * (x - mean) @ a @ (x - mean)
  _, _, schedule, _ = example()[0]
  plain = schedule._replace(momentum=jnp.zeros(()))
  free = {"lower": -np.inf, "upper": np.inf}
  found = energy.read(matrix, query, function, plain, **free)
  product, gammas = np.eye(D), [0.3]
  for logit in schedule.step_size_logits:
    gammas.append(gammas[-1] / (1 + np.exp(-logit)))
  for gamma, x in zip(gammas, found, strict=True):
    product = (np.eye(D) - gamma * matrix) @ product
    assert_close(x, mean + product @ (query - mean))
  # One step of 1 / λ is exact.
  rates = energy.read_rates(1, step_size=0.25, momentum=0.0, dtype=np.float64)
  found = energy.read(4 * jnp.eye(D), query, function, rates, **free)
  assert_close(found, mean[None])
  # Steps above 2 / λ go further away at every step.
  for size, is_stable in ((0.45, True), (0.55, False)):
    rates = energy.read_rates(
      4, step_size=size, momentum=0.0, decay=0.99, dtype=np.float64
    )
    found = energy.read(4 * jnp.eye(D), query, function, rates, **free)
    distances = np.linalg.norm(np.asarray(found) - mean, axis=1)
    assert (np.diff(distances) < 0).all() == is_stable
    assert (np.diff(distances) > 0).all() != is_stable


def numpy_read(slope, query, gammas, momenta, *, plain=False):
  x, v, found = query, np.zeros_like(query), []
  for gamma, psi in zip(gammas, momenta, strict=True):
    ahead = x if plain else np.clip(x + psi * v, 0, 1)
    v = (0 if plain else psi * v) - gamma * slope(ahead)
    x = np.clip(x + v, 0, 1)
    found.append(x)
  return np.stack(found)


def test_momentum_looks_ahead_inside_the_box():
  # By hand: E = (x - 1)² / 2 from 0.5, γ = 1/2, 1/4, 1/8, ψ = 1, 1/2, 1/4.
  square = lambda mean, x: 0.5 * jnp.sum((x - mean) ** 2)
  rates = energy.read_rates(
    3, step_size=0.5, momentum=1.0, decay=0.5, dtype=np.float64
  )
  found = energy.read(jnp.ones(()), jnp.array([0.5]), square, rates)
  # v = 0.25; ahead 0.875, v = 0.125 + 0.03125; ahead 0.9453, v = 0.0459.
  assert_close(found[:, 0], [0.75, 0.90625, 0.9521484375])
  # Where the look-ahead leaves the box it is clipped before the slope.
  found = energy.read(jnp.full((), 3.0), jnp.array([0.2]), square, rates)
  assert_close(found[:, 0], [1.0, 1.0, 1.0])
  (params, _, schedule, static), _, queries = example(2)
  wild = jax.tree.map(lambda x: 3 * x, params)
  function = functools.partial(energy_of, static)
  slope = jax.jit(jax.grad(function, argnums=1))
  for momentum in (0.9, 0.0):
    rates = schedule._replace(momentum=jnp.asarray(momentum))
    found = energy.read(wild, queries[0], function, rates)
    assert found.min() >= 0 and found.max() <= 1
    expected = numpy_read(
      lambda x: np.asarray(slope(wild, x)),
      queries[0],
      energy.decay_rates(rates.step_size, rates.step_size_logits),
      energy.decay_rates(rates.momentum, rates.momentum_logits),
      plain=not momentum,
    )
    assert_close(found, expected)


def test_small_steps_of_a_read_lower_the_energy():
  (params, _, schedule, static), _, queries = example(num_read_steps=6)
  function = functools.partial(energy_of, static)
  plain = schedule._replace(momentum=np.asarray(0.0))
  read = jax.jit(lambda query: energy.read(params, query, function, plain))
  value = jax.jit(function)
  curvature = jax.jit(jax.hessian(function, argnums=1))
  for query in queries:
    found = read(query)
    greatest = max(np.linalg.eigvalsh(curvature(params, x))[-1] for x in found)
    assert 0.3 * greatest < 2  # γ_1; the others are less
    energies = [float(value(params, x)) for x in (query, *found)]
    assert (np.diff(energies) < 0).all()


def test_a_query_outside_of_the_box_is_clipped():
  square = lambda mean, x: 0.5 * jnp.sum((x - mean) ** 2)
  rates = energy.read_rates(2, step_size=0.1, dtype=np.float64)
  outside = energy.read(jnp.zeros(()), jnp.array([5.0, -3.0]), square, rates)
  inside = energy.read(jnp.zeros(()), jnp.array([1.0, 0.0]), square, rates)
  assert_close(outside, inside)
  # Bounds may be traced.
  traced = jax.jit(
    lambda lower: uncompiled.read(
      jnp.zeros(()), jnp.array([5.0, -3.0]), square, rates, lower=lower
    )
  )
  assert_close(traced(0.0), inside)


@functools.cache
def grads(first_order):
  learned, patterns, queries = example()
  function = lambda learned: meta(
    learned, patterns, queries, first_order=first_order
  )[0]
  return jax.tree.map(np.asarray, jax.jit(jax.grad(function))(learned))


def test_gradients_through_both_loops_are_central_differences():
  learned, patterns, queries = example()
  leaves, tree = jax.tree.flatten(learned)
  found, step = jax.tree.leaves(grads(False)), 1e-6
  rng = np.random.default_rng(3)
  for i, leaf in enumerate(leaves):
    direction = rng.normal(size=leaf.shape)
    sides = []
    for sign in (1, -1):
      moved = [*leaves[:i], leaf + sign * step * direction, *leaves[i + 1 :]]
      moved = jax.tree.unflatten(tree, moved)
      sides.append(meta(moved, patterns, queries)[0])
    slope = (sides[0] - sides[1]) / (2 * step)
    assert_close(np.vdot(found[i], direction), slope, rtol=1e-6, atol=1e-8)
    # Of a prior that has not been left, the rate has no gradient in step 1;
    # in step 2 it has.
    assert abs(slope) > 1e-5


def test_first_order_forgets_what_writing_does():
  learned, patterns, queries = example()
  _, rates, schedule, static = learned
  written = write(learned, patterns)
  first, whole = grads(True), grads(False)
  # θ̄ as the place to begin at: the gradient is that of reading at θ.
  _, by_reading, of_schedule = jax.grad(
    lambda *x: meta((x[1], rates, x[2], x[0]), patterns, queries, num_steps=0)[
      0
    ],
    argnums=(0, 1, 2),
  )(static, written, schedule)
  assert_close(first[0], by_reading)
  assert_close(first[2], of_schedule)
  assert_close(whole[2], of_schedule)
  for a, b in zip(*map(jax.tree.leaves, (first[0], whole[0])), strict=True):
    assert np.abs(a - b).max() > 1e-3
  # Rates still learn: of one step, all that they know is the same.
  for a in jax.tree.leaves(first[1].energy):
    assert abs(a) > 1e-5
  assert_close(
    meta(learned, patterns, queries, first_order=True),
    meta(learned, patterns, queries),
  )


def test_first_order_of_one_step_takes_the_change_for_a_constant():
  learned, patterns, queries = example()
  params, rates, schedule, static = learned

  @functools.partial(jax.jit, static_argnames="first_order")
  def gradient(learned, first_order):
    function = lambda learned: meta(
      learned, patterns, queries, num_steps=1, first_order=first_order
    )[0]
    return jax.grad(function)(learned)

  first, full = gradient(learned, True), gradient(learned, False)
  written = write(learned, patterns, num_steps=1)
  reading = jax.grad(
    lambda params, static: meta(
      (params, rates, schedule, static), patterns, queries, num_steps=0
    )[0],
    argnums=(0, 1),
  )
  of_params, of_static = reading(written, static)
  assert_close(first[0], of_params)
  assert_close(first[3], of_static)
  for i in (0, 3):
    for a, b in zip(*map(jax.tree.leaves, (first[i], full[i])), strict=True):
      assert np.abs(a - b).max() > 1e-3
  # A rate has the same gradient: minus that of reading along the change.
  assert_close(first[1], full[1])
  function = functools.partial(energy_of, static)
  changes = jax.grad(
    lambda theta: energy.writing_terms(theta, params, patterns, function).energy
  )(params)
  expected = jax.tree.map(
    lambda rho, g, change: -jax.nn.sigmoid(rho) * np.vdot(g, change),
    *(rates.energy, of_params, changes),
  )
  assert_close(first[1].energy, expected)


def test_first_order_of_a_number_by_hand():
  # E = θ x² / 2 with |∇_x E|² = θ² x²: θ <- θ - 0.01 * 2 θ x².
  half_square = lambda theta, x: 0.5 * theta * jnp.sum(x**2)
  for first_order, slope in ((False, 1 - 0.01 * 2 * 4), (True, 1.0)):
    function = functools.partial(
      scalar_write,
      x=[2.0],
      slope_of=half_square,
      first_order=first_order,
      gradient_norm=0.01,
    )
    assert_close(jax.grad(function)(3.0), slope)


def test_the_order_and_the_repetition_of_a_set_do_not_matter():
  learned, patterns, _ = example()
  patterns = np.concatenate([patterns, patterns[:1] ** 2])
  written = write(learned, patterns)
  assert_close(write(learned, patterns[[2, 0, 1]]), written)
  assert_close(write(learned, np.concatenate([patterns] * 2)), written)
  # One that is there twice counts twice; and none is too many.
  many = patterns[[0, *range(3)] * 20]
  twice = write(learned, many[:4])
  assert np.abs(twice["last"]["w"] - written["last"]["w"]).max() > 1e-4
  assert_close(write(learned, many), twice)


def test_more_patterns_than_numbers_are_a_mean_over_all():
  learned, _, _ = example()
  many = np.random.default_rng(5).uniform(size=(100, D))
  assert len(many) > sum(x.size for x in jax.tree.leaves(learned[0]))
  found = write(learned, many, num_steps=1)
  # Terms are means over patterns: so is a step that is made of them.
  halves = [write(learned, x, num_steps=1) for x in (many[:50], many[50:])]
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
  assert_close(found, mean)
  assert np.abs(found["last"]["w"] - learned[0]["last"]["w"]).max() > 1e-3


def test_at_a_step_size_of_zero_the_query_is_what_is_read():
  (params, _, _, static), _, queries = example()
  rates = energy.read_rates(3, step_size=0.0, dtype=np.float64)
  function = functools.partial(energy_of, static)
  found = energy.read(params, queries[0], function, rates)
  np.testing.assert_array_equal(found, np.stack([queries[0]] * 3))


def test_without_steps_or_rates_nothing_is_written():
  learned, patterns, queries = example()
  assert_close(write(learned, patterns, num_steps=0), learned[0])
  zero = jax.tree.map(lambda x: jnp.full_like(x, -np.inf), learned[1])
  without = learned[0], zero, *learned[2:]
  np.testing.assert_array_equal(
    meta(without, patterns, queries)[0],
    meta(learned, patterns, queries, num_steps=0)[0],
  )


def test_writing_lowers_the_energy_of_what_is_written():
  (params, rates, *rest), patterns, _ = example()
  rates = rates._replace(gradient_norm=None, prior=None)
  function = functools.partial(energy_of, rest[-1])
  before, written = params, write((params, rates, *rest), patterns)
  energies = [
    energy.writing_terms(theta, params, patterns, function).energy
    for theta in (before, written)
  ]
  assert energies[1] < energies[0] - 0.01


def test_a_term_left_out_is_a_rate_of_zero():
  (params, rates, *rest), patterns, _ = example()
  for name in rates._fields:
    logits = getattr(rates, name)
    zero = jax.tree.map(lambda x: jnp.full_like(x, -np.inf), logits)
    found = write((params, rates._replace(**{name: None}), *rest), patterns)
    expected = write((params, rates._replace(**{name: zero}), *rest), patterns)
    assert_close(found, expected)


def test_rates_of_layers_and_of_steps():
  (params, _, *rest), patterns, _ = example()
  layers = {"first": 0, "last": 0}
  by_layer = energy.write_rates(layers, initial=0.05, dtype=np.float64)
  by_layer.energy["last"] += 1.0
  by_array = energy.WriteRates(
    *(jax.tree.broadcast(term, params) for term in by_layer)
  )
  assert jax.tree.structure(by_array.energy) == jax.tree.structure(params)
  expected = write((params, by_array, *rest), patterns)
  assert_close(write((params, by_layer, *rest), patterns), expected)
  # A rate of 0 in the second of two steps leaves what one step does.
  by_step = jax.tree.map(lambda x: jnp.stack([x, -jnp.inf]), by_layer)
  found = write((params, by_step, *rest), patterns)
  expected = write((params, by_layer, *rest), patterns, num_steps=1)
  assert_close(found, expected)
  found = jax.tree.map(jax.nn.softplus, energy.write_rates(layers))
  assert_close(jax.tree.leaves(found), [1e-4] * 6, rtol=1e-6)


def test_sets_side_by_side_know_nothing_of_each_other():
  learned, patterns, queries = example()
  _, *others = example(1)
  sets = [jnp.stack(x) for x in zip((patterns, queries), others, strict=True)]
  both = jax.vmap(lambda *x: meta(learned, *x)[0])(*sets)
  alone = [meta(learned, *(x[i] for x in sets))[0] for i in range(2)]
  assert_close(both, np.stack(alone))


def test_every_step_of_a_read_is_in_the_loss_but_the_query_is_not():
  learned, patterns, queries = example(num_read_steps=1)
  total, iterates = meta(learned, patterns, queries)
  assert iterates.shape == (N, 1, D)
  written, function = write(learned, patterns), learned[-1]
  expected = 0.0
  for x, query in zip(patterns, queries, strict=True):
    slope = jax.grad(energy_of, argnums=2)(function, written, query)
    expected += np.sum((x - np.clip(query - 0.3 * slope, 0, 1)) ** 2) / N
  assert_close(total, expected)
  iterates = np.random.default_rng(0).normal(size=(4, 2, 3))
  expected = sum(np.sum((x - patterns[0][None]) ** 2) for x in iterates)
  pattern = np.stack([patterns[0]] * 2)
  assert_close(energy.reconstruction_loss(iterates, pattern), expected)


def test_steps_cost_nothing_to_compile():
  _, patterns, queries = example()

  def size(num_write_steps, num_read_steps):
    (params, rates, _, static), *_ = example(num_read_steps=num_read_steps)
    schedule = energy.read_rates(num_read_steps, dtype=np.float64)
    function = lambda learned: meta(
      learned, patterns, queries, num_steps=num_write_steps
    )[0]
    given = params, rates, schedule, static
    text = str(jax.jit(jax.grad(function)).trace(given).jaxpr)
    return text.count(" = ")

  assert size(2, 3) == size(20, 30)


def test_rematerialized_gradients_are_the_same():
  learned, patterns, queries = example()
  function = lambda learned: meta(learned, patterns, queries, remat=True)[0]
  assert_close(jax.jit(jax.grad(function))(learned), grads(False))


def test_bits_are_rounded():
  x = jnp.array([0.49, 0.5, 0.51, 0.0])
  assert int(energy.error_bits(x, jnp.array([0.0, 0.0, 0.0, 1.0]))) == 3
  assert int(energy.error_bits(x, jnp.array([0.0, 1.0, 1.0, 0.0]))) == 0
  # What diverged is wrong everywhere, not right where 0 was stored.
  for pattern in (jnp.zeros(4), jnp.ones(4)):
    assert int(energy.error_bits(jnp.full(4, jnp.nan), pattern)) == 4


def test_numbers_of_numpy_are_taken_in_the_type_that_there_is():
  (params, rates, schedule, static), patterns, queries = example()
  with jax.enable_x64(False):
    learned, *given = jax.tree.map(
      jnp.float32, ((params, rates, schedule, static), patterns, queries)
    )
    params, rates, schedule, static = learned
    function = functools.partial(energy_of, static)
    settings = function, rates, schedule
    found = uncompiled.loss(params, patterns, queries, *settings, num_steps=1)
    expected = uncompiled.loss(params, *given, *settings, num_steps=1)
    assert found[0].dtype == jnp.float32
    np.testing.assert_array_equal(found[1], expected[1])
    found = uncompiled.read(params, queries[0], function, schedule)
    assert found.dtype == jnp.float32


def test_bad_arguments_are_refused():
  (params, rates, schedule, static), patterns, queries = example()
  function = functools.partial(energy_of, static)
  given = function, rates
  for bad in (0.0, 1.0, -0.5, np.nan):
    with pytest.raises(ValueError, match="decay is"):
      energy.read_rates(2, decay=bad)
  for bad in (0.0, -1.0, np.inf, np.nan):
    with pytest.raises(ValueError, match=r"initial is .* above 0"):
      energy.write_rates(params, initial=bad)
  for bad in (1e300, 1e-320):
    with pytest.raises(ValueError, match=r"initial is .* from 1\.2e-38 to 3"):
      energy.write_rates(params, initial=bad)
  with pytest.raises(ValueError, match=r"initial is 1000000.0.*to 6\.6e\+04"):
    energy.write_rates(params, initial=1e6, dtype=jnp.float16)
  with pytest.raises(ValueError, match="num_steps is 0"):
    energy.read_rates(0)
  for bad in (-1, np.inf, np.nan, 1e300):
    with pytest.raises(ValueError, match=r"step_size is .* at least 0 and at"):
      energy.read_rates(2, step_size=bad)
  with pytest.raises(ValueError, match=r"momentum is 1.5"):
    energy.read_rates(2, momentum=1.5)
  with pytest.raises(ValueError, match="num_steps is -1"):
    energy.write(params, patterns, *given, num_steps=-1)
  with pytest.raises(ValueError, match="patterns has 0 items"):
    energy.write(params, patterns[:0], *given, num_steps=1)
  with pytest.raises(ValueError, match="patterns has 0 items"):
    energy.writing_terms(params, params, patterns[:0], function)
  with pytest.raises(ValueError, match=r"lower is 1.0; it must be below"):
    energy.read(params, queries[0], function, schedule, lower=1.0)
  # An energy for each of several numbers is none.
  several = lambda params, x: params["first"]["w"] @ x
  with pytest.raises(ValueError, match="energy has shape"):
    energy.write(params, patterns, several, rates, num_steps=1)
  with pytest.raises(ValueError, match="energy has shape"):
    energy.read(params, queries[0], several, schedule)
  with pytest.raises(ValueError, match=r"patterns has shape \[\]"):
    energy.write(params, 1.0, *given, num_steps=1)
  # Rates for two of three steps, which must not be stretched; nor one.
  for count in (1, 2):
    by_step = jax.tree.map(lambda x, n=count: np.stack([x] * n), rates)
    with pytest.raises(ValueError, match=r"rates\.energy has shape"):
      energy.write(params, patterns, function, by_step, num_steps=3)
  short = schedule._replace(momentum_logits=jnp.zeros(1))
  with pytest.raises(ValueError, match=r"rates\.momentum_logits has shape"):
    energy.read(params, queries[0], function, short)
  with pytest.raises(ValueError, match=r"schedule\.momentum_logits has shape"):
    energy.loss(params, patterns, queries, *given, short, num_steps=1)
  with pytest.raises(ValueError, match="queries has shape"):
    energy.loss(params, patterns, queries[:1], *given, schedule, num_steps=1)
  stretched = jax.tree.map(lambda x: x[:1], params)
  with pytest.raises(ValueError, match="prior_params differs from params"):
    energy.writing_terms(params, stretched, patterns, function)
  with pytest.raises(ValueError, match="pattern has shape"):
    energy.reconstruction_loss(jnp.ones((2, 3)), jnp.ones(2))
  with pytest.raises(ValueError, match="pattern has shape"):
    energy.error_bits(jnp.ones((2, 3)), jnp.ones(3))


def test_whole_numbers_are_written_and_read_as_floats():
  # Bytes would go round at 256.
  loss = energy.reconstruction_loss(
    jnp.zeros((2, 3), jnp.uint8), jnp.ones(3, jnp.uint8)
  )
  assert_close(loss, 6.0)
  (_, rates, schedule, static), _, _ = example()
  params = {"first": {"w": np.ones((H, D), int), "b": np.zeros(H, int)}}
  params["last"] = {"w": np.arange(H)}
  bits = np.eye(N, D, dtype=np.uint8)
  results = []
  for kind in (np.asarray, np.float64):
    function = functools.partial(energy_of, static)
    written = energy.write(
      jax.tree.map(kind, params), kind(bits), function, rates, num_steps=2
    )
    results.append(
      (written, energy.read(written, kind(bits[0]), function, schedule))
    )
  assert_close(*results)
