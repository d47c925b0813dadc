"""The report as report.md and as a self-contained index.html."""

from __future__ import annotations

import base64
import collections
import datetime
import html
import os
import pathlib
import platform
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Figure", "Row", "write"]

VERDICTS = ("holds", "fails", "not calibrated", "not applicable")
TITLE = "Reproduction of the papers' claims"


class Row(NamedTuple):
  """A claim as checked by one run, or a run that has not finished."""

  experiment: str
  run: str
  sentence: str
  # one of VERDICTS; for a run, its outcome
  verdict: str
  # why it is not applicable, or has not finished
  reason: str = ""
  value: float | None = None
  # 95 % interval over seeds
  interval: Sequence[float] | None = None
  # relation and threshold
  threshold: str = ""
  seeds: int | None = None
  # number of diverged seeds, which are left out
  failed: int = 0
  command: str = ""
  minutes: float | None = None


class Figure(NamedTuple):
  """A figure of a run."""

  caption: str
  path: pathlib.Path


def write(
  out_dir: pathlib.Path,
  rows: Sequence[Row],
  figures: Sequence[Figure],
  summaries: Sequence[Mapping[str, Any]],
) -> None:
  """Writes report.md and index.html, each atomically.

  Args:
    out_dir: output directory; it contains the figures.
    rows: rows of all experiments, grouped by experiment.
    figures: PNG and GIF files.
    summaries: content of summary.json of the finished runs.
  """
  facts = _facts(rows, summaries)
  for name, text in (
    ("report.md", _markdown(rows, figures, facts, out_dir)),
    ("index.html", _html(rows, figures, facts)),
  ):
    partial = out_dir / f".{name}.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, out_dir / name)


def _facts(rows, summaries):
  """Collects the facts at the head of the page: title -> text."""
  counts = collections.Counter(row.verdict for row in rows)
  versions = [
    ", ".join(f"{name} {version}" for name, version in s["versions"].items())
    for s in summaries
  ]
  devices = [f"{s['device']}, {s['cpus']} CPUs" for s in summaries]
  return {
    "Claims": ", ".join(f"{word}: {counts.pop(word, 0)}" for word in VERDICTS),
    "Unfinished or failed runs": ", ".join(
      f"{w}: {n}" for w, n in counts.items()
    )
    or "none",
    "Date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    "Machine": _joined(
      [f"{device}, {platform.system()}" for device in devices]
    ),
    "Versions": _joined(versions),
    "Commit": _joined(str(s["commit"] or "unknown") for s in summaries),
  }


def _joined(texts: Iterable[str]) -> str:
  """Joins distinct texts: runs of one report may be from different commits."""
  return "; ".join(dict.fromkeys(texts)) or "no run has finished yet"


def _seeds(row):
  if row.seeds is None:
    return "–"
  return f"{row.seeds} ({row.failed} failed)" if row.failed else str(row.seeds)


def _cells(row):
  """Returns the numbers of a row as text: heading -> cell."""
  number = lambda value: "–" if value is None else f"{value:.4g}"
  interval = "–"
  if row.interval is not None:
    interval = " to ".join(number(end) for end in row.interval)
  return {
    "Value": number(row.value),
    "95 % interval": interval,
    "Threshold": row.threshold or "–",
    "Seeds": _seeds(row),
    "Minutes": "–" if row.minutes is None else f"{row.minutes:.1f}",
  }


def _markdown(rows, figures, facts, out_dir):
  lines = [f"# {TITLE}", ""]
  lines += [f"- {title}: {_escaped(text)}" for title, text in facts.items()]
  headings = ["Experiment", "Claim", "Verdict", *_cells(rows[0]), "Command"]
  lines += ["", _table_line(headings), _table_line(["---"] * len(headings))]
  for row in rows:
    verdict = f"**{row.verdict}**"
    verdict += f": {_escaped(row.reason)}" if row.reason else ""
    cells = [_escaped(cell) for cell in _cells(row).values()]
    command = row.command.replace("|", "\\|")
    command = f"`{command}`" if command else "–"
    name = _escaped(f"{row.experiment} {row.run}".strip())
    sentence = _escaped(row.sentence)
    lines.append(_table_line([name, sentence, verdict, *cells, command]))
  for figure in figures:
    link = urllib.parse.quote(figure.path.relative_to(out_dir).as_posix())
    lines += ["", f"![{_escaped(figure.caption)}]({link})"]
  return "\n".join(lines) + "\n"


def _table_line(cells):
  return f"| {' | '.join(cells)} |"


def _escaped(text):
  """Escapes characters that Markdown reads as a tag, a cell's end or a link."""
  text = html.escape(" ".join(text.split()), quote=False)
  for character in "\\|[]*_`":
    text = text.replace(character, f"\\{character}")
  return text


# Verdicts differ by weight and border as well, for readers without colour.
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.45 system-ui, sans-serif; color: #1a1a1a; margin: 0 auto;
  background: #fff; max-width: 76rem; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem;
  margin: 0; font-size: .9rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .6rem;
  border-bottom: 1px solid #ccc; }
thead th { border-bottom: 2px solid #1a1a1a; white-space: nowrap; }
th.group { padding-top: 1.4rem; font-size: 1rem; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
code { font: .78rem/1.4 ui-monospace, monospace; color: #444; display: block;
  margin-top: .25rem; overflow-wrap: anywhere; }
code span { display: inline-block; max-width: 100%; }
.verdict { display: inline-block; padding: 0 .45rem; white-space: nowrap;
  border: 1px solid #666; border-radius: .25rem; color: #333; }
.holds { border: 2px solid #00663f; color: #00663f; font-weight: 600; }
.fails { border: 2px solid #1a1a1a; background: #1a1a1a; color: #fff;
  font-weight: 700; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.undecided { border-style: dashed; }
.reason { display: block; margin-top: .25rem; font-size: .85rem;
  overflow-wrap: anywhere; max-width: 18rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: end; }
figure { margin: 0; break-inside: avoid; }
figure img { max-width: 100%; height: auto; }
figcaption { font-size: .85rem; color: #444; overflow-wrap: anywhere; }
tr { break-inside: avoid; }
@media screen and (max-width: 50rem) {
  dl { display: block; } dd { margin-bottom: .4rem; }
  table, tbody, tr, td, th.group { display: block; }
  thead { display: none; }
  td { border: 0; padding: .15rem 0; }
  td.number { display: inline-block; white-space: normal; margin-right: 1rem; }
  td.number::before { content: attr(data-label) " "; color: #555; }
  td.blank { display: none; }
  tr { border-bottom: 1px solid #ccc; padding: .6rem 0; display: block; }
  tr.group { border: 0; padding: 0; }
  th.group { padding-left: 0; }
  .reason { max-width: none; }
}
@media print { body { max-width: none; font-size: 11px; } }
"""


def _html(rows, figures, facts):
  e = html.escape
  head = "".join(
    f"<dt>{e(title)}</dt><dd>{e(text)}</dd>\n" for title, text in facts.items()
  )
  headings = ["Claim", "Verdict", *_cells(rows[0])]
  columns = "".join(f'<th scope="col">{e(h)}</th>' for h in headings)
  groups: dict[str, list[Row]] = {}
  for row in rows:
    groups.setdefault(row.experiment, []).append(row)
  bodies = "".join(
    f'<tbody>\n<tr class="group"><th class="group" colspan="{len(headings)}" '
    f'scope="rowgroup">{e(name)}</th></tr>\n{"".join(map(_html_row, group))}'
    "</tbody>\n"
    for name, group in groups.items()
  )
  pictures = "".join(map(_html_figure, figures))
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{TITLE}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{TITLE}</h1>
<dl>
{head}</dl>
<h2>Claims</h2>
<table>
<thead><tr>{columns}</tr></thead>
{bodies}</table>
{"<h2>Figures</h2>" if figures else ""}
<div class="pictures">
{pictures}</div>
</body>
</html>
"""


def _html_row(row):
  e = html.escape
  words = "".join(f"<span>{e(word)}</span> " for word in row.command.split())
  code = f"<code>{words}</code>" if words else ""
  reason = f'<span class="reason">{e(row.reason)}</span>' if row.reason else ""
  kind = row.verdict if row.verdict in ("holds", "fails") else "undecided"
  numbers = "".join(
    f'<td class="number{" blank" if cell == "–" else ""}" '
    f'data-label="{e(heading)}">{e(cell)}</td>'
    for heading, cell in _cells(row).items()
  )
  return (
    f"<tr><td>{e(row.sentence)}{code}</td>"
    f'<td><span class="verdict {kind}">{e(row.verdict)}</span>{reason}</td>'
    f"{numbers}</tr>\n"
  )


def _html_figure(figure):
  caption = html.escape(figure.caption)
  kind = figure.path.suffix.removeprefix(".")
  content = base64.b64encode(figure.path.read_bytes()).decode("ascii")
  return (
    f'<figure><img alt="{caption}" src="data:image/{kind};base64,{content}">'
    f"<figcaption>{caption}</figcaption></figure>\n"
  )
