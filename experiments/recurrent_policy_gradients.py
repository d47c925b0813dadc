"""Memory-based control: recurrent policy gradients, RDPG and RSVG(0).

Heess, Hunt, Lillicrap, Silver (arXiv 1512.04455, 2015). An actor and a critic
that remember learn from whole episodes what a glance does not show: velocities,
lengths, a cue, a place. An update is a round: new episodes, then some updates
on old ones.

Variants: rdpg; rsvg0, whose policy is stochastic; feedforward and svg0, their
twins without a memory; full_state, the twin that sees what is hidden. Tasks:
pendulum_angle, cue_recall, reacher_cue, cartpole_hidden, water_maze (and
water_maze_fast, with half the steps, twice as long) and all of lilly.envs.
Memories: --core=lstm, gru, ntm, dam, dnc, sam, sdnc.

Expect of the pendulum without velocity a return of -150 after 250 rounds where
the twin without memory has -530. More in
docs/papers/recurrent_policy_gradients.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import flags
from etils import epy

from lilly import training
from lilly.training import claims, continuous_control

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from lilly.control import exploration
  from lilly.envs import catalog, episodes, rendering, water_maze
  from lilly.nets import cores, recurrent
  from lilly.nets import recurrent_learner as learner
  from lilly.replay import ring
  from lilly.training import path_pictures, pictures

VARIANTS = ("rdpg", "rsvg0", "feedforward", "svg0", "full_state")
CORES = ("lstm", "gru", "ntm", "dam", "dnc", "sam", "sdnc")
# Steps of an episode, and of full_state the task that hides nothing.
_STEPS = {"cue_recall": 10, "reacher_cue": 80, "cartpole_hidden": 350}
_STEPS |= {"pendulum_angle": 100, "pendulum": 100}
_STEPS |= {"water_maze": 200, "water_maze_fast": 100}
# Pictures of these show what is to be remembered.
_MAZES = ("water_maze", "water_maze_fast")
_SHOWN = ("cue_recall", "reacher_cue", *_MAZES)
_FULL = {"pendulum_angle": "pendulum", "reacher_cue": "reacher"}
_CPU: dict[str, Any] = {"reward_scale": 0.1, "eval_every": 25, "log_every": 5}
_CPU |= {"num_updates": 250}
_CUE = {"reward_scale": 1.0, "num_updates": 75, "num_episodes": 16}
_CUE |= {"batch_size": 64, "actor_rate": 3e-4, "critic_rate": 3e-3}
_SMOKE = {"num_updates": 2, "updates_per_round": 2, "batch_size": 2}
_SMOKE |= {"episode_steps": 4, "hidden_size": 4, "num_starts": 2}
_SMOKE |= {"start_episodes": 2, "log_every": 1, "eval_every": 1}
_MAZE = {"reward_scale": 0.3, "discount": 0.97, "sigma": 0.3, "theta": 0.1}
_MAZE |= {"squash_penalty": 1e-3, "num_updates": 250}
_MAZE |= {"num_episodes": 8, "start_episodes": 64, "num_starts": 200}
_TASKS = {"cue_recall": _CUE} | dict.fromkeys(_MAZES, _MAZE)


def _preset(maze: Mapping[str, Any], **given: Any) -> dict[str, Any]:
  """What is given, and of each task what is its own."""
  rows = _TASKS | {name: _TASKS[name] | maze for name in _MAZES}
  return _CPU | given | {f"task={name}": row for name, row in rows.items()}


_LARGE = {"hidden_size": 64, "num_episodes": 64, "batch_size": 64}
_LARGE |= {"num_updates": 500}
PRESETS: dict[str, dict[str, Any]] = {
  "cpu": _preset({}),
  "smoke": _SMOKE,
  "gpu": _preset(_LARGE, num_updates=500),
  "paper": _preset(_LARGE, num_updates=5000, hidden_size=128),
}

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, PRESETS)
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_string("task", "pendulum_angle", "What is learnt.", **_OWN)
flags.DEFINE_list(
  "variants", ["rdpg"], f"To compare: {', '.join(VARIANTS)}.", **_OWN
)
flags.DEFINE_enum("core", "lstm", CORES, "What remembers.", **_OWN)
for _name, _value, _least, _text in (
  ("hidden_size", 32, 1, "Units of encoder, core and heads."),
  ("num_slots", 16, 1, "Words of a core with a memory."),
  ("word_size", 8, 1, "Numbers of a word."),
  ("num_heads", 1, 1, "Of a core with a memory."),
  ("batch_size", 16, 1, "Episodes in an update."),
  ("num_episodes", 2, 1, "New ones in a round."),
  ("updates_per_round", 40, 1, "On episodes from replay."),
  ("capacity", 2000, 1, "Episodes kept for replay."),
  ("start_episodes", 16, 1, "Before the first update."),
  ("episode_steps", 0, 0, "Length of an episode; 0: by the task."),
  ("action_repeat", 0, 0, "How often; 0: by the task."),
  ("num_samples", 1, 1, "Stochastic: of the noise, in an update."),
  ("num_starts", 50, 1, "Episodes of an evaluation."),
  ("image_size", 32, 1, "pixels: of an edge."),
):
  flags.DEFINE_integer(_name, _value, _text, _least, **_OWN)
_HYPER = (
  ("actor_rate", 1e-3, None, "Learning rate of the actor."),
  ("critic_rate", 1e-3, None, "Learning rate of the critic."),
  ("tau", 1e-2, 1.0, "How far the slow copies go in an update."),
  ("discount", 0.99, 1.0, "Of rewards, for each step."),
  ("theta", 0.15, 1.99, "Noise: how fast it goes back to 0."),
  ("sigma", 0.2, None, "Noise: its innovations."),
)
_FIXED = (
  ("max_norm", 10.0, None, "To which gradients are clipped."),
  ("least_scale", 0.1, None, "Stochastic: least standard deviation."),
  ("squash_penalty", 0.0, None, "Of what goes into the actor's tanh, squared."),
)
for _name, _value, _most, _text in _HYPER + _FIXED:
  flags.DEFINE_float(_name, _value, _text, 0.0, _most, **_OWN)
flags.DEFINE_float(
  "reward_scale", 1.0, "Factor of what is learnt from.", **_OWN
)
flags.DEFINE_bool("pixels", False, "See pictures of the task.", **_OWN)


class Setting(NamedTuple):
  """A task and networks for it."""

  env: Any
  num_steps: int
  nets: Any


class State(NamedTuple):
  """Everything of one run that changes."""

  agent: Any
  replay: Any
  hyper: Any
  key: Any


def optimisers(hyper: Mapping[str, Any]) -> tuple[Any, Any]:
  """Of the actor and of the critic; gradients are clipped."""

  def make(rate):
    clipped = optax.clip_by_global_norm(FLAGS["max_norm"].value)
    return training.skip_nonfinite(optax.chain(clipped, optax.adam(rate)))

  return make(hyper["actor_rate"]), make(hyper["critic_rate"])


def make_environment(variant: str) -> tuple[Any, int]:
  """The task with actions in [-1, 1], and the steps of an episode."""
  given = FLAGS.flag_values_dict()
  task, repeats = given["task"], given["action_repeat"]
  num_steps = given["episode_steps"] or _STEPS.get(task, 200)
  if variant == "full_state":
    task = _FULL[task]
  # An environment is to end itself where its clock is part of the task.
  limit = {"num_steps": num_steps if task == "cue_recall" else None}
  try:
    env = catalog.make_normalized(task, repeats, **limit)
  except (ValueError, ImportError) as error:
    raise training.RunError(f"--task={task}: {error}") from error
  if given["pixels"]:
    if env.render is None:
      raise training.RunError(
        f"--task={task} has no pictures; leave out --pixels."
      )
    env = rendering.pixels(env, given["image_size"], num_frames=1)
  return env, num_steps


def make_setting(variant: str) -> Setting:
  """Networks with and without memory have layers of the same sizes."""
  env, num_steps = make_environment(variant)
  given = FLAGS.flag_values_dict()
  size = given["hidden_size"]
  remembers = variant in ("rdpg", "rsvg0")
  if not remembers:
    make_core = recurrent.feedforward
  else:
    make_core = cores.CORES[given["core"]]
    if given["core"] not in ("lstm", "gru"):
      names = ("num_slots", "word_size", "num_heads")
      make_core = functools.partial(make_core, **{n: given[n] for n in names})
  nets = learner.networks(
    env.observation_spec.shape,
    env.action_spec.shape[0],
    functools.partial(make_core, hidden_size=size),
    encoder_size=size,
    core_size=size,
    hidden_size=size,
    is_stochastic=variant in ("rsvg0", "svg0"),
    sees_actions=remembers,
    least_scale=given["least_scale"],
  )
  return Setting(env, num_steps, nets)


def play(
  key: Any, setting: Setting, actor: Any, hyper: Mapping[str, Any] | None = None
) -> Any:
  """Plays an episode; with noise where there are hyper-parameters for it."""
  env, num_steps, nets = setting

  def act(key, memory, observation, before):
    state, noise = memory
    own, added = jnp.zeros(nets.num_actions), noise
    if hyper is not None:
      key, key_own = jax.random.split(key)
      own = jax.random.normal(key_own, own.shape)
      added = exploration.ornstein_uhlenbeck(
        key, noise, theta=hyper["theta"], sigma=hyper["sigma"]
      )
    if nets.is_stochastic:
      added = jnp.zeros_like(added)  # it explores by itself
    state, action = learner.act(nets, actor, state, observation, before, own)
    return (state, added), jnp.clip(action + added, -1.0, 1.0)

  memory = nets.actor.core.initial_state(), jnp.zeros(nets.num_actions)
  return episodes.rollout_with_memory(key, env, act, memory, num_steps)


def collect(key: Any, setting: Setting, agent: Any, hyper: Any, count: int):
  """New episodes, with noise."""

  def one(key):
    return episodes.recorded(play(key, setting, agent.actor, hyper))

  return jax.vmap(one)(jax.random.split(key, count))


def make_experiment(variant: str) -> training.Experiment:
  """One variant, as one run sees it."""
  setting = make_setting(variant)
  given = FLAGS.flag_values_dict()
  return training.Experiment(
    init=lambda key, hyper, data: start(key, hyper, setting),
    update=lambda state, data: update(state, setting),
    evaluate=lambda state, data: evaluate(state, setting),
    hyper={name: given[name] for name, *_ in _HYPER},
    unit="rounds",
  )


def start(key: Any, hyper: Any, setting: Setting) -> State:
  """A new agent, and what it did before it learnt anything."""
  key, key_agent, key_play = jax.random.split(key, 3)
  spec = setting.env.observation_spec
  seen = jnp.zeros(spec.shape, spec.dtype)
  agent = learner.init(key_agent, setting.nets, seen, *optimisers(hyper))
  count = FLAGS["start_episodes"].value
  found = collect(key_play, setting, agent, hyper, count)
  example = jax.tree.map(lambda x: x[0], found)
  replay = ring.init(example, FLAGS["capacity"].value)
  return State(agent, ring.extend(replay, found), hyper, key)


def update(state: State, setting: Setting) -> tuple[State, dict[str, Any]]:
  """A round: new episodes, then updates."""
  given = FLAGS.flag_values_dict()
  key, key_play, key_learn = jax.random.split(state.key, 3)
  found = collect(
    key_play, setting, state.agent, state.hyper, given["num_episodes"]
  )
  replay = ring.extend(state.replay, found)

  def learn(carry, _):
    key, agent = carry
    key, key_sample, key_update = jax.random.split(key, 3)
    batch = ring.sample(key_sample, replay, given["batch_size"])
    scaled = given["reward_scale"] * batch.reward
    agent, metrics = learner.update(
      key_update,
      setting.nets,
      agent,
      batch._replace(reward=scaled),
      *optimisers(state.hyper),
      discount=state.hyper["discount"],
      tau=state.hyper["tau"],
      num_samples=given["num_samples"],
      squash_penalty=given["squash_penalty"],
    )
    return (key, agent), metrics

  carry = key_learn, state.agent
  (_, agent), metrics = jax.lax.scan(
    learn, carry, length=given["updates_per_round"]
  )
  total = jnp.mean(jnp.sum(found.reward, axis=1))
  metrics = jax.tree.map(jnp.mean, metrics) | {"return": total}
  return State(agent, replay, state.hyper, key), metrics


def evaluate(state: State, setting: Setting) -> dict[str, Any]:
  """Greedy episodes from starts that are the same at every time."""
  keys = jax.random.split(jax.random.key(1), FLAGS["num_starts"].value)

  def one(key):
    return episodes.recorded(play(key, setting, state.agent.actor))

  found = jax.vmap(one)(keys)
  metrics = {"return": jnp.mean(jnp.sum(found.reward, axis=1))}
  if FLAGS["task"].value in _MAZES:
    metrics |= water_maze.searches(found.reward > 0.5)
  return metrics


def check() -> None:
  """Refuses flags that do not fit, before anything is compiled."""
  given = FLAGS.flag_values_dict()
  chosen, task = given["variants"], given["task"]
  shown = f"--variants={','.join(chosen)}"
  numbers = [given[name] for name, *_ in _HYPER + _FIXED]
  numbers += [given["reward_scale"]]
  wrong = {
    f"{shown} names no agent; there are {', '.join(VARIANTS)}.": (
      not chosen or set(chosen) - set(VARIANTS)
    ),
    f"{shown} names an agent twice; name it once.": (
      len({*chosen}) < len(chosen)
    ),
    f"{shown}: --task={task} has no twin that shows everything; leave out "
    "full_state.": "full_state" in chosen and task not in _FULL,
    f"--pixels: pictures of --task={task} show what is to be remembered; leave "
    "out --pixels.": given["pixels"] and task in _SHOWN,
    f"--capacity={given['capacity']} is less than --start_episodes="
    f"{given['start_episodes']} or --num_episodes={given['num_episodes']}; "
    "keep as many.": given["capacity"]
    < max(given["start_episodes"], given["num_episodes"]),
    "hyper-parameters and --reward_scale must be finite numbers, "
    "--reward_scale not 0.": not np.all(np.isfinite(numbers))
    or not given["reward_scale"],
    "full_state sees what pictures would not show; leave out --pixels.": (
      given["pixels"] and "full_state" in chosen
    ),
    f"--action_repeat={given['action_repeat']}: searches of --task={task} are "
    "measured in steps; leave it out.": (
      given["action_repeat"] > 1 and task in _MAZES
    ),
    "--max_norm must be positive.": not given["max_norm"] > 0,
  }
  for sentence, is_wrong in wrong.items():
    if is_wrong:
      raise training.RunError(sentence)


def make_experiments(options: training.Options) -> dict[str, Any]:
  """One for each variant."""
  check()
  return {name: make_experiment(name) for name in FLAGS["variants"].value}


def draw(results: training.Results, out_dir: Any) -> None:
  """Returns; a film of each agent; of the maze, searches and paths."""
  pictures.curves(
    results, out_dir / "curves.png", {"eval/return": "return without noise"}
  )
  paths = {}
  for name, states in results.states.items():
    setting = make_setting(name)
    actor = jax.tree.map(lambda x: jnp.asarray(x[0]), states.agent.actor)
    roll = jax.jit(jax.vmap(lambda key, s=setting, a=actor: play(key, s, a)))
    played = roll(jax.random.split(jax.random.key(2), 4))
    states = jax.tree.map(lambda x: x[0], played[0])
    continuous_control.film_states(out_dir / f"{name}.gif", setting.env, states)
    if FLAGS["task"].value in _MAZES:
      states = jax.device_get(played[0])
      paths[name] = states.position, states.platform[:, 0]
  if paths:
    path_pictures.paths(paths, out_dir / "paths.png")
    metrics = lambda name, which: results.metrics[name][f"eval/{which}"][1]
    last = lambda name: [metrics(name, x)[:, -1] for x in ("first", "later")]
    path_pictures.searches(
      {name: last(name) for name in paths}, out_dir / "searches.png"
    )


def main(options: training.Options) -> int:
  results = training.run(
    make_experiments(options), options, key_metric="eval/return"
  )
  return training.finish(results, CLAIMS, draw)


_STATED = (
  *("hidden_size", "core", "batch_size", "num_episodes", "updates_per_round"),
  *("num_updates", "episode_steps", "action_repeat", "num_samples", "pixels"),
  *("capacity", "start_episodes", "max_norm", "least_scale", "reward_scale"),
  "squash_penalty",
  *("actor_rate", "critic_rate", "tau", "discount", "theta", "sigma", "sweep"),
)


def _state(task, *rows, min_seeds=8):
  """Turns rows of name, sentence, measure, relation, threshold into claims."""
  stated = PRESETS["cpu"] | PRESETS["cpu"].get(f"task={task}", {})
  where: dict[str, Any] = {
    name: [stated.get(name, FLAGS[name].default)] for name in _STATED
  }
  where["task"] = [task]
  return tuple(
    claims.Claim(*row, where=where, min_seeds=min_seeds) for row in rows
  )


def _cost(name):
  """What a greedy episode costs, on average."""
  measure = claims.last(name, "eval/return")
  return lambda results: -measure(results)


_RETURN = "eval/return"
_QUICKER = claims.ratio(
  claims.last("rdpg", "eval/first"), claims.last("rdpg", "eval/later")
)
_BOTH = claims.last("rdpg", _RETURN), claims.last("feedforward", _RETURN)
CLAIMS = (
  *_state(
    "pendulum_angle",
    ("rdpg", "rdpg: return", claims.last("rdpg", _RETURN), ">=", -320.0),
    (
      *("gap", "return of rdpg less that of its twin without a memory"),
      *(claims.difference(*_BOTH), ">=", 150.0),
    ),
    (
      *("full-state", "return of the twin that sees velocities"),
      *(claims.last("full_state", _RETURN), ">=", -180.0),
    ),
  ),
  *_state(
    "cue_recall",
    ("cue-rdpg", "rdpg: mean cost", _cost("rdpg"), "<=", 0.02),
    ("cue-rsvg0", "rsvg0: mean cost", _cost("rsvg0"), "<=", 0.02),
    (
      *("cue-feedforward", "without a memory: how far the cost is from 1/3"),
      *(lambda results: abs(_cost("feedforward")(results) - 1 / 3), "<=", 0.08),
    ),
  ),
  *_state(
    "water_maze_fast",
    (
      *(
        "maze",
        "rdpg: steps of the first search over later ones', better half",
      ),
      *(claims.better_half(_QUICKER, _BOTH[0]), ">=", 2.0),
    ),
    (
      *("maze-gap", "rdpg: return over that of its twin without a memory"),
      *(claims.ratio(*_BOTH), ">=", 2.0),
    ),
    min_seeds=4,  # half of 8
  ),
)
REPRODUCE = {
  "pendulum": ["--variants=rdpg,feedforward,full_state", "--num_seeds=8"],
  "cue": [
    *("--task=cue_recall", "--variants=rdpg,rsvg0,feedforward"),
    "--num_seeds=8",
  ],
  "maze": [
    *("--task=water_maze_fast", "--variants=rdpg,feedforward"),
    "--num_seeds=8",
  ],
}

if __name__ == "__main__":
  training.main(FLAGS, main)
