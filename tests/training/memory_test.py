"""Tests of lilly.training.memory."""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly import training
from lilly.training import compilation, memory
from tests.training import toy

GB = 10**9


def write(root, path, text):
  file = root / path
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(text)


def machine(root, available_kb=8_000_000):
  """A file tree of a machine with so much free memory."""
  write(
    root,
    "proc/meminfo",
    f"MemTotal: 9000000 kB\nMemAvailable: {available_kb} kB\nHugePages_Free: 0",
  )


def test_free_memory_is_the_bound_without_another(tmp_path):
  machine(tmp_path)
  assert memory.room(root=tmp_path) == (8_192_000_000, "free memory")


def test_nothing_is_known_of_a_machine_without_proc(tmp_path):
  assert math.isinf(memory.room(root=tmp_path).nbytes)


def group(root, folder, limit, usage, stat=""):
  """A control group of version 2."""
  write(root, f"{folder}/memory.max", f"{limit}\n")
  write(root, f"{folder}/memory.current", f"{usage}\n")
  write(root, f"{folder}/memory.stat", stat)


def test_every_control_group_above_counts(tmp_path):
  machine(tmp_path)
  write(tmp_path, "proc/self/cgroup", "0::/job.slice/step/task\n")
  mount = "sys/fs/cgroup"
  group(tmp_path, f"{mount}/job.slice/step/task", "max", 5)
  group(tmp_path, f"{mount}/job.slice/step", 4 * GB, 3 * GB)
  group(tmp_path, f"{mount}/job.slice", 9 * GB, 3 * GB)
  expected = (GB, "memory of the control group")
  assert memory.room(root=tmp_path) == expected
  # What the kernel can take back is not in use.
  stat = f"anon 2000000000\ninactive_file {GB}\nactive_file 5\nfile {GB}\n"
  group(tmp_path, f"{mount}/job.slice/step", 4 * GB, 3 * GB, stat)
  assert memory.room(root=tmp_path).nbytes == 2 * GB + 5


def test_a_container_sees_its_group_at_the_mount(tmp_path):
  machine(tmp_path)
  write(tmp_path, "proc/self/cgroup", "0::/../../docker/abc\n")
  group(tmp_path, "sys/fs/cgroup", 2 * GB, GB // 2)
  assert memory.room(root=tmp_path).nbytes == 1.5 * GB


def test_control_groups_of_version_1_count(tmp_path):
  machine(tmp_path)
  lines = "9:name=systemd:/x\n4:cpu,memory:/jobs/7\n0::/\n"
  write(tmp_path, "proc/self/cgroup", lines)
  folder = "sys/fs/cgroup/memory/jobs/7"
  write(tmp_path, f"{folder}/memory.limit_in_bytes", str(3 * GB))
  write(tmp_path, f"{folder}/memory.usage_in_bytes", str(2 * GB))
  stat = f"inactive_file 3\ntotal_inactive_file {GB}\n"
  write(tmp_path, f"{folder}/memory.stat", stat)
  assert memory.room(root=tmp_path).nbytes == 2 * GB


def test_a_group_beyond_its_limit_has_no_room(tmp_path):
  machine(tmp_path)
  write(tmp_path, "proc/self/cgroup", "0::/\n")
  group(tmp_path, "sys/fs/cgroup", GB, 2 * GB)
  assert memory.room(root=tmp_path).nbytes == 0


class Accelerator:
  """A device that knows its memory."""

  def memory_stats(self):
    return {"bytes_limit": 80 * GB, "bytes_in_use": 30 * GB}

  def __str__(self):
    return "cuda:0"


def test_an_accelerator_knows_its_own():
  assert memory.room(Accelerator()) == (50 * GB, "memory of cuda:0")


def make_experiment(rows, seen=None, width=16):
  """A state of `rows` rows, and an update that multiplies large matrices."""
  seen = [] if seen is None else seen

  def init(key, hyper, data):
    del key, hyper, data
    return {"rows": jnp.zeros((rows, width)), "step": jnp.zeros((), jnp.int32)}

  def update(state, data):
    del data
    x = state["rows"]
    # Two factors that are not known in advance, so that one is kept.
    gram = jnp.sin(x @ x.T)
    y = gram @ jnp.cos(gram) @ x
    jax.debug.callback(lambda: seen.append("updated"))
    return state | {"rows": y}, {"size": jnp.sum(y)}

  def evaluate(key, state, data):
    del key, data
    return {"size": jnp.sum(state["rows"])}

  return training.Experiment(init, update, evaluate)


def options(rows, **values):
  flags = {"rows": rows, "depth": 5, "rate": 0.5, "num_seeds": 1} | values
  return training.Options(
    flags=flags, settings=("rows", "depth", "rate"), **values
  )


def test_a_state_that_does_not_fit_is_refused_by_its_shapes():
  rows = 10**12
  with pytest.raises(training.RunError) as refused:
    training.compiled(make_experiment(rows), options(rows), name="large")
  text = str(refused.value)
  assert text.startswith("large: the state takes 64 TB; only ")
  assert "free memory is left" in text or "is left" in text
  assert text.endswith(f": make --rows={rows} smaller.")
  assert "\n" not in text


def test_runs_multiply_the_state(monkeypatch):
  # 1.6 MB a run
  monkeypatch.setattr(memory, "room", lambda *_: memory.Room(5e6, "memory"))
  rows = 25_000
  training.compiled(make_experiment(rows), options(rows, num_seeds=3))
  with pytest.raises(training.RunError, match=r"takes 6\.4 MB; only 5 MB of"):
    training.compiled(make_experiment(rows), options(rows, num_seeds=4))


def test_a_checkpoint_needs_a_copy(monkeypatch, tmp_path):
  monkeypatch.setattr(memory, "room", lambda *_: memory.Room(3e6, "memory"))
  rows, experiment = 25_000, make_experiment(25_000)
  training.compiled(experiment, options(rows))
  saving = options(rows, out_dir=tmp_path)
  with pytest.raises(training.RunError, match="again while a checkpoint is"):
    training.compiled(experiment, saving)
  training.compiled(experiment, saving._replace(checkpoint_every_s=0.0))


def test_the_data_of_each_device_count(monkeypatch):
  monkeypatch.setattr(memory, "room", lambda *_: memory.Room(3e6, "memory"))
  experiment = make_experiment(2)._replace(data=np.zeros(400_000, np.float32))
  training.compiled(experiment, options(2))
  with pytest.raises(training.RunError):
    training.compiled(experiment, options(2, num_seeds=2))  # on two devices


def test_a_program_that_does_not_fit_is_refused_before_it_runs(monkeypatch):
  rows, seen = 1000, []
  program = training.compiled(make_experiment(rows, seen), options(rows))
  state = program.init()
  needed = []
  room = lambda *_: needed.append(1) or memory.Room(1e6, "memory")
  monkeypatch.setattr(memory, "room", room)
  with pytest.raises(training.RunError) as refused:
    program.step_chunk(state)
  assert needed and not seen
  text = str(refused.value)
  assert "the experiment: update takes " in text and "only 1 MB of mem" in text
  assert text.endswith(f"make --rows={rows} smaller.")
  # A matrix of 4 MB or two are kept beside the state.
  taken = float(text.split("update takes ")[1].split(" MB")[0])
  assert 4 <= taken <= 17
  monkeypatch.undo()
  program.step_chunk(state)  # the state was not donated
  jax.effects_barrier()
  assert seen


def test_a_program_is_compiled_once(monkeypatch):
  training.compiled(make_experiment(2), options(2))  # tries the compiler once
  compilations = []
  compile_it = jax.stages.Lowered.compile

  def count(self, *args, **kwargs):
    compilations.append(1)
    return compile_it(self, *args, **kwargs)

  monkeypatch.setattr(jax.stages.Lowered, "compile", count)
  events = []
  listener = lambda event, duration, **_: events.append(event)
  jax.monitoring.register_event_duration_secs_listener(listener)
  try:
    program = training.compiled(make_experiment(20), options(20))
    state, _ = program.step_chunk(program.init())
    before = len([e for e in events if e.endswith("backend_compile_duration")])
    program.step_chunk(state)
  finally:
    jax.monitoring.clear_event_listeners()
  compiled = [e for e in events if e.endswith("backend_compile_duration")]
  assert len(compilations) == 2  # init and update
  assert len(compiled) == before == 2


@pytest.mark.parametrize("seeds", [2_000_000, 10**9])
def test_runs_are_counted_before_they_are_listed(seeds):
  too_many = training.Options(num_seeds=seeds, sweep=(("rate", (0.1, 0.2)),))
  with pytest.raises(training.RunError, match=f"{2 * seeds} runs; at most"):
    compilation.grid(too_many, {"rate": 0.1})


def test_sizes_are_whole_numbers_of_any_size():
  state = jax.ShapeDtypeStruct((2**31, 2**31, 2**10), jnp.float32)
  mesh = jax.make_mesh((1,), ("runs",), devices=jax.devices()[:1])
  with pytest.raises(training.RunError, match="takes 18,889 EB"):
    memory.check_state("x", {"a": state}, (), mesh, training.Options())


@pytest.mark.parametrize(
  ("flags", "advice"),
  [
    (
      {"rows": 700, "sizes": (40, 9)},
      "make --rows=700 or --sizes=40,9 smaller",
    ),
    ({"rows": 30, "num_seeds": 1400}, "make --num_seeds=1400 smaller"),
    ({"rows": 30, "sizes": (40,)}, "make --sizes=40 smaller"),
    ({"layers": ("700x40",)}, "make --layers=700x40 smaller"),
    ({"rows": 5, "depth": True}, "make --rows=5 smaller"),
    ({}, "the largest array is state.a of shape [700, 40]"),
  ],
)
def test_the_flags_behind_the_largest_arrays_are_named(flags, advice):
  seeds = flags.get("num_seeds", 1)  # half of them on each device
  named = training.Options(flags=flags, settings=tuple(flags), num_seeds=seeds)
  shapes = [(112_000, "state.a", (700, 40)), (120, "state.b", (30,))]
  assert memory._advice(shapes, named) == advice


def test_an_error_for_lack_of_memory_is_a_sentence():
  with pytest.raises(MemoryError) as full:
    np.zeros(10**17, np.uint8)
  text = memory.explain(full.value, options(10**9))
  assert text.startswith("out of memory (88.8 PiB were asked for); ")
  assert text.endswith("is left: make --rows=1000000000 smaller.")
  with pytest.raises(jax.errors.JaxRuntimeError) as full:
    jax.block_until_ready(jnp.zeros(10**15, jnp.uint8))
  assert memory.explain(full.value).startswith("out of memory (")
  kernel = jax.errors.JaxRuntimeError("INTERNAL: YNNPACK operation failed: x")
  assert memory.explain(kernel).startswith("out of memory; ")
  assert memory.explain(ValueError("out of memory")) is None


def start(flags, limit_kb):
  """Runs the toy in a process whose address space is limited."""
  command = [sys.executable, toy.__file__, *flags]
  shell = f'ulimit -v {limit_kb} && exec "$@"'
  return subprocess.run(
    ["bash", "-c", shell, "bash", *command],
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_ulimit_is_one_sentence(tmp_path):
  out_dir = f"--out_dir={tmp_path / 'run'}"
  flags = ("--task=big", "--num_seeds=40000", out_dir)  # of 256 kB each
  done = start(flags, 6_000_000)
  assert done.returncode == 1, done.stderr
  assert done.stderr.count("\n") == 1
  assert done.stderr.startswith("error: adam: the state takes 10.2 GB, and as ")
  assert "address space (ulimit -v) is left" in done.stderr
  assert done.stderr.endswith("make --num_seeds=40000 smaller.\n")


def test_too_little_to_start_is_one_sentence(tmp_path):
  done = start((f"--out_dir={tmp_path / 'run'}",), 1_200_000)
  assert done.returncode == 1, done.stderr
  assert done.stderr.startswith("error: JAX reserves 1.6 GB when it starts; ")
  assert done.stderr.endswith("(ulimit -v) is left: raise the limit.\n")
  assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_what_fits_into_a_ulimit_runs(tmp_path):
  out_dir = tmp_path / "run"
  flags = ("--task=big", "--num_seeds=400", f"--out_dir={out_dir}")
  done = start((*flags, "--preset=smoke"), 6_000_000)
  assert done.returncode == 0, done.stderr
  assert json.loads((out_dir / "summary.json").read_text())["variants"]
