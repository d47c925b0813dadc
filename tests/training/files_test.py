"""Faults of the file system, at every place where a run writes."""

import errno
import fcntl
import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from lilly import training
from lilly.training import files, metrics

FILES = (
  ".lock",
  "config.json",
  "summary.json",
  "adam/metrics.jsonl",
  "adam/params.npz",
)
FOLDERS = ("adam", "adam/checkpoints")
STORED = ("adam/checkpoints/8/manifest.json", "adam/checkpoints/8/arrays.npz")
WHEN_GONE = {
  "config.json": "holds files that are not a run",
  "adam/metrics.jsonl": "lacks rows",
}


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def assert_one_sentence(err, *mentions):
  assert err.startswith("error: ") and err.count("\n") == 1, err
  assert all(mention in err for mention in mentions), err


@pytest.mark.parametrize("place", [*FILES, *FOLDERS, *STORED])
def test_a_link_is_refused_and_where_it_leads_to_is_left_alone(
  run_toy, tmp_path, place
):
  _, directory, _ = run_toy("--num_updates=8")
  (tmp_path / "elsewhere").mkdir()
  shutil.move(directory / place, tmp_path / "elsewhere" / "target")
  (directory / place).symlink_to(tmp_path / "elsewhere" / "target")
  before = contents(tmp_path / "elsewhere")
  status, _, err = run_toy("--num_updates=16")
  assert status == 1 and contents(tmp_path / "elsewhere") == before
  # Of a checkpoint's files the folder is named.
  named = pathlib.Path(place).parent if place in STORED else place
  assert_one_sentence(err, str(directory / named), "remove it")


def test_a_link_to_a_file_that_does_not_exist_makes_none(run_toy, tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / ".lock").symlink_to(tmp_path / "target")
  status, _, err = run_toy("--num_updates=8")
  assert status == 1 and not (tmp_path / "target").exists()
  assert_one_sentence(err, ".lock is a link")


@pytest.mark.parametrize("place", [*FILES[2:], ".lock", *FOLDERS])
def test_something_else_in_a_place_is_one_sentence(run_toy, place):
  _, directory, _ = run_toy("--num_updates=8")
  path = directory / place
  if place in FOLDERS:
    shutil.rmtree(path)
    path.write_text("a file")
  else:
    path.unlink()
    path.mkdir()
  status, _, err = run_toy("--num_updates=16")
  assert status == 1
  assert_one_sentence(err, str(path))


def test_a_named_pipe_does_not_hold_a_run(run_toy, tmp_path):
  (tmp_path / "run").mkdir()
  os.mkfifo(tmp_path / "run" / ".lock")
  status, _, err = run_toy("--num_updates=8")
  assert status == 1
  assert_one_sentence(err, ".lock is not a plain file")


@pytest.mark.parametrize("place", [".lock", "adam/metrics.jsonl", *STORED])
def test_a_file_that_cannot_be_opened_is_one_sentence(
  run_toy, monkeypatch, place
):
  _, directory, _ = run_toy("--num_updates=8")
  for module, name in ((os, "open"), (files, "open"), (pathlib.io, "open")):
    deny(monkeypatch, module, name, directory / place)
  deny(monkeypatch, __import__("builtins"), "open", directory / place)
  status, _, err = run_toy("--num_updates=16")
  assert status == 1
  named = pathlib.Path(place).parent if place in STORED else place
  assert_one_sentence(err, str(directory / named), "Permission denied")


def deny(monkeypatch, module, name, denied):
  function = getattr(module, name, open)

  def denying(path, *args, **kwargs):
    if not isinstance(path, int) and os.fspath(path) == str(denied):
      raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return function(path, *args, **kwargs)

  monkeypatch.setattr(module, name, denying, raising=False)


@pytest.mark.parametrize("place", [*FILES, *FOLDERS])
def test_a_resumed_run_notices_what_is_gone_or_makes_it_again(run_toy, place):
  _, directory, _ = run_toy("--num_updates=8", "--eval_every=8")
  path = directory / place
  if place in FOLDERS:
    shutil.rmtree(path)
  else:
    path.unlink()
  status, _, err = run_toy("--num_updates=16")
  if place in WHEN_GONE:
    assert status == 1
    assert_one_sentence(err, WHEN_GONE[place])
  else:
    assert status == 0, err
    whole = run_toy("--num_updates=16", "--eval_every=8", out_dir="whole")[1]
    for name in ("metrics.jsonl", "params.npz"):
      found = (directory / "adam" / name).read_bytes()
      assert found == (whole / "adam" / name).read_bytes()


def make_program(during=lambda update: None):
  """A simulator on the host that does something before a chunk."""

  def step_chunk(state):
    during(int(state["w"][0]))
    return {"w": state["w"] + 4}, {"loss": 1.0 / (1.0 + state["w"])}

  return training.Program(
    step_chunk=step_chunk,
    init=lambda: {"w": np.zeros(1)},
    evaluate=lambda state: {"w": state["w"].copy()},
    runs=({"seed": 0},),
  )


def run_program(directory, during=lambda update: None, **fields):
  fields = {"num_updates": 16, "checkpoint_every_s": 1e-9} | fields
  options = training.Options(out_dir=directory, log_every=4, **fields)
  return training.run({"a": make_program(during)}, options)


def move(directory):
  directory.rename(directory.with_name("moved"))


def replace(directory):
  path = directory / "a" / "metrics.jsonl"
  content = path.read_bytes()
  path.unlink()
  path.write_bytes(content)


@pytest.mark.parametrize(
  ("fault", "is_gone"),
  [
    (move, True),
    (shutil.rmtree, True),
    (lambda directory: shutil.rmtree(directory / "a"), False),
    (lambda directory: (directory / "a" / "metrics.jsonl").unlink(), False),
    (replace, False),
  ],
)
def test_a_run_whose_files_go_away_ends(tmp_path, fault, is_gone):
  directory = tmp_path / "run"
  during = lambda update: fault(directory) if update == 8 else None
  # A save in another thread would hinder what removes.
  often = 1e-9 if fault is move else 600.0
  with pytest.raises(training.RunError, match="was moved, removed or repl"):
    run_program(directory, during, checkpoint_every_s=often)
  assert directory.exists() != is_gone
  if fault is move:  # a whole run, which goes on where it stopped
    run_program(tmp_path / "moved")
    run_program(tmp_path / "whole")
    name = "a/metrics.jsonl"
    found = (tmp_path / "moved" / name).read_bytes()
    assert found == (tmp_path / "whole" / name).read_bytes()


def test_a_removed_config_is_written_again(tmp_path):
  config = tmp_path / "run" / "config.json"
  run_program(config.parent, lambda at: config.unlink() if at == 8 else None)
  assert json.loads(config.read_text())["runs"] == {"a": [{"seed": 0}]}


def test_results_are_not_written_into_a_second_folder(tmp_path):
  results = run_program(tmp_path / "run")
  move(tmp_path / "run")
  with pytest.raises(training.RunError, match=r"summary\.json: No such file"):
    training.finish(results)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "record",
  [
    "[]",
    "{",
    "[" * 100_000,
    '{"flags": 3}',
    '{"resumed_on": 3}',
    '{"command": null}',
    "\udcff",
  ],
)
def test_a_damaged_config_is_one_sentence(tmp_path, record):
  run_program(tmp_path / "run")
  config = tmp_path / "run" / "config.json"
  config.write_bytes(record.encode("utf-8", "surrogateescape"))
  with pytest.raises(training.RunError, match=r"config\.json is damaged"):
    run_program(tmp_path / "run", num_updates=24)
  config.unlink()
  config.mkdir()
  with pytest.raises(training.RunError, match=r"config\.json is not a plain"):
    run_program(tmp_path / "run", num_updates=24)


@pytest.mark.parametrize("name", [".", "..", ".hidden", "a/b", ""])
def test_a_variant_is_the_name_of_a_visible_folder(name):
  with pytest.raises(ValueError, match="cannot be a file's name"):
    training.run({name: make_program()}, training.Options())


def test_a_name_that_is_too_long_is_an_error_of_the_system(run_toy):
  with pytest.raises(OSError, match="File name too long"):
    run_program(pathlib.Path("x" * 300))


@pytest.mark.parametrize(
  "code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL]
)
def test_without_locks_a_run_goes_on_after_a_warning(
  tmp_path, monkeypatch, capsys, code
):
  fail_with(monkeypatch, fcntl, "flock", code)
  run_program(tmp_path / "run")
  err = capsys.readouterr().err
  assert err.count("warning: the file system of --out_dir=") == 1
  assert (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
  ("code", "message"),
  [
    (errno.EWOULDBLOCK, "another process is running in --out_dir="),
    (errno.EACCES, "another process is running in --out_dir="),
    (errno.EIO, r"\.lock cannot be locked: Input/output error"),
  ],
)
def test_other_errors_of_a_lock_are_told_as_what_they_are(
  tmp_path, monkeypatch, code, message
):
  fail_with(monkeypatch, fcntl, "flock", code)
  with pytest.raises(training.RunError, match=message):
    run_program(tmp_path / "run")


@pytest.mark.parametrize(
  ("code", "is_borne"),
  [
    (errno.EINVAL, True),
    (errno.ENOSYS, True),
    (errno.EOPNOTSUPP, True),
    (errno.EIO, False),
    (errno.ENOSPC, False),
  ],
)
def test_what_only_makes_files_durable_may_be_missing(
  tmp_path, monkeypatch, code, is_borne
):
  fail_with(monkeypatch, os, "fsync", code)
  if is_borne:
    run_program(tmp_path / "run")
    assert (tmp_path / "run/a/checkpoints/16").is_dir()
  else:
    with pytest.raises(training.RunError, match=os.strerror(code)):
      run_program(tmp_path / "run")


def fail_with(monkeypatch, module, name, code):
  def fail(*args):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_message_about_a_file_names_it(tmp_path, monkeypatch, code):
  fail_with(monkeypatch, files.os, "replace", code)
  with pytest.raises(training.RunError) as error:
    files.write_json(tmp_path / "a.json", {})
  expected = f"could not write {tmp_path / 'a.json'}: {os.strerror(code)}."
  assert str(error.value) == expected
  assert list(tmp_path.iterdir()) == []
  monkeypatch.undo()
  fail_with(monkeypatch, metrics, "_write_all", code)
  with pytest.raises(training.RunError, match=r"write .*metrics\.jsonl: "):
    run_program(tmp_path / "run")


def test_what_a_kill_left_is_removed_and_nothing_else(run_toy, tmp_path):
  directory = tmp_path / "run"
  (directory / "adam").mkdir(parents=True)
  (tmp_path / "target").write_text("precious")
  file = files.partial_path(directory / "config.json")
  file.write_text("{")
  below = files.partial_path(directory / "adam" / "params.npz")
  below.symlink_to(tmp_path / "target")
  folder = files.partial_path(directory / "figures")
  (folder / "sub").mkdir(parents=True)
  (directory / ".notes").write_text("mine")
  (directory / "adam" / ".params.npz.partial").symlink_to(tmp_path / "target")
  run_program(directory)
  left = {path.name for path in directory.rglob(".*")}
  assert left == {".lock", ".notes", ".params.npz.partial"}
  assert (tmp_path / "target").read_text() == "precious"


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  files.write_json(path, {"old": 1})
  fail_with(monkeypatch, files.os, "fsync", errno.EIO)
  with pytest.raises(training.RunError):
    files.write_json(path, {"new": 1})
  assert json.loads(path.read_text()) == {"old": 1}
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
  monkeypatch.undo()
  files.write_json(path, {"new": float("nan"), "list": (1, -np.inf, "x")})
  assert json.loads(path.read_text()) == {"new": None, "list": [1, None, "x"]}
  (tmp_path / "link.json").symlink_to(path)
  with pytest.raises(training.RunError, match=r"link\.json is a link"):
    files.write_json(tmp_path / "link.json", {})
  assert (tmp_path / "link.json").is_symlink()


def parse_strictly(text):
  def refuse(constant):
    raise ValueError(f"{constant} is not JSON")

  return json.loads(text, parse_constant=refuse)


def test_no_json_holds_a_number_that_json_does_not_have(tmp_path):
  """Every value that is not finite: settings, metrics, summaries, identity."""
  nan = np.full(1, np.nan)
  program = make_program()._replace(
    step_chunk=lambda state: ({"w": state["w"] + 4}, {"loss": nan}),
    evaluate=lambda state: {"w": np.full(1, -np.inf)},
    runs=({"seed": 0, "noise": np.inf},),
  )
  for num_updates in (8, 16):  # resumed
    options = training.Options(
      out_dir=tmp_path,
      log_every=4,
      num_updates=num_updates,
      flags={"noise": float("inf"), "num_updates": num_updates},
      settings=("noise",),
    )
    results = training.run({"a": program}, options)
    assert training.finish(results) == 0
  results = training.run({"a": program}, options._replace(eval_only=True))
  assert training.finish(results) == 0
  read = []
  for path in sorted(tmp_path.rglob("*.json*")):
    lines = path.read_text().splitlines()
    if path.name == "manifest.json":
      lines = ["".join(lines[1:])]
    elif path.suffix == ".json":
      lines = ["".join(lines)]
    read += [(path.name, parse_strictly(line)) for line in lines]
  names = {"config.json", "summary.json", "evaluation.json", "manifest.json"}
  assert {name for name, _ in read} == names | {"metrics.jsonl"}
  assert results.metrics["a"]["eval/w"][1].tolist() == [[-np.inf]]
