"""Tests of asynchronous learners: traps that learning curves do not show."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.envs import catch, environment, wrappers
from lilly.learners import asynchronous, asynchronous_methods
from lilly.losses import actor_critic
from lilly.nets import policy_value, recurrent

_ROWS, _COLUMNS, _ACTIONS = 5, 3, 3
_SIZE = _ROWS * _COLUMNS
_ENV = wrappers.auto_reset(catch.make(_ROWS, _COLUMNS))
_DISCOUNT = 0.9


def _feedforward(input_size, output_size):
  return recurrent.feedforward(input_size, output_size, hidden_size=4)


def _lstm(input_size, output_size):
  return recurrent.lstm(input_size, output_size, hidden_size=3)


@functools.cache
def _method(name, make_core=_feedforward):
  if name == "a3c":
    return asynchronous_methods.a3c(
      policy_value.categorical(_SIZE, _ACTIONS, make_core=make_core)
    )
  network = policy_value.action_values(_SIZE, _ACTIONS, make_core=make_core)
  return getattr(asynchronous_methods, name)(network)


_METHODS = ("a3c", "q_learning", "sarsa", "n_step_q")


def _start(method, num_envs=1, seed=0):
  key_params, key = jax.random.split(jax.random.key(seed))
  params = method.network.init(key_params)
  worker = asynchronous.init_worker(
    key, method, _ENV, params, num_envs=num_envs
  )
  return params, worker


def _targets(method, params):
  if not method.has_target:
    return ()
  return jax.tree.map(lambda x: 0.5 * x, params)


def _cloned(tree):
  """The tree with keys that may be used again."""

  def clone(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.clone(leaf) if is_key else leaf

  return jax.tree.map(clone, tree)


def _segment(params, targets, worker, *, method, length=4, env=_ENV):
  segment = functools.partial(
    asynchronous.segment_gradient,
    epsilon=0.3,
    method=method,
    env=env,
    segment_length=length,
    discount=_DISCOUNT,
  )
  return jax.jit(segment)(params, targets, _cloned(worker))


def _played(params, worker, method, length, env=_ENV, epsilon=0.3):
  """The segment of the first environment, step by step: a list of dicts."""
  key_segment = jax.random.split(jax.random.clone(worker.key))[1]
  key = jax.random.split(key_segment, worker.total.size)[0]
  first = lambda tree: jax.tree.map(lambda x: x[0], tree)
  state, memory = first(worker.envs), first(worker.memory)
  action, rows = worker.action[0], []
  for _ in range(length):
    key, key_step = jax.random.split(key)
    key_act, key_env, key_next = jax.random.split(key_step, 3)
    row = {"observation": state.observation, "memory": memory}
    after, output = method.network.apply(params, state.observation, memory)
    if not method.plans_action:
      action = method.act(jax.random.clone(key_act), output, epsilon)
    state, step = env.step(key_env, state, action)
    _, following = method.network.apply(params, step.observation, after)
    row |= {"action": action, "step": step, "after": after}
    row["action_t"] = method.act(key_next, following, epsilon)
    is_last = bool(environment.is_last(step))
    memory = method.network.initial_state() if is_last else after
    if method.plans_action:
      action = row["action_t"]
      if is_last:
        _, first_output = method.network.apply(
          params, state.observation, memory
        )
        action = method.act(key_act, first_output, epsilon)
    rows.append(row | {"action_executed_next": action})
  return rows


def _loss_of_rows(method, name, params, targets, rows):
  """The loss of one segment by a loop over its steps, backwards."""
  apply = lambda p, row: method.network.apply(
    p, row["observation"], row["memory"]
  )[1]
  behind = targets if method.has_target else jax.lax.stop_gradient(params)
  total, following = 0.0, None
  for row in reversed(rows):
    step = row["step"]
    output = apply(params, row)
    _, next_output = method.network.apply(
      behind, step.observation, row["after"]
    )
    value = {
      "a3c": lambda x: x.value,
      "q_learning": jnp.max,
      "n_step_q": jnp.max,
      "sarsa": lambda x, a=row["action_t"]: x[a],
    }[name](next_output)
    if following is None or name in ("q_learning", "sarsa") or step.truncated:
      following = value
    following = step.reward + _DISCOUNT * step.discount * following
    target = jax.lax.stop_gradient(following)
    if name == "a3c":
      log_probs = jax.nn.log_softmax(output.logits)
      entropy = -jnp.sum(jnp.exp(log_probs) * log_probs)
      advantage = jax.lax.stop_gradient(target - output.value)
      total -= log_probs[row["action"]] * advantage + 0.01 * entropy
      total += 0.5 * (target - output.value) ** 2
    else:
      total += (target - output[row["action"]]) ** 2
  return total


@pytest.mark.parametrize("name", _METHODS)
def test_a_gradient_is_the_sum_of_those_of_single_steps(name):
  """Over an end of an episode: 6 steps of episodes of 4."""
  method = _method(name)
  params, worker = _start(method)
  targets = _targets(method, params)
  rows = _played(params, worker, method, 6)
  assert [float(row["step"].discount) for row in rows].count(0.0) == 1
  expected = jax.grad(lambda p: _loss_of_rows(method, name, p, targets, rows))(
    params
  )
  _, gradient, _ = _segment(params, targets, worker, method=method, length=6)
  chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-5)
  assert sum(jnp.sum(x != 0) for x in jax.tree.leaves(gradient)) > 20


@pytest.mark.parametrize("name", ["a3c", "n_step_q"])
def test_a_truncation_is_bootstrapped_from_the_true_observation(name):
  env = wrappers.auto_reset(catch.make(_ROWS, _COLUMNS, num_steps=3))
  method = _method(name)
  params, worker = _start(method)
  state, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(3), 1))
  worker = worker._replace(envs=state)
  targets = _targets(method, params)
  rows = _played(params, worker, method, 5, env)
  assert [bool(row["step"].truncated) for row in rows].count(True) == 1
  expected = jax.grad(lambda p: _loss_of_rows(method, name, p, targets, rows))(
    params
  )
  _, gradient, _ = _segment(
    params, targets, worker, method=method, length=5, env=env
  )
  chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_without_a_bootstrap_what_follows_is_worth_nothing():
  network = _method("a3c").network
  method = asynchronous_methods.a3c(network, bootstraps=False)
  params, worker = _start(method)
  (row,) = _played(params, worker, method, 1)
  _, _, metrics = _segment(params, (), worker, method=method, length=1)
  _, output = network.apply(params, row["observation"], ())
  expected = actor_critic.a3c_loss(
    output.logits[None],
    output.value[None],
    row["action"][None],
    row["step"].reward[None],
  )
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_gradients_of_several_environments_are_summed():
  method = _method("a3c")
  params, worker = _start(method, num_envs=3)
  _, gradient, _ = _segment(params, (), worker, method=method)
  key_segment = jax.random.split(jax.random.clone(worker.key))[1]
  keys = jax.random.split(key_segment, 3)
  total = jax.tree.map(jnp.zeros_like, params)

  def loss(params, stream, key):
    def step(carry, _):
      key, key_step = jax.random.split(carry[0])
      stream, row = asynchronous._step(
        key_step, carry[1], params, (), 0.3, method, _ENV, _DISCOUNT
      )
      return (key, stream), row

    _, rows = jax.lax.scan(step, (key, stream), length=4)
    return method.loss(rows)

  for i in range(3):
    one = jax.tree.map(lambda x, i=i: x[i], worker._replace(key=(), epsilon=()))
    stream = asynchronous._Stream(
      one.envs,
      one.memory,
      one.target_memory,
      one.action,
      one.total,
      one.last_total,
    )
    part = jax.grad(loss)(params, stream, keys[i])
    total = jax.tree.map(jnp.add, total, part)
  chex.assert_trees_all_close(gradient, total, rtol=1e-4, atol=1e-6)


def test_sarsa_executes_the_action_it_bootstraps_from():
  """Within a segment, and in the first step of the next one."""
  method = _method("sarsa")
  params, worker = _start(method)
  targets = _targets(method, params)
  played = _played(params, worker, method, 6)
  after, _, _ = _segment(params, targets, worker, method=method, length=6)
  np.testing.assert_array_equal(
    after.action[0], played[-1]["action_executed_next"]
  )
  for row, following in itertools.pairwise(played):
    if row["step"].discount:
      assert row["action_t"] == following["action"]
  # The next segment begins with the action that was carried over, whatever
  # its keys and its parameters are.
  for action in range(_ACTIONS):
    forced = after._replace(action=jnp.array([action], after.action.dtype))
    moved, _, _ = _segment(params, targets, forced, method=method, length=1)
    _, step = _ENV.step(
      jax.random.key(0), jax.tree.map(lambda x: x[0], after.envs), action
    )
    if step.discount:
      np.testing.assert_array_equal(moved.envs.observation[0], step.observation)


def test_a_memory_is_carried_over_segments():
  """Two segments of 3 see what one of 6 sees; the gradient stops between."""
  method = _method("a3c", _lstm)
  params, worker = _start(method)
  # An episode of 9 steps, so that none ends.
  env = wrappers.auto_reset(catch.make(10, _COLUMNS))
  method = asynchronous_methods.a3c(
    policy_value.categorical(10 * _COLUMNS, _ACTIONS, make_core=_lstm)
  )
  params = method.network.init(jax.random.key(1))
  worker = asynchronous.init_worker(jax.random.key(2), method, env, params)
  first, _, _ = _segment(params, (), worker, method=method, length=3, env=env)
  second, gradient, _ = _segment(
    params, (), first, method=method, length=3, env=env
  )
  rows = _played(params, first, method, 3, env)
  before = _played(params, worker, method, 3, env)
  memory = method.network.initial_state()
  for row in before + rows:
    memory, _ = method.network.apply(params, row["observation"], memory)
  chex.assert_trees_all_close(
    jax.tree.map(lambda x: x[0], second.memory), memory, rtol=1e-5
  )

  def loss(params):
    memory = jax.lax.stop_gradient(rows[0]["memory"])
    made = []
    for row in rows:
      row = row | {"memory": memory}
      memory, _ = method.network.apply(params, row["observation"], memory)
      made.append(row)
    return _loss_of_rows(method, "a3c", params, (), made)

  chex.assert_trees_all_close(
    gradient, jax.grad(loss)(params), rtol=1e-4, atol=1e-5
  )


def test_a_memory_is_reset_where_an_episode_ends():
  method = _method("a3c", _lstm)
  params, worker = _start(method)
  after, _, _ = _segment(params, (), worker, method=method, length=4)
  assert all(not np.any(x) for x in jax.tree.leaves(after.memory))
  after, _, _ = _segment(params, (), worker, method=method, length=3)
  assert all(np.all(x) for x in jax.tree.leaves(after.memory))


def test_the_optimiser_is_the_papers():
  """ε is inside the root, g starts at 0, and nothing is corrected."""
  optimiser = asynchronous_methods.clipped_rmsprop(0.5, epsilon=0.1)
  gradient = jnp.array([3.0, -0.2])
  state, g, expected = optimiser.init(gradient), 0.0, []
  for _ in range(3):
    update, state = optimiser.update(gradient, state)
    g = 0.99 * g + 0.01 * np.square(gradient)
    expected = -0.5 * np.asarray(gradient) / np.sqrt(g + 0.1)
    np.testing.assert_allclose(update, expected, rtol=1e-5)
  large = jnp.full(4, 100.0)  # of norm 200
  update, _ = optimiser.update(large, optimiser.init(large))
  np.testing.assert_allclose(
    update, -0.5 * 20 / np.sqrt(0.01 * 400 + 0.1), rtol=1e-5
  )


_SETTINGS = {
  "segment_length": 2,
  "discount": _DISCOUNT,
  "target_period": 12,
  "exploration_frames": 100,
}


def _state(method, optimiser, num_workers, num_envs=1):
  return asynchronous.init(
    jax.random.key(0),
    method,
    _ENV,
    optimiser,
    num_workers=num_workers,
    num_envs=num_envs,
  )


def _round(method, optimiser, function=asynchronous.play_round, **options):
  return jax.jit(
    functools.partial(
      function,
      optimiser=optimiser,
      method=method,
      env=_ENV,
      **_SETTINGS | options,
    )
  )


@pytest.mark.parametrize("name", ["a3c", "q_learning"])
def test_simulated_workers_equal_an_event_driven_loop(name):
  """N workers take turns: each pulls after its push, N - 1 pushes before."""
  num_workers, num_rounds = 4, 30
  method, optimiser = _method(name), asynchronous_methods.clipped_rmsprop(0.01)
  state = _state(method, optimiser, num_workers)
  workers = [
    jax.tree.map(lambda x, i=i: x[i], _cloned(state.workers))
    for i in range(num_workers)
  ]
  params, opt_state = state.shared.params, state.shared.opt_state
  copies, frames = [params] * num_workers, 0
  targets = targets_at_start = state.shared.target_params
  gradient_of = jax.jit(
    lambda params, targets, worker, epsilon: asynchronous.segment_gradient(
      params,
      targets,
      worker,
      epsilon,
      method=method,
      env=_ENV,
      segment_length=2,
      discount=_DISCOUNT,
    )
  )
  for turn in range(num_workers * num_rounds):
    i = turn % num_workers
    if i == 0:  # a simulated round looks at these once
      targets_at_start, frames_at_start = targets, frames
    epsilon = 1 + min(frames_at_start / 100, 1) * (0.1 - 1)
    workers[i], gradient, _ = gradient_of(
      copies[i], targets_at_start, workers[i], epsilon
    )
    update, opt_state = optimiser.update(gradient, opt_state, params)
    params = optax.apply_updates(params, update)
    copies[i] = params
    if method.has_target and (frames + 2) // 12 > frames // 12:
      targets = params
    frames += 2
  play = _round(method, optimiser)
  for _ in range(num_rounds):
    state, _ = play(state)
  assert int(state.shared.frames) == frames == 240
  chex.assert_trees_all_close(state.shared.params, params, atol=1e-6)
  chex.assert_trees_all_close(
    state.copies, jax.tree.map(lambda *x: jnp.stack(x), *copies), atol=1e-6
  )
  chex.assert_trees_all_close(state.shared.target_params, targets, atol=1e-6)
  moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), params, copies[0])
  assert max(jax.tree.leaves(moved)) > 1e-5  # what a fresh copy would miss


def test_one_worker_is_a_plain_actor_critic():
  """Without other workers nothing is stale: equal bits."""
  method, optimiser = _method("a3c"), asynchronous_methods.clipped_rmsprop(0.01)
  state = _state(method, optimiser, 1)
  worker = jax.tree.map(lambda x: x[0], state.workers)
  play = _round(method, optimiser)

  @jax.jit
  def step(params, opt_state, worker):
    # As a batch of one, which the compiler may round differently.
    one = jax.tree.map(lambda x: x[None], (params, worker))
    gradient_of = jax.vmap(
      lambda params, worker: asynchronous.segment_gradient(
        params,
        (),
        worker,
        method=method,
        env=_ENV,
        segment_length=2,
        discount=_DISCOUNT,
      )
    )
    worker, gradient, _ = jax.tree.map(lambda x: x[0], gradient_of(*one))
    update, opt_state = optimiser.update(gradient, opt_state, params)
    return optax.apply_updates(params, update), opt_state, worker

  carry = (state.shared.params, state.shared.opt_state, worker)
  for _ in range(10):
    state, _ = play(state)
    carry = step(*carry)
  chex.assert_trees_all_equal(state.shared.params, carry[0])
  chex.assert_trees_all_equal(state.shared.opt_state, carry[1])


def test_the_first_round_of_sgd_is_that_of_a2c_and_the_next_is_near():
  """All copies are equal at first; the difference after two is O(η²)."""
  method = _method("a3c")
  differences = []
  for rate in (0.02, 0.01):
    optimiser = optax.sgd(rate)
    stale = _state(method, optimiser, 4)
    fresh = _cloned(stale)
    play = _round(method, optimiser)
    play_together = _round(
      method, optimiser, asynchronous.play_synchronous_round
    )
    stale, _ = play(stale)
    fresh, _ = play_together(fresh)
    chex.assert_trees_all_close(
      stale.shared.params, fresh.shared.params, atol=1e-6
    )
    # The same actions: from here on the copies differ, the keys do not.
    stale, _ = play(stale)
    fresh, _ = play_together(fresh)
    gap = jax.tree.map(
      lambda x, y: jnp.sum((x - y) ** 2),
      stale.shared.params,
      fresh.shared.params,
    )
    differences.append(float(jnp.sqrt(sum(jax.tree.leaves(gap)))))
  np.testing.assert_allclose(differences[0] / differences[1], 4.0, rtol=0.2)


def test_second_moments_are_shared():
  """The second worker's push is divided by what the first one left."""
  method, optimiser = _method("a3c"), asynchronous_methods.clipped_rmsprop(1.0)
  params, _ = _start(method)
  shared = asynchronous.Shared(
    params, (), optimiser.init(params), jnp.zeros((), jnp.int32)
  )
  first = jax.tree.map(jnp.ones_like, params)
  second = jax.tree.map(lambda x: 2 * jnp.ones_like(x), params)
  push = functools.partial(asynchronous.push, optimiser=optimiser, num_frames=5)
  one = push(shared, first)
  two = push(one, second)
  g = 0.99 * 0.01 * 1 + 0.01 * 4
  for new, old in zip(
    jax.tree.leaves(two.params), jax.tree.leaves(one.params), strict=True
  ):
    np.testing.assert_allclose(new - old, -2 / np.sqrt(g + 0.1), rtol=1e-4)


def test_the_target_network_is_copied_by_the_push_that_crosses_a_multiple():
  method, optimiser = _method("q_learning"), optax.sgd(0.1)
  params, _ = _start(method)
  ones = jax.tree.map(jnp.ones_like, params)
  shared = asynchronous.Shared(
    params, params, optimiser.init(params), jnp.zeros((), jnp.int32)
  )
  copied = []
  for _ in range(8):
    shared = asynchronous.push(
      shared, ones, optimiser, num_frames=5, target_period=12
    )
    is_same = jax.tree.map(
      lambda x, y: bool((x == y).all()), shared.params, shared.target_params
    )
    copied.append(all(jax.tree.leaves(is_same)))
  # At 15, 25 and 40 frames, after 12, 24 and 36.
  assert np.flatnonzero(copied).tolist() == [2, 4, 7]


def test_workers_in_a_random_order_all_push():
  method, optimiser = _method("a3c"), optax.sgd(0.01)
  state = _state(method, optimiser, 4)
  play = _round(method, optimiser, is_order_random=True)
  orders = set()
  for _ in range(6):
    state, _ = play(state)
    leaf = np.asarray(jax.tree.leaves(state.copies)[0])
    final = np.asarray(jax.tree.leaves(state.shared.params)[0])
    last = [i for i in range(4) if (leaf[i] == final).all()]
    assert len(last) == 1  # the last to push has the newest copy
    orders.add(last[0])
  assert len(orders) > 1
  assert int(state.shared.frames) == 6 * 4 * 2


def test_workers_have_epsilons_of_their_own():
  method, optimiser = _method("q_learning"), optax.sgd(0.0)
  epsilons = jnp.array([0.1, 0.01, 0.5])
  state = asynchronous.init(
    jax.random.key(0),
    method,
    _ENV,
    optimiser,
    num_workers=3,
    epsilons=epsilons,
  )
  np.testing.assert_array_equal(state.workers.epsilon, epsilons)


@pytest.mark.parametrize("name", _METHODS)
@pytest.mark.parametrize(
  "function",
  [asynchronous.play_round, asynchronous.play_synchronous_round],
)
def test_a_state_keeps_its_form(name, function):
  method, optimiser = _method(name), asynchronous_methods.clipped_rmsprop(0.01)
  state = jax.eval_shape(lambda: _state(method, optimiser, 2, num_envs=3))
  new, metrics = jax.eval_shape(
    functools.partial(
      function, optimiser=optimiser, method=method, env=_ENV, **_SETTINGS
    ),
    state,
  )
  chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
  leaves = jax.tree.leaves((state, new))
  assert not any(getattr(leaf, "weak_type", False) for leaf in leaves)
  assert metrics.keys() == {"loss", "return"}


def test_gaussian_actions_are_learnt_from_as_well():
  """One step of a bandit: the mean moves towards the better action."""
  from lilly.envs import cue_recall

  env = wrappers.auto_reset(cue_recall.make(num_steps=2))
  method = asynchronous_methods.a3c(
    policy_value.gaussian(1, 1, make_core=_feedforward), entropy_cost=1e-4
  )
  state = asynchronous.init(
    jax.random.key(0), method, env, optax.sgd(0.01), num_workers=2, num_envs=2
  )
  state, metrics = jax.jit(
    functools.partial(
      asynchronous.play_round,
      optimiser=optax.sgd(0.01),
      method=method,
      env=env,
      segment_length=2,
    )
  )(state)
  assert np.isfinite(metrics["loss"])
  assert metrics["return"] < 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_workers": 0}, "num_workers is 0"),
    ({"num_envs": 0}, "num_envs is 0"),
    ({"num_workers": 3, "epsilons": jnp.ones(2)}, "epsilons has shape"),
  ],
)
def test_bad_numbers_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    asynchronous.init(
      jax.random.key(0), _method("a3c"), _ENV, optax.sgd(0.1), **options
    )
