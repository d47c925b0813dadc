"""A toy experiment: fits a line by noisy gradient descent, in seconds.

Run as `python toy.py --flags`, by the tests of the driver.
"""

from typing import Annotated, Any, Literal, NamedTuple

from etils import epy

from lilly import training
from lilly.training.settings import at_least

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax


class Settings(NamedTuple):
  """The toy's settings."""

  task: Annotated[Literal["small", "big"], "Size of the state."] = "small"
  variants: Annotated[tuple[str, ...], "Names of equal learners."] = ("adam",)
  learning_rate: Annotated[float, at_least(0.0), "Learning rate of Adam."] = 0.1
  noise: Annotated[float, "Standard deviation of the targets' noise."] = 0.1
  poison: Annotated[
    int, at_least(-1), "Seed whose data are NaN from update 10 on; -1: none."
  ] = -1


PRESETS = {
  "cpu": {"num_updates": 40, "log_every": 4, "eval_every": 8},
  "smoke": {"num_updates": 8, "log_every": 4, "task=big": {"num_updates": 4}},
}


class State(NamedTuple):
  params: Any
  optimiser: Any
  hyper: Any
  key: Any
  seed: Any
  step: Any
  replay: Any  # a buffer, so that checkpoints have more than one file
  flag: Any


def make_experiment(settings):
  """Fits y = 2 x_0 - x_1; the data may hold NaN for one seed."""
  optimiser = training.skip_nonfinite(
    optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
  )
  shape = (4000, 32) if settings.task == "big" else (20, 3)

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

  def evaluate(key, state, data):
    del key, data
    error = jnp.sum((state.params["w"] - jnp.array([2.0, -1.0])) ** 2)
    return {"error": error + state.params["b"] ** 2}

  poisoned = -1
  if settings.poison >= 0:
    key_s = jax.random.split(jax.random.key(settings.poison), 4)[2]
    poisoned = int(jax.random.randint(key_s, (), 0, 1 << 30))
  return training.Experiment(
    init=init,
    update=update,
    evaluate=evaluate,
    data={"poisoned": np.int32(poisoned)},
    hyper={"learning_rate": settings.learning_rate, "noise": settings.noise},
    steps_per_update=8,
    unit="examples",
  )


def make_experiments(settings, options):
  del options
  return dict.fromkeys(settings.variants, make_experiment(settings))


SCRIPT = training.Script(
  Settings,
  PRESETS,
  make_experiments,
  reproductions={
    "line": training.Reproduction(
      claims=[
        training.Claim(
          "learns",
          "the squared error of the weights ends at most 0.5",
          lambda results: training.final(results, "adam", "eval/error"),
          "<=",
          0.5,
        )
      ],
      min_seeds=2,
      presets=["cpu"],
    )
  },
  free=("variants", "learning_rate"),
  key_metric="eval/error",
)

if __name__ == "__main__":
  training.main(SCRIPT)
