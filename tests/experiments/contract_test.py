"""What holds for every experiment script that there is."""

import collections
import functools
import importlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from lilly import training
from lilly.training import (
  compilation,
  messages,
  reproduction,
  script,
  settings,
)

ROOT = pathlib.Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("[a-z]*.py"))
EVERY = pytest.mark.parametrize("name", NAMES)


SMOKE = ("--preset=smoke", "--num_seeds=2")


def load(name):
  return importlib.import_module(f"experiments.{name}").SCRIPT


def rows(one):
  """Resolved rows of every preset, with each setting it has conditions on."""
  known, found = script.parsers(one), {}
  for preset, overrides in one.presets.items():
    found[preset] = script.resolve(one, preset, {})
    for key in overrides:
      name, equals, value = key.partition("=")
      if equals:
        given = {name: known[name].parse(value)}
        found[f"{preset} {key}"] = script.resolve(one, preset, given)
  return found


@EVERY
def test_settings_are_typed_documented_and_have_allowed_defaults(name):
  one = load(name)
  texts = settings.help_of(one.settings)
  for field, parser in settings.parsers(one.settings).items():
    default = one.settings._field_defaults[field]
    assert parser.parse(default) == default, field
    text = texts[field]
    assert text.endswith(".") and len(text.split()) > 1, (field, text)
    assert not re.match(r"(Of|In|What|How|Whether|To|By)\b", text), text


@EVERY
def test_presets_resolve_and_are_recorded_as_they_are(name):
  one = load(name)
  assert {"smoke", "cpu", "gpu", "paper"} == set(one.presets)
  assert next(iter(one.presets)) == "cpu"
  known = script.parsers(one)
  for label, row in rows(one).items():
    recorded = json.loads(json.dumps(row))
    read = {k: known[k].parse(value) for k, value in recorded.items()}
    assert read == row, label
    shown = script.describe(one, row)
    options = training.Options(
      **{k: row[k] for k in ("num_updates", "log_every", "eval_every")}
    )
    training.experiment.check_cadence(options)
    assert set(shown) == set(row)


@EVERY
def test_resolved_settings_equal_the_committed_table(name):
  """Of every preset, the published one first: an edit shows here, too."""
  one = load(name)
  path = pathlib.Path(__file__).parent / "resolved" / f"{name}.json"
  committed = json.loads(path.read_text(encoding="utf-8"))
  found = {label: script.describe(one, row) for label, row in rows(one).items()}
  of_a_run = (*one.settings._fields, *script.COMMON_OF_A_RUN)
  found = {
    label: {k: row[k] for k in sorted(of_a_run)} for label, row in found.items()
  }
  assert found == committed


@EVERY
def test_every_claim_is_judged_by_its_reproductions_command(name):
  one = load(name)
  assert one.reproductions
  seen = []
  for label, each in one.reproductions.items():
    names = [claim.name for claim in each.claims]
    assert len(set(names)) == len(names), label
    given = reproduction.parse_command(one, each.command)
    for preset in each.presets:
      row = script.resolve(one, preset, given)
      assert row["num_seeds"] >= each.min_seeds or not each.claims, label
      for statement in reproduction.state(one, row):
        if statement.name.startswith(f"{label}/"):
          assert statement.reason is None, (label, preset)
    seen += [f"{label}/{name}" for name in names]
    for claim in each.claims:
      assert claim.relation in ("<", "<=", ">", ">=")
      assert claim.statistic in training.statistics.STATISTICS
  assert len(set(seen)) == len(seen)


@EVERY
def test_calibrations_are_of_reproductions_that_there_are(name):
  one = load(name)
  for label, presets in reproduction.calibrations(one).items():
    each = one.reproductions[label]
    assert set(presets) <= set(each.presets), label
    for entry in presets.values():
      assert set(entry) == {"seeds", "date", "row"}
      assert entry["seeds"] >= each.min_seeds
      assert re.fullmatch(r"20\d\d-\d\d-\d\d", entry["date"])


@EVERY
def test_it_has_a_page_a_row_a_test_a_benchmark_and_an_example(name):
  page = ROOT / "docs" / "papers" / f"{name}.md"
  text = page.read_text(encoding="utf-8")
  readme = (ROOT / "README.md").read_text(encoding="utf-8")
  assert f"](docs/papers/{name}.md)" in readme
  assert (ROOT / "tests" / "experiments" / f"{name}_test.py").exists()
  for pattern in (r"scripts/bench (\w+)", r"`examples/(\w+)\.py`"):
    assert re.search(pattern, text), pattern
  for benchmark in re.findall(r"scripts/bench (\w+)", text):
    assert (ROOT / "scripts" / "benchmarks" / f"{benchmark}.py").exists()
  for example in re.findall(r"`examples/(\w+)\.py`", text):
    assert (ROOT / "examples" / f"{example}.py").exists()


def test_help_waits_for_no_library():
  """`--help` answers in seconds, for importing a script imports no JAX."""
  heavy = ("jax", "optax", "haiku", "matplotlib", "brax")
  program = f"""
import importlib, sys
for name in {NAMES!r}:
  importlib.import_module("experiments." + name).SCRIPT
  found = [module for module in {heavy!r} if module in sys.modules]
  assert not found, (name, found)
"""
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def a_field(one, kind):
  """The first setting whose annotation gives such a parser, or None."""
  for field, parser in settings.parsers(one.settings).items():
    if isinstance(parser, kind):
      return field
  return None


@EVERY
def test_bad_flags_are_one_sentence_each(name):
  one = load(name)
  bad = [
    "--no_such_flag=1",
    "--num_seeds=0",
    "--num_seeds=1.5",
    "--seed=-1",
    "--preset=huge",
    "--log_every=0",
    "--log_every=7919",
    "--sweep=learning_rate",
    "--resume=must",
    "--data_dir=/no/such/folder",
    "extra",
  ]
  field = a_field(one, settings._Number)
  bad += [f"--{field}={value}" for value in ("nan", "inf", "", "a", "1e400")]
  field = a_field(one, settings._List)
  bad += [f"--{field}=,", f"--{field}=a b,a b"]
  field = a_field(one, settings._Choice)
  if field is not None:
    bad += [f"--{field}=nothing"]
  for flag in bad:
    with pytest.raises((flags.Error, training.RunError)) as error:
      training.parse(one, [name, flag])
    sentence = str(error.value)
    assert sentence.strip() and "\n" not in sentence, (flag, sentence)


# What users type for any flag; None: no value.
VALUES = (
  *("nan", "inf", "-inf", "-1", "0", "9223372036854775808", "1e400", "1e39"),
  *("", " ", "a", "1,,2", ",", None, "/etc/passwd", "gs://bucket/x", "~nobody"),
  *("ünïcödé", "²", "\x07\x1b[2J", "a\nb", "\udcff", "a" * 100_000, "1" * 5000),
)


@EVERY
def test_any_value_of_any_flag_is_read_or_refused_in_a_sentence(name):
  one = load(name)
  for field in ("preset", *script.parsers(one)):
    for value in VALUES:
      flag = f"--{field}" if value is None else f"--{field}={value}"
      given = [flag] * (2 if value == "0" else 1)
      try:
        training.parse(one, [name, "--preset=smoke", *given])
      except (flags.Error, training.RunError) as error:
        sentence = messages.as_sentence(error)
        assert sentence.isprintable() and 10 < len(sentence) < 1000, flag[:90]


@EVERY
def test_numbers_are_finite_in_float32(name):
  one = load(name)
  for field, parser in script.parsers(one).items():
    for value in ("nan", "inf", "-inf", "1e400", "1e39", "-1e39"):
      if settings.is_float(parser):
        with pytest.raises(flags.Error, match=field):
          training.parse(one, [name, f"--{field}={value}"])


@pytest.fixture(name="record")
def _record(tmp_path):
  """Writes the config.json of a run: its flags, with some replaced."""

  def write(name, *given, **changed):
    _, options = training.parse(load(name), [name, "--preset=smoke", *given])
    path = tmp_path / "run" / "config.json"
    path.parent.mkdir(exist_ok=True)
    flags_of = dict(options.flags) | {"out_dir": None} | changed
    path.write_text(json.dumps({"experiment": name, "flags": flags_of}))
    return path

  return write


@EVERY
def test_a_recorded_value_is_held_to_what_may_be_typed(name, record):
  one = load(name)
  wrong = (None, "two", 2.5, -1, 10**400, float("nan"), [], [1], {}, [[]], True)
  of_a_run = {*one.settings._fields, *script.COMMON_OF_A_RUN, "data_dir"}
  num_refused = 0
  for field in ("preset", *sorted(of_a_run)):
    for value in wrong:
      path = record(name, **{field: value})
      try:
        own, options = training.parse(one, [name, f"--out_dir={path.parent}"])
      except training.RunError as error:
        num_refused += 1
        assert str(path) in str(error) and f"--{field}" in str(error), error
      else:
        found = options.flags[field]
        if field in one.settings._fields:
          assert found == getattr(own, field)
        assert script.parsers(one)[field].parse(value) == found
  assert num_refused > 5 * len(of_a_run)


@EVERY
def test_data_may_have_moved_when_a_run_is_resumed(name, record, tmp_path):
  for folder in ("old", "new"):
    (tmp_path / folder).mkdir()
  path = record(name, f"--data_dir={tmp_path}/old")
  one, resumed = load(name), [name, f"--out_dir={path.parent}"]
  _, options = training.parse(one, resumed)
  assert options.data_dir == f"{tmp_path}/old"
  (tmp_path / "old").rmdir()
  for flag in ("--resume=auto", "--eval_only"):
    with pytest.raises(training.RunError, match="give --data_dir"):
      training.parse(one, [*resumed, flag])
    given = [*resumed, flag, f"--data_dir={tmp_path}/new/"]
    _, options = training.parse(one, given)
    assert options.data_dir == options.flags["data_dir"] == f"{tmp_path}/new/"


@EVERY
def test_paths_are_of_this_machine_and_a_tilde_is_the_home(
  name, tmp_path, monkeypatch
):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "data").mkdir()
  one, found = load(name), []
  for field in script.parsers(one):
    if re.search(r"_(dir|path|file|folder)$", field):
      found.append(field)
      _, options = training.parse(one, [name, f"--{field}=~/data"])
      assert options.flags[field] == f"{tmp_path}/data"
      assert str(getattr(options, field)) == f"{tmp_path}/data"
      for scheme in ("gs", "s3", "hdfs", "http", "file", "GS", "a+b"):
        with pytest.raises(flags.Error, match="is an address"):
          training.parse(one, [name, f"--{field}={scheme}://bucket/x"])
  assert found == ["out_dir", "data_dir"]


@functools.cache
def smoke_experiments(name):
  own, options = training.parse(load(name), [name, *SMOKE])
  return load(name).make_experiments(own, options), options


@EVERY
def test_only_float_hyper_parameters_can_be_swept(name):
  one = load(name)
  experiments, _ = smoke_experiments(name)
  known = settings.parsers(one.settings)
  for variant, each in experiments.items():
    hyper = getattr(each, "hyper", {})
    assert all(settings.is_float(known[field]) for field in hyper), variant
    for field in script.parsers(one):
      if field in hyper:
        continue
      try:
        _, options = training.parse(one, [name, f"--sweep={field}=0.5,1"])
      except training.RunError as error:  # a float's range
        assert f"--sweep gives {field}=" in str(error)
      else:
        with pytest.raises(training.RunError, match=f"names {field}, which is"):
          compilation.grid(options, hyper)


@EVERY
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
def test_help_is_shown_on_any_terminal(name, encoding, monkeypatch):
  shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
  monkeypatch.setattr(sys, "stdout", shown)
  with pytest.raises(SystemExit) as stopped:
    training.main(load(name), [name, "--help"])
  assert stopped.value.code == 0 and shown.errors == "strict"
  text = shown.buffer.getvalue().decode(encoding)
  for field in script.parsers(load(name)):
    assert f"--{field} " in text


@EVERY
def test_the_smoke_program_gives_the_same_bits_twice(name):
  """Compiled once: the first variant's init, chunk and evaluation.

  The second chunk and the second evaluation start from what a chunk returned,
  and trace nothing.
  """
  experiments, options = smoke_experiments(name)
  first = next(iter(experiments.values()))
  if isinstance(first, training.Program):
    pytest.skip("the host drives it; no equal bits are promised")
  traced = collections.Counter()

  def counted(function):
    def count(*args):
      traced[function] += 1
      return function(*args)

    return count

  program = training.compiled(
    first._replace(
      update=counted(first.update), evaluate=counted(first.evaluate)
    ),
    options,
  )

  def run():
    state, metrics = program.step_chunk(program.init())
    found = metrics, program.evaluate(state), state
    return state, [_bits(x) for x in jax.tree.leaves(found)]

  _, before = run()
  once = traced.copy()
  state, after = run()
  assert before == after and len(before) > 3
  for _ in range(2):
    state, _ = program.step_chunk(state)
    program.evaluate(state)
  assert traced == once


@pytest.mark.slow
@EVERY
def test_it_can_be_debugged_without_compilation(name):
  experiments, options = smoke_experiments(name)
  first = next(iter(experiments.values()))
  if isinstance(first, training.Program):
    pytest.skip("the host drives it")
  seen, update = [], first.update

  def look(state, data):
    seen.extend(np.sum(np.asarray(x)) for x in jax.tree.leaves(data))
    return update(state, data)

  with jax.disable_jit():
    program = training.compiled(first._replace(update=look), options)
    state, metrics = program.step_chunk(program.init())
    found = metrics | program.evaluate(state)
  for key, value in found.items():
    assert value.shape == (options.num_seeds,), key


@EVERY
def test_leaves_keep_dtype_and_weak_type(name):
  """A weakly typed leaf of init would compile chunk and evaluation twice."""
  experiments, _ = smoke_experiments(name)
  for variant, each in experiments.items():
    if isinstance(each, training.Program):
      continue
    hyper = {k: np.float32(v) for k, v in each.hyper.items()}
    data = jax.tree.map(jnp.asarray, each.data)
    before = jax.eval_shape(each.init, jax.random.key(0), hyper, data)
    after, _ = jax.eval_shape(each.update, before, data)
    for (path, x), y in zip(
      jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
      found = (x.shape, x.dtype, x.weak_type), (y.shape, y.dtype, y.weak_type)
      assert found[0] == found[1], (variant, jax.tree_util.keystr(path), found)


def _bits(leaf):
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return np.asarray(leaf).tobytes()
