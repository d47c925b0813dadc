"""How tests compile: sooner, for most of their programs run once.

What is computed stays the same to rounding. What a test says of a compiled
program is said of the one that users get: compile that with `AS_USED`.
"""

import os

import jaxlib

__all__ = ["AS_USED", "hurry"]

# For `compile(compiler_options=)`: the compiler's own settings.
AS_USED = {"xla_backend_optimization_level": 3}
_FLAGS = ["--xla_backend_optimization_level=0"]

# The compiler ends the process on a flag that it does not know.
if jaxlib.__version__.startswith("0.10."):
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
  _FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
  AS_USED["xla_cpu_use_fusion_emitters"] = True
  AS_USED["xla_cpu_parallel_codegen_split_count"] = 32


def hurry():
  """Halves the time to compile; call it before JAX starts a backend."""
  flags = os.environ.get("XLA_FLAGS", "")
  os.environ["XLA_FLAGS"] = " ".join([flags, *_FLAGS]).strip()
