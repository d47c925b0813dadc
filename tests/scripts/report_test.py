"""Tests of scripts.report, on a package of stub experiments."""

import base64
import html.parser
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from scripts import report

CHECKOUT = pathlib.Path(__file__).parents[2]
PNG = base64.b64decode(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY"
  "42YAAAAASUVORK5CYII="
)

# Does what its run asks for, in the driver's words and exit statuses.
STUB = '''
"""A stub."""
import json, os, pathlib, signal, sys, time, types

def claim(name, sentence="the error is at most 1", threshold=1.0):
  return types.SimpleNamespace(
    name=name, sentence=sentence, relation="<=", threshold=threshold
  )

def finish(verdicts, status=0):
  out = pathlib.Path(
    [a for a in sys.argv if a.startswith("--out_dir=")][0].partition("=")[2])
  out.mkdir(parents=True, exist_ok=True)
  rows = []
  for c in CLAIMS:
    verdict, reason = verdicts.get(c.name, ("not applicable", "no " + c.name))
    judged = verdict != "not applicable"
    rows.append({"name": f"{next(iter(RUNS))}/{c.name}", "sentence": c.sentence,
      "value": 0.12345 if judged else None,
      "interval": [0.1, 0.2] if judged else None, "relation": c.relation,
      "threshold": c.threshold, "seeds": 8 if judged else 0,
      "verdict": verdict, "reason": reason})
  command = "scripts/run stub " + " ".join(sys.argv[1:])
  (out / "curves.png").write_bytes(bytes.fromhex("PNG"))
  (out / "notes.txt").write_text("no picture")
  (out / "summary.json").write_text(json.dumps({"command": command,
    "versions": {"python": "3"}, "commit": "abc", "device": "1 x cpu",
    "cpus": 2, "variants": {"a": {"seconds": 60.0}, "b": {"seconds": 90.0}},
    "claims": rows}))
  with open(out / "calls", "a") as file:
    file.write(" ".join(sys.argv[1:]) + chr(10))
  sys.exit(status)

def die(text, status):
  print(text, file=sys.stderr)
  sys.exit(status)

def script(claims, runs):
  # The claims are the first run's; each run judges those that it can.
  first = next(iter(runs))
  return types.SimpleNamespace(reproductions={
    name: types.SimpleNamespace(
      command=command, claims=claims if name == first else (), minutes=1.0)
    for name, command in runs.items()})

case = [a for a in sys.argv if a.startswith("--case=")]
case = case[0].partition("=")[2] if case else "default"
'''.replace("PNG", PNG.hex())

MERGED = """
CLAIMS = (
  claim("both"), claim("one", "x < 1 & <script>alert(1)</script> | `y`"),
  claim("never"), claim("lost"))
RUNS = {"linear": ["--case=linear"], "digits": ["--case=digits"]}
SCRIPT = script(CLAIMS, RUNS)
if __name__ == "__main__":
  holds, fails = ("holds", None), ("fails", None)
  finish({"linear": {"both": holds, "one": fails},
          "digits": {"both": fails,
                     "lost": ("not applicable", "few seeds")}}[case])
"""

TROUBLE = """
CLAIMS = (claim("c"),)
RUNS = {n: ["--case=" + n] for n in (
  "fine", "no_data", "diverged", "checked", "killed", "bug", "drew")}
SCRIPT = script(CLAIMS, RUNS)
if __name__ == "__main__":
  if case == "no_data":
    die("progress\\nerror: --data_dir lacks <mnist>.", 1)
  if case == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
  if case == "bug":
    raise ZeroDivisionError("nobody's sentence")
  if case == "diverged":
    print("error: adam, run 3 failed.", file=sys.stderr)
  if case == "drew":  # a picture could not be drawn, after the verdicts
    print("OSError: no font", file=sys.stderr)
  status = {"diverged": 3, "checked": 4, "drew": 1}.get(case, 0)
  finish({"c": ("holds", None)}, status)
"""

SLOW = """
CLAIMS = (claim("c"),)
RUNS = {"quick": [], "slow": ["--case=slow"], "later": []}
SCRIPT = script(CLAIMS, RUNS)
if __name__ == "__main__":
  if case == "slow":
    def stop(number, frame):
      with open(os.environ["SIGNALS"], "a") as file:
        file.write(f"{number} ")
      time.sleep(0.2)  # a second signal would be noted as well
      sys.exit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, stop)
    print("waiting", file=sys.stderr, flush=True)
    time.sleep(60)
  finish({"c": ("holds", None)})
"""

# Neither ends in time; one of them heeds no signal.
ENDLESS = """
CLAIMS = (claim("c"),)
RUNS = {n: ["--case=" + n] for n in ("endless", "deaf", "later")}
SCRIPT = script(CLAIMS, RUNS)
if __name__ == "__main__":
  if case == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
  if case != "later":
    time.sleep(60)
  finish({"c": ("holds", None)})
"""

SIMPLE = """
CLAIMS = (claim("c"),)
RUNS = {"default": []}
SCRIPT = script(CLAIMS, RUNS)
if __name__ == "__main__":
  finish({"c": ("holds", None)})
"""


class Page(html.parser.HTMLParser):
  """Checks that tags are balanced; collects rows, attributes and text."""

  def __init__(self, path):
    super().__init__()
    self.open, self.attributes, self.rows, self.tags = [], [], [], []
    self.text = ""
    self.feed(path.read_text(encoding="utf-8"))
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, *attribute) for attribute in attrs]
    if tag == "tr":
      self.rows.append("")
    if tag not in ("meta", "img"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data
    if "tr" in self.open:
      self.rows[-1] += f" {data}"

  def row(self, *words):
    (found,) = [r for r in self.rows if all(word in r for word in words)]
    return " ".join(found.split())


class Stubs:
  """A folder with a package of experiments."""

  def __init__(self, folder, **experiments):
    self.folder = folder
    package = folder / "checkout" / "experiments"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for name, body in experiments.items():
      (package / f"{name}.py").write_text(STUB + body)
    path = os.pathsep.join([str(package.parent), str(CHECKOUT)])
    self.signals = folder / "signals"
    self.environment = os.environ | {
      "PYTHONPATH": path,
      "SIGNALS": str(self.signals),
    }

  def start(self, *arguments):
    return subprocess.Popen(
      [sys.executable, "-P", "-m", "scripts.report", *arguments],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=self.folder,
      env=self.environment,
    )

  def run(self, *arguments):
    process = self.start(*arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err

  def page(self, out_dir="runs/report"):
    return Page(self.folder / out_dir / "index.html")


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
  stubs = Stubs(
    tmp_path_factory.mktemp("merged"), merged=MERGED, silent="CLAIMS = ()"
  )
  return stubs, *stubs.run("--preset=smoke")


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
  stubs = Stubs(
    tmp_path_factory.mktemp("trouble"),
    trouble=TROUBLE,
    broken="import no_such_module",
  )
  return stubs, *stubs.run()


def test_runs_each_run_with_its_flags(merged):
  stubs, status, out, err = merged
  assert status == 0, err
  assert "runs/report/index.html" in out
  for run in ("linear", "digits"):
    directory = f"runs/report/merged/{run}"
    (call,) = (stubs.folder / directory / "calls").read_text().splitlines()
    assert call == f"--preset=smoke --case={run} --out_dir={directory}"
  assert not (stubs.folder / "runs/report/silent").exists()


def test_a_claim_shows_every_run_that_judged_it(merged):
  page = merged[0].page()
  assert "holds: 1, fails: 2, not calibrated: 0, not applicable: 2" in page.text
  for run, verdict in (("linear", "holds"), ("digits", "fails")):
    row = page.row("the error", f"--case={run}", verdict)
    assert "0.1235 0.1 to 0.2 ≤ 1 8 2.5" in row  # 2.5: minutes of both variants


def test_a_judged_claim_hides_the_runs_it_does_not_apply_to(merged):
  row = merged[0].page().row("x < 1")
  assert "fails" in row and "--case=linear" in row


def test_a_claim_never_judged_is_one_row_with_the_reasons(merged):
  page = merged[0].page()
  assert "not applicable no never – – ≤ 1" in page.row("no never")
  reasons = "not applicable linear: no lost; digits: few seeds – – ≤ 1"
  assert reasons in page.row("few seeds")


def test_the_page_is_whole_and_needs_nothing_else(merged):
  page = merged[0].page()
  text = (merged[0].folder / "runs/report/index.html").read_text()
  assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
  assert {"script", "link", "iframe"}.isdisjoint(page.tags)
  sources = [v for tag, name, v in page.attributes if name == "src"]
  assert len(sources) == 2 and page.tags.count("img") == 2
  for source in sources:
    head, content = source.split(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content) == PNG
  assert "merged, digits: curves" in page.text
  assert ("meta", "charset", "utf-8") in page.attributes


def test_a_sentence_is_text_and_not_markup(merged):
  page = merged[0].page()
  assert "x < 1 & <script>alert(1)</script> | `y`" in page.text
  text = (merged[0].folder / "runs/report/report.md").read_text()
  (line,) = [line for line in text.splitlines() if "x &lt; 1" in line]
  assert r"&lt;script&gt;alert(1)&lt;/script&gt; \| \`y\`" in line
  (heading,) = [line for line in text.splitlines() if "| Verdict |" in line]
  columns = len(re.findall(r"(?<!\\)\|", heading))
  assert len(re.findall(r"(?<!\\)\|", line)) == columns
  assert "](merged/linear/curves.png)" in text


def test_facts_stand_at_the_head(merged):
  text = merged[0].page().text
  for fact in ("1 x cpu, 2 CPUs", "python 3", "abc"):
    assert text.count(fact) == 1
  assert time.strftime("%Y-%m-") in text


@pytest.mark.parametrize(
  ("run", "expected"),
  [
    ("no_data", "not run --data_dir lacks <mnist>."),
    ("diverged", "runs failed adam, run 3 failed."),
    ("checked", "a claim failed"),
    ("killed", "stopped killed by SIGKILL"),
    ("bug", "not run ZeroDivisionError: nobody's sentence"),
    ("drew", "stopped OSError: no font"),
  ],
)
def test_a_run_that_did_not_end_well_has_a_row(troubled, run, expected):
  assert expected in troubled[0].page().row(f"Run '{run}'.")


def test_trouble_in_one_run_does_not_touch_the_others(troubled):
  stubs, status, _, _ = troubled
  assert status == 1
  page = stubs.page()
  assert "No module named 'no_such_module'" in page.row("not run", "broken")
  assert "Run 'fine'" not in page.text
  assert "holds: 4" in page.text  # fine, diverged, checked and drew judged it
  assert "not run: 3, runs failed: 1, a claim failed: 1" in page.text
  assert "stopped: 2" in page.text


def test_failed_runs_alone_exit_3_and_failed_claims_0(tmp_path):
  body = TROUBLE.replace('"fine", "no_data", ', "")
  stubs = Stubs(tmp_path, trouble=body.replace(', "killed", "bug", "drew"', ""))
  assert stubs.run()[0] == 3


def test_a_stale_summary_is_not_shown(tmp_path):
  stubs = Stubs(tmp_path, one=SIMPLE)
  assert stubs.run()[0] == 0 and "holds: 1" in stubs.page().text
  path = tmp_path / "checkout/experiments/one.py"
  path.write_text(path.read_text().replace("finish({", "die('error: no', 1)#"))
  assert stubs.run()[0] == 1
  page = stubs.page()
  assert "holds: 0" in page.text and "img" not in page.tags
  assert "not applicable not run" in page.row("the error")


@pytest.mark.parametrize(
  ("number", "status"),
  [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)],
)
def test_an_interrupt_reaches_the_run_once_and_leaves_a_page(
  tmp_path, number, status
):
  stubs = Stubs(tmp_path, slow=SLOW)
  process = stubs.start("slow", "--out_dir=out")
  wait(process)
  assert "waiting" in stubs.page("out").row("Run 'slow'.")  # so far
  process.send_signal(number)
  process.communicate(timeout=60)
  assert process.returncode == status
  assert stubs.signals.read_text() == f"{int(number)} "
  page = stubs.page("out")
  assert "holds" in page.row("the error")
  assert "interrupted" in page.row("Run 'slow'.")
  assert "waiting" in page.row("Run 'later'.")


def wait(process):
  """Waits until the slow run has begun."""
  for line in process.stderr:
    if line == "waiting\n":
      return
  raise AssertionError("the run never began")


def test_under_nohup_a_hangup_stops_nothing(tmp_path):
  stubs = Stubs(tmp_path, slow=SLOW.replace("time.sleep(60)", "time.sleep(1)"))
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is inherited
  try:
    process = stubs.start("slow", "--out_dir=out")
  finally:
    signal.signal(signal.SIGHUP, before)
  wait(process)
  process.send_signal(signal.SIGHUP)
  process.communicate(timeout=60)
  assert process.returncode == 0
  assert not stubs.signals.exists()


def test_a_run_that_does_not_end_is_stopped_and_the_next_one_begins(tmp_path):
  stubs = Stubs(tmp_path, endless=ENDLESS)
  code = (
    "from scripts import report\n"
    "report.MINUTES, report._LEAST_MINUTES = {'cpu': 0.05 / 6}, 0\n"
    "report._GRACE_SECONDS = 1\n"
    "report.main(['report', '--out_dir=out'])\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=stubs.environment,
    timeout=50,
  )
  assert done.returncode == 3, done.stderr
  page = stubs.page("out")
  for run in ("endless", "deaf"):
    row = page.row(f"Run '{run}'.")
    assert "did not end stopped after 0.05 minutes" in row
  assert "did not end: 2" in page.text and "holds: 1" in page.text


def test_a_time_limit_is_a_multiple_of_what_is_stated():
  for preset, stated, minutes in (
    ("cpu", 20, 120),
    ("cpu", 1, 10),  # at least
    ("gpu", 1, 6 * 240),
    ("smoke", 20, 12),
  ):
    assert report._max_minutes(stated, f"--preset={preset}") == minutes


def test_all_runs_may_be_named_in_any_order_with_flags_after(tmp_path):
  is_there = 'assert pathlib.Path("out/index.html").exists()'  # from the start
  early = SIMPLE.replace("  finish", f"  {is_there}\n  finish")
  stubs = Stubs(tmp_path, one=SIMPLE, two=early)
  (tmp_path / "data").mkdir()
  status, _, err = stubs.run("two", "--data_dir=data", "--out_dir=out")
  assert status == 0, err
  call = (tmp_path / "out/two/default/calls").read_text()
  assert call == "--preset=cpu --data_dir=data --out_dir=out/two/default\n"
  assert not (tmp_path / "out/one").exists()


@pytest.mark.parametrize(
  ("arguments", "mention"),
  [
    (["three"], "no experiment 'three'; there are one, silent"),
    (["silent"], "silent makes no claims"),
    (["--preset=huge"], "preset"),
    (["--data_dir=nowhere"], "--data_dir=nowhere"),
    (["--out_dir=file/x"], "file"),
    (["--no_such_flag"], "no_such_flag"),
    (["--out_dir=gs://bucket/report"], "is an address"),
    (["--data_dir=s3://bucket/data"], "is an address"),
    (["--out_dir=~no_such_user/x"], "no_such_user"),
    (["--out_dir=" + "x" * 5000], "name too long"),
    (["--data_dir=" + "x" * 5000], "name too long"),
    (["--out_dir="], "out_dir"),
  ],
)
def test_a_bad_invocation_is_one_sentence(tmp_path, arguments, mention):
  stubs = Stubs(tmp_path, one=SIMPLE, silent="CLAIMS = ()")
  (tmp_path / "file").write_text("")
  status, out, err = stubs.run(*arguments)
  assert status == 1 and out == ""
  assert err.startswith("error: ") and err.count("\n") == 1
  assert mention in err.lower() or mention in err
  assert len(err) < 600
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    *("checkout", "file"),
  ]


def test_a_tilde_is_the_home_directory(tmp_path):
  stubs = Stubs(tmp_path, one=SIMPLE)
  home = tmp_path / "home"
  (home / "data").mkdir(parents=True)
  stubs.environment["HOME"] = str(home)
  status, out, err = stubs.run("--out_dir=~/report", "--data_dir=~/data")
  assert status == 0, err
  assert f"Report: {home}/report/index.html" in out
  call = (home / "report/one/default/calls").read_text()
  assert call == (
    f"--preset=cpu --data_dir={home}/data --out_dir={home}/report/one/default\n"
  )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_help_is_shown_on_any_terminal(tmp_path, encoding):
  stubs = Stubs(tmp_path, one=SIMPLE)
  stubs.environment["PYTHONIOENCODING"] = encoding
  status, out, err = stubs.run("--help")
  assert status == 0 and "--out_dir" in out and err == ""


def test_help_imports_no_jax(tmp_path):
  code = (
    "import sys\n"
    "from scripts import report\n"
    "try:\n"
    "  report.main(['report', '--help'])\n"
    "except SystemExit as stopped:\n"
    "  assert stopped.code == 0\n"
    "assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
  )
  assert done.returncode == 0, done.stderr
  assert "--data_dir" in done.stdout and "reproductions" in done.stdout


def test_without_a_checkout_it_says_so(tmp_path):
  stubs = Stubs(tmp_path)
  (tmp_path / "checkout/experiments/__init__.py").unlink()
  (tmp_path / "checkout/experiments").rmdir()
  (tmp_path / "site").mkdir()
  for name in ("lilly", "scripts"):
    (tmp_path / "site" / name).symlink_to(CHECKOUT / name)
  stubs.environment["PYTHONPATH"] = str(tmp_path / "site")
  status, _, err = stubs.run()
  assert status == 1 and "checkout" in err and err.count("\n") == 1
