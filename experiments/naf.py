"""Continuous deep Q-learning with model-based acceleration: NAF.

Gu, Lillicrap, Sutskever, Levine (arXiv 1603.00748, ICML 2016). Q-learning for
continuous actions without an actor, against DDPG; and short rollouts of the
policy in a model of the environment, whose transitions are also learnt from. An
update is a round: --refit_every episodes, after which models are fitted again.

Variants: naf and ddpg; more_updates is naf with as many updates as imagination
makes, all on real transitions: its control. true_model (the simulator),
linear_model (linear-Gaussian, for each step of an episode) and neural_model
imagine with a model. planner explores by iLQG on the linear model in a fraction
of the episodes; linear_model_planner also imagines. ilqg learns nothing: it
plans with the simulator, from each start of the evaluation.

Expected on the pendulum is a return of -150 after 10 rounds (10,000 steps), in
a minute on 2 cores with 8 seeds. More in docs/papers/naf.md.
"""

import math
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from etils import epy

from lilly import training
from lilly.training.claims import Claim, difference, final, last
from lilly.training.settings import MAY_REPEAT, above, at_least, between

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import optax

  from lilly.envs import catalog, planning, reacher
  from lilly.figures import curves
  from lilly.figures import naf as naf_figures
  from lilly.figures import rollouts as rollout_figures
  from lilly.learners import agents
  from lilly.learners import imagination as learner
  from lilly.nets import actor_critic, normalized_advantage, world_models

Count = Annotated[int, between(1, 10**6)]
NonNegative = Annotated[float, at_least(0.0)]
Fraction = Annotated[float, between(0.0, 1.0)]


class Settings(NamedTuple):
  """The settings; defaults are the published ones, or DDPG's."""

  tasks: Annotated[
    tuple[str, ...], "Tasks to learn; all: those that need no physics engine."
  ] = ("pendulum",)
  variants: Annotated[
    tuple[
      Literal[
        "naf",
        "ddpg",
        "more_updates",
        "true_model",
        "linear_model",
        "neural_model",
        "planner",
        "linear_model_planner",
        "ilqg",
      ],
      ...,
    ],
    "Variants to compare.",
  ] = ("naf",)
  hidden_sizes: Annotated[
    tuple[Count, ...], MAY_REPEAT, "Units of each hidden layer."
  ] = (200, 200)
  batch_norm: Annotated[bool, "Use batch normalisation."] = True
  learning_rate: Annotated[NonNegative, "Learning rate of NAF."] = 1e-3
  policy_rate: Annotated[NonNegative, "Learning rate of DDPG's policy."] = 1e-4
  critic_rate: Annotated[NonNegative, "Learning rate of DDPG's critic."] = 1e-3
  tau: Annotated[
    Fraction, "Target-network update rate τ (Polyak averaging)."
  ] = 1e-3
  discount: Annotated[Fraction, "Discount factor γ."] = 0.99
  theta: Annotated[
    NonNegative, "Ornstein-Uhlenbeck noise: mean-reversion rate θ."
  ] = 0.15
  sigma: Annotated[NonNegative, "Ornstein-Uhlenbeck noise: volatility σ."] = 0.3
  dt: Annotated[float, above(0.0), "Ornstein-Uhlenbeck noise: time step."] = 1.0
  precision_noise: Annotated[
    bool, "Shape NAF's noise by its curvature P: L^-T ε."
  ] = False
  reward_scale: Annotated[
    float, "Rewards are multiplied by this before learning."
  ] = 1.0
  keep_truncated: Annotated[
    bool, "Store transitions truncated by the time limit in replay."
  ] = True
  action_repeat: Annotated[
    int,
    between(0, 1000),
    "Times each action is repeated; 0: the task's default.",
  ] = 0
  episode_steps: Annotated[
    int, between(0, 10**6), "Steps per episode; 0: the task's default."
  ] = 0
  fixed_start: Annotated[
    bool, "Start every episode in the same state (pendulum, reacher_fixed)."
  ] = False
  batch_size: Annotated[Count, "Transitions per update."] = 64
  capacity: Annotated[int, between(1, 10**9), "Transitions kept in replay."] = (
    1_000_000
  )
  start_steps: Annotated[Count, "Random steps before the first update."] = 1000
  updates_per_step: Annotated[
    Count, "Updates on real transitions per step, I."
  ] = 5
  refit_every: Annotated[
    Count, "Episodes per round, after which models are fitted, n."
  ] = 5
  imagined_steps: Annotated[Count, "Steps of a rollout in the model, l."] = 10
  imagined_sigma: Annotated[
    NonNegative, "Volatility σ in imagination; 0: the value of --sigma."
  ] = 0.0
  imagine_until: Annotated[
    int, between(0, 10**9), "Episodes with imagination; 0: all."
  ] = 0
  ridge: Annotated[
    NonNegative, "Linear model: ridge added to the variance of its inputs."
  ] = 1e-3
  model_updates: Annotated[Count, "Neural model: updates per fit."] = 1000
  planner_share: Annotated[
    Fraction, "Fraction of episodes in which the planner acts."
  ] = 0.5
  max_kl: Annotated[
    float,
    above(0.0),
    "Planner: KL limit per episode to the previous controller, nats.",
  ] = 10.0
  num_passes: Annotated[
    Count, "ilqg: backward and forward passes per plan."
  ] = 5
  goal_return: Annotated[
    float | None, "Report the episodes needed to reach this evaluation return."
  ] = None
  num_starts: Annotated[Count, "Evaluation episodes."] = 50


_HYPER = (
  "learning_rate",
  "policy_rate",
  "critic_rate",
  "tau",
  "discount",
  "theta",
  "sigma",
)
PRESETS = {
  "cpu": {
    "hidden_sizes": (64, 64),
    "batch_norm": False,
    "tau": 5e-3,
    "sigma": 0.2,
    "imagined_sigma": 1.0,
    "reward_scale": 0.1,
    "capacity": 100_000,
    "start_steps": 200,
    "updates_per_step": 1,
    "num_updates": 10,
    "eval_every": 1,
  },
  "smoke": {
    "hidden_sizes": (8, 8),
    "batch_norm": False,
    "sigma": 0.2,
    "batch_size": 4,
    "capacity": 200,
    "start_steps": 5,
    "episode_steps": 10,
    "updates_per_step": 1,
    "refit_every": 2,
    "imagined_steps": 3,
    "model_updates": 3,
    "num_starts": 2,
    "num_updates": 2,
    "eval_every": 1,
  },
  "gpu": {
    "hidden_sizes": (200, 200),
    "batch_norm": False,
    "tau": 5e-3,
    "sigma": 0.2,
    "imagined_sigma": 1.0,
    "reward_scale": 0.1,
    "capacity": 100_000,
    "start_steps": 200,
    "updates_per_step": 5,
    "num_updates": 10,
    "eval_every": 1,
  },
  "paper": {"num_updates": 400, "eval_every": 10},
}

# Steps per episode before repeating actions, if not 1,000.
_STEPS = {"pendulum": 200, "mountain_car": 999}
_STARTS = {"pendulum": (math.pi, 0.0), "reacher_fixed": (-2.0, 1.0)}
# The model of each variant that has one, for imagination or planning.
_MODELS = {
  "true_model": "true",
  "linear_model": "linear",
  "neural_model": "neural",
  "planner": "linear",
  "linear_model_planner": "linear",
}
_IMAGINE = (
  "true_model",
  "linear_model",
  "neural_model",
  "linear_model_planner",
)
_PLAN = ("planner", "linear_model_planner")


def check(settings: Settings) -> None:
  """Refuses incompatible settings."""
  variants = ",".join(settings.variants)
  models = {_MODELS.get(name) for name in settings.variants}
  is_fitted = bool(models & {"linear", "neural"})
  uses_dynamics = models != {None} or "ilqg" in settings.variants
  ends_early = bool({"mountain_car", "all"} & set(settings.tasks))
  problems = {
    f"--capacity={settings.capacity} is less than --batch_size="
    f"{settings.batch_size}; keep at least a batch in replay.": (
      settings.capacity < settings.batch_size
    ),
    f"--hidden_sizes has {len(settings.hidden_sizes)} layers; it may have at "
    "most 100.": len(settings.hidden_sizes) > 100,
    "--reward_scale=0 leaves nothing to learn; give another number.": (
      settings.reward_scale == 0
    ),
    f"--theta={settings.theta} times --dt={settings.dt} must be less than 2, "
    "or the noise diverges.": settings.theta * settings.dt >= 2,
    "--batch_size=1 has no variance to normalise by; use 2 or more.": (
      settings.batch_norm and settings.batch_size < 2
    ),
    f"--variants={variants}: linear and neural models need episodes of one "
    "length; leave out mountain_car.": is_fitted and ends_early,
    f"--variants={variants}: models and planners are for tasks without a "
    "physics engine; leave out those with one.": (
      uses_dynamics and any("/" in task for task in settings.tasks)
    ),
  }
  for sentence, is_wrong in problems.items():
    if is_wrong:
      raise training.RunError(sentence)


def make_world(settings: Settings, task: str) -> Any:
  """The task, with episodes of one length."""
  options: dict[str, Any] = {"num_steps": None}
  if settings.fixed_start and task in _STARTS:
    options["start"] = _STARTS[task]
  repeats = settings.action_repeat or catalog.REPEATS.get(task, 1)
  try:
    plain = catalog.make_normalized(task, repeats, **options)
  except (ValueError, ImportError) as error:
    raise training.RunError(f"--tasks={task}: {error}") from error
  horizon = settings.episode_steps or _STEPS.get(task, 1000) // repeats
  # Resetting a physics engine is slow, so a pool of starts is made once.
  return learner.make_world(plain, horizon, 16 if "/" in task else None)


def make_agent(settings: Settings, world: Any, variant: str) -> Any:
  """NAF or DDPG, with layers of the same sizes."""
  (action_size,) = world.plain.action_spec.shape
  batch_norm = {} if settings.batch_norm else None

  def optimiser(learning_rate):
    return training.skip_nonfinite(optax.adam(learning_rate))

  if variant == "ddpg":
    nets = actor_critic.networks(
      action_size, settings.hidden_sizes, batch_norm=batch_norm
    )
    return agents.ddpg(nets, optimiser)
  net = normalized_advantage.network(
    action_size, settings.hidden_sizes, batch_norm=batch_norm
  )
  return agents.naf(net, optimiser)


def make_model(settings: Settings, world: Any, variant: str) -> Any:
  """The model for a variant's imagination or planning, or None."""
  kind = _MODELS.get(variant)
  if kind == "true":
    return world_models.simulator(world.limited)
  if kind is not None and world.plain.reward is None:
    raise training.RunError(
      f"--variants={variant}: a fitted model does not know the reward of "
      "repeated actions; give --action_repeat=1."
    )
  if kind == "linear":
    return world_models.linear(world.plain, world.horizon, ridge=settings.ridge)
  if kind == "neural":
    return world_models.neural(
      world.plain,
      world.horizon,
      hidden_sizes=settings.hidden_sizes,
      num_updates=settings.model_updates,
    )
  return None


def make_constants(settings: Settings, variant: str) -> Any:
  """The constants of algorithm 2: settings of the same names."""
  shared = [x for x in learner.Constants._fields if x in Settings._fields]
  return learner.Constants(
    imagines=variant in _IMAGINE,
    plans=variant in _PLAN,
    more_updates=variant == "more_updates",
    **{name: getattr(settings, name) for name in shared},
  )


def make_experiment(
  settings: Settings, task: str, variant: str
) -> training.Experiment:
  """One run of one variant on one task."""
  world = make_world(settings, task)
  if variant == "ilqg":
    return make_planner(settings, task, world)
  agent = make_agent(settings, world, variant)
  model = make_model(settings, world, variant)
  constants = make_constants(settings, variant)
  return training.Experiment(
    init=lambda key, hyper, data: learner.init(
      key, hyper, world, agent, model, constants
    ),
    update=lambda state, data: learner.update(
      state, world, agent, model, constants
    ),
    evaluate=lambda key, state, data: evaluate(
      key, settings, task, state, world, agent
    ),
    hyper={name: getattr(settings, name) for name in _HYPER},
    steps_per_update=settings.refit_every * world.horizon,
    unit="steps",
    export=lambda state: agent.export(state.agent),
  )


def make_planner(
  settings: Settings, task: str, world: Any
) -> training.Experiment:
  """iLQG with the simulator, from each start of an evaluation: no learning."""

  def init(key, hyper, data):
    del key, data
    # Planned once, from the starts of the driver's evaluations.
    total = planning.mean_return(
      jax.random.key(1),
      world.plain,
      world.horizon,
      num_starts=settings.num_starts,
      num_passes=settings.num_passes,
    )
    return {"return": total, "hyper": hyper}

  return training.Experiment(
    init=init,
    update=lambda state, data: (state, {"return": state["return"]}),
    evaluate=lambda key, state, data: score(settings, task, state["return"]),
    hyper={name: getattr(settings, name) for name in _HYPER},
    steps_per_update=settings.refit_every * world.horizon,
    unit="steps",
    export=lambda state: {"return": state["return"]},
  )


def score(settings: Settings, task: str, mean_return: Any) -> dict[str, Any]:
  """The return, and its score if it is defined for these episodes."""
  own_episodes = settings.episode_steps or settings.fixed_start
  return catalog.score("" if own_episodes else task, mean_return)


def evaluate(
  key: Any, settings: Settings, task: str, state: Any, world: Any, agent: Any
) -> dict[str, Any]:
  """Greedy return, V over visited states; the reacher's distance and jitter."""
  num_starts = settings.num_starts
  metrics = learner.evaluate(
    jax.random.clone(key), state, world, agent, num_starts
  )
  metrics |= score(settings, task, metrics["return"])
  if task.startswith("reacher"):
    policy = learner.greedy(agent, state)
    metrics |= reacher.measure_precision(
      key, world.limited, policy, world.horizon, num_starts
    )
  return metrics


def make_experiments(
  settings: Settings, options: training.Options
) -> dict[str, training.Experiment]:
  """One experiment for each task and variant."""
  del options
  pairs = catalog.name_pairs(settings.tasks, settings.variants)
  return {
    name: make_experiment(settings, task, variant)
    for name, (task, variant) in pairs.items()
  }


def draw(settings: Settings, results: training.Results, out_dir: Any) -> None:
  """Learning curves, GIFs, values, rollouts in models, the reacher's jitter."""
  metrics = {"eval/return": "return of the greedy policy"}
  if all("eval/score" in x for x in results.metrics.values()):
    metrics = {"eval/score": "score (0 random, 1 best known)"}
  curves.plot_metrics(results, out_dir / "curves.png", metrics)
  rollouts, distances = {}, {}
  pairs = catalog.name_pairs(settings.tasks, settings.variants)
  for name, (task, variant) in pairs.items():
    if variant == "ilqg":
      continue
    world = make_world(settings, task)
    agent = make_agent(settings, world, variant)
    states = results.states[name]
    state = jax.tree.map(lambda x: jnp.asarray(x[0]), states)
    policy = learner.greedy(agent, state)
    rollout_figures.save_policy_gif(
      world.limited, policy, out_dir / f"{name}.gif"
    )
    if task == "pendulum":
      path = out_dir / f"{name}_values.png"
      scale = settings.reward_scale
      naf_figures.plot_pendulum_values(agent, state, world, path, scale)
    if variant in _IMAGINE:
      model = make_model(settings, world, variant)
      rollouts[name] = naf_figures.roll_out(model, agent, state, world)
    if task.startswith("reacher"):
      distances[name] = naf_figures.measure_distances(
        agent, states, world, settings.num_starts
      )
  naf_figures.plot_imagined(rollouts, out_dir / "imagined.png")
  naf_figures.plot_distances(distances, out_dir / "jitter.png")


def share_solved(results: training.Results) -> Any:
  """0 or 1 for each seed: whether naf returns -180 on the pendulum."""
  returns = last("pendulum_naf", "eval/return")(results)
  return np.where(returns >= -180.0, 1.0, 0.0)


def twice_as_early(results: training.Results) -> Any:
  """Twice the episodes that imagination needs, less the control's median."""
  metric = "train/episodes_to_goal"
  own = final(results, "pendulum_true_model", metric)
  control = final(results, "pendulum_more_updates", metric)
  return 2 * own - np.nanmedian(control)


def reacher_gap(name: str) -> Any:
  """The measure of naf's metric less ddpg's, on the reacher."""
  naf = last("reacher_naf", f"eval/{name}")
  return difference(naf, last("reacher_ddpg", f"eval/{name}"))


REPRODUCTIONS = {
  "pendulum": training.Reproduction(
    ["--variants=naf,ddpg", "--num_seeds=8"],
    minutes=1,
    claims=[
      Claim(
        "pendulum",
        "naf: share of seeds that return at least -180",
        share_solved,
        ">=",
        7 / 8,
        "mean",
      ),
      Claim(
        "value-median",
        "naf: median of V over visited states",
        last("pendulum_naf", "eval/value_median"),
        "<",
        0.0,
      ),
      Claim(
        "value-max",
        "naf: largest V over visited states",
        last("pendulum_naf", "eval/value_max"),
        "<",
        10.0,
      ),
    ],
  ),
  "imagination": training.Reproduction(
    [
      "--variants=naf,more_updates,true_model",
      "--refit_every=1",
      "--num_updates=15",
      "--goal_return=-500.0",
      "--num_seeds=8",
    ],
    minutes=5,
    claims=[
      Claim(
        "imagination",
        "twice the episodes to -500 with the true model, less those of as many "
        "updates on real steps (median)",
        twice_as_early,
        "<=",
        0.0,
      ),
    ],
  ),
  "reacher": training.Reproduction(
    [
      "--tasks=reacher",
      "--variants=naf,ddpg",
      "--num_seeds=8",
      "--num_updates=24",
      "--eval_every=4",
    ],
    minutes=4,
    claims=[
      Claim(
        "distance",
        "naf less ddpg on the reacher, at the end of episodes: distance to the "
        "target (m)",
        reacher_gap("distance"),
        "<",
        0.0,
      ),
      Claim(
        "jitter",
        "naf less ddpg on the reacher, at the end of episodes: standard "
        "deviation of the distance (m)",
        reacher_gap("jitter"),
        "<",
        0.0,
      ),
    ],
  ),
}

SCRIPT = training.Script(
  Settings,
  PRESETS,
  make_experiments,
  draw,
  REPRODUCTIONS,
  free=(),
  key_metric="eval/return",
  check=check,
)

if __name__ == "__main__":
  training.main(SCRIPT)
