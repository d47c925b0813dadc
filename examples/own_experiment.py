"""A custom experiment: flags, seeds, files, resuming, --sweep and a claim."""

from typing import Annotated, NamedTuple

from lilly import training
from lilly.training.settings import at_least


class Settings(NamedTuple):
  rate: Annotated[float, at_least(0.0), "Step towards a sample."] = 0.1


def make_experiments(settings, options):
  import jax  # after parsing flags, so that --help is immediate

  def init(key, hyper, data):
    key, key_start = jax.random.split(key)
    return {"params": jax.random.normal(key_start), "key": key, "hyper": hyper}

  def update(state, data):
    key, key_row = jax.random.split(state["key"])
    gap = state["params"] - jax.random.choice(key_row, data)
    params = state["params"] - state["hyper"]["rate"] * gap
    return state | {"params": params, "key": key}, {"gap": abs(gap)}

  def evaluate(key, state, data):
    return {"error": (state["params"] - data.mean()) ** 2}

  data, hyper = jax.numpy.array([1.0, 1.5, 2.0]), settings._asdict()
  return {"sgd": training.Experiment(init, update, evaluate, data, hyper)}


PRESETS = {"cpu": {"num_updates": 200, "num_seeds": 8}}
ERROR = training.last("sgd", "eval/error")
GOOD = training.Claim("learns", "final squared error", ERROR, "<=", 0.05)
LEARNS = {"mean": training.Reproduction(claims=[GOOD], presets=["cpu"])}
SCRIPT = training.Script(Settings, PRESETS, make_experiments, None, LEARNS)

if __name__ == "__main__":
  training.main(SCRIPT)
