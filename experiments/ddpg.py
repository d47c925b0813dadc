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

from typing import Any, NamedTuple

from absl import flags
from etils import epy

from lilly import training
from lilly.training import claims, continuous_control

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import numpy as np

  from lilly.control import exploration
  from lilly.envs import catalog, episodes, rendering, streams, wrappers
  from lilly.figures import curves, rollouts, scatter
  from lilly.nets import policy_gradient_learner as learner
  from lilly.nets import weights
  from lilly.replay import ring

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
continuous_control.define_flags(
  FLAGS, hidden_sizes=["400", "300"], variants=VARIANTS
)
_BATCH_NORM = flags.DEFINE_bool(
  "batch_norm", False, "Normalise in ddpg and no_target too.", **_OWN
)
_PIXELS = flags.DEFINE_bool(
  "pixels", False, "Learn from pictures of 3 repeats of an action.", **_OWN
)
_IMAGE_SIZE = flags.DEFINE_integer(
  "image_size", 64, "pixels: of an edge.", 1, **_OWN
)
_RATES = ("policy_rate", "critic_rate", "weight_decay")
for _name, _value, _text in (
  ("policy_rate", 1e-4, "Learning rate of the policy."),
  ("critic_rate", 1e-3, "Learning rate of the critic."),
  ("weight_decay", 0.0, "Of the critic, in gradients [paper: 1e-2]."),
):
  flags.DEFINE_float(_name, _value, _text, 0.0, **_OWN)


class State(NamedTuple):
  """Everything of one run that changes."""

  agent: Any
  replay: Any
  stream: Any  # of experience
  hyper: Any
  key: Any


def optimisers(hyper: dict[str, Any]) -> tuple[Any, Any]:
  """Of the policy, and of the critic, whose weights decay."""
  critic = weights.adam(hyper["critic_rate"], hyper["weight_decay"])
  policy = weights.adam(hyper["policy_rate"])
  return training.skip_nonfinite(policy), training.skip_nonfinite(critic)


def make_environment(task: str, **options: Any) -> Any:
  """A task with actions in [-1, 1]; of numbers, or of pictures."""
  repeats = FLAGS["action_repeat"].value
  if not _PIXELS.value:
    return continuous_control.task_environment(task, repeats, **options)
  env = continuous_control.task_environment(task, 1, **options)
  if env.render is None:
    raise training.RunError(
      f"--tasks={task} has no pictures; leave out --pixels."
    )
  return rendering.pixels(env, _IMAGE_SIZE.value, num_frames=repeats or 3)


def make_experiment(
  env: Any,
  variant: str = "ddpg",
  *,
  pool: int | None = None,
  task: str = "",
) -> training.Experiment:
  """One environment and one variant, as one run sees it.

  Args:
    env: with actions in [-1, 1] and episodes that end.
    variant: one of VARIANTS.
    pool: as `num_starts` of `wrappers.auto_reset`.
    task: its name, where returns are to be scored.
  """
  acting, nets = wrappers.auto_reset(env, pool), make_networks(env, variant)
  own = {"tau": 1.0} if variant.endswith("no_target") else {}

  def score(state, data):
    act = learner.greedy(nets, state.agent.policy)
    num_starts = FLAGS["num_starts"].value
    total = episodes.mean_return(env, act, num_starts)
    return continuous_control.score(task, total)

  return training.Experiment(
    init=lambda key, hyper, data: start(key, hyper, acting, nets),
    update=lambda state, data: update(state, acting, nets),
    evaluate=score,
    hyper=continuous_control.hyper(FLAGS, _RATES) | own,
    unit="steps",
  )


def start(key: Any, hyper: Any, env: Any, nets: Any) -> State:
  """A new agent, and replay of random actions."""
  key, *keys = jax.random.split(key, 4)
  stream, replay = streams.fill(
    keys[0],
    env,
    capacity=FLAGS["capacity"].value,
    num_steps=FLAGS["start_steps"].value,
    reward_scale=FLAGS["reward_scale"].value,
    keep_truncated=FLAGS["keep_truncated"].value,
  )
  seen = ring.sample(keys[1], replay, FLAGS["batch_size"].value)
  agent = learner.init(keys[2], nets, seen.observation, *optimisers(hyper))
  return State(agent, replay, stream, hyper, key)


def update(state: State, env: Any, nets: Any) -> tuple[State, dict[str, Any]]:
  """One step of the environment and one of learning (algorithm 1)."""
  key, *keys = jax.random.split(state.key, 4)
  hyper, stream = state.hyper, state.stream
  noise = exploration.ornstein_uhlenbeck(
    keys[0],
    stream.noise,
    theta=hyper["theta"],
    sigma=hyper["sigma"],
    dt=FLAGS["dt"].value,
  )
  greedy = learner.act(nets, state.agent.policy, stream.env.observation)
  action = jnp.clip(greedy + noise, -1.0, 1.0)
  stream, (transition, truncated) = streams.step(
    keys[1],
    stream,
    env,
    action,
    noise=noise,
    reward_scale=FLAGS["reward_scale"].value,
  )
  kept = True if FLAGS["keep_truncated"].value else ~truncated
  replay = ring.add(state.replay, transition, is_kept=kept)
  agent, metrics = learner.update(
    nets,
    state.agent,
    ring.sample(keys[2], replay, FLAGS["batch_size"].value),
    *optimisers(hyper),
    discount=hyper["discount"],
    tau=hyper["tau"],
  )
  state = State(agent, replay, stream, hyper, key)
  return state, metrics | {"return": stream.last_total}


def make_networks(env: Any, variant: str) -> Any:
  """The networks that a variant learns."""
  (num_actions,) = env.action_spec.shape
  normalises = _BATCH_NORM.value or variant.startswith("batch_norm")
  return learner.networks(
    num_actions,
    [int(size) for size in FLAGS["hidden_sizes"].value],
    pixels=_PIXELS.value,
    batch_norm={} if normalises else None,
  )


def check() -> None:
  """Refuses flags that do not fit, before anything is compiled."""
  shown, both = ",".join(FLAGS["variants"].value), _BATCH_NORM.value
  normalises = "batch_norm" in shown
  wrong = {
    f"--variants={shown} --batch_norm: either the flag or these variants, for "
    "both normalise.": both and normalises,
    "--batch_size=1 has no variance to normalise by; use 2 or more.": (
      (both or normalises) and FLAGS["batch_size"].value < 2
    ),
  }
  layers = 1 if _PIXELS.value else 2
  continuous_control.check(
    FLAGS, VARIANTS, wrong, rates=_RATES, least_layers=layers
  )


def make_experiments(options: training.Options) -> dict[str, Any]:
  """Each task with each variant; their name is the task's where one is run."""
  check()
  return {
    name: make_experiment(
      make_environment(task),
      variant,
      # A physics engine takes long to reset; a pool of starts is made once.
      pool=16 if "/" in task else None,
      task=task,
    )
    for name, (task, variant) in continuous_control.pairs(FLAGS).items()
  }


def draw(results: training.Results, out_dir: Any) -> None:
  """Returns; values against discounted returns; GIFs of the policies."""
  wanted = {"eval/score": "score (0 random, 1 best known)"}
  if not set(continuous_control.tasks(FLAGS)) <= set(catalog.SCORES):
    wanted = {"eval/return": "return of the greedy policy"}
  curves.plot_metrics(results, out_dir / "curves.png", wanted)
  valued = {}
  for name, (task, variant) in continuous_control.pairs(FLAGS).items():
    agent = jax.tree.map(
      lambda x: jnp.asarray(x[0]), results.states[name].agent
    )
    env = make_environment(task)
    nets = make_networks(env, variant)
    discount = results.states[name].hyper["discount"][0]
    q, total = jax.device_get(values(task, nets, agent, discount))
    valued[name] = (total, q)
    act = learner.greedy(nets, agent.policy)
    rollouts.save_policy_gif(env, act, out_dir / f"{name}.gif")
  labels = ("discounted rewards", "Q")
  scatter.plot_agreement(valued, out_dir / "values.png", labels)


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
    totals = FLAGS["reward_scale"].value * episodes.discounted(steps, discount)
    q = jax.vmap(lambda s, a: learner.value(nets, agent.critic, s, a))
    return q(seen, actions)[:num_steps], totals[:num_steps]

  return jax.jit(jax.vmap(of_episode))(jax.random.split(jax.random.key(3), 5))


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
  own = ("dt", "action_repeat", "keep_truncated", "image_size", "sweep")
  for name in (
    *_RATES,
    *continuous_control.HYPER,
    *continuous_control.SIZES,
    *own,
  ):
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
