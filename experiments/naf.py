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
import types
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

  from lilly.envs import catalog, episodes, pendulum, planning
  from lilly.figures import curves, heatmaps, rollouts
  from lilly.nets import (
    agents,
    naf_learner,
    policy_gradient_learner,
    world_models,
  )
  from lilly.nets import imagination_learner as learner
  from lilly.replay import ring


class Variant(NamedTuple):
  """What is learnt, and what is done with a model."""

  agent: str = "naf"
  model: str = ""  # true, linear or neural
  options: Mapping[str, bool] = types.MappingProxyType({})


_IMAGINES, _PLANS = {"imagines": True}, {"plans": True}
VARIANTS = {
  "naf": Variant(),
  "ddpg": Variant("ddpg"),
  "more_updates": Variant(options={"more_updates": True}),
  "true_model": Variant(model="true", options=_IMAGINES),
  "linear_model": Variant(model="linear", options=_IMAGINES),
  "neural_model": Variant(model="neural", options=_IMAGINES),
  "planner": Variant(model="linear", options=_PLANS),
  "linear_model_planner": Variant(model="linear", options=_IMAGINES | _PLANS),
  "ilqg": Variant("ilqg"),
}
_CPU = {"hidden_sizes": ["64", "64"], "capacity": 100_000, "num_updates": 10}
_CPU |= {"reward_scale": 0.1, "tau": 5e-3, "updates_per_step": 1}
_CPU |= {"eval_every": 1, "start_steps": 200, "imagined_sigma": 1.0}
_PAPER = {"batch_norm": True, "sigma": 0.3, "num_updates": 400}
_PAPER |= {"eval_every": 10}
_SMOKE = {"hidden_sizes": ["8", "8"], "num_updates": 2, "capacity": 200}
_SMOKE |= {"episode_steps": 10, "refit_every": 2, "imagined_steps": 3}
_SMOKE |= {"batch_size": 4, "num_starts": 2, "start_steps": 5}
_SMOKE |= {"updates_per_step": 1, "model_updates": 3, "eval_every": 1}
_GPU = _CPU | {"hidden_sizes": ["200", "200"], "updates_per_step": 5}
PRESETS: dict[str, dict[str, Any]]
PRESETS = {"cpu": _CPU, "smoke": _SMOKE, "gpu": _GPU, "paper": _PAPER}

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
  ("imagined_sigma", 0.0, "Noise of imagined steps; 0: as of real ones."),
  ("planner_share", 0.5, "Planner: of the episodes, in which it acts."),
  ("max_kl", 10.0, "Planner: from the controller before it, an episode."),
):
  flags.DEFINE_float(_name, _value, _text, 0.0, **_OWN)
_TEXT = "Count episodes until evaluation returns so much."
flags.DEFINE_float("goal_return", None, _TEXT, **_OWN)
for _name, _value, _least, _text in (
  ("updates_per_step", 5, 1, "On real transitions [I]."),
  ("imagined_steps", 10, 1, "Length of a rollout in the model [l]."),
  ("refit_every", 5, 1, "Episodes between fits of the model [n]."),
  ("imagine_until", 0, 0, "Episodes with imagination; 0: all."),
  ("episode_steps", 0, 0, "Length of an episode; 0: by the task."),
  ("model_updates", 1000, 1, "Neural model: updates in a fit."),
  ("num_passes", 5, 1, "ilqg: back and forth, for a plan."),
):
  flags.DEFINE_integer(_name, _value, _text, _least, **_OWN)
for _name, _text in (
  ("batch_norm", "Normalise batches in the networks."),
  ("fixed_start", "Pendulum, reacher: start all episodes alike."),
  ("precision_noise", "NAF: shape the noise by P: L^-T e."),
):
  flags.DEFINE_bool(_name, False, _text, **_OWN)
# Of an episode before actions are repeated, where it is not 1,000.
_STEPS = {"pendulum": 200, "mountain_car": 999}
_STARTS = {"pendulum": (math.pi, 0.0), "reacher_fixed": (-2.0, 1.0)}


def make_world(task: str) -> Any:
  """The task; its episodes have one length."""
  given = FLAGS.flag_values_dict()
  options: dict[str, Any] = {"num_steps": None}
  if given["fixed_start"] and task in _STARTS:
    options["start"] = _STARTS[task]
  repeats = given["action_repeat"] or catalog.REPEATS.get(task, 1)
  plain = continuous_control.task_environment(task, repeats, **options)
  horizon = given["episode_steps"] or _STEPS.get(task, 1000) // repeats
  return learner.world(plain, horizon, 16 if "/" in task else None)


def make_agent(world: Any, kind: str) -> Any:
  """NAF or DDPG, with layers of the same sizes."""
  (num_actions,) = world.plain.action_spec.shape
  sizes = [int(size) for size in FLAGS["hidden_sizes"].value]
  norm = {} if FLAGS["batch_norm"].value else None

  def optimiser(rate):
    return training.skip_nonfinite(optax.adam(rate))

  if kind == "naf":
    net = naf_learner.network(num_actions, sizes, batch_norm=norm)
    return agents.naf(net, optimiser)
  nets = policy_gradient_learner.networks(num_actions, sizes, batch_norm=norm)
  return agents.ddpg(nets, optimiser)


def make_model(world: Any, kind: str) -> Any:
  """What is imagined with, or planned by; None for none."""
  given = FLAGS.flag_values_dict()
  if kind == "true":
    return world_models.simulator(world.limited)
  fitted = {"plain": world.plain, "horizon": world.horizon}
  if kind == "linear":
    return world_models.linear(**fitted, ridge=given["ridge"])
  if kind == "neural":
    sizes = [int(size) for size in given["hidden_sizes"]]
    fitted |= {"num_updates": given["model_updates"]}
    return world_models.neural(**fitted, hidden_sizes=sizes)
  return None


def make_experiment(task: str, variant: str) -> training.Experiment:
  """One task and one variant, as one run sees it."""
  world, chosen = make_world(task), VARIANTS[variant]
  if chosen.agent == "ilqg":
    return planner(task, world)
  given = FLAGS.flag_values_dict()
  own = {x: given[x] for x in learner.Settings._fields if x in given}
  settings = learner.Settings(**own, **chosen.options)
  agent, model = (
    make_agent(world, chosen.agent),
    make_model(world, chosen.model),
  )
  parts = world, agent, model, settings
  return training.Experiment(
    init=lambda key, hyper, data: learner.init(key, hyper, *parts),
    update=lambda state, data: learner.update(state, *parts),
    evaluate=lambda state, data: evaluate(state, task, world, agent),
    hyper=continuous_control.hyper(FLAGS, _RATES),
    steps_per_update=settings.refit_every * world.horizon,
    unit="steps",
  )


def planner(task: str, world: Any) -> training.Experiment:
  """iLQG with the simulator, from each start of an evaluation: no learning."""

  def init(key, hyper, data):
    del key, data
    total = planning.mean_return(
      world.plain,
      world.horizon,
      num_starts=FLAGS["num_starts"].value,
      num_passes=FLAGS["num_passes"].value,
    )
    return {"return": total, "hyper": hyper}

  return training.Experiment(
    init=init,
    update=lambda state, data: (state, {"return": state["return"]}),
    evaluate=lambda state, data: rated(task, state["return"]),
    hyper=continuous_control.hyper(FLAGS, _RATES),
    steps_per_update=FLAGS["refit_every"].value * world.horizon,
    unit="steps",
  )


def policy(state: Any, agent: Any) -> Any:
  """The best action of each observation, as `episodes` play it."""
  return lambda key, seen: agent.outputs(state.agent, seen).mean


def evaluate(state: Any, task: str, world: Any, agent: Any) -> dict[str, Any]:
  """Greedy return; values of what was visited; how still a reacher holds."""
  num_starts = FLAGS["num_starts"].value
  act = policy(state, agent)
  metrics = rated(task, episodes.mean_return(world.limited, act, num_starts))
  seen = ring.sample(jax.random.key(2), state.replay, 1000).observation
  values = jax.vmap(lambda x: agent.outputs(state.agent, x).value)(seen)
  metrics |= {"value_median": jnp.median(values), "value_max": jnp.max(values)}
  if task.startswith("reacher"):
    distances = tip_distances(state, world, agent)[:, -20:]
    metrics |= {
      "distance": jnp.mean(distances),
      "tremble": jnp.mean(jnp.std(distances, axis=1)),
    }
  return metrics


def rated(task: str, total: Any) -> dict[str, Any]:
  """The return, and its score where episodes are those it is for."""
  own = FLAGS["episode_steps"].value or FLAGS["fixed_start"].value
  return continuous_control.score("" if own else task, total)


def tip_distances(state: Any, world: Any, agent: Any) -> Any:
  """From the tip to the target in greedy episodes, [starts, T], in metres."""
  n = world.plain.action_spec.shape[0]
  act = policy(state, agent)

  def of_episode(key):
    *_, steps = episodes.rollout(key, world.limited, act, world.horizon)
    return jnp.linalg.norm(steps.observation[:, 2 * n : 2 * n + 2], axis=1)

  keys = jax.random.split(jax.random.key(1), FLAGS["num_starts"].value)
  return jax.vmap(of_episode)(keys)


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
    f"--variants={shown}: models and planners are for tasks without a physics "
    "engine; leave out those with one.": any("/" in x for x in given["tasks"])
    and any(x.model or x.agent == "ilqg" for x in chosen),
  }
  names = (*_RATES, "imagined_sigma", "ridge", "planner_share", "max_kl")
  continuous_control.check(FLAGS, list(VARIANTS), wrong, rates=names)


def make_experiments(options: training.Options) -> dict[str, Any]:
  """Each task with each variant; their name is the task's where one is run."""
  check()
  pairs = continuous_control.pairs(FLAGS)
  for task, variant in pairs.values():
    is_fitted = VARIANTS[variant].model in ("linear", "neural")
    if is_fitted and make_world(task).plain.reward is None:
      raise training.RunError(
        f"--tasks={task} --variants={variant}: what repeated actions are worth "
        "is not known to a model; give --action_repeat=1."
      )
  return {name: make_experiment(*pair) for name, pair in pairs.items()}


def draw(results: training.Results, out_dir: Any) -> None:
  """Returns; GIFs; what was valued, imagined, and how still reachers hold."""
  wanted = {"eval/return": "return of the greedy policy"}
  if all("eval/score" in x for x in results.metrics.values()):
    wanted = {"eval/score": "score (0 random, 1 best known)"}
  curves.plot_metrics(results, out_dir / "curves.png", wanted)
  imagined, distances = {}, {}
  for name, (task, variant) in continuous_control.pairs(FLAGS).items():
    if variant == "ilqg":
      continue
    world, chosen = make_world(task), VARIANTS[variant]
    agent, states = make_agent(world, chosen.agent), results.states[name]
    state = jax.tree.map(lambda x: jnp.asarray(x[0]), states)
    act, model = policy(state, agent), make_model(world, chosen.model)
    rollouts.save_policy_gif(world.limited, act, out_dir / f"{name}.gif")
    if task == "pendulum":
      draw_values(out_dir / f"{name}_values.png", world, agent, state)
    if "imagines" in chosen.options:
      starts = ring.sample(jax.random.key(6), state.visited, 6)
      given = model, state.fit, world.limited, starts, act
      seen = world_models.compare(*given, length=15)
      imagined[name] = tuple(np.asarray(x[..., -1]) for x in seen)
    if task.startswith("reacher"):

      def of_run(run, world=world, agent=agent):
        return jnp.mean(tip_distances(run, world, agent), axis=0)

      distances[name] = 100 * np.asarray(jax.jit(jax.vmap(of_run))(states))
  if imagined:
    names, labels = ("model", "real"), ("steps imagined", "last number seen")
    curves.plot_pairs(imagined, out_dir / "imagined.png", names, labels)
  if distances:
    labels, path = ("step", "tip to target (cm)"), out_dir / "tremble.png"
    curves.plot_lines(distances, path, labels, from_zero=True)


def draw_values(path: Any, world: Any, agent: Any, state: Any) -> None:
  """V, what came of it and the best action, over the pendulum's states."""
  angles, speeds = np.linspace(-np.pi, np.pi, 41), np.linspace(-8, 8, 41)
  scale = FLAGS["reward_scale"].value

  def of_state(angle, speed):
    x = pendulum.State(jnp.float32(angle), jnp.float32(speed))
    seen = pendulum.observe(x)
    outputs = agent.outputs(state.agent, seen)
    followed = world_models.value(
      world.plain,
      x,
      seen,
      policy(state, agent),
      discount=state.hyper["discount"],
    )
    return outputs.value, scale * followed, outputs.mean[0]

  each = jax.vmap(jax.vmap(of_state, (0, None)), (None, 0))
  titles = ("V", "discounted rewards that followed", "best action")
  maps = jax.device_get(jax.jit(each)(angles, speeds))
  shared = (np.min(maps[:2]), np.max(maps[:2]))
  limits = (shared, shared, (-1.0, 1.0))
  heatmaps.plot_functions(
    dict(zip(titles, zip(maps, limits, strict=True), strict=True)),
    path,
    angles,
    speeds,
    ("angle (rad, 0 upright)", "velocity (rad/s)"),
  )


def main(options: training.Options) -> int:
  results = training.run(
    make_experiments(options), options, key_metric="eval/return"
  )
  return training.finish(results, CLAIMS, draw)


_EARLY = {"refit_every": 1, "num_updates": 15, "goal_return": -500.0}
_REACHER = {"tasks": ["reacher"], "variants": ["naf", "ddpg"]}
_REACHER |= {"num_updates": 24, "eval_every": 4}


def _share(name, least):
  """0 or 1 for each seed: does its greedy policy return enough."""
  measure = claims.last(name, "eval/return")
  return lambda results: np.where(measure(results) >= least, 1.0, 0.0)


def _twice_as_early(results):
  """Twice the episodes that imagination needs, less the control's median."""
  own, control = (
    claims.final(results, f"pendulum_{name}", "train/episodes_to_goal")
    for name in ("true_model", "more_updates")
  )
  return 2 * own - np.nanmedian(control)


def _state(*rows, **given):
  """Turns rows of name, sentence, measure, relation, threshold into claims."""
  where: dict[str, Any] = {
    name: [PRESETS["cpu"].get(name, FLAGS[name].default)] for name in _STATED
  }
  where |= {name: [value] for name, value in given.items()}
  return tuple(
    claims.Claim(*row[:5], where=where, statistic=(*row, "median")[5])
    for row in rows
  )


_STATED = (
  *("tasks", "variants", "hidden_sizes", "batch_norm", "fixed_start", "dt"),
  *("reward_scale", "keep_truncated", "precision_noise", "sweep"),
  *("updates_per_step", "imagined_steps", "imagined_sigma", "imagine_until"),
  *("refit_every", "num_updates", "episode_steps", "action_repeat"),
  *(*_RATES, *continuous_control.HYPER, *continuous_control.SIZES),
)
_LESS = "naf less ddpg on the reacher, at the end of episodes: "
CLAIMS = (
  *_state(
    (
      *("pendulum", "naf: share of seeds that return at least -180"),
      *(_share("pendulum_naf", -180.0), ">=", 7 / 8, "mean"),
    ),
    (
      *("value-median", "naf: median of V over what was visited"),
      *(claims.last("pendulum_naf", "eval/value_median"), "<", 0.0),
    ),
    (
      *("value-max", "naf: largest V over what was visited"),
      *(claims.last("pendulum_naf", "eval/value_max"), "<", 10.0),
    ),
    variants=["naf", "ddpg"],
  ),
  *_state(
    (
      "imagination",
      "twice the episodes to -500 with the true model, less those of as many "
      "updates on real steps (median)",
      *(_twice_as_early, "<=", 0.0),
    ),
    variants=["naf", "more_updates", "true_model"],
    **_EARLY,
  ),
  *_state(
    *(
      (
        *(name, _LESS + sentence),
        claims.difference(
          claims.last("reacher_naf", f"eval/{name}"),
          claims.last("reacher_ddpg", f"eval/{name}"),
        ),
        *("<", 0.0),
      )
      for name, sentence in (
        ("distance", "distance to the target (m)"),
        ("tremble", "standard deviation of the distance (m)"),
      )
    ),
    **_REACHER,
  ),
)
REPRODUCE = {
  "pendulum": ["--variants=naf,ddpg", "--num_seeds=8"],
  "imagination": [
    "--variants=naf,more_updates,true_model",
    *(f"--{name}={value}" for name, value in _EARLY.items()),
    "--num_seeds=8",
  ],
  "reacher": [
    *("--tasks=reacher", "--variants=naf,ddpg", "--num_seeds=8"),
    *("--num_updates=24", "--eval_every=4"),
  ],
}

if __name__ == "__main__":
  training.main(FLAGS, main)
