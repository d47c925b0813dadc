"""The tables printed at the end of a run."""

from __future__ import annotations

from typing import Any

from lilly.training import experiment, terminal

__all__ = ["tell_results"]


def tell_results(results: experiment.Results, stream: Any) -> None:
  """Prints final values, claims, and the location of the files.

  Args:
    results: results of `run`, claims included.
    stream: where, as for `terminal.tell`.
  """
  columns = terminal.width(stream)
  terminal.tell(_lay_out_finals(results.summary["variants"], columns), stream)
  claims = results.summary["claims"]
  judged = [row for row in claims if row["verdict"] != "not applicable"]
  if judged:
    terminal.tell("\n" + _lay_out_claims(judged, columns), stream)
  reasons: dict[str, list[str]] = {}
  for row in claims:
    if row["verdict"] == "not applicable":
      reasons.setdefault(row["reason"], []).append(row["name"])
  for reason, names in reasons.items():
    terminal.tell(f"Not applicable ({reason}): {', '.join(names)}", stream)
  if results.options.out_dir is not None:
    terminal.tell(f"Files: {results.options.out_dir}", stream)


def _lay_out_finals(variants, columns):
  rows = []
  for variant, described in variants.items():
    for point in described["points"]:
      where = ", ".join(f"{k}={v:g}" for k, v in point["point"].items())
      for name, value in point["final"].items():
        if name.startswith("eval/"):
          rows.append(
            (
              f"{variant} {where}".strip(),
              name,
              _show(value["median"]),
              _span(value["interval"]),
              str(value["n"]),
            )
          )
  header = ("variant", "metric", "median", "95 % of IQM", "n")
  return terminal.lay_out(header, rows, columns)


def _lay_out_claims(judged, columns):
  rows = []
  for row in judged:
    failed = f", {row['failed']} seeds failed" if row["failed"] else ""
    rows.append(
      (
        row["sentence"],
        _show(row["value"]),
        _span(row["interval"]),
        f"{row['relation']} {row['threshold']:g}",
        row["verdict"] + failed,
      )
    )
  header = ("claim", "value", "95 %", "threshold", "verdict")
  return terminal.lay_out(header, rows, columns)


def _show(value):
  return "-" if value is None else f"{value:.4g}"


def _span(interval):
  return "-" if interval is None else " to ".join(_show(v) for v in interval)
