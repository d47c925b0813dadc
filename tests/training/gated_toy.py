"""The toy, held where a test wants to find it, however fast the machine is.

GATE="chunk 200" holds it before the first chunk that starts at update 200 or
later, GATE="save 200" inside its first save there: the arrays are written, the
manifest is not. It then makes the file `held` and waits for a file `go`.
"""

import os
import pathlib
import runpy
import time

from lilly.training import checkpoints, compilation

PLACE, UPDATE = os.environ["GATE"].split()
compiled = compilation.compiled
write_manifest = checkpoints._write_manifest


def hold(update):
  if update < int(UPDATE):
    return
  pathlib.Path("held").touch()
  while not pathlib.Path("go").exists():
    time.sleep(0.01)


def gated_compiled(*args, **kwargs):
  program = compiled(*args, **kwargs)

  def step_chunk(state):
    hold(int(state.step[0]))
    return program.step_chunk(state)

  return program._replace(step_chunk=step_chunk)


def gated_write_manifest(directory, manifest):
  hold(manifest["update"])
  write_manifest(directory, manifest)


if PLACE == "chunk":
  compilation.compiled = gated_compiled
else:
  checkpoints._write_manifest = gated_write_manifest
toy = pathlib.Path(__file__).with_name("toy.py")
runpy.run_path(str(toy), run_name="__main__")
