"""Memory-based control with recurrent policy gradients: RDPG and RSVG(0).

Heess, Hunt, Lillicrap, Silver: Memory-based control with recurrent neural
networks (arXiv 1512.04455, NIPS Deep RL workshop 2015). A recurrent actor and a
recurrent critic learn partially observed tasks by backpropagation through whole
replayed episodes. An update is a round: new episodes are collected, then some
updates are made on batches of replay.

Variants: rdpg, deterministic; rsvg0, stochastic; feedforward and svg0, the same
without recurrence; full_state, feedforward on the fully observed task. Tasks:
pendulum_angle (the default), cue_recall, reacher_cue, cartpole_hidden,
water_maze, water_maze_fast (twice the speed, half the steps), those of
lilly.envs, and brax/NAME, playground/NAME. --core is any recurrent core of
lilly.nets.cores.

Expected on the pendulum without velocity is a return of -150 after 250 rounds,
and -530 without recurrence; with 8 seeds that is 15 minutes on 2 cores. More in
docs/papers/recurrent_policy_gradients.md.
"""

import functools
from typing import Annotated, Any, Literal, NamedTuple

from etils import epy

from lilly import training
from lilly.nets import cores
from lilly.training.claims import Claim, better_half, difference, last, ratio
from lilly.training.settings import above, at_least, between

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import optax

  from lilly.envs import catalog, rendering, water_maze
  from lilly.figures import curves, rollouts
  from lilly.figures import paths as path_figures
  from lilly.learners import recurrent_dpg as learner
  from lilly.nets import recurrent, recurrent_actor_critic

Count = Annotated[int, between(1, 10**6)]
NonNegative = Annotated[float, at_least(0.0)]
Fraction = Annotated[float, between(0.0, 1.0)]

# Steps per episode; 200 for other tasks.
NUM_STEPS = {
  "pendulum": 100,
  "pendulum_angle": 100,
  "cue_recall": 10,
  "reacher_cue": 80,
  "cartpole_hidden": 350,
  "water_maze": 200,
  "water_maze_fast": 100,
}
# The fully observed form of a task.
FULLY_OBSERVED = {"pendulum_angle": "pendulum", "reacher_cue": "reacher"}
MAZES = ("water_maze", "water_maze_fast")
# Frames of these tasks show the hidden variables.
SHOWS_HIDDEN = ("cue_recall", "reacher_cue", "water_maze", "water_maze_fast")


class Settings(NamedTuple):
  """The settings; the paper's text was not available: all values are ours."""

  task: Annotated[str, "Task to learn."] = "pendulum_angle"
  variants: Annotated[
    tuple[Literal["rdpg", "rsvg0", "feedforward", "svg0", "full_state"], ...],
    "Agents to compare.",
  ] = ("rdpg",)
  core: Annotated[
    str, f"Recurrent core of rdpg and rsvg0: {', '.join(cores.CORES)}."
  ] = "lstm"
  hidden_size: Annotated[
    Count, "Units of the encoder, the core and the heads."
  ] = 128
  num_slots: Annotated[Count, "Words of a core with a memory."] = 16
  word_size: Annotated[Count, "Size of a word of a core with a memory."] = 8
  num_heads: Annotated[Count, "Heads of a core with a memory."] = 1
  batch_size: Annotated[Count, "Episodes per update."] = 16
  num_episodes: Annotated[Count, "New episodes per round."] = 2
  updates_per_round: Annotated[Count, "Updates per round."] = 40
  capacity: Annotated[Count, "Episodes kept in replay."] = 2000
  start_episodes: Annotated[
    Count, "Episodes in replay before the first update."
  ] = 16
  episode_steps: Annotated[
    int, between(0, 10**6), "Steps per episode; 0: the task's default."
  ] = 0
  action_repeat: Annotated[
    int,
    between(0, 1000),
    "Number of times each action is repeated; 0: the task's default.",
  ] = 0
  num_samples: Annotated[
    Count, "Samples of a stochastic policy's noise per step of an update."
  ] = 1
  num_starts: Annotated[Count, "Evaluation episodes."] = 50
  pixels: Annotated[bool, "Learn from pixels, one frame per step."] = False
  image_size: Annotated[Count, "Height and width of the frames, in pixels."] = (
    32
  )
  actor_rate: Annotated[NonNegative, "Learning rate of the actor."] = 1e-3
  critic_rate: Annotated[NonNegative, "Learning rate of the critic."] = 1e-3
  tau: Annotated[
    Fraction, "Target-network update rate τ (Polyak averaging)."
  ] = 1e-2
  discount: Annotated[Fraction, "Discount factor γ."] = 0.99
  theta: Annotated[
    float,
    between(0.0, 1.99),
    "Ornstein-Uhlenbeck noise: mean-reversion rate θ.",
  ] = 0.15
  sigma: Annotated[NonNegative, "Ornstein-Uhlenbeck noise: volatility σ."] = 0.2
  max_norm: Annotated[
    float, above(0.0), "Gradients are clipped to this global norm."
  ] = 10.0
  least_scale: Annotated[
    NonNegative,
    "Lower bound of a stochastic policy's standard deviation, before tanh.",
  ] = 0.1
  squash_penalty: Annotated[
    NonNegative, "Penalty on the squared pre-tanh actions."
  ] = 0.0
  reward_scale: Annotated[
    float, "Rewards are multiplied by this before learning."
  ] = 0.1


_HYPER = ("actor_rate", "critic_rate", "tau", "discount", "theta", "sigma")
_CUE = {
  "reward_scale": 1.0,
  "num_updates": 75,
  "num_episodes": 16,
  "batch_size": 64,
  "actor_rate": 3e-4,
  "critic_rate": 3e-3,
}
_MAZE = {
  "reward_scale": 0.3,
  "discount": 0.97,
  "sigma": 0.3,
  "theta": 0.1,
  "squash_penalty": 1e-3,
  "num_updates": 250,
  "num_episodes": 8,
  "start_episodes": 64,
  "num_starts": 200,
}
_LARGE_MAZE = _MAZE | {
  "hidden_size": 64,
  "num_updates": 500,
  "num_episodes": 64,
  "batch_size": 64,
}
PRESETS = {
  "cpu": {
    "hidden_size": 32,
    "num_updates": 250,
    "log_every": 5,
    "eval_every": 25,
    "task=cue_recall": _CUE,
    "task=water_maze": _MAZE,
    "task=water_maze_fast": _MAZE,
  },
  "smoke": {
    "hidden_size": 4,
    "reward_scale": 1.0,
    "updates_per_round": 2,
    "batch_size": 2,
    "episode_steps": 4,
    "num_starts": 2,
    "start_episodes": 2,
    "num_updates": 2,
    "log_every": 1,
    "eval_every": 1,
  },
  "gpu": {
    "hidden_size": 32,
    "num_updates": 500,
    "log_every": 5,
    "eval_every": 25,
    "task=cue_recall": _CUE,
    "task=water_maze": _LARGE_MAZE,
    "task=water_maze_fast": _LARGE_MAZE,
  },
  "paper": {
    "num_updates": 5000,
    "log_every": 5,
    "eval_every": 25,
    "task=cue_recall": _CUE,
    "task=water_maze": _LARGE_MAZE,
    "task=water_maze_fast": _LARGE_MAZE,
  },
}


def check(settings: Settings) -> None:
  """Refuses incompatible settings."""
  variants, task = settings.variants, settings.task
  least_capacity = max(settings.start_episodes, settings.num_episodes)
  problems = {
    f"--core={settings.core} is no recurrent core; give one of "
    f"{', '.join(cores.CORES)}.": settings.core not in cores.CORES,
    f"--variants={','.join(variants)}: --task={task} has no fully observed "
    "form; leave out full_state.": (
      "full_state" in variants and task not in FULLY_OBSERVED
    ),
    f"--pixels: frames of --task={task} show what the observation hides; leave "
    "out --pixels.": settings.pixels and task in SHOWS_HIDDEN,
    "--pixels: full_state learns from states, not from frames; leave out "
    "--pixels.": settings.pixels and "full_state" in variants,
    f"--capacity={settings.capacity} is less than --start_episodes="
    f"{settings.start_episodes} or --num_episodes={settings.num_episodes}; "
    "keep as many.": settings.capacity < least_capacity,
    "--reward_scale=0 leaves nothing to learn; give another number.": (
      settings.reward_scale == 0
    ),
    f"--action_repeat={settings.action_repeat}: searches of --task={task} are "
    "measured in steps; leave it out.": (
      settings.action_repeat > 1 and task in MAZES
    ),
  }
  for sentence, is_wrong in problems.items():
    if is_wrong:
      raise training.RunError(sentence)


def episode_length(settings: Settings) -> int:
  """Steps per episode."""
  return settings.episode_steps or NUM_STEPS.get(settings.task, 200)


def make_environment(settings: Settings, variant: str) -> Any:
  """The task with actions in [-1, 1], observed as states or pixels."""
  task = settings.task
  if variant == "full_state":
    task = FULLY_OBSERVED[task]
  # Cue recall ends when the cue is queried; other tasks do not terminate.
  num_steps = episode_length(settings) if task == "cue_recall" else None
  try:
    env = catalog.make_normalized(
      task, settings.action_repeat, num_steps=num_steps
    )
  except (ValueError, ImportError) as error:
    raise training.RunError(f"--task={task}: {error}") from error
  if not settings.pixels:
    return env
  if env.render is None:
    raise training.RunError(
      f"--task={task} cannot be rendered; leave out --pixels."
    )
  return rendering.pixels(env, settings.image_size, num_frames=1)


def make_networks(settings: Settings, env: Any, variant: str) -> Any:
  """Actor and critic, with layers of the same sizes in all variants."""
  is_recurrent = variant in ("rdpg", "rsvg0")
  options = {}
  make_core = recurrent.feedforward
  if is_recurrent:
    make_core = functools.partial(cores.make, settings.core)
    if settings.core in cores.MEMORIES:
      options = {
        "num_slots": settings.num_slots,
        "word_size": settings.word_size,
        "num_heads": settings.num_heads,
      }
  size = settings.hidden_size
  return recurrent_actor_critic.networks(
    env.observation_spec.shape,
    env.action_spec.shape[0],
    functools.partial(make_core, hidden_size=size, **options),
    encoder_size=size,
    core_size=size,
    hidden_size=size,
    is_stochastic=variant in ("rsvg0", "svg0"),
    uses_previous_action=is_recurrent,
    least_scale=settings.least_scale,
  )


def make_experiment(
  settings: Settings, variant: str = "rdpg"
) -> training.Experiment:
  """One run of one variant."""
  env = make_environment(settings, variant)
  nets = make_networks(settings, env, variant)
  num_steps = episode_length(settings)

  def make_optimiser(learning_rate):
    clip = optax.clip_by_global_norm(settings.max_norm)
    adam = optax.adam(learning_rate)
    return training.skip_nonfinite(optax.chain(clip, adam))

  def optimisers(hyper):
    rates = hyper["actor_rate"], hyper["critic_rate"]
    return make_optimiser(rates[0]), make_optimiser(rates[1])

  def init(key, hyper, data):
    del data
    return learner.start(
      key,
      hyper,
      env,
      nets,
      optimisers,
      num_steps=num_steps,
      start_episodes=settings.start_episodes,
      capacity=settings.capacity,
    )

  def update(run, data):
    del data
    return learner.update_round(
      run,
      env,
      nets,
      optimisers,
      num_steps=num_steps,
      num_episodes=settings.num_episodes,
      num_updates=settings.updates_per_round,
      batch_size=settings.batch_size,
      reward_scale=settings.reward_scale,
      num_samples=settings.num_samples,
      squash_penalty=settings.squash_penalty,
    )

  def evaluate(key, run, data):
    del data
    found = learner.collect(
      key,
      env,
      nets,
      run.agent.actor,
      num_episodes=settings.num_starts,
      num_steps=num_steps,
      is_greedy=True,
    )
    metrics = {"return": jnp.mean(jnp.sum(found.reward, axis=1))}
    if settings.task in MAZES:
      metrics |= water_maze.searches(found.reward > 0.5)
    return metrics

  return training.Experiment(
    init=init,
    update=update,
    evaluate=evaluate,
    hyper={name: getattr(settings, name) for name in _HYPER},
    unit="rounds",
    export=lambda run: learner.export(run.agent),
  )


def make_experiments(
  settings: Settings, options: training.Options
) -> dict[str, training.Experiment]:
  """One experiment for each variant."""
  del options
  return {
    variant: make_experiment(settings, variant) for variant in settings.variants
  }


def draw(settings: Settings, results: training.Results, out_dir: Any) -> None:
  """Learning curves; a GIF of each agent; for a maze, searches and paths."""
  metrics = {"eval/return": "return of the greedy policy"}
  curves.plot_metrics(results, out_dir / "curves.png", metrics)
  paths, searches = {}, {}
  for variant, states in results.states.items():
    env = make_environment(settings, variant)
    nets = make_networks(settings, env, variant)
    actor = jax.tree.map(lambda x: jnp.asarray(x[0]), states.agent.actor)
    play = functools.partial(
      learner.play,
      env=env,
      nets=nets,
      actor=actor,
      num_steps=episode_length(settings),
    )
    keys = jax.random.split(jax.random.key(2), 4)
    played, *_ = jax.jit(jax.vmap(play))(keys)
    first = jax.tree.map(lambda x: x[0], played)
    rollouts.save_states_gif(env, first, out_dir / f"{variant}.gif")
    if settings.task in MAZES:
      played = jax.device_get(played)
      paths[variant] = played.position, played.platform[:, 0]
      searches[variant] = [
        results.metrics[variant][name][1][:, -1]
        for name in ("eval/first", "eval/later")
      ]
  if paths:
    path_figures.plot_paths(paths, out_dir / "paths.png")
    path_figures.plot_search_steps(searches, out_dir / "searches.png")


def mean_return(variant: str) -> Any:
  """The measure of a variant's final return."""
  return last(variant, "eval/return")


def cost(variant: str) -> Any:
  """The measure of a variant's final cost, minus the return."""
  return lambda results: -mean_return(variant)(results)


def chance_gap(results: training.Results) -> Any:
  """How far the cost without recurrence is from the cue's variance, 1/3."""
  return abs(cost("feedforward")(results) - 1 / 3)


_SPEEDUP = ratio(last("rdpg", "eval/first"), last("rdpg", "eval/later"))
REPRODUCTIONS = {
  "pendulum": training.Reproduction(
    ["--variants=rdpg,feedforward,full_state", "--num_seeds=8"],
    minutes=15,
    claims=[
      Claim("rdpg", "rdpg: return", mean_return("rdpg"), ">=", -320.0),
      Claim(
        "gap",
        "return of rdpg less that without recurrence",
        difference(mean_return("rdpg"), mean_return("feedforward")),
        ">=",
        150.0,
      ),
      Claim(
        "full-state",
        "return without recurrence on the fully observed task",
        mean_return("full_state"),
        ">=",
        -180.0,
      ),
    ],
  ),
  "cue": training.Reproduction(
    [
      "--task=cue_recall",
      "--variants=rdpg,rsvg0,feedforward",
      "--num_seeds=8",
    ],
    minutes=3,
    claims=[
      Claim("cue-rdpg", "rdpg: mean cost", cost("rdpg"), "<=", 0.02),
      Claim("cue-rsvg0", "rsvg0: mean cost", cost("rsvg0"), "<=", 0.02),
      Claim(
        "cue-feedforward",
        "without recurrence: distance of the cost from 1/3",
        chance_gap,
        "<=",
        0.08,
      ),
    ],
  ),
  "maze": training.Reproduction(
    [
      "--task=water_maze_fast",
      "--variants=rdpg,feedforward",
      "--num_seeds=8",
    ],
    min_seeds=4,  # half of 8
    minutes=50,
    claims=[
      Claim(
        "maze",
        "rdpg: steps of the first search over later ones', better half",
        better_half(_SPEEDUP, mean_return("rdpg")),
        ">=",
        2.0,
      ),
      Claim(
        "maze-gap",
        "rdpg: return over that without recurrence",
        ratio(mean_return("rdpg"), mean_return("feedforward")),
        ">=",
        2.0,
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
  key_metric="eval/return",
  check=check,
)

if __name__ == "__main__":
  training.main(SCRIPT)
