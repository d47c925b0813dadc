"""A toy experiment: fits a line by noisy gradient descent, in seconds.

Run as `python toy.py --flags`, by the tests of the driver.
"""

from typing import Any, NamedTuple

from absl import flags
from etils import epy

from lilly import training

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

FLAGS = flags.FlagValues()
training.define_flags(
  FLAGS,
  {
    "cpu": {"num_updates": 40, "log_every": 4, "eval_every": 8},
    "smoke": {"num_updates": 8, "log_every": 4, "task=big": {"num_updates": 4}},
  },
)
_RATE = flags.DEFINE_float(
  "learning_rate", 0.1, "Per update.", lower_bound=0.0, flag_values=FLAGS
)
_NOISE = flags.DEFINE_float("noise", 0.1, "Of the data.", flag_values=FLAGS)
_POISON = flags.DEFINE_integer(
  "poison",
  -1,
  "The seed whose data are NaN from update 10 on.",
  flag_values=FLAGS,
)
_VARIANTS = flags.DEFINE_list(
  "variants", ["adam"], "Names of equal learners.", flag_values=FLAGS
)
_TASK = flags.DEFINE_enum(
  "task", "small", ["small", "big"], "Which size.", flag_values=FLAGS
)


class State(NamedTuple):
  params: Any
  optimiser: Any
  hyper: Any
  key: Any
  seed: Any
  step: Any
  replay: Any  # a buffer, so that checkpoints have more than one file
  flag: Any


def make_experiment(options):
  """Fits y = 2 x_0 - x_1; the data may hold NaN for one seed."""
  optimiser = training.skip_nonfinite(
    optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
  )
  shape = (4000, 32) if _TASK.value == "big" else (20, 3)

  def init(key, hyper, data):
    del data
    key, key_w, key_s, key_r = jax.random.split(key, 4)
    params = {"w": 0.1 * jax.random.normal(key_w, (2,)), "b": jnp.zeros(())}
    state = optimiser.init(params)
    state.inner.hyperparams["learning_rate"] = hyper["learning_rate"]
    return State(
      params,
      state,
      hyper,
      key,
      jax.random.randint(key_s, (), 0, 1 << 30),
      jnp.zeros((), jnp.int32),
      jax.random.normal(key_r, shape, jnp.bfloat16),
      jnp.zeros((0,), bool),
    )

  def update(state, data):
    key, key_x, key_n = jax.random.split(state.key, 3)
    x = jax.random.normal(key_x, (8, 2))
    noise = state.hyper["noise"] * jax.random.normal(key_n, (8,))
    y = x @ jnp.array([2.0, -1.0]) + noise
    is_poisoned = state.seed == data["poisoned"]
    y = jnp.where(is_poisoned & (state.step >= 10), jnp.nan, y)

    def loss(params):
      return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

    value, grads = jax.value_and_grad(loss)(state.params)
    updates, opt = optimiser.update(grads, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state._replace(
      params=params,
      optimiser=opt,
      key=key,
      step=state.step + 1,
      replay=state.replay.at[state.step % shape[0], :2].set(
        x[0].astype(jnp.bfloat16)
      ),
    )
    return state, {"loss": value}

  def evaluate(state, data):
    del data
    error = jnp.sum((state.params["w"] - jnp.array([2.0, -1.0])) ** 2)
    return {"error": error + state.params["b"] ** 2}

  poisoned = -1
  if _POISON.value >= 0:
    key_s = jax.random.split(jax.random.key(_POISON.value), 4)[2]
    poisoned = int(jax.random.randint(key_s, (), 0, 1 << 30))
  return training.Experiment(
    init=init,
    update=update,
    evaluate=evaluate,
    data={"poisoned": np.int32(poisoned)},
    hyper={"learning_rate": _RATE.value, "noise": _NOISE.value},
    steps_per_update=8,
    unit="examples",
  )


CLAIMS = (
  training.Claim(
    name="learns",
    sentence="the squared error of the weights ends at most 0.5",
    measure=lambda results: training.final(results, "adam", "eval/error"),
    relation="<=",
    threshold=0.5,
    where={"preset": ["cpu"]},
    min_seeds=2,
  ),
)


def main(options):
  one = make_experiment(options)
  experiments = dict.fromkeys(_VARIANTS.value, one)
  results = training.run(experiments, options, key_metric="eval/error")
  return training.finish(results, CLAIMS)


if __name__ == "__main__":
  training.main(FLAGS, main)
