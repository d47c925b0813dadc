"""Writes the table of resolved settings: python -m tests.experiments.resolve.

Names of experiments may be given. Read the difference before you commit it.
"""

import json
import pathlib
import sys

from lilly.training import script
from tests.experiments import contract_test

__all__ = []


def main(names):
  for name in names or contract_test.NAMES:
    one = contract_test.load(name)
    of_a_run = (*one.settings._fields, *script.COMMON_OF_A_RUN)
    lines = []
    for label, row in contract_test.rows(one).items():
      shown = script.describe(one, row)
      text = json.dumps({k: shown[k] for k in sorted(of_a_run)})
      lines.append(f" {json.dumps(label)}: {text}")
    path = pathlib.Path(__file__).parent / "resolved" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
  main(sys.argv[1:])
