"""An experiment whose device never answers, in the function of --where.

Run as `python stuck.py --where=update`, by the tests of signals.
"""

from absl import flags

from lilly import training

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, {"cpu": {}})
_WHERE = flags.DEFINE_enum(
  "where",
  "update",
  ["init", "update", "evaluate"],
  "What does not end.",
  flag_values=FLAGS,
)


def main(options):
  import jax
  import jax.numpy as jnp

  def wait(x, name):
    if name != _WHERE.value:
      return x
    return jax.lax.while_loop(lambda x: x >= 0, lambda x: x * 0.5, x)

  experiment = training.Experiment(
    init=lambda key, hyper, data: wait(jnp.ones(()), "init"),
    update=lambda x, data: (wait(x, "update"), {"x": x}),
    evaluate=lambda x, data: {"x": wait(x, "evaluate")},
  )
  print("begins", flush=True)
  return training.finish(training.run({"stuck": experiment}, options))


if __name__ == "__main__":
  training.main(FLAGS, main)
