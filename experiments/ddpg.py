"""Continuous control with deep reinforcement learning: DDPG.

Lillicrap, Hunt, Pritzel, Heess, Erez, Tassa, Silver, Wierstra (arXiv
1509.02971, ICLR 2016). One algorithm and one setting of hyper-parameters learn
several tasks; returns are normalised so that a random policy scores 0 and the
best known one 1. An update is one step of the environment and one of learning.

Tasks: those of lilly.envs (pendulum is the default), and brax/NAME,
playground/NAME. Variants: ddpg; no_target learns without target networks;
batch_norm normalises as the paper does, batch_norm_no_target its control.

Expected on the pendulum is a return of -150 after 20,000 steps; with
--tasks=all --num_updates=60000 scores above 0.9, except for point_mass: 0. With
8 seeds these take one and ten minutes on 2 cores. More in docs/papers/ddpg.md.
"""

from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from etils import epy

from lilly import training
from lilly.training.claims import Claim, at, last
from lilly.training.settings import MAY_REPEAT, above, at_least, between

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp

  from lilly.envs import catalog, episodes, rendering, wrappers
  from lilly.figures import curves, rollouts, scatter
  from lilly.learners import ddpg as learner
  from lilly.nets import actor_critic

Count = Annotated[int, between(1, 10**6)]
NonNegative = Annotated[float, at_least(0.0)]
Fraction = Annotated[float, between(0.0, 1.0)]


class Settings(NamedTuple):
  """The settings; defaults are the published ones."""

  tasks: Annotated[
    tuple[str, ...], "Tasks to learn; all: those that need no physics engine."
  ] = ("pendulum",)
  variants: Annotated[
    tuple[
      Literal["ddpg", "no_target", "batch_norm", "batch_norm_no_target"], ...
    ],
    "Variants to compare.",
  ] = ("ddpg",)
  hidden_sizes: Annotated[
    tuple[Count, ...], MAY_REPEAT, "Units of each hidden layer."
  ] = (400, 300)
  batch_norm: Annotated[
    bool, "Use batch normalisation in variants ddpg and no_target as well."
  ] = True
  pixels: Annotated[
    bool, "Learn from pixels: 3 stacked frames, one per repeated action."
  ] = False
  image_size: Annotated[Count, "Height and width of the frames, in pixels."] = (
    64
  )
  policy_rate: Annotated[NonNegative, "Learning rate of the policy."] = 1e-4
  critic_rate: Annotated[NonNegative, "Learning rate of the critic."] = 1e-3
  weight_decay: Annotated[
    NonNegative, "L2 weight decay of the critic, added to its gradient."
  ] = 1e-2
  tau: Annotated[
    Fraction, "Target-network update rate τ (Polyak averaging)."
  ] = 1e-3
  discount: Annotated[Fraction, "Discount factor γ."] = 0.99
  theta: Annotated[
    NonNegative, "Ornstein-Uhlenbeck noise: mean-reversion rate θ."
  ] = 0.15
  sigma: Annotated[NonNegative, "Ornstein-Uhlenbeck noise: volatility σ."] = 0.2
  dt: Annotated[float, above(0.0), "Ornstein-Uhlenbeck noise: time step."] = 1.0
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
  batch_size: Annotated[Count, "Transitions per update."] = 64
  capacity: Annotated[int, between(1, 10**9), "Transitions kept in replay."] = (
    1_000_000
  )
  start_steps: Annotated[Count, "Random steps before the first update."] = 1000
  num_starts: Annotated[Count, "Evaluation episodes."] = 50


_HYPER = (
  "policy_rate",
  "critic_rate",
  "weight_decay",
  "tau",
  "discount",
  "theta",
  "sigma",
)
_PIXELS = {"hidden_sizes": (200, 200), "batch_size": 16}
PRESETS = {
  "cpu": {
    "hidden_sizes": (64, 64),
    "batch_norm": False,
    "weight_decay": 0.0,
    "reward_scale": 0.1,
    "capacity": 100_000,
    "num_updates": 20_000,
    "log_every": 1000,
    "eval_every": 5000,
    "pixels=true": _PIXELS | {"capacity": 20_000},
  },
  "smoke": {
    "hidden_sizes": (8, 8),
    "batch_norm": False,
    "weight_decay": 0.0,
    "batch_size": 4,
    "capacity": 50,
    "start_steps": 20,
    "num_starts": 2,
    "num_updates": 4,
    "log_every": 2,
    "eval_every": 4,
  },
  "gpu": {
    "hidden_sizes": (64, 64),
    "batch_norm": False,
    "weight_decay": 0.0,
    "reward_scale": 0.1,
    "capacity": 100_000,
    "num_updates": 50_000,
    "log_every": 1000,
    "eval_every": 5000,
  },
  "paper": {
    "num_updates": 2_500_000,
    "log_every": 1000,
    "eval_every": 50_000,
    "pixels=true": _PIXELS | {"capacity": 100_000},
  },
}


def check(settings: Settings) -> None:
  """Refuses incompatible settings."""
  variants = ",".join(settings.variants)
  sizes = ",".join(map(str, settings.hidden_sizes))
  batch_norm_variants = "batch_norm" in variants
  normalises = settings.batch_norm or batch_norm_variants
  least_layers = 1 if settings.pixels else 2
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
    f"--hidden_sizes={sizes} must be {least_layers} or more positive integers, "
    "such as 400,300.": len(settings.hidden_sizes) < least_layers,
    f"--variants={variants} --batch_norm: give --nobatch_norm, or leave out "
    "these variants, for both normalise.": (
      settings.batch_norm and batch_norm_variants
    ),
    "--batch_size=1 has no variance to normalise by; use 2 or more.": (
      normalises and settings.batch_size < 2
    ),
  }
  for sentence, is_wrong in problems.items():
    if is_wrong:
      raise training.RunError(sentence)


def make_environment(settings: Settings, task: str, **options: Any) -> Any:
  """A task with actions in [-1, 1], observed as states or pixels."""
  repeats = 1 if settings.pixels else settings.action_repeat
  try:
    env = catalog.make_normalized(task, repeats, **options)
  except (ValueError, ImportError) as error:
    raise training.RunError(f"--tasks={task}: {error}") from error
  if not settings.pixels:
    return env
  if env.render is None:
    raise training.RunError(
      f"--tasks={task} cannot be rendered; leave out --pixels."
    )
  num_frames = settings.action_repeat or 3
  return rendering.pixels(env, settings.image_size, num_frames=num_frames)


def make_networks(settings: Settings, env: Any, variant: str = "ddpg") -> Any:
  """Policy and critic of a variant."""
  normalises = settings.batch_norm or variant.startswith("batch_norm")
  return actor_critic.networks(
    env.action_spec.shape[0],
    settings.hidden_sizes,
    pixels=settings.pixels,
    batch_norm={} if normalises else None,
  )


def optimisers(hyper: Any) -> tuple[Any, Any]:
  """Optimisers of the policy, and of the critic with weight decay."""
  policy = learner.adam(hyper["policy_rate"])
  critic = learner.adam(hyper["critic_rate"], hyper["weight_decay"])
  return training.skip_nonfinite(policy), training.skip_nonfinite(critic)


def make_experiment(
  env: Any,
  settings: Settings,
  variant: str = "ddpg",
  *,
  pool_size: int | None = None,
  task: str = "",
) -> training.Experiment:
  """One run of one variant in one environment.

  Args:
    env: environment with actions in [-1, 1] and episodes that end.
    settings: settings of the script.
    variant: one of the script's variants.
    pool_size: `num_starts` of `wrappers.auto_reset`.
    task: name of the task, if returns are to be scored.
  """
  acting = wrappers.auto_reset(env, pool_size)
  nets = make_networks(settings, env, variant)
  hyper = {name: getattr(settings, name) for name in _HYPER}
  if variant.endswith("no_target"):
    hyper["tau"] = 1.0

  def init(key, hyper, data):
    del data
    return learner.start(
      key,
      hyper,
      acting,
      nets,
      optimisers,
      capacity=settings.capacity,
      start_steps=settings.start_steps,
      batch_size=settings.batch_size,
      reward_scale=settings.reward_scale,
      keep_truncated=settings.keep_truncated,
    )

  def update(run, data):
    del data
    return learner.step(
      run,
      acting,
      nets,
      optimisers,
      batch_size=settings.batch_size,
      dt=settings.dt,
      reward_scale=settings.reward_scale,
      keep_truncated=settings.keep_truncated,
    )

  def evaluate(key, run, data):
    del data
    policy = learner.greedy(nets, run.agent.policy)
    total = episodes.mean_return(key, env, policy, settings.num_starts)
    return catalog.score(task, total)

  return training.Experiment(
    init=init,
    update=update,
    evaluate=evaluate,
    hyper=hyper,
    unit="steps",
    export=lambda run: learner.export(run.agent),
  )


def make_experiments(
  settings: Settings, options: training.Options
) -> dict[str, training.Experiment]:
  """One experiment for each task and variant."""
  del options
  pairs = catalog.name_pairs(settings.tasks, settings.variants)
  return {
    name: make_experiment(
      make_environment(settings, task),
      settings,
      variant,
      # Resetting a physics engine is slow, so a pool of starts is made once.
      pool_size=16 if "/" in task else None,
      task=task,
    )
    for name, (task, variant) in pairs.items()
  }


def evaluate_critic(settings: Settings, task: str, variant: str, run: Any):
  """Q and observed discounted returns of 5 greedy episodes, [5, T] each."""
  env = make_environment(settings, task, num_steps=None)
  nets = make_networks(settings, env, variant)

  def evaluate(key):
    q, returns = learner.evaluate_critic(
      key, env, nets, run.agent, discount=run.hyper["discount"]
    )
    return q, settings.reward_scale * returns

  keys = jax.random.split(jax.random.key(3), 5)
  return jax.jit(jax.vmap(evaluate))(keys)


def draw(settings: Settings, results: training.Results, out_dir: Any) -> None:
  """Learning curves; Q against observed returns; a GIF of each policy."""
  metrics = {"eval/score": "score (0 random, 1 best known)"}
  if not set(catalog.list_tasks(settings.tasks)) <= set(catalog.SCORES):
    metrics = {"eval/return": "return of the greedy policy"}
  curves.plot_metrics(results, out_dir / "curves.png", metrics)
  values = {}
  pairs = catalog.name_pairs(settings.tasks, settings.variants)
  for name, (task, variant) in pairs.items():
    states = results.states[name]
    run = jax.tree.map(
      lambda x: jnp.asarray(x[0]), states._replace(replay=(), stream=())
    )
    q, returns = evaluate_critic(settings, task, variant, run)
    values[name] = jax.device_get((returns, q))
    env = make_environment(settings, task)
    nets = make_networks(settings, env, variant)
    policy = learner.greedy(nets, run.agent.policy)
    rollouts.save_policy_gif(env, policy, out_dir / f"{name}.gif")
  labels = ("observed discounted return", "Q")
  scatter.plot_agreement(values, out_dir / "values.png", labels)


def share_solved(results: training.Results) -> Any:
  """0 or 1 for each seed: whether it returns -180 at 20,000 steps."""
  returns = at(20_000, "pendulum", "eval/return")(results)
  return np.where(returns >= -180.0, 1.0, 0.0)


def correlation(results: training.Results) -> Any:
  """Correlation of Q and observed discounted returns on the pendulum."""
  last("pendulum", "eval/return")(results)  # not applicable if it was not run
  flags = results.options.flags
  settings = Settings(**{name: flags[name] for name in Settings._fields})

  def evaluate(run):
    return evaluate_critic(settings, "pendulum", "ddpg", run)

  states = results.states["pendulum"]._replace(replay=(), stream=())
  found = jax.device_get(jax.vmap(evaluate)(states))
  pairs = zip(*found, strict=True)
  return [np.corrcoef(q.ravel(), returns.ravel())[0, 1] for q, returns in pairs]


REPRODUCTIONS = {
  "pendulum": training.Reproduction(
    ["--num_seeds=8"],
    minutes=1,
    claims=[
      Claim(
        "pendulum",
        "share of seeds that return at least -180 at 20k steps",
        share_solved,
        ">=",
        7 / 8,
        "mean",
      ),
      Claim(
        "q",
        "pendulum: correlation of Q with observed discounted returns",
        correlation,
        ">",
        0.9,
      ),
    ],
  ),
  "tasks": training.Reproduction(
    ["--tasks=all", "--num_updates=60000", "--num_seeds=8"],
    minutes=10,
    claims=[
      Claim(
        "cartpole_swingup",
        "cartpole_swingup: return of the greedy policy",
        last("cartpole_swingup", "eval/return"),
        ">=",
        700.0,
      ),
      Claim(
        "reacher",
        "reacher: return of the greedy policy",
        last("reacher", "eval/return"),
        ">=",
        900.0,
      ),
    ],
  ),
  "ablations": training.Reproduction(
    [
      "--tasks=pendulum,cartpole_swingup",
      "--variants=ddpg,no_target,batch_norm,batch_norm_no_target",
      "--num_updates=40000",
      "--num_seeds=8",
    ],
    minutes=10,
  ),
}

SCRIPT = training.Script(
  Settings,
  PRESETS,
  make_experiments,
  draw,
  REPRODUCTIONS,
  free=("tasks",),
  key_metric="eval/return",
  check=check,
)

if __name__ == "__main__":
  training.main(SCRIPT)
