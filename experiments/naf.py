"""Continuous deep Q-learning with model-based acceleration: NAF.

Gu, Lillicrap, Sutskever, Levine (arXiv 1603.00748, ICML 2016). Q-learning for
continuous actions without an actor, against DDPG; and short rollouts of the
policy in a model of the world, learnt from as if they had happened. An update
is a round: --refit_every episodes, after which models are fitted anew.

Variants: naf and ddpg; more_updates is naf with as many updates as imagination
makes, all on real steps: its control. Of the world have a model true_model (the
simulator), linear_model (linear-Gaussian, for each step of an episode) and
neural_model. planner explores by iLQG on the linear model in a share of the
episodes, linear_model_planner imagines too. ilqg learns nothing: it plans with
the simulator, from each start of the evaluation.

Expect of the pendulum a return of -150 after 10 rounds (10,000 steps). More in
docs/papers/naf.md.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from absl import flags
from etils import epy

from lilly import training
from lilly.training import claims, continuous_control

with epy.lazy_imports():
  import haiku as hk
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from lilly.control import exploration, imagination, linear_models, lqr
  from lilly.envs import catalog, episodes, state_vectors, streams, wrappers
  from lilly.losses import naf
  from lilly.nets import naf_learner, policy_gradient_learner, weights
  from lilly.replay import ring
  from lilly.training import pictures


class Variant(NamedTuple):
  """What is learnt, and what is done with a model."""

  agent: str = "naf"
  model: str = ""  # true, linear or neural
  imagines: bool = False
  plans: bool = False  # explores by iLQG
  more: bool = False  # makes the updates of imagination on real steps


VARIANTS = {
  "naf": Variant(),
  "ddpg": Variant("ddpg"),
  "more_updates": Variant(more=True),
  "true_model": Variant(model="true", imagines=True),
  "linear_model": Variant(model="linear", imagines=True),
  "neural_model": Variant(model="neural", imagines=True),
  "planner": Variant(model="linear", plans=True),
  "linear_model_planner": Variant(model="linear", imagines=True, plans=True),
  "ilqg": Variant("ilqg"),
}
_CPU = {"hidden_sizes": ["64", "64"], "capacity": 100_000, "num_updates": 10}
_CPU |= {"reward_scale": 0.1, "tau": 5e-3, "updates_per_step": 1}
_CPU |= {"log_every": 1, "eval_every": 1, "start_steps": 200}
_PAPER = {"batch_norm": True, "sigma": 0.3, "num_updates": 400}
_PAPER |= {"log_every": 1, "eval_every": 10}
_SMOKE = {"hidden_sizes": ["8", "8"], "num_updates": 2, "capacity": 200}
_SMOKE |= {"episode_steps": 10, "refit_every": 2, "imagined_steps": 3}
_SMOKE |= {"batch_size": 4, "num_starts": 2, "start_steps": 5}
_SMOKE |= {"updates_per_step": 1, "model_updates": 3, "eval_every": 1}
PRESETS: dict[str, dict[str, Any]] = {
  "cpu": _CPU,
  "smoke": _SMOKE,
  "gpu": _CPU | {"hidden_sizes": ["200", "200"], "updates_per_step": 5},
  "paper": _PAPER,
}

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, PRESETS)
_OWN: dict[str, Any] = {"flag_values": FLAGS}
continuous_control.define_flags(
  FLAGS, hidden_sizes=["200", "200"], variants=list(VARIANTS)
)
_RATES = ("learning_rate", "policy_rate", "critic_rate")
for _name, _value, _text in (
  ("learning_rate", 1e-3, "Learning rate of NAF."),
  ("policy_rate", 1e-4, "Learning rate of DDPG's policy."),
  ("critic_rate", 1e-3, "Learning rate of DDPG's critic."),
  ("ridge", 1e-3, "Linear model: added to the variance of its inputs."),
  ("planner_share", 0.5, "Planner: of the episodes, in which it acts."),
  ("max_kl", 10.0, "Planner: from the controller before it, an episode."),
):
  flags.DEFINE_float(_name, _value, _text, 0.0, **_OWN)
_GOAL = flags.DEFINE_float(
  "goal_return",
  None,
  "Count episodes until evaluation returns so much.",
  **_OWN,
)
for _name, _value, _least, _text in (
  ("updates_per_step", 5, 1, "On real transitions [I]."),
  ("imagined_steps", 10, 1, "Length of a rollout in the model [l]."),
  ("refit_every", 5, 1, "Episodes between fits of the model [n]."),
  ("imagine_until", 0, 0, "Episodes with imagination; 0: all."),
  ("episode_steps", 0, 0, "Length of an episode; 0: by the task."),
  ("model_updates", 1000, 1, "Neural model: updates in a fit."),
  ("num_passes", 50, 1, "ilqg: back and forth, for a start."),
):
  flags.DEFINE_integer(_name, _value, _text, _least, **_OWN)
_BOOLS = {
  name: flags.DEFINE_bool(name, False, text, **_OWN)
  for name, text in (
    ("batch_norm", "Normalise batches in the networks."),
    ("fixed_start", "Pendulum, reacher: start all episodes alike."),
    ("precision_noise", "NAF: shape the noise by P: L^-T e."),
  )
}
# Of an episode before actions are repeated, where it is not 1,000.
_STEPS = {"pendulum": 200, "mountain_car": 999}
_STARTS = {"pendulum": (math.pi, 0.0), "reacher_fixed": (2.0, -2.0)}


class World(NamedTuple):
  """A task in the forms that learning needs."""

  task: str
  plain: Any  # without a time limit
  limited: Any
  acting: Any  # resets itself
  horizon: int  # steps of an episode
  block: int  # steps between imaginations, a divisor of the horizon


class Agent(NamedTuple):
  """Functions of a learner's state."""

  init: Any  # (key, observations, hyper) -> state
  outputs: Any  # (state, observation) -> V, action, L or None
  learn: Any  # (state, batch, hyper) -> state, metrics


class State(NamedTuple):
  """Everything of one run that changes."""

  agent: Any
  replay: Any
  imagined: Any  # replay of what did not happen, or ()
  visited: Any  # states, and what followed them, or ()
  model: Any
  plan: Any
  stream: Any
  num_episodes: Any
  goal: Any  # episodes until the goal was reached, or one more than there were
  hyper: Any
  key: Any


def make_world(task: str) -> World:
  """The task; its episodes have one length."""
  given = {
    name: FLAGS[name].value for name in ("action_repeat", "episode_steps")
  }
  options = {}
  if _BOOLS["fixed_start"].value and task in _STARTS:
    options = {"start": _STARTS[task]}
  repeats = given["action_repeat"] or catalog.REPEATS.get(task, 1)
  plain = continuous_control.task_environment(
    task, repeats, num_steps=None, **options
  )
  horizon = given["episode_steps"] or _STEPS.get(task, 1000) // repeats
  limited = wrappers.time_limit(plain, horizon)
  acting = wrappers.auto_reset(limited, 16 if "/" in task else None)
  block = max(size for size in range(1, 51) if horizon % size == 0)
  return World(task, plain, limited, acting, horizon, block)


def make_agent(world: World, kind: str) -> Agent:
  """NAF or DDPG, with the same sizes."""
  (num_actions,) = world.plain.action_spec.shape
  sizes = [int(size) for size in FLAGS["hidden_sizes"].value]
  norm = {} if _BOOLS["batch_norm"].value else None

  def optimiser(rate):
    return training.skip_nonfinite(optax.adam(rate))

  def both(hyper):
    return (optimiser(hyper[name]) for name in ("policy_rate", "critic_rate"))

  def options(hyper):
    return {"discount": hyper["discount"], "tau": hyper["tau"]}

  if kind == "naf":
    net = naf_learner.network(num_actions, sizes, batch_norm=norm)
    return Agent(
      lambda key, seen, hyper: naf_learner.init(
        key, net, seen, optimiser(hyper["learning_rate"])
      ),
      lambda state, seen: naf_learner.outputs(net, state, seen),
      lambda state, batch, hyper: naf_learner.update(
        net, state, batch, optimiser(hyper["learning_rate"]), **options(hyper)
      ),
    )
  nets = policy_gradient_learner.networks(num_actions, sizes, batch_norm=norm)

  def outputs(state, seen):
    action = policy_gradient_learner.act(nets, state.policy, seen)
    value = policy_gradient_learner.value(nets, state.critic, seen, action)
    return naf_learner.Outputs(value, action, None)

  return Agent(
    lambda key, seen, hyper: policy_gradient_learner.init(
      key, nets, seen, *both(hyper)
    ),
    outputs,
    lambda state, batch, hyper: policy_gradient_learner.update(
      nets, state, batch, *both(hyper), **options(hyper)
    ),
  )


def make_experiment(world: World, variant: str) -> training.Experiment:
  """One task and one variant, as one run sees it."""
  if variant == "ilqg":
    return planner_experiment(world)
  settings = VARIANTS[variant]
  agent = make_agent(world, settings.agent)
  return training.Experiment(
    init=lambda key, hyper, data: start(key, hyper, world, agent, settings),
    update=lambda state, data: update(state, world, agent, settings),
    evaluate=lambda state, data: evaluate(state, world, agent),
    hyper=continuous_control.hyper(FLAGS, _RATES),
    steps_per_update=FLAGS["refit_every"].value * world.horizon,
    unit="steps",
  )


def start(
  key: Any, hyper: Any, world: World, agent: Agent, variant: Variant
) -> State:
  """A new agent, replay of random actions, and a stream that begins anew."""
  key, *keys = jax.random.split(key, 6)
  given = FLAGS.flag_values_dict()
  _, replay = streams.fill(
    keys[0],
    world.acting,
    capacity=given["capacity"],
    num_steps=given["start_steps"],
    reward_scale=given["reward_scale"],
    keep_truncated=given["keep_truncated"],
  )
  stream = streams.start(keys[1], world.acting)
  seen = ring.sample(keys[2], replay, given["batch_size"])
  visited = imagined = model = plan = ()
  if variant.model:
    # A linear model is of the latest episodes; others are of all states.
    round_steps = given["refit_every"] * world.horizon
    is_linear = variant.model == "linear"
    visited = ring.init(
      _visit(world, stream, stream.noise, stream.env.state.state),
      round_steps if is_linear else given["capacity"],
    )
    model = MODELS[variant.model].init(keys[4], world)
  if variant.imagines:
    imagined = ring.init(replay.example, given["capacity"])
  if variant.plans:
    plan = _no_plan(world)
  return State(
    agent.init(keys[3], seen.observation, hyper),
    replay,
    imagined,
    visited,
    model,
    plan,
    stream,
    jnp.zeros((), jnp.int32),
    jnp.ones(()),
    hyper,
    key,
  )


def _visit(world, stream, action, following):
  """What models learn from, and where imagination starts."""
  return {
    "state": stream.env.state,
    "observation": stream.env.observation,
    "action": action,
    "following": following,
  }


def update(
  state: State, world: World, agent: Agent, variant: Variant
) -> tuple[State, dict[str, Any]]:
  """A round of algorithm 2: episodes, then fits of model and planner."""
  num_episodes = FLAGS["refit_every"].value

  def episode(state, _):
    key, key_plan = jax.random.split(state.key)
    state = state._replace(key=key)
    share = FLAGS["planner_share"].value if variant.plans else 0.0
    plans = jax.random.bernoulli(key_plan, share)
    plans &= state.num_episodes >= num_episodes  # there is a plan

    def block(state, _):
      if variant.imagines:
        state = imagine(state, world, agent, variant)

      def step(state, _):
        return interact(state, world, agent, variant, plans)

      return jax.lax.scan(step, state, None, length=world.block)

    num_blocks = world.horizon // world.block
    state, metrics = jax.lax.scan(block, state, None, length=num_blocks)
    count = state.num_episodes + 1
    state = state._replace(num_episodes=count)
    if _GOAL.value is not None:
      total = _greedy_return(state, world, agent)
      was_reached = state.goal < count
      reached = was_reached | (total >= _GOAL.value)
      goal = jnp.where(was_reached, state.goal, count)
      goal = jnp.where(reached, goal, count + 1).astype(jnp.float32)
      state = state._replace(goal=goal)
    return state, metrics | {"return": state.stream.last_total}

  state, metrics = jax.lax.scan(episode, state, None, length=num_episodes)
  metrics = jax.tree.map(jnp.mean, metrics)
  if _GOAL.value is not None:
    metrics["episodes_to_goal"] = state.goal
  if variant.model:
    key, key_fit = jax.random.split(state.key)
    state = state._replace(key=key)
    model, found = MODELS[variant.model].fit(key_fit, state, world)
    metrics |= found
    state = state._replace(model=model)
  if variant.plans:
    state = state._replace(plan=replan(state, world))
  return state, metrics


def interact(
  state: State, world: World, agent: Agent, variant: Variant, plans: Any
) -> tuple[State, dict[str, Any]]:
  """A step of the environment and the updates that go with it."""
  key, *keys = jax.random.split(state.key, 5)
  stream, hyper = state.stream, state.hyper
  found = agent.outputs(state.agent, stream.env.observation)
  action, innovation = found.mean, None
  if variant.plans:
    action = jnp.where(plans, _planned(state.plan, stream, world), action)
  if _BOOLS["precision_noise"].value and found.factor is not None:
    innovation = naf.noise(keys[0], found.factor)
  noise = exploration.ornstein_uhlenbeck(
    keys[1],
    stream.noise,
    theta=hyper["theta"],
    sigma=hyper["sigma"],
    dt=FLAGS["dt"].value,
    innovation=innovation,
  )
  action = jnp.clip(action + noise, -1.0, 1.0)
  following, (transition, truncated) = streams.step(
    keys[2],
    stream,
    world.acting,
    action,
    noise=noise,
    reward_scale=FLAGS["reward_scale"].value,
  )
  kept = True if FLAGS["keep_truncated"].value else ~truncated
  state = state._replace(
    replay=ring.add(state.replay, transition, is_kept=kept),
    stream=following,
    key=key,
  )
  if variant.model:
    # The state that followed, also where an episode ended: stepped anew.
    after = world.plain.step(keys[3], stream.env.state.state, action)[0]
    visit = _visit(world, stream, action, after)
    state = state._replace(visited=ring.add(state.visited, visit))
  return learn(state, agent, variant)


def learn(
  state: State, agent: Agent, variant: Variant
) -> tuple[State, dict[str, Any]]:
  """I updates on real transitions and I l on imagined ones, real ones last."""
  num_real = FLAGS["updates_per_step"].value
  num_more = num_real * FLAGS["imagined_steps"].value
  size = FLAGS["batch_size"].value
  total = num_real + num_more * (variant.more or variant.imagines)
  if variant.imagines and not _imagines_always(variant):
    total = jnp.where(_has_model(state, variant), total, num_real)
  key, key_learn = jax.random.split(state.key)

  def one(i, carry):
    learner, key, _ = carry
    key, key_real, key_imagined = jax.random.split(key, 3)
    batch = ring.sample(key_real, state.replay, size)
    if variant.imagines:
      other = ring.sample(key_imagined, state.imagined, size)
      is_real = (i >= total - num_real) | (state.imagined.size == 0)
      batch = jax.tree.map(lambda x, y: jnp.where(is_real, x, y), batch, other)
    learner, metrics = agent.learn(learner, batch, state.hyper)
    return learner, key, metrics

  _, form = jax.eval_shape(
    lambda: agent.learn(
      state.agent, ring.sample(key, state.replay, size), state.hyper
    )
  )
  metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)
  carry = state.agent, key_learn, metrics
  learner, _, metrics = jax.lax.fori_loop(0, total, one, carry)
  return state._replace(agent=learner, key=key), metrics


def _imagines_always(variant):
  return variant.model == "true" and not FLAGS["imagine_until"].value


def _has_model(state, variant):
  """Whether there is something to imagine with, and still a use for it."""
  count, until = state.num_episodes, FLAGS["imagine_until"].value
  is_on = (count < until) if until else True
  if variant.model == "true":
    return is_on
  return is_on & (count >= FLAGS["refit_every"].value)


def imagine(
  state: State, world: World, agent: Agent, variant: Variant
) -> State:
  """Rollouts of the policy in the model, one for each real step to come."""
  key, key_start, key_roll = jax.random.split(state.key, 3)
  starts = ring.sample(key_start, state.visited, world.block)

  def policy(key, seen):
    greedy = agent.outputs(state.agent, seen).mean
    noise = state.hyper["sigma"] * jax.random.normal(key, greedy.shape)
    return jnp.clip(greedy + noise, -1.0, 1.0)

  def roll(key, start):
    return imagination.rollout(
      key,
      start["state"],
      start["observation"],
      step=MODELS[variant.model].step(state.model, world),
      act=policy,
      length=FLAGS["imagined_steps"].value,
    )

  found = jax.vmap(roll)(jax.random.split(key_roll, world.block), starts)
  found = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
  reward = FLAGS["reward_scale"].value * found.reward
  steps = streams.Transition(*found._replace(reward=reward)[:-1])
  # A model that is wrong may leave the numbers.
  finite = jnp.isfinite(reward) & jnp.isfinite(steps.next_observation).all(-1)
  exists = _has_model(state, variant) & (state.visited.size > 0)
  kept = found.is_valid & finite & exists
  imagined = ring.extend(state.imagined, steps, is_kept=kept)
  return state._replace(imagined=imagined, key=key)


class Model(NamedTuple):
  """A model of the world, as imagination uses it."""

  init: Any  # (key, world) -> model
  fit: Any  # (key, state, world) -> model, metrics
  step: Any  # (model, world) -> the step of an environment


def _untouched(key, state, world):
  return state.model, {}


def _no_linear_model(key, world):
  d, m, horizon = *_sizes(world), world.horizon
  return linear_models.LinearGaussian(
    jnp.zeros((horizon, d, d + m)),
    jnp.zeros((horizon, d)),
    jnp.zeros((horizon, d, d)),
  )


def _sizes(world):
  """Numbers of a state and of an action."""
  form, _ = jax.eval_shape(world.plain.reset, jax.random.key(0))
  sizes = [x.size for x in jax.tree.leaves(form)]
  return sum(sizes), world.plain.action_spec.shape[0]


def _latest(state, world):
  """The latest episodes: states, actions, what followed, [n, T, ...] each."""
  flatten = jax.vmap(state_vectors.vectors(world.plain).flatten)
  seen = ring.contents(state.visited)
  found = (
    flatten(seen["state"].state),
    seen["action"],
    flatten(seen["following"]),
  )
  shape = (FLAGS["refit_every"].value, world.horizon)
  return tuple(x.reshape(*shape, -1) for x in found)


def _fit_linear(key, state, world):
  seen = _latest(state, world)
  prior = linear_models.pooled_prior(*seen)
  model = linear_models.fit(*seen, prior=prior, ridge=FLAGS["ridge"].value)
  times = jnp.arange(world.horizon)
  mean = jax.vmap(
    jax.vmap(linear_models.mean, (None, 0, 0, 0)), (None, None, 0, 0)
  )
  error = mean(model, times, *seen[:2]) - seen[2]
  return model, {"model_error": jnp.sqrt(jnp.mean(jnp.square(error)))}


def _linear_step(model, world):
  def predict(key, time, x, u):
    return linear_models.sample(key, model, time, x, u)

  return state_vectors.model(world.plain, predict, world.horizon)


def _neural_network(world):
  """Predicts how a state changes, in standard deviations of changes."""
  d, _ = _sizes(world)
  sizes = [int(size) for size in FLAGS["hidden_sizes"].value]

  def predict(seen, action):
    return hk.nets.MLP([*sizes, d])(jnp.concatenate([seen, action]))

  return hk.without_apply_rng(hk.transform(predict))


def _no_neural_model(key, world):
  spec = world.plain.observation_spec
  d, m = _sizes(world)
  params = _neural_network(world).init(key, jnp.zeros(spec.shape), jnp.zeros(m))
  moments = optax.adam(1e-3).init(params)
  return {"params": params, "moments": moments, "scale": jnp.ones(d)}


def _fit_neural(key, state, world):
  """Adam on batches of all that was visited."""
  net, flatten = (
    _neural_network(world),
    state_vectors.vectors(world.plain).flatten,
  )
  spread = jnp.zeros_like(state.model["scale"])
  key, key_scale = jax.random.split(key)

  def change(visit):
    return flatten(visit["following"]) - flatten(visit["state"].state)

  some = jax.vmap(change)(ring.sample(key_scale, state.visited, 1000))
  spread = jnp.sqrt(jnp.mean(jnp.square(some), 0)) + 1e-3

  def loss(params, batch):
    def of_one(visit):
      guess = net.apply(params, visit["observation"], visit["action"])
      return jnp.mean(jnp.square(guess - change(visit) / spread))

    return jnp.mean(jax.vmap(of_one)(batch))

  def step(carry, _):
    key, params, moments = carry
    key, key_batch = jax.random.split(key)
    batch = ring.sample(key_batch, state.visited, FLAGS["batch_size"].value)
    error, grads = jax.value_and_grad(loss)(params, batch)
    updates, moments = optax.adam(1e-3).update(grads, moments)
    return (key, optax.apply_updates(params, updates), moments), error

  carry = key, state.model["params"], state.model["moments"]
  length = FLAGS["model_updates"].value
  (_, params, moments), errors = jax.lax.scan(step, carry, length=length)
  model = {"params": params, "moments": moments, "scale": spread}
  return model, {"model_error": jnp.mean(errors[-100:])}


def _neural_step(model, world):
  net, form = _neural_network(world), state_vectors.vectors(world.plain)

  def predict(key, time, x, u):
    seen = world.plain.observe(form.unflatten(x))
    return x + model["scale"] * net.apply(model["params"], seen, u)

  return state_vectors.model(world.plain, predict, world.horizon)


MODELS = {
  "true": Model(lambda key, world: (), _untouched, lambda _, w: w.limited.step),
  "linear": Model(_no_linear_model, _fit_linear, _linear_step),
  "neural": Model(_no_neural_model, _fit_neural, _neural_step),
}


def _policy(state, agent):
  return lambda key, seen: agent.outputs(state.agent, seen).mean


def _greedy_return(state, world, agent):
  act, count = _policy(state, agent), FLAGS["num_starts"].value
  return continuous_control.mean_return(world.limited, act, count)


def evaluate(state: State, world: World, agent: Agent) -> dict[str, Any]:
  """Greedy return; values of what was visited; how the reacher holds still."""
  metrics = rated(world, _greedy_return(state, world, agent))
  seen = ring.sample(jax.random.key(2), state.replay, 1000).observation
  values = jax.vmap(lambda x: agent.outputs(state.agent, x).value)(seen)
  metrics |= {"value_median": jnp.median(values), "value_max": jnp.max(values)}
  if world.task.startswith("reacher"):
    distances = tip_distances(state, world, agent)[:, -20:]
    metrics |= {
      "distance": jnp.mean(distances),
      "tremble": jnp.mean(jnp.std(distances, axis=1)),
    }
  return metrics


def rated(world: World, total: Any) -> dict[str, Any]:
  """The return, and its score where episodes have the length it is for."""
  own = FLAGS["episode_steps"].value or _BOOLS["fixed_start"].value
  return continuous_control.score("" if own else world.task, total)


def tip_distances(state: State, world: World, agent: Agent) -> Any:
  """From the tip to the target in greedy episodes, [starts, T], in metres."""
  n = world.plain.action_spec.shape[0]

  def of_episode(key):
    _, _, _, steps = episodes.rollout(
      key, world.limited, _policy(state, agent), world.horizon
    )
    return jnp.linalg.norm(steps.observation[:, 2 * n : 2 * n + 2], axis=1)

  keys = jax.random.split(jax.random.key(1), FLAGS["num_starts"].value)
  return jax.vmap(of_episode)(keys)


def planner_experiment(world: World) -> training.Experiment:
  """iLQG with the simulator, from each start of the evaluation: no learning."""

  def init(key, hyper, data):
    keys = jax.random.split(jax.random.key(1), FLAGS["num_starts"].value)
    total = jnp.mean(jax.lax.map(lambda key: planned_return(key, world), keys))
    return {"total": total, "hyper": hyper}

  return training.Experiment(
    init=init,
    update=lambda state, data: (state, {"return": state["total"]}),
    evaluate=lambda state, data: rated(world, state["total"]),
    hyper=continuous_control.hyper(FLAGS, _RATES),
    steps_per_update=FLAGS["refit_every"].value * world.horizon,
    unit="steps",
  )


def planned_return(key: Any, world: World) -> Any:
  """The best of some plans that begin with other actions."""
  form = state_vectors.vectors(world.plain)
  # Starts as `episodes.play` makes them.
  key_start, key_guess = jax.random.split(key)
  first = form.flatten(world.plain.reset(key_start)[0])
  shape = (world.horizon, *world.plain.action_spec.shape)

  def guess(key, scale):
    def step(carry, _):
      key, noise = carry
      key, key_noise = jax.random.split(key)
      noise = exploration.ornstein_uhlenbeck(key_noise, noise, sigma=scale)
      return (key, noise), jnp.clip(noise, -0.99, 0.99)

    start = key, jnp.zeros(shape[1:])
    return jax.lax.scan(step, start, length=shape[0])[1]

  def plan(actions):
    best, _ = lqr.plan(
      first,
      actions,
      dynamics=form.dynamics,
      reward=form.reward,
      num_iterations=FLAGS["num_passes"].value,
      limit=0.999,  # at 1 the simulator cuts actions, and the slope with them
    )
    return best.total

  keys = jax.random.split(key_guess, 8)
  scales = jnp.array([0.0, 0.05, 0.1, 0.1, 0.2, 0.2, 0.5, 0.5])
  return jnp.max(jax.vmap(plan)(jax.vmap(guess)(keys, scales)))


def check() -> None:
  """Refuses flags that do not fit, before anything is compiled."""
  given, shown = FLAGS.flag_values_dict(), ",".join(FLAGS["variants"].value)
  chosen = [VARIANTS[name] for name in given["variants"] if name in VARIANTS]
  learnt = {x.model for x in chosen} & {"linear", "neural"}
  ends = set(continuous_control.tasks(FLAGS)) & {"mountain_car"}
  wrong = {
    "--batch_size=1 has no variance to normalise by; use 2 or more.": (
      given["batch_norm"] and given["batch_size"] < 2
    ),
    f"--planner_share={given['planner_share']} must be at most 1.": (
      given["planner_share"] > 1
    ),
    "--max_kl=0 lets no controller change; give a positive number.": (
      not given["max_kl"] > 0
    ),
    f"--variants={shown}: linear and neural models are of episodes of one "
    "length; leave out mountain_car.": learnt and ends,
    f"--variants={shown}: models are of numbers of lilly's own tasks; leave "
    "out physics engines.": any(x.model for x in chosen)
    and any("/" in task for task in given["tasks"]),
  }
  names = (*_RATES, "ridge", "planner_share", "max_kl")
  continuous_control.check(FLAGS, list(VARIANTS), wrong, rates=names)


def make_experiments(options: training.Options) -> dict[str, Any]:
  """Each task with each variant; their name is the task's where one is run."""
  check()
  found = {}
  for name, (task, variant) in continuous_control.pairs(FLAGS).items():
    world = make_world(task)
    if (
      VARIANTS[variant].model in ("linear", "neural") and not world.plain.reward
    ):
      raise training.RunError(
        f"--tasks={task}: the reward of repeated actions is not known to a "
        "model; give --action_repeat=1."
      )
    found[name] = make_experiment(world, variant)
  return found


def draw(results: training.Results, out_dir: Any) -> None:
  pictures.curves(
    results,
    out_dir / "curves.png",
    {"eval/return": "return of the greedy policy"},
  )


def main(options: training.Options) -> int:
  results = training.run(
    make_experiments(options), options, key_metric="eval/return"
  )
  return training.finish(results, CLAIMS, draw)


CLAIMS = ()
REPRODUCE: dict[str, list[str]] = {}

if __name__ == "__main__":
  training.main(FLAGS, main)
