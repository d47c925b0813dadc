"""Asynchronous methods for deep reinforcement learning: A3C and three others.

Mnih, Puigdomènech Badia, Mirza, Graves, Lillicrap, Harley, Silver, Kavukcuoglu
(arXiv 1602.01783, ICML 2016). Many workers, each with environments and a copy
of the parameters of its own, push gradients of short segments into shared
parameters; the diversity of their experience takes the place of replay. Here N
workers are simulated in one program: each pushes gradients that are N - 1
pushes old.

Tasks: catch; sticky_catch, whose ball keeps its column for 50 episodes on
average; and continuous ones of lilly.envs, for the actor-critics. Variants:
a3c; a2c, the sum of the workers' gradients, never stale; async_q, async_sarsa
and async_nstep_q. An update is --frames_per_update frames.

Expected on catch: a return of 1 in every seed after 160,000 frames, for each
variant. With 8 seeds that takes one minute on 2 cores. More in
docs/papers/asynchronous_rl.md.
"""

import functools
import itertools
from typing import Annotated, Any, Literal, NamedTuple

from etils import epy

from lilly import training
from lilly.nets import cores
from lilly.training.claims import Claim
from lilly.training.settings import (
  MAY_BE_EMPTY,
  above,
  at_least,
  between,
)

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import numpy as np

  from lilly.control import exploration
  from lilly.envs import catalog, wrappers
  from lilly.figures import curves
  from lilly.learners import asynchronous as learner
  from lilly.learners import asynchronous_methods as methods
  from lilly.nets import policy_value, recurrent

Count = Annotated[int, between(1, 10**6)]
NonNegative = Annotated[float, at_least(0.0)]
Fraction = Annotated[float, between(0.0, 1.0)]


class Settings(NamedTuple):
  """The settings; defaults are the published ones."""

  tasks: Annotated[tuple[str, ...], "Tasks to learn."] = ("catch",)
  variants: Annotated[
    tuple[
      Literal["a3c", "a2c", "async_q", "async_sarsa", "async_nstep_q"], ...
    ],
    "Variants to compare.",
  ] = ("a3c",)
  num_workers: Annotated[
    tuple[Count, ...], "Numbers of workers to compare, N."
  ] = (16,)
  envs_per_worker: Annotated[Count, "Environments of each worker."] = 1
  segment_length: Annotated[Count, "Steps of a segment, t_max."] = 5
  order: Annotated[
    Literal["cyclic", "random"], "Order in which the workers push."
  ] = "cyclic"
  core: Annotated[str, f"Recurrent core: none, {', '.join(cores.CORES)}."] = (
    "none"
  )
  encoder_sizes: Annotated[
    tuple[Count, ...],
    MAY_BE_EMPTY._replace(may_repeat=True),
    "Units of each hidden layer before the core.",
  ] = ()
  hidden_size: Annotated[Count, "Units of the core."] = 256
  learning_rate: Annotated[NonNegative, "Learning rate of RMSProp."] = 7e-4
  anneal_rate: Annotated[
    bool, "Anneal the learning rate linearly to 0 over --num_updates."
  ] = True
  rms_decay: Annotated[Fraction, "Decay of RMSProp's average, α."] = 0.99
  rms_epsilon: Annotated[float, above(0.0), "RMSProp's ε, inside the root."] = (
    0.1
  )
  max_norm: Annotated[
    float, above(0.0), "Largest norm of a segment's gradient."
  ] = 40.0
  discount: Annotated[Fraction, "Discount factor γ."] = 0.99
  value_cost: Annotated[
    NonNegative, "Weight of the actor-critics' squared errors."
  ] = 0.5
  entropy_cost: Annotated[
    NonNegative, "Weight of the entropy, for discrete actions."
  ] = 0.01
  gaussian_entropy_cost: Annotated[
    NonNegative, "Weight of the entropy, for continuous actions."
  ] = 1e-4
  target_period: Annotated[
    int, between(1, 10**9), "Frames between copies to the target network."
  ] = 40_000
  exploration_frames: Annotated[
    int,
    between(1, 10**9),
    "Frames until random actions have their final probability.",
  ] = 4_000_000
  reward_scale: Annotated[
    float, "Rewards are multiplied by this before learning."
  ] = 1.0
  action_repeat: Annotated[
    int,
    between(0, 1000),
    "Times each action is repeated; 0: the task's default.",
  ] = 0
  frames_per_update: Annotated[
    Count,
    "Frames per update: a multiple of those of a round, num_workers * "
    "envs_per_worker * segment_length.",
  ] = 400
  num_episodes: Annotated[Count, "Evaluation episodes."] = 100


_HYPER = ("learning_rate", "entropy_cost", "gaussian_entropy_cost")
PRESETS = {
  "cpu": {
    "hidden_size": 64,
    "learning_rate": 1e-2,
    "anneal_rate": False,
    "target_period": 2000,
    "exploration_frames": 50_000,
    "num_updates": 400,
    "log_every": 10,
    "eval_every": 10,
  },
  "smoke": {
    "num_workers": (2,),
    "hidden_size": 8,
    "learning_rate": 1e-2,
    "target_period": 40,
    "exploration_frames": 100,
    "frames_per_update": 20,
    "num_episodes": 4,
    "num_updates": 4,
    "log_every": 2,
    "eval_every": 4,
  },
  "gpu": {
    "hidden_size": 64,
    "learning_rate": 1e-2,
    "anneal_rate": False,
    "target_period": 2000,
    "exploration_frames": 50_000,
    "num_updates": 400,
    "log_every": 10,
    "eval_every": 10,
  },
  "paper": {
    "num_updates": 800_000,
    "log_every": 1000,
    "eval_every": 10_000,
  },
}
_METHODS = {
  "async_q": "q_learning",
  "async_sarsa": "sarsa",
  "async_nstep_q": "n_step_q",
}


def check(settings: Settings) -> None:
  """Refuses incompatible settings."""
  for num_workers in settings.num_workers:
    frames = num_workers * settings.envs_per_worker * settings.segment_length
    if settings.frames_per_update % frames:
      raise training.RunError(
        f"--frames_per_update={settings.frames_per_update} must be a multiple "
        f"of {frames}, the frames of a round: --num_workers={num_workers} "
        f"times --envs_per_worker={settings.envs_per_worker} times "
        f"--segment_length={settings.segment_length}."
      )
  if settings.core not in ("none", *cores.CORES):
    raise training.RunError(
      f"--core={settings.core} is no recurrent core; give none or one of "
      f"{', '.join(cores.CORES)}."
    )
  if len(settings.encoder_sizes) > 100:
    raise training.RunError(
      f"--encoder_sizes has {len(settings.encoder_sizes)} layers; it may have "
      "at most 100."
    )
  if settings.reward_scale == 0:
    raise training.RunError(
      "--reward_scale=0 leaves nothing to learn; give another number."
    )


def make_environment(settings: Settings, task: str, **options: Any) -> Any:
  """A task; continuous actions are in [-1, 1]."""
  try:
    return catalog.make_normalized(task, settings.action_repeat, **options)
  except (ValueError, ImportError) as error:
    raise training.RunError(f"--tasks={task}: {error}") from error


def make_method(
  settings: Settings, env: Any, variant: str, hyper: Any = None
) -> Any:
  """Network and loss of a variant."""
  hyper = hyper or {name: getattr(settings, name) for name in _HYPER}
  make_core = recurrent.feedforward
  if settings.core != "none":
    make_core = functools.partial(cores.make, settings.core)
  make_core = policy_value.with_encoder(
    functools.partial(make_core, hidden_size=settings.hidden_size),
    settings.encoder_sizes,
  )
  (size,) = env.observation_spec.shape
  num_actions = env.action_spec.num_values
  if variant in _METHODS:
    if num_actions is None:
      raise training.RunError(
        f"--variants={variant} needs discrete actions, as of "
        f"{', '.join(catalog.discrete())}; give a3c or a2c for this task."
      )
    network = policy_value.action_values(size, num_actions, make_core=make_core)
    return getattr(methods, _METHODS[variant])(network)
  if num_actions is None:
    (action_size,) = env.action_spec.shape
    network = policy_value.gaussian(size, action_size, make_core=make_core)
    entropy_cost = hyper["gaussian_entropy_cost"]
  else:
    network = policy_value.categorical(size, num_actions, make_core=make_core)
    entropy_cost = hyper["entropy_cost"]
  return methods.a3c(
    network, value_cost=settings.value_cost, entropy_cost=entropy_cost
  )


def make_experiment(
  env: Any,
  settings: Settings,
  variant: str = "a3c",
  *,
  num_workers: int = 16,
  num_updates: int = 1,
  task: str = "",
) -> training.Experiment:
  """One run of one variant in one environment.

  Args:
    env: environment whose episodes end.
    settings: settings of the script.
    variant: one of the script's variants.
    num_workers: number of workers, N.
    num_updates: updates after which the learning rate is 0, if annealed.
    task: name of the task, if returns are to be scored.
  """
  acting = wrappers.auto_reset(env)
  num_frames = settings.envs_per_worker * settings.segment_length
  num_rounds = settings.frames_per_update // (num_workers * num_frames)
  is_synchronous = variant == "a2c"

  def optimiser(hyper):
    pushes_per_update = num_rounds * (1 if is_synchronous else num_workers)
    last = 0.0 if settings.anneal_rate else 1.0

    def rate(count):
      part = exploration.anneal(
        count, num_updates * pushes_per_update, 1.0, last
      )
      return hyper["learning_rate"] * part

    return training.skip_nonfinite(
      methods.clipped_rmsprop(
        rate,
        max_norm=settings.max_norm,
        decay=settings.rms_decay,
        epsilon=settings.rms_epsilon,
      )
    )

  def init(key, hyper, data):
    del data
    key, key_epsilons = jax.random.split(key)
    state = learner.init(
      key,
      make_method(settings, env, variant, hyper),
      acting,
      optimiser(hyper),
      num_workers=num_workers,
      num_envs=settings.envs_per_worker,
      epsilons=exploration.sample_epsilons(key_epsilons, num_workers),
    )
    return Run(state, hyper)

  def update(run, data):
    del data
    play = learner.play_round
    if is_synchronous:
      play = learner.play_synchronous_round
    elif settings.order == "random":
      play = functools.partial(play, is_order_random=True)

    def step(state, _):
      return play(
        state,
        optimiser(run.hyper),
        method=make_method(settings, env, variant, run.hyper),
        env=acting,
        segment_length=settings.segment_length,
        discount=settings.discount,
        reward_scale=settings.reward_scale,
        target_period=settings.target_period,
        exploration_frames=settings.exploration_frames,
      )

    state, metrics = jax.lax.scan(step, run.state, length=num_rounds)
    return run._replace(state=state), jax.tree.map(jnp.mean, metrics)

  def evaluate(key, run, data):
    del data
    method = make_method(settings, env, variant)
    keys = jax.random.split(key, settings.num_episodes)
    play = lambda key: methods.play_greedily(
      key, env, method, run.state.shared.params
    )
    return catalog.score(task, jnp.mean(jax.vmap(play)(keys)))

  return training.Experiment(
    init=init,
    update=update,
    evaluate=evaluate,
    hyper={name: getattr(settings, name) for name in _HYPER},
    steps_per_update=settings.frames_per_update,
    unit="frames",
    export=lambda run: run.state.shared.params,
  )


class Run(NamedTuple):
  """State of one run."""

  state: Any  # a `learner.State`
  hyper: Any  # hyper-parameters that may be swept


def name_variants(settings: Settings) -> dict[str, tuple[str, str, int]]:
  """Name -> task, variant and number of workers; names omit what is alone."""
  found = {}
  for task, variant, num_workers in itertools.product(
    settings.tasks, settings.variants, settings.num_workers
  ):
    parts = [task.replace("/", "_").replace(":", "_")]
    if len(settings.variants) > 1:
      parts.append(variant)
    if len(settings.num_workers) > 1:
      parts.append(str(num_workers))
    found["_".join(parts)] = (task, variant, num_workers)
  return found


def make_experiments(
  settings: Settings, options: training.Options
) -> dict[str, training.Experiment]:
  """One experiment for each task, variant and number of workers."""
  return {
    name: make_experiment(
      make_environment(settings, task),
      settings,
      variant,
      num_workers=num_workers,
      num_updates=options.num_updates,
      task=task,
    )
    for name, (task, variant, num_workers) in name_variants(settings).items()
  }


def draw(settings: Settings, results: training.Results, out_dir: Any) -> None:
  """Learning curves against frames."""
  del settings
  curves.plot_metrics(
    results,
    out_dir / "curves.png",
    {"eval/return": "return of the greedy policy"},
  )


def _catch_claim(variant: str) -> Claim:
  def share_solved(results):
    name = f"catch_{variant}"
    returns = training.claims.last(name, "eval/return")(results)
    return np.where(returns >= 0.95, 1.0, 0.0)

  return Claim(
    variant,
    f"{variant} on catch: share of seeds that return at least .95",
    share_solved,
    ">=",
    7 / 8,
    "mean",
  )


_CATCH = "--variants=a3c,async_q,async_sarsa,async_nstep_q"
REPRODUCTIONS = {
  "catch": training.Reproduction(
    [_CATCH, "--num_seeds=8"],
    minutes=3,
    claims=[
      _catch_claim(variant)
      for variant in ("a3c", "async_q", "async_sarsa", "async_nstep_q")
    ],
  ),
  "workers": training.Reproduction(
    ["--tasks=sticky_catch", "--num_workers=1,4,16", "--num_seeds=8"],
    minutes=5,
  ),
}

SCRIPT = training.Script(
  Settings,
  PRESETS,
  make_experiments,
  draw,
  REPRODUCTIONS,
  free=("variants", "tasks"),
  key_metric="eval/return",
  check=check,
)

if __name__ == "__main__":
  training.main(SCRIPT)
