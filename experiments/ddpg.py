"""Continuous control with deep reinforcement learning: DDPG.

Lillicrap, Hunt, Pritzel, Heess, Erez, Tassa, Silver, Wierstra (arXiv
1509.02971, ICLR 2016). One algorithm and one setting of hyper-parameters learn
several tasks; returns are normalised so that a random policy scores 0 and the
best that is known 1. An update is one step of the environment and one of
learning.

Tasks: those of lilly.envs (pendulum is the default), and brax/NAME,
playground/NAME. Variants: ddpg; no_target learns without slow copies;
batch_norm normalises as the paper does, batch_norm_no_target its control.

Expect of the pendulum a return of -150 after 20,000 steps; of --tasks=all
--num_updates=60000 scores above 0.9, but for point_mass: 0. With 8 seeds that
is one and ten minutes on 2 cores. More in docs/papers/ddpg.md.
"""

from __future__ import annotations

import itertools
import re
from typing import Any, NamedTuple

from absl import flags
from etils import epy

from lilly import training
from lilly.training import claims

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import numpy as np

  from lilly.control import exploration
  from lilly.envs import catalog, environment, episodes, rendering, wrappers
  from lilly.nets import policy_gradient_learner as learner
  from lilly.replay import ring
  from lilly.training import pictures

VARIANTS = ("ddpg", "no_target", "batch_norm", "batch_norm_no_target")
_CPU = {"hidden_sizes": ["64", "64"], "num_updates": 20_000, "log_every": 1000}
_CPU |= {"eval_every": 5000, "capacity": 100_000, "reward_scale": 0.1}
_IMAGES = {"hidden_sizes": ["200", "200"], "batch_size": 16}
_PAPER = {"batch_norm": True, "weight_decay": 1e-2, "capacity": 1_000_000}
_PAPER |= {"num_updates": 2_500_000, "log_every": 1000, "eval_every": 50_000}
_SMOKE = {"hidden_sizes": ["8", "8"], "num_updates": 4, "log_every": 2}
_SMOKE |= {"eval_every": 4, "capacity": 50, "start_steps": 20, "batch_size": 4}
PRESETS: dict[str, dict[str, Any]] = {
  "cpu": _CPU | {"pixels=True": _IMAGES | {"capacity": 20_000}},
  "smoke": _SMOKE | {"num_starts": 2},
  "gpu": _CPU | {"num_updates": 50_000},
  "paper": _PAPER | {"pixels=True": _IMAGES | {"capacity": 100_000}},
}

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, PRESETS)
_OWN = {"flag_values": FLAGS}
_NAMES = flags.DEFINE_list(
  "tasks", ["pendulum"], "What is learnt; all: what needs no engine.", **_OWN
)
_VARIANTS = flags.DEFINE_list(
  "variants", ["ddpg"], f"To compare: {', '.join(VARIANTS)}.", **_OWN
)
_HIDDEN = flags.DEFINE_list(
  "hidden_sizes", ["400", "300"], "Units of each layer.", **_OWN
)
_BATCH_NORM = flags.DEFINE_bool(
  "batch_norm", False, "Normalise in ddpg and no_target too.", **_OWN
)
_PIXELS = flags.DEFINE_bool(
  "pixels", False, "Learn from pictures of 3 repeats of an action.", **_OWN
)
_HYPER = {
  name: flags.DEFINE_float(name, value, text, 0.0, most, **_OWN)
  for name, value, most, text in (
    ("policy_rate", 1e-4, None, "Learning rate of the policy."),
    ("critic_rate", 1e-3, None, "Learning rate of the critic."),
    ("weight_decay", 0.0, None, "Of the critic, in gradients [paper: 1e-2]."),
    ("tau", 1e-3, 1.0, "How far the slow copies go in an update."),
    ("discount", 0.99, 1.0, "Of rewards, for each step."),
    ("theta", 0.15, None, "Noise: how fast it goes back to 0."),
    ("sigma", 0.2, None, "Noise: its innovations."),
  )
}
_DT = flags.DEFINE_float("dt", 1.0, "Noise: length of a step.", 0.0, **_OWN)
_REWARD_SCALE = flags.DEFINE_float(
  "reward_scale", 1.0, "Factor of what is learnt from.", **_OWN
)
_REPEAT = flags.DEFINE_integer(
  "action_repeat", 0, "How often; 0: by the task. With pixels 3.", 0, **_OWN
)
_SIZES = {
  name: flags.DEFINE_integer(name, value, text, lower_bound=1, **_OWN)
  for name, value, text in (
    ("batch_size", 64, "Transitions in an update."),
    ("capacity", 1_000_000, "Transitions kept for replay."),
    ("start_steps", 1000, "Random steps before the first update."),
    ("num_starts", 50, "Episodes of an evaluation."),
    ("image_size", 64, "pixels: of an edge."),
  )
}


class State(NamedTuple):
  """Everything of one run that changes."""

  agent: Any
  replay: Any
  env: Any  # with the observation to act on
  noise: Any
  sums: Any  # returns of this and of the last whole episode, [2]
  hyper: Any
  key: Any


def optimisers(hyper: dict[str, Any]) -> tuple[Any, Any]:
  """Of the policy, and of the critic, whose weights decay."""
  critic = learner.adam(hyper["critic_rate"], hyper["weight_decay"])
  policy = learner.adam(hyper["policy_rate"])
  return training.skip_nonfinite(policy), training.skip_nonfinite(critic)


def make_environment(task: str, **options: Any) -> Any:
  """A task with actions in [-1, 1]; of numbers, or of pictures."""
  try:
    env = wrappers.normalize_actions(catalog.make(task, **options))
    repeats = _REPEAT.value or (
      3 if _PIXELS.value else catalog.REPEATS.get(task, 1)
    )
    if _PIXELS.value and env.render is None:
      raise ValueError("it has no pictures; leave out --pixels.")
    if _PIXELS.value:
      size = _SIZES["image_size"].value
      return rendering.pixels(env, size, num_frames=repeats)
    env = wrappers.action_repeat(env, repeats)
  except (ValueError, ImportError) as error:
    raise training.RunError(f"--tasks={task}: {error}") from error
  return env


def make_experiment(
  env: Any,
  variant: str = "ddpg",
  *,
  pool: int | None = None,
  scores: tuple[float, float] | None = None,
) -> training.Experiment:
  """One environment and one variant, as one run sees it.

  Args:
    env: with actions in [-1, 1] and episodes that end.
    variant: one of VARIANTS.
    pool: as `num_starts` of `wrappers.auto_reset`.
    scores: mean returns that are to score 0 and 1, where they are known.
  """
  acting, nets = wrappers.auto_reset(env, pool), make_networks(env, variant)
  own = {"tau": 1.0} if variant.endswith("no_target") else {}

  def score(state, data):
    found = evaluate(state.agent.policy, env, nets)
    if scores is None:
      return {"return": found}
    worst, best = scores
    return {"return": found, "score": (found - worst) / (best - worst)}

  return training.Experiment(
    init=lambda key, hyper, data: start(key, hyper, acting, nets),
    update=lambda state, data: update(state, acting, nets),
    evaluate=score,
    hyper={name: flag.value for name, flag in _HYPER.items()} | own,
    unit="steps",
  )


def start(key: Any, hyper: Any, env: Any, nets: Any) -> State:
  """A new agent, and replay of random actions."""
  keys = jax.random.split(key, 5)
  env_state, observation = env.reset(keys[0])
  idle = jnp.zeros(env.action_spec.shape)
  zero = jnp.zeros(())
  example = learner.Transition(observation, idle, zero, zero, observation)

  def step(carry, _):
    key, state, replay = carry
    key, key_action, key_step = jax.random.split(key, 3)
    action = environment.sample(key_action, env.action_spec)
    state, transition, _ = interact(key_step, env, state, action)
    return (key, state, ring.add(replay, transition)), None

  replay = ring.init(example, _SIZES["capacity"].value)
  carry = (keys[1], env_state, replay)
  num_steps = _SIZES["start_steps"].value
  (_, env_state, replay), _ = jax.lax.scan(step, carry, length=num_steps)
  seen = ring.sample(keys[2], replay, _SIZES["batch_size"].value)
  agent = learner.init(keys[3], nets, seen.observation, *optimisers(hyper))
  return State(agent, replay, env_state, idle, jnp.zeros(2), hyper, keys[4])


def interact(key: Any, env: Any, state: Any, action: Any) -> Any:
  """Takes a step; returns the state, what is to be remembered, the step."""
  following, step = env.step(key, state, action)
  transition = learner.Transition(
    observation=state.observation,
    action=action,
    reward=_REWARD_SCALE.value * step.reward,
    discount=step.discount,
    next_observation=step.observation,
  )
  return following, transition, step


def update(state: State, env: Any, nets: Any) -> tuple[State, dict[str, Any]]:
  """One step of the environment and one of learning (algorithm 1)."""
  key, *keys = jax.random.split(state.key, 4)
  hyper = state.hyper
  noise = exploration.ornstein_uhlenbeck(
    keys[0],
    state.noise,
    theta=hyper["theta"],
    sigma=hyper["sigma"],
    dt=_DT.value,
  )
  greedy = learner.act(nets, state.agent.policy, state.env.observation)
  action = jnp.clip(greedy + noise, -1.0, 1.0)
  env_state, transition, step = interact(keys[1], env, state.env, action)
  replay = ring.add(state.replay, transition)
  agent, metrics = learner.update(
    nets,
    state.agent,
    ring.sample(keys[2], replay, _SIZES["batch_size"].value),
    *optimisers(hyper),
    discount=hyper["discount"],
    tau=hyper["tau"],
  )
  ends = environment.is_last(step)
  total = state.sums[0] + step.reward
  sums = jnp.where(
    ends, jnp.stack([jnp.zeros(()), total]), state.sums.at[0].set(total)
  )
  noise = jnp.where(ends, 0, noise)
  state = State(agent, replay, env_state, noise, sums, hyper, key)
  return state, metrics | {"return": sums[1]}


def evaluate(policy: Any, env: Any, nets: Any) -> Any:
  """Mean greedy return from starts of its own, the same at every time."""
  keys = jax.random.split(jax.random.key(1), _SIZES["num_starts"].value)
  act = learner.greedy(nets, policy)
  return jnp.mean(jax.vmap(lambda key: episodes.play(key, env, act))(keys))


def make_networks(env: Any, variant: str) -> Any:
  """The networks that a variant learns."""
  (num_actions,) = env.action_spec.shape
  normalises = _BATCH_NORM.value or variant.startswith("batch_norm")
  return learner.networks(
    num_actions,
    [int(size) for size in _HIDDEN.value],
    pixels=_PIXELS.value,
    batch_norm={} if normalises else None,
  )


def check() -> None:
  """Refuses flags that do not fit, before anything is compiled."""
  hyper = {name: flag.value for name, flag in _HYPER.items()}
  sizes = {name: flag.value for name, flag in _SIZES.items()}
  variants, hidden = _VARIANTS.value, _HIDDEN.value
  normalising = {"batch_norm", "batch_norm_no_target"} & set(variants)
  numbers = [*hyper.values(), _DT.value, _REWARD_SCALE.value]
  shown = f"--variants={','.join(variants)} --tasks={','.join(_NAMES.value)}"
  least = 1 if _PIXELS.value else 2
  wrong = {
    f"{shown} names no experiment; variants are {', '.join(VARIANTS)}.": (
      not variants or not tasks() or set(variants) - set(VARIANTS)
    ),
    f"{shown} names something twice; name it once.": (
      len({*variants}) < len(variants) or len({*tasks()}) < len(tasks())
    ),
    f"{shown} --batch_norm: either the flag or these variants, for both "
    "normalise.": _BATCH_NORM.value and normalising,
    f"--capacity={sizes['capacity']} is less than --batch_size="
    f"{sizes['batch_size']}; keep at least a batch for replay.": (
      sizes["capacity"] < sizes["batch_size"]
    ),
    "--batch_size=1 has no variance to normalise by; use 2 or more.": (
      (_BATCH_NORM.value or normalising) and sizes["batch_size"] < 2
    ),
    "hyper-parameters, --dt and --reward_scale must be finite numbers, "
    "--reward_scale not 0.": not np.all(np.isfinite(numbers))
    or not numbers[-1],
    f"--dt={_DT.value} must be positive, and times --theta={hyper['theta']} "
    "less than 2, or the noise grows without end.": (
      not _DT.value > 0 or not hyper["theta"] * _DT.value < 2
    ),
    f"--hidden_sizes={','.join(hidden)} must be {least} or more positive "
    "integers, such as 400,300.": len(hidden) < least
    or not all(size.isdecimal() and int(size) for size in hidden),
  }
  for sentence, is_wrong in wrong.items():
    if is_wrong:
      raise training.RunError(sentence)


def make_experiments(options: training.Options) -> dict[str, Any]:
  """Each task with each variant; their name is the task's where one is run."""
  check()
  return {
    name: make_experiment(
      make_environment(task),
      variant,
      # A physics engine takes long to reset; a pool of starts is made once.
      pool=16 if "/" in task else None,
      scores=catalog.SCORES.get(task),
    )
    for name, (task, variant) in pairs().items()
  }


def tasks() -> list[str]:
  """Names of the tasks."""
  return catalog.names() if _NAMES.value == ["all"] else _NAMES.value


def pairs() -> dict[str, tuple[str, str]]:
  """Name of what is run -> its task and its variant."""
  several = len(_VARIANTS.value) > 1
  found = {}
  for task, variant in itertools.product(tasks(), _VARIANTS.value):
    parts = [re.sub("[/:]", "_", task), *([variant] if several else [])]
    found["_".join(parts)] = (task, variant)
  return found


def draw(results: training.Results, out_dir: Any) -> None:
  """Returns; values against what came of them; films."""
  wanted = {"eval/score": "score (0 random, 1 best known)"}
  if not set(tasks()) <= set(catalog.SCORES):
    wanted = {"eval/return": "return of the greedy policy"}
  pictures.curves(results, out_dir / "curves.png", wanted)
  valued = {}
  for name, (task, variant) in pairs().items():
    agent = jax.tree.map(
      lambda x: jnp.asarray(x[0]), results.states[name].agent
    )
    env = make_environment(task)
    nets = make_networks(env, variant)
    discount = results.states[name].hyper["discount"][0]
    q, total = jax.device_get(values(task, nets, agent, discount))
    valued[name] = (total, q)
    if env.render is not None:
      film(out_dir / f"{name}.gif", env, nets, agent.policy)
  labels = ("discounted rewards", "Q")
  pictures.agreement(valued, out_dir / "values.png", labels)


def values(task: str, nets: Any, agent: Any, discount: Any) -> Any:
  """Q(s, a) and the discounted rewards that followed, of greedy episodes.

  The episodes have no time limit. Of 200 steps that are shown the last has 400
  more behind it: enough for discounts up to 0.99, of which 2 % are left out.
  NaN after an end.
  """
  env, num_steps = make_environment(task, num_steps=None), 200

  def of_episode(key):
    _, seen, actions, steps = episodes.rollout(
      key, env, learner.greedy(nets, agent.policy), 3 * num_steps
    )
    totals = _REWARD_SCALE.value * episodes.discounted(steps, discount)
    q = jax.vmap(lambda s, a: learner.value(nets, agent.critic, s, a))
    return q(seen, actions)[:num_steps], totals[:num_steps]

  return jax.jit(jax.vmap(of_episode))(jax.random.split(jax.random.key(3), 5))


def film(path: Any, env: Any, nets: Any, policy: Any) -> None:
  """A greedy episode of the first run, every second step."""

  def frames(key):
    states, _, _, steps = episodes.rollout(
      key, env, learner.greedy(nets, policy), 200
    )
    ended = jnp.cumsum(environment.is_last(steps)) > 0
    return ended, jax.lax.map(lambda state: env.render(state, 128), states)

  ended, drawn = jax.device_get(jax.jit(frames)(jax.random.key(2)))
  pictures.gif(path, drawn[: 1 + np.sum(~ended) : 2], 25)


def main(options: training.Options) -> int:
  results = training.run(
    make_experiments(options), options, key_metric="eval/return"
  )
  return training.finish(results, CLAIMS, draw)


def _share(task, least, step=20_000):
  """0 or 1 for each seed: does its greedy policy return enough by then."""
  measure = claims.at(step, task, "eval/return")
  return lambda results: np.where(measure(results) >= least, 1.0, 0.0)


def _correlation(results):
  """Of the pendulum's Q with the rewards that followed, for each seed."""
  claims.last("pendulum", "eval/return")(results)  # not applicable if not run
  nets = make_networks(make_environment("pendulum"), "ddpg")

  def of_run(run):
    return values("pendulum", nets, run.agent, run.hyper["discount"])

  found = jax.device_get(jax.vmap(of_run)(results.states["pendulum"]))
  pairs = zip(*found, strict=True)
  return [np.corrcoef(*map(np.ravel, pair))[0, 1] for pair in pairs]


def _state(*rows, **where):
  """Turns rows of name, sentence, measure, relation, threshold into claims."""
  stated = PRESETS["cpu"]
  for flag in ("hidden_sizes", "reward_scale", "num_updates"):
    where.setdefault(flag, [stated[flag]])
  where |= {"variants": [["ddpg"]], "pixels": [False], "batch_norm": [False]}
  for name in (*_HYPER, *_SIZES, "dt", "action_repeat", "sweep"):
    where.setdefault(name, [stated.get(name, FLAGS[name].default)])
  return tuple(
    claims.Claim(*row[:5], where=where, statistic=(*row, "median")[5])
    for row in rows
  )


_LONG = 60_000
_SOLVED = {"cartpole_swingup": 700, "reacher": 900}
CLAIMS = (
  *_state(
    (
      *("pendulum", "share of seeds that return at least -180 at 20k steps"),
      *(_share("pendulum", -180.0), ">=", 7 / 8, "mean"),
    ),
    (
      *("q", "pendulum: correlation of Q with the rewards that followed"),
      *(_correlation, ">", 0.9),
    ),
  ),
  *_state(
    *(
      (
        *(task, f"{task}: return of the greedy policy"),
        *(claims.last(task, "eval/return"), ">=", float(least)),
      )
      for task, least in _SOLVED.items()
    ),
    num_updates=[_LONG],
  ),
)
REPRODUCE = {
  "pendulum": ["--num_seeds=8"],
  "tasks": ["--tasks=all", f"--num_updates={_LONG}", "--num_seeds=8"],
  "ablations": [
    "--tasks=pendulum,cartpole_swingup",
    f"--variants={','.join(VARIANTS)}",
    "--num_updates=40000",
    "--num_seeds=8",
  ],
}

if __name__ == "__main__":
  training.main(FLAGS, main)
