"""Tests of lilly.training's promises, on the toy experiment."""

import collections
import errno
import io
import json
import os
import shutil
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly import training
from lilly.training import checkpoints, surroundings
from tests.training import toy


def rows_of(directory, variant="adam"):
  text = (directory / variant / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def bits(directory, variant="adam"):
  """Everything a run leaves that must not depend on time or interruption."""
  files = ("metrics.jsonl", "params.npz")
  return [(directory / variant / name).read_bytes() for name in files]


def params_of(directory, variant="adam"):
  with np.load(directory / variant / "params.npz") as members:
    return {name: members[name] for name in members}


def summary_of(directory):
  return json.loads((directory / "summary.json").read_text())


def test_same_flags_give_the_same_bytes(run_toy):
  first = run_toy("--num_seeds=3", out_dir="first")
  second = run_toy("--num_seeds=3", out_dir="second")
  assert first[0] == second[0] == 0
  assert bits(first[1]) == bits(second[1])


def test_leaves_the_files_it_promises(run_toy):
  status, directory, _ = run_toy("--num_seeds=2", "--variants=adam,again")
  assert status == 0
  config = json.loads((directory / "config.json").read_text())
  assert config["flags"]["learning_rate"] == 0.1
  assert {"jax", "numpy", "lilly"} <= set(config["versions"])
  assert {"commit", "device", "command", "experiment"} <= set(config)
  summary = summary_of(directory)
  for variant in ("adam", "again"):
    row = summary["variants"][variant]
    assert row["updates"] == 40 and row["runs"] == 2 and row["failed"] == []
    final = row["points"][0]["final"]["eval/error"]
    low, high = final["interval"]
    assert low <= final["iqm"] <= high and final["n"] == 2
    params = params_of(directory, variant)
    assert params["['w']"].shape == (2, 2)
  assert summary["claims"][0]["verdict"] == "holds"
  rows = rows_of(directory)
  assert [r["step"] for r in rows if r["run"] == 1][:3] == [0, 32, 64]
  assert "eval/error" in rows[0] and "train/loss" not in rows[0]


def test_load_reads_a_run_back(run_toy):
  _, directory, _ = run_toy("--num_seeds=2")
  flags, states = training.load(directory)
  assert flags["num_seeds"] == 2
  params = params_of(directory)
  assert np.array_equal(states["adam"][".params['w']"], params["['w']"])
  with pytest.raises(training.RunError, match="holds no readable run"):
    training.load(directory / "adam")


def test_one_seed_of_many_is_that_seed_alone(run_toy):
  """On two devices against one; equal bits under map."""
  for batching in ("vmap", "map"):
    many = run_toy(f"--seed_batching={batching}", "--num_seeds=4", out_dir="m")
    one = run_toy(f"--seed_batching={batching}", "--seed=2", out_dir="o")
    rows = [r for r in rows_of(many[1]) if r["run"] == 2]
    for row, alone in zip(rows, rows_of(one[1]), strict=True):
      for name in set(row) - {"run"}:
        if batching == "map":
          assert row[name] == alone[name]
        else:
          np.testing.assert_allclose(row[name], alone[name], rtol=1e-5)
    for directory in (many[1], one[1]):
      os.rename(directory, directory.with_name(f"{directory.name}-{batching}"))


def test_sweep_of_two_hyper_parameters(run_toy):
  status, directory, _ = run_toy(
    "--sweep=learning_rate=0.01,0.2",
    "--sweep=noise=0,0.5",
    "--num_seeds=2",
  )
  assert status == 0
  points = summary_of(directory)["variants"]["adam"]["points"]
  assert [p["point"] for p in points] == [
    {"learning_rate": rate, "noise": noise}
    for rate in (0.01, 0.2)
    for noise in (0.0, 0.5)
  ]
  error = [p["final"]["eval/error"]["median"] for p in points]
  assert max(error[2:]) < min(error[:2])  # the larger rate has learnt
  assert error[2] != error[3]
  alone = run_toy("--learning_rate=0.2", "--noise=0.5", out_dir="alone")
  swept = [r for r in rows_of(directory) if r["run"] == 6]
  for row, other in zip(swept, rows_of(alone[1]), strict=True):
    np.testing.assert_allclose(
      row.get("eval/error", 0), other.get("eval/error", 0), rtol=1e-5
    )


def test_a_run_that_diverges_fails_and_its_siblings_do_not_notice(run_toy):
  clean = run_toy("--num_seeds=8", out_dir="clean")
  status, directory, err = run_toy("--num_seeds=8", "--poison=3")
  assert clean[0] == 0 and status == 3
  assert "adam, run 3 (seed 3) failed: non-finite from update 10 on" in err
  assert "['b']" in err or "['w']" in err
  assert "Traceback" not in err
  pairs = zip(rows_of(clean[1]), rows_of(directory), strict=True)
  for good, row in pairs:
    if row["run"] != 3:
      assert row == good
  poisoned = [r for r in rows_of(directory) if r["run"] == 3]
  assert poisoned[-1]["train/loss"] is None
  row = summary_of(directory)["variants"]["adam"]
  (failed,) = row["failed"]
  assert (failed["run"], failed["update"], failed["bad_total"]) == (3, 10, 30)
  assert row["points"][0]["final"]["eval/error"]["n"] == 7
  # Nothing of the poison reached the parameters: they stopped at update 10.
  params = params_of(directory)
  assert all(np.isfinite(params[name]).all() for name in params)


def test_few_bad_updates_are_borne(run_toy):
  status, directory, _ = run_toy("--poison=0", "--max_bad_updates=30")
  assert status == 0
  assert summary_of(directory)["variants"]["adam"]["failed"] == []


def test_a_variant_whose_runs_all_failed_stops_early(run_toy):
  status, directory, _ = run_toy("--poison=0", "--num_updates=4000")
  assert status == 3
  assert summary_of(directory)["variants"]["adam"]["updates"] == 24
  before = bits(directory)
  status, _, _ = run_toy()
  assert status == 3 and bits(directory) == before


def test_finished_variants_are_not_run_again(run_toy, monkeypatch):
  _, directory, _ = run_toy()
  before = bits(directory)
  written = (directory / "adam" / "checkpoints" / "40").stat().st_mtime_ns

  def forbidden(*args):
    raise AssertionError("wrote a checkpoint again")

  monkeypatch.setattr(checkpoints.Store, "_write", forbidden)
  status, _, _ = run_toy()
  assert status == 0 and bits(directory) == before
  newest = directory / "adam" / "checkpoints" / "40"
  assert newest.stat().st_mtime_ns == written


def test_num_updates_may_grow(run_toy):
  run_toy("--num_updates=16", "--eval_every=16")
  status, directory, _ = run_toy("--num_updates=48")
  whole = run_toy("--num_updates=48", "--eval_every=16", out_dir="whole")
  assert status == 0 and bits(directory) == bits(whole[1])
  config = json.loads((directory / "config.json").read_text())
  assert config["flags"]["num_updates"] == 48


def test_a_finished_run_keeps_what_trained_it(run_toy, monkeypatch):
  _, directory, _ = run_toy("--num_updates=8")
  first = json.loads((directory / "config.json").read_text())
  here = surroundings.describe() | {"commit": "another"}
  monkeypatch.setattr(surroundings, "describe", lambda: here)
  run_toy()
  again = json.loads((directory / "config.json").read_text())
  assert again["commit"] == first["commit"] and again["resumed_on"] == []
  assert summary_of(directory)["commit"] == first["commit"]
  run_toy("--num_updates=16")
  grown = json.loads((directory / "config.json").read_text())
  assert grown["commit"] == first["commit"]
  assert grown["resumed_on"] == [here]


def test_eval_only_evaluates_the_newest_state(run_toy):
  _, directory, _ = run_toy("--num_seeds=2")
  before = summary_of(directory)
  status, _, _ = run_toy("--eval_only")
  assert status == 0 and summary_of(directory) == before
  evaluation = json.loads((directory / "evaluation.json").read_text())
  found = evaluation["variants"]["adam"]["points"][0]["final"]["eval/error"]
  final = before["variants"]["adam"]["points"][0]["final"]["eval/error"]
  assert found["values"] == final["values"]


def test_eval_only_tells_of_a_run_that_failed(run_toy):
  run_toy("--poison=0")
  assert run_toy("--eval_only")[0] == 3


def test_another_experiment_is_not_resumed_silently(tmp_path):
  """As after an edit of a default, which no flag shows."""
  options = training.Options(num_updates=4, log_every=2, out_dir=tmp_path)
  one = toy.make_experiment(toy.Settings())
  training.run({"a": one}, options)
  other = one._replace(hyper={**one.hyper, "noise": 0.5})
  with pytest.raises(training.RunError, match="hyper was"):
    training.run({"a": other}, options)
  with pytest.raises(training.RunError, match="runs was"):
    training.run({"a": one}, options._replace(seed=1))
  with pytest.raises(training.RunError, match="hyper was"):
    training.run({"a": other}, options._replace(eval_only=True))


def test_a_checkpoint_of_another_variant_is_not_resumed(run_toy):
  """Two learners may have equal settings and states of equal shapes."""
  _, directory, _ = run_toy("--variants=adam,again", "--num_updates=8")
  shutil.rmtree(directory / "adam")
  shutil.copytree(directory / "again", directory / "adam")
  status, _, err = run_toy("--num_updates=16")
  assert status == 1 and "variant was again, is adam" in err
  assert err.count("\n") == 1


def test_a_renamed_checkpoint_does_not_end_a_run(run_toy):
  _, directory, _ = run_toy("--num_updates=8")
  stored = directory / "adam" / "checkpoints"
  (stored / "8").rename(stored / "16")
  status, _, err = run_toy("--num_updates=16")
  assert status == 1 and "was renamed: it is of update 8" in err
  assert err.count("\n") == 1


def test_which_run_is_which_is_written(run_toy):
  flags = ("--sweep=learning_rate=0.1,0.2", "--num_seeds=2", "--seed=5")
  _, directory, _ = run_toy(*flags, "--num_updates=8")
  expected = [
    {"seed": 5, "learning_rate": 0.1},
    {"seed": 6, "learning_rate": 0.1},
    {"seed": 5, "learning_rate": 0.2},
    {"seed": 6, "learning_rate": 0.2},
  ]
  config = json.loads((directory / "config.json").read_text())
  assert config["runs"] == {"adam": expected}
  assert summary_of(directory)["runs"] == {"adam": expected}
  rows = rows_of(directory)
  assert {row["run"] for row in rows} == set(range(len(expected)))
  # Row i is that run alone.
  alone = ("--learning_rate=0.2", "--seed=6", "--num_updates=8")
  other = rows_of(run_toy(*alone, out_dir="alone")[1])
  found = [row for row in rows if row["run"] == 3]
  for row, single in zip(found, other, strict=True):
    assert row | {"run": 0} == pytest.approx(single, rel=1e-5)


def write_figure(out_dir, text="new"):
  (out_dir / "curves.png").write_text(text)


def fail_to_draw(results, out_dir):
  write_figure(out_dir)
  raise KeyError("no such colour")


def finish_toy(directory, draw, **fields):
  options = training.Options(
    num_updates=8, log_every=4, out_dir=directory, **fields
  )
  results = training.run({"a": toy.make_experiment(toy.Settings())}, options)
  out = io.StringIO()
  return training.finish(results, draw=draw, out=out), out.getvalue()


def test_a_figure_that_cannot_be_drawn_is_told(tmp_path, capsys):
  status, out = finish_toy(tmp_path, fail_to_draw)
  assert status == 0 and "eval/error" in out and f"Files: {tmp_path}" in out
  told = summary_of(tmp_path)["not_drawn"]
  assert "a figure could not be drawn: KeyError: 'no such colour'" in told
  assert "driver_test.py, line" in told
  assert f"warning: {told}\n" in capsys.readouterr().err
  # What was drawn before is there, and nothing else is left.
  assert (tmp_path / "curves.png").read_text() == "new"
  assert not list(tmp_path.glob(".*.partial"))
  status, _ = finish_toy(tmp_path, lambda _, out_dir: write_figure(out_dir))
  assert status == 0 and "not_drawn" not in summary_of(tmp_path)


def test_a_figure_does_not_follow_a_link(tmp_path):
  (tmp_path / "precious").write_text("precious")
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "curves.png").symlink_to(tmp_path / "precious")
  status, _ = finish_toy(
    tmp_path / "run", lambda _, out_dir: write_figure(out_dir)
  )
  assert status == 0
  assert (tmp_path / "precious").read_text() == "precious"
  assert (tmp_path / "run" / "curves.png").read_text() == "new"


@pytest.mark.parametrize("weak", [False, True])
def test_everything_is_traced_once(weak):
  """Over three chunks, also where leaves of the state are weakly typed."""
  traced = collections.Counter()
  one = jnp.float32(1.0)

  def init(key, hyper, data):
    del hyper, data
    traced["init"] += 1
    x = 1.0 if weak else one
    return {"key": key, "x": x, "n": jnp.int32(0), "new": one}

  def update(state, data):
    del data
    traced["update"] += 1
    key, key_x = jax.random.split(state["key"])
    x = state["x"] * jax.random.uniform(key_x)
    n = state["n"] + 1
    new = jnp.where(n > 3, 0.5, 2.0)  # weakly typed
    if not weak:
      new = new.astype(jnp.float32)
    return {"key": key, "x": x, "n": n, "new": new}, {"x": x}

  def evaluate(key, state, data):
    del key, data
    traced["evaluate"] += 1
    return {"x": state["x"] * 1.0}

  results = training.run(
    {"a": training.Experiment(init, update, evaluate)},
    training.Options(num_updates=12, log_every=4, eval_every=4, num_seeds=2),
  )
  assert traced == {"init": 1, "update": 1, "evaluate": 1}
  state = results.states["a"]
  assert not state["x"].weak_type and state["x"].dtype == jnp.float32
  key, expected = jax.random.key(0), np.float32(1.0)
  for _ in range(12):
    key, key_x = jax.random.split(key)
    expected *= np.float32(jax.random.uniform(key_x))
  assert state["x"][0] == expected


def test_writing_no_checkpoints_does_not_lose_the_ones_there_are(run_toy):
  run_toy("--num_updates=16", "--eval_every=16")
  status, directory, _ = run_toy("--num_updates=32", "--checkpoint_every_s=0")
  assert status == 0
  assert [p.name for p in (directory / "adam/checkpoints").iterdir()] == ["16"]
  status, _, _ = run_toy("--num_updates=48", "--checkpoint_every_s=600")
  whole = run_toy("--num_updates=48", "--eval_every=16", out_dir="whole")
  assert status == 0 and bits(directory) == bits(whole[1])


def test_the_recorded_command_gives_the_run_again(run_toy):
  _, directory, _ = run_toy("--preset=smoke", "--noise=0.2")
  run_toy("--num_updates=16")
  config = json.loads((directory / "config.json").read_text())
  command = config["command"].split()[2:]
  _, options = training.parse(toy.SCRIPT, ["toy", *command])
  assert "--preset=smoke" in command and options.num_updates == 16
  assert config["hyper"]["adam"]["noise"] == 0.2


def test_metrics_that_were_changed_are_refused(run_toy):
  _, directory, _ = run_toy()
  path = directory / "adam" / "metrics.jsonl"
  path.write_text(path.read_text().replace("1", "2", 1))
  changed = path.read_bytes()
  status, _, err = run_toy("--num_updates=48")
  assert status == 1 and "was changed" in err and err.count("\n") == 1
  assert path.read_bytes() == changed


def test_a_damaged_checkpoint_is_one_sentence(run_toy):
  _, directory, _ = run_toy()
  manifest = directory / "adam" / "checkpoints" / "40" / "manifest.json"
  manifest.write_text("{}")
  status, _, err = run_toy()
  assert status == 1 and "remove it to resume" in err
  assert err.count("\n") == 1 and "Traceback" not in err


def test_rows_after_the_checkpoint_are_cut(run_toy):
  """As after a kill between a row and the next checkpoint."""
  _, directory, _ = run_toy("--num_updates=16", "--eval_every=16")
  with open(directory / "adam" / "metrics.jsonl", "a") as file:
    file.write('{"step": 160, "run": 0, "train/l')
  status, _, _ = run_toy("--num_updates=32")
  whole = run_toy("--num_updates=32", "--eval_every=16", out_dir="whole")
  assert status == 0 and bits(directory) == bits(whole[1])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_is_one_sentence(run_toy, monkeypatch, code):
  def fail(*args):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(checkpoints, "_write_manifest", fail)
  status, directory, err = run_toy()
  assert status == 1 and os.strerror(code) in err
  assert err.strip().count("\n") == err.count("adam  ")  # progress apart
  assert "Traceback" not in err
  assert not list((directory / "adam" / "checkpoints").iterdir())
  monkeypatch.undo()
  assert run_toy()[0] == 0


def test_a_directory_that_cannot_be_made_is_one_sentence(run_toy, tmp_path):
  (tmp_path / "file").write_text("")
  status, _, err = run_toy(out_dir="file/run")
  assert status == 1 and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_one_sentence(run_toy, tmp_path):
  (tmp_path / "locked").mkdir()
  (tmp_path / "locked").chmod(stat.S_IRUSR | stat.S_IXUSR)
  status, _, err = run_toy(out_dir="locked/run")
  assert status == 1 and "Permission denied" in err and err.count("\n") == 1


def test_a_failed_claim_is_reported_and_checked_on_demand(run_toy):
  slow = ("--learning_rate=0", "--num_seeds=2")
  status, directory, _ = run_toy(*slow)
  assert status == 0
  assert summary_of(directory)["claims"][0]["verdict"] == "fails"
  assert run_toy("--check_claims", *slow)[0] == 4


def test_claims_need_their_preset_and_seeds(run_toy):
  _, directory, _ = run_toy("--num_seeds=1")
  (row,) = summary_of(directory)["claims"]
  assert row["verdict"] == "not applicable" and "2 seeds" in row["reason"]
  _, directory, _ = run_toy("--preset=smoke", "--num_seeds=2", out_dir="smoke")
  (row,) = summary_of(directory)["claims"]
  assert row["verdict"] == "not applicable" and "preset=cpu" in row["reason"]


def test_variant_names_must_be_file_names():
  with pytest.raises(ValueError, match="'a/b' cannot be a file's name"):
    training.run({"a/b": None}, training.Options())


def test_runs_in_memory_without_a_directory():
  options = training.Options(num_updates=4, log_every=2, num_seeds=2)
  one = toy.make_experiment(toy.Settings())
  results = training.run({"adam": one}, options)
  steps, values = results.metrics["adam"]["train/loss"]
  assert steps.tolist() == [16, 32] and values.shape == (2, 2)
  assert results.states["adam"].step.tolist() == [4, 4]
