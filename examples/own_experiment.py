"""An experiment of one's own: seeds, files, resuming, --sweep and a claim."""

from absl import flags

from lilly import training

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, {"cpu": {"num_updates": 200, "num_seeds": 8}})
_RATE = flags.DEFINE_float("rate", 0.1, "Of learning.", flag_values=FLAGS)
GOOD = training.Claim(
  name="learns",
  sentence="the squared error of the estimated mean ends at most 0.05",
  measure=lambda results: training.final(results, "sgd", "eval/error"),
  relation="<=",
  threshold=0.05,
  where={"preset": ["cpu"]},
)


def main(options):
  import jax  # after the flags are parsed: --help answers at once

  def init(key, hyper, data):
    key, key_start = jax.random.split(key)
    return {"params": jax.random.normal(key_start), "key": key, "hyper": hyper}

  def update(state, data):
    key, key_row = jax.random.split(state["key"])
    gap = state["params"] - jax.random.choice(key_row, data)
    params = state["params"] - state["hyper"]["rate"] * gap
    return state | {"params": params, "key": key}, {"gap": abs(gap)}

  evaluate = lambda state, data: {"error": (state["params"] - data.mean()) ** 2}
  data, hyper = jax.numpy.array([1.0, 1.5, 2.0]), {"rate": _RATE.value}
  learner = training.Experiment(init, update, evaluate, data, hyper)
  return training.finish(training.run({"sgd": learner}, options), [GOOD])


if __name__ == "__main__":
  training.main(FLAGS, main)
