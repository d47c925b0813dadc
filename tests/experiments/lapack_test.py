"""No program of any script calls LAPACK.

On several CPU devices batches of its calls may wait for each other for ever;
which sizes do, depends on the machine. So the programs are read, not run.
"""

import ast
import pathlib

import jax
import jax.numpy as jnp
import pytest

import lilly
from lilly import training
from lilly.training import compilation
from tests import programs

_LIBRARY = pathlib.Path(lilly.__file__).parent
_EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"
_MODULES = sorted([*_LIBRARY.rglob("*.py"), *_EXPERIMENTS.glob("*.py")])
# A vector's, which is a sum; of a matrix, only the default one.
_ALLOWED = {"norm"}
# Defaults with shorter lists, on which no call depends, and without variants
# that leave out a part of another one. The full run has them whole.
_SHORTER = {
  "dynamic_kanerva_machine": ("--variants=dkm", "--lengths=4"),
  "energy_based_memory": (
    "--variants=ebmm,hebb,storkey,pseudo_inverse,modern",
    "--counts=2",
  ),
  "kanerva_machine": ("--variants=kanerva,vae", "--lengths=16"),
  "neural_bloom_filter": ("--rates=0.05",),
  "sparse_access_memory": ("--cores=sam,lstm",),
}


def walks():
  """Gives all commands, and those of the quick run: of each script one."""
  for walk in programs.walks():
    shorter = _SHORTER.get(walk.script, ()) if walk.is_default else ()
    if shorter:
      yield pytest.param(walk._replace(flags=shorter))
    is_quick = walk.is_default and not shorter
    yield pytest.param(walk, marks=[] if is_quick else [pytest.mark.slow])


# Of brax, upstream.
@pytest.mark.filterwarnings("ignore:JAXopt is no longer:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Brax System, piplines:UserWarning")
@pytest.mark.filterwarnings("ignore:Accessing `:DeprecationWarning")
@pytest.mark.parametrize("walk", list(walks()), ids=str)
def test_no_program_calls_lapack(walk):
  if walk.reason:
    pytest.skip(walk.reason)
  is_simulated = any("brax/" in flag for flag in walk.flags)
  if is_simulated:
    pytest.importorskip("brax")
  calls, count = [], 0
  # Engines add vectors to matrices; test sets of different sizes share a key.
  promotion = "allow" if is_simulated else "raise"
  with jax.numpy_rank_promotion(promotion), jax.debug_key_reuse(False):
    for variant, name, program in programs.lowered(walk):
      count += 1
      for call in compilation.lapack_calls(program):
        calls.append(f"{walk.script}, {variant}: {name} calls {call}")
  assert count and not calls, "\n".join(calls)


def linear_algebra(tree):
  """Lists the attributes of jax's linear algebra that a module names."""
  found = []
  for node in ast.walk(tree):
    if not isinstance(node, ast.Attribute) or node.attr in _ALLOWED:
      continue
    holder = ast.unparse(node.value)
    if holder.endswith("linalg") and holder.split(".")[0] not in (
      "np",
      "numpy",
    ):
      found.append(ast.unparse(node))
  return found


@pytest.mark.parametrize("path", _MODULES, ids=lambda path: path.stem)
def test_no_module_names_jaxs_linear_algebra(path):
  """Neither does what is called outside of programs, such as pictures."""
  assert linear_algebra(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
  "statement",
  ["x = jnp.linalg.pinv(w)", "jsp.linalg.cho_solve(a, b)", "lax.linalg.svd(w)"],
)
def test_linear_algebra_is_found(statement):
  assert len(linear_algebra(ast.parse(statement))) == 1
  assert linear_algebra(ast.parse("np.linalg.pinv(jnp.linalg.norm(w))")) == []


@pytest.mark.parametrize("what", ["init", "update", "evaluate"])
def test_a_call_is_found_in_any_function(what):
  def total(w, name):
    return jnp.sum(jnp.linalg.svd(w)[1]) if name == what else jnp.sum(w)

  experiment = training.Experiment(
    init=lambda key, hyper, data: jnp.eye(2) * total(jnp.eye(2), "init"),
    update=lambda w, data: (w, {"sum": total(w, "update")}),
    evaluate=lambda key, w, data: {"sum": total(w, "evaluate")},
  )
  found = compilation.lowered(experiment, training.Options(num_seeds=4))
  assert [name for name in found if compilation.lapack_calls(found[name])] == [
    what
  ]
