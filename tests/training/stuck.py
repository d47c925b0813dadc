"""An experiment whose device never answers, in the function of --where.

Run as `python stuck.py --where=update`, by the tests of signals.
"""

from typing import Annotated, Literal, NamedTuple

from lilly import training


class Settings(NamedTuple):
  """The settings of the stuck experiment."""

  where: Annotated[
    Literal["init", "update", "evaluate"], "Function that does not end."
  ] = "update"


def make_experiments(settings, options):
  import jax
  import jax.numpy as jnp

  del options

  def wait(x, name):
    if name != settings.where:
      return x
    return jax.lax.while_loop(lambda x: x >= 0, lambda x: x * 0.5, x)

  experiment = training.Experiment(
    init=lambda key, hyper, data: wait(jnp.ones(()), "init"),
    update=lambda x, data: (wait(x, "update"), {"x": x}),
    evaluate=lambda key, x, data: {"x": wait(x, "evaluate")},
  )
  print("begins", flush=True)
  return {"stuck": experiment}


SCRIPT = training.Script(Settings, {"cpu": {}}, make_experiments)

if __name__ == "__main__":
  training.main(SCRIPT)
