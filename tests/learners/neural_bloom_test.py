"""Tests of lilly.learners.neural_bloom: what is learnt, and what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.learners import descent
from lilly.learners import neural_bloom as learner
from lilly.memory import bloom, learned_filters
from lilly.nets import filters, set_memories
from lilly.tasks import membership


def uniform_scores(key, num_members, num_non_members):
  """Elements that are their own scores: from 0.5 to 1.5, and from 0 to 1."""
  keys = jax.random.split(key)
  return membership.Episode(
    0.5 + jax.random.uniform(keys[0], (num_members, 1)),
    jax.random.uniform(keys[1], (num_non_members, 1)),
  )


# It learns two factors of an element's number, one when writing and one when
# reading; its state is what it has observed.
FACTORS = set_memories.SetMemory(
  init=lambda key, element: (dict.fromkeys("wr", jnp.ones(())), {}),
  write=lambda params, state, elements: params["w"] * jnp.ones(10),
  read=lambda params, state, memory, x: params["r"] * memory[0] * x[0],
  observe=lambda params, state, elements: {"seen": elements},
)


def test_a_backup_is_for_what_is_missed():
  """By hand: what scores 0 and less is missed, and still found."""
  members = jnp.arange(6.0)[:, None]
  non_members = 10 + jnp.arange(400.0)[:, None]
  episode = membership.Episode(members, non_members)
  # One is so little above that it counts as missed.
  of_members = (members[:, 0] - 2.5).at[3].set(5e-4)
  scores = of_members, jnp.where(non_members[:, 0] < 50, 1.0, -1.0)
  keys = jax.random.split(jax.random.key(0), 300)

  def count(key):
    return learner.count_answers(key, episode, scores, jnp.array(0.0), fpr=0.2)

  found = jax.jit(jax.vmap(count))(jax.random.clone(keys))
  assert (found.missed == 4).all() and not found.false_negatives.any()
  # 40 of 400, and of the others the backup's, which has half of the rate.
  mean = found.false_positive_rate.mean()
  assert 0.1 + 0.9 * 0.08 < mean < 0.1 + 0.9 * 0.13
  count = lambda key: learner.count_bloom_answers(key, episode, fpr=0.2)
  found = jax.jit(jax.vmap(count))(keys)
  assert (found.missed == 6).all() and not found.false_negatives.any()
  assert 0.17 < found.false_positive_rate.mean() < 0.26


def test_a_member_that_is_not_found_is_counted():
  is_found = jnp.array([True, False, False])
  found = learner._count(1, is_found, jnp.append(is_found, False))
  assert found.false_negatives == 2 and found.false_positive_rate == 0.25
  row = learner._summarise(
    learner.Counts(*(jnp.stack([x, x]) for x in map(jnp.asarray, found))),
    jnp.array([8.0, 10.0]),
    0.25,
    4,
  )
  assert {name: float(value) for name, value in row.items()} == {
    "bits_at_0.25": 9,
    "missed_at_0.25": 0.25,
    "false_negatives_at_0.25": 4,
    "false_positive_rate_at_0.25": 0.25,
  }


def test_rates_are_kept_of_other_sets_than_the_threshold_is_from():
  draw = lambda key: uniform_scores(key, 40, 400)
  options = {"rates": (0.2, 0.4), "num_sets": 50, "batch_size": 8}
  params, _ = FACTORS.init(jax.random.key(0), None)

  @jax.jit
  def evaluate(key):
    found = learner.evaluate(key, FACTORS, params, {}, draw, **options)
    classical = learner.evaluate_bloom(jax.random.clone(key), draw, **options)
    return found, classical

  found, classical = evaluate(jax.random.key(1))
  # A tenth of the non-members is above 0.9, and so are six in ten members.
  assert abs(found["missed_at_0.2"] - 0.4) < 0.05
  assert abs(found["false_positive_rate_at_0.2"] - 0.19) < 0.015
  expected = learned_filters.space(10, 40 * found["missed_at_0.2"], fpr=0.2)
  assert abs(found["bits_at_0.2"] - expected) < 0.01
  assert found["false_negatives_at_0.2"] == 0
  # A fifth is above 0.8.
  assert abs(found["missed_at_0.4"] - 0.3) < 0.05
  assert abs(found["false_positive_rate_at_0.4"] - 0.36) < 0.02
  for name in ("auc", "auc_within"):
    assert abs(found[name] - 7 / 8) < 0.01
  for rate in (0.2, 0.4):
    assert abs(classical[f"false_positive_rate_at_{rate}"] - rate) < 0.03
    assert abs(classical[f"bits_at_{rate}"] - bloom.space(40, rate)) < 0.01
    assert classical[f"missed_at_{rate}"] == 1
  # The same key draws the same sets.
  again, _ = evaluate(jax.random.key(1))
  assert again == found


@pytest.mark.parametrize("num_queries", [4, 5])
def test_an_update_learns_from_the_queries(num_queries):
  drawn = []

  def sample(key, data):
    drawn.append(data)
    found = uniform_scores(key, 7, 2)
    return found._replace(non_members=-1 - found.non_members)

  init, update = descent.make(
    init=lambda key: FACTORS.init(key, jnp.zeros(1)),
    sample=sample,
    loss=learner.make_loss(FACTORS, num_queries=num_queries),
    optimiser=lambda hyper: optax.adam(1e-3),
    batch_size=3,
    observe=learner.make_observe(FACTORS),
  )
  state = init(jax.random.key(0), {}, None)
  after, metrics = jax.jit(update)(state, None)
  assert metrics["accuracy"] == 1
  assert 0 < metrics["loss"] < np.log(2)
  # Through the read, and through the write.
  assert after.params["r"] > 1 and after.params["w"] > 1
  # Of sets that are all different; members, and no other elements.
  seen = after.state["seen"]
  assert seen.shape == (21, 1)
  assert len(np.unique(seen)) == 21 and (seen >= 0.5).all()


def test_the_loss_is_the_mean_over_queries_and_wrong_answers_count():
  """Every element scores 2; of 5 queries 3 are members."""
  memory = FACTORS._replace(read=lambda *_: jnp.array(2.0))
  loss = learner.make_loss(memory, num_queries=5)
  episode = uniform_scores(jax.random.key(0), 4, 2)
  params, _ = memory.init(jax.random.key(0), None)
  value, metrics = jax.jit(loss)(jax.random.key(1), params, {}, episode)
  wanted = (3 * np.log1p(np.exp(-2.0)) + 2 * np.log1p(np.exp(2.0))) / 5
  np.testing.assert_allclose(value, wanted, rtol=1e-5)
  assert metrics["loss"] == value
  np.testing.assert_allclose(metrics["accuracy"], 0.6, rtol=1e-6)


@pytest.mark.parametrize("is_sphered", [False, True])
def test_observing_moves_the_moments_of_sphered_queries(is_sphered):
  memory = filters.bloom(
    filters.encoder(hidden_size=4, output_size=4),
    num_slots=2,
    word_size=2,
    query_size=3,
    hidden_size=4,
    is_sphered=is_sphered,
  )
  episodes = membership.Episode(
    jax.random.normal(jax.random.key(0), (2, 3, 5)), jnp.zeros((2, 1, 5))
  )

  @jax.jit
  def observe(key):
    params, state = memory.init(key, jnp.zeros(5))
    flat = episodes.members.reshape(6, 5)
    return (
      state,
      learner.make_observe(memory)(params, state, episodes),
      memory.observe(params, state, flat),
    )

  before, after, wanted = observe(jax.random.key(1))
  assert bool(after) == is_sphered
  if is_sphered:
    assert after["count"] == 1
    old, new = (x["sphere"].projection for x in (before, after))
    assert (old != new).any()
    np.testing.assert_array_equal(new, wanted["sphere"].projection)


def test_scores_are_of_members_and_of_the_others():
  episode = uniform_scores(jax.random.key(0), 3, 2)
  params = {"w": jnp.array(2.0), "r": jnp.array(3.0)}
  members, others = learner.score(FACTORS, params, {}, episode)
  np.testing.assert_allclose(members, 6 * episode.members[:, 0], rtol=1e-6)
  np.testing.assert_allclose(others, 6 * episode.non_members[:, 0], rtol=1e-6)
