"""Tests of lilly.training.metrics."""

import json

import numpy as np
import pytest

from lilly import training
from lilly.training import metrics


def write(path, steps, mark=None, offset=0.0):
  """Writes two runs' rows and returns the file's mark."""
  log = metrics.MetricsFile(path)
  log.open(mark)
  for step in steps:
    loss = np.array([step, step + 0.1], np.float32) + offset
    log.write(step, {"train/loss": loss})
  found = log.mark()
  log.close()
  return found, log.rows


def test_rows_are_json_lines_with_step_and_run(tmp_path):
  write(tmp_path / "new" / "metrics.jsonl", [0, 8])
  lines = (tmp_path / "new" / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [(r["step"], r["run"]) for r in rows] == [
    (0, 0),
    (0, 1),
    (8, 0),
    (8, 1),
  ]
  assert rows[3]["train/loss"] == np.float32(8.1)


def test_what_is_written_is_read_back_bit_for_bit(tmp_path):
  path = tmp_path / "metrics.jsonl"
  values = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
  values[1, 0], values[2, 1] = 1e-45, 3.4e38  # the ends of float32
  log = metrics.MetricsFile(path)
  log.open()
  for step, row in enumerate(values):
    log.write(step * 4, {"eval/error": row})
  log.close()
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert rows == log.rows
  steps, found = metrics.read(rows, 2)["eval/error"]
  assert steps.tolist() == [0, 4, 8]
  np.testing.assert_array_equal(found.astype(np.float32), values.T)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_is_null_and_read_as_nan(tmp_path, value):
  path = tmp_path / "metrics.jsonl"
  log = metrics.MetricsFile(path)
  log.open()
  log.write(0, {"loss": np.array([1.0, value])})
  log.close()
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert rows[1]["loss"] is None and rows[0]["loss"] == 1.0
  assert metrics.read(rows, 2)["loss"][1].tolist()[0] == [1.0]
  assert np.isnan(metrics.read(rows, 2)["loss"][1][1, 0])


def test_metrics_may_be_logged_at_different_steps():
  log = metrics.MetricsFile(None)
  log.write(0, {"eval/error": np.array([1.0])})
  log.write(4, {"train/loss": np.array([2.0])})
  log.write(8, {"train/loss": np.array([3.0]), "eval/error": np.array([4.0])})
  found = metrics.read(log.rows, 1)
  assert found["eval/error"][0].tolist() == [0, 8]
  assert found["eval/error"][1].tolist() == [[1.0, 4.0]]
  assert found["train/loss"][0].tolist() == [4, 8]
  assert metrics.read([], 3) == {}


def test_a_write_without_metrics_leaves_no_row(tmp_path):
  log = metrics.MetricsFile(tmp_path / "metrics.jsonl")
  log.open()
  log.write(0, {})
  log.close()
  assert log.rows == []
  assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_cut_back_to_a_mark_and_continued_is_as_if_never_stopped(tmp_path):
  mark, _ = write(tmp_path / "cut", [0, 4])
  write(tmp_path / "cut", [8, 12], mark, offset=7.0)
  with open(tmp_path / "cut", "a") as file:
    file.write('{"step": 16, "ru')  # killed inside a line
  end, rows = write(tmp_path / "cut", [8, 12], mark)
  whole, whole_rows = write(tmp_path / "whole", [0, 4, 8, 12])
  cut_bytes = (tmp_path / "cut").read_bytes()
  assert cut_bytes == (tmp_path / "whole").read_bytes()
  assert end == whole and rows == whole_rows
  assert end["bytes"] == len(cut_bytes)


def test_opened_without_a_mark_starts_anew(tmp_path):
  write(tmp_path / "metrics.jsonl", [0, 4])
  write(tmp_path / "metrics.jsonl", [0])
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("change", ["digit", "short", "gone"])
def test_a_changed_prefix_is_refused_and_left_alone(tmp_path, change):
  path = tmp_path / "metrics.jsonl"
  mark, _ = write(path, [0, 4])
  content = path.read_bytes()
  if change == "gone":
    path.unlink()
  else:
    changed = content.replace(b"4", b"5", 1) if change == "digit" else None
    content = changed or content[:-1]
    path.write_bytes(content)
  with pytest.raises(training.RunError, match="lacks rows") as refusal:
    write(path, [8], mark)
  assert str(path) in str(refusal.value) and "--out_dir" in str(refusal.value)
  assert not path.exists() if change == "gone" else path.read_bytes() == content


def test_rows_are_on_disk_before_the_file_is_closed(tmp_path):
  """A run that is killed leaves what it has logged."""
  log = metrics.MetricsFile(tmp_path / "metrics.jsonl")
  log.open()
  log.write(0, {"loss": np.array([1.0])})
  assert (tmp_path / "metrics.jsonl").read_text() == json.dumps(
    log.rows[0]
  ) + "\n"
  log.close()
  log.close()  # as after an error inside the loop


def test_without_a_path_rows_stay_in_memory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  mark, rows = write(None, [0, 4])
  assert len(rows) == 4 and mark["bytes"] == 0
  assert list(tmp_path.iterdir()) == []
