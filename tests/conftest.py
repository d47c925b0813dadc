"""Settings of every test session: strict JAX, two virtual devices."""

import gc
import itertools
import os
import signal

import chex

from tests import haste

# Before JAX starts a backend: otherwise the multi-device tests find one device.
chex.set_n_cpu_devices(2)
haste.hurry()

import importlib  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

from tests.whole import each  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

# What nohup or a shell's background ignores, the processes of a test would
# ignore as well. A function that does nothing is not inherited.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
  if signal.getsignal(number) is signal.SIG_IGN:
    signal.signal(number, lambda *_: None)

# What JAX keeps grows with each test, and to look through it for cycles took a
# quarter of the time.
gc.set_threshold(200_000, 50, 1000)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
  """Compiles what all processes of a session have in common once."""
  base = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    base = base.parent
  settings = {
    "jax_compilation_cache_dir": str(base / "compiled"),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  for name, value in settings.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
  """Drops a file's programs at its end: a worker would keep gigabytes."""
  yield
  jax.clear_caches()


_finished = itertools.count(1)


@pytest.fixture
def few_programs():
  """Drops what is compiled now and then, for a file that fills a worker."""
  yield
  if next(_finished) % 100 == 0:
    jax.clear_caches()


# Modules whose examples took minutes operation by operation, and functions of
# theirs that are not of arrays alone.
_COMPILED_EXAMPLES = {
  "lilly.control.linear_models": (),
  "lilly.control.lqr": (),
  "lilly.memory.dense_access": (),
  "lilly.memory.learned_filters": (),
  "lilly.memory.nearest_neighbors": (),
  "lilly.memory.sparse_access": (),
  "lilly.memory.sparse_neural_computer": (),
  "lilly.memory.temporal_links": (),
  "lilly.tasks.algorithmic": ("task",),
  "lilly.tasks.membership": ("make_sorted_keys", "task"),
}


@pytest.fixture(autouse=True)
def examples(request, doctest_namespace):
  """Compiles the functions of a module's examples, each as one program."""
  doctest_namespace.clear()
  test = getattr(request.node, "dtest", None)
  name = test.globs["__name__"] if test else None
  if name in _COMPILED_EXAMPLES:
    module = importlib.import_module(name)
    compiled = each(module, but=_COMPILED_EXAMPLES[name])
    doctest_namespace.update(
      {name: getattr(compiled, name) for name in module.__all__}
    )


@pytest.fixture
def float64():
  """Takes numbers in double precision."""
  with jax.enable_x64(True):
    yield
