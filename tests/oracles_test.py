"""Tests of the reader of compiled text, on programs that are known to copy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles

_MEMORY, _SLOTS = np.zeros((50, 8), np.float32), np.zeros((20, 3), np.int32)


def _compiled(step, batch=None):
  def run(memory, slots):
    return jax.lax.scan(step, memory, slots)

  inputs = (_MEMORY, _SLOTS)
  if batch:
    run = jax.vmap(run)
    inputs = [np.broadcast_to(x, (batch, *x.shape)) for x in inputs]
  run = jax.jit(run, donate_argnums=0)
  return run.lower(*map(jnp.asarray, inputs)).compile().as_text()


def _edit(memory, slots):
  return memory.at[slots].set(1.0), ()


def _edit_and_read_what_was(memory, slots):
  # The sum may stand behind the edit, which needs a second array then.
  return memory.at[slots].set(jnp.sum(memory[slots] + 1)), memory[slots + 1]


def _edit_sometimes(memory, slots):
  edited = jax.lax.cond(
    slots[0] > 0,
    lambda m: _edit_and_read_what_was(m, slots)[0],
    jnp.sin,
    memory,
  )
  return edited, memory[slots]


@pytest.mark.parametrize("batch", [None, 2])
def test_finds_the_copies_of_a_scan_and_no_others(batch):
  shape = (50, 8) if batch is None else (batch, 50, 8)
  text = _compiled(_edit_and_read_what_was, batch)
  assert oracles.copies_in_loops(text, shape)
  assert not oracles.copies_in_loops(text, (8, 50))
  assert not oracles.copies_in_loops(_compiled(_edit, batch), shape)


def test_finds_copies_below_the_body_of_a_loop():
  def outer(memory, slots):
    return jax.lax.scan(_edit_sometimes, memory, slots[None])[0], ()

  assert oracles.copies_in_loops(_compiled(outer), (50, 8))


def test_refuses_a_program_without_loops():
  text = jax.jit(jnp.sin).lower(_MEMORY).compile().as_text()
  with pytest.raises(ValueError, match="no while loop"):
    oracles.copies_in_loops(text, (50, 8))


# Written by hand: names without %, a tuple's layout, and copies in places that
# no loop reaches, one of them named in a text only.
_PROGRAM = """HloModule m, is_scheduled=true

copying (p: f32[5,2]) -> f32[5,2] {
  p = f32[5,2]{1,0} parameter(0)
  c.1 = f32[5,2]{0,1:T(8,128)} copy(p), metadata={op_name="x=outside"}
  s.1 = (f32[5,2]{1,0}, f32[5,2]{1,0}, u32[]) copy-start(c.1)
  d.1 = f32[5,2]{1,0} copy-done(s.1)
  ROOT c.2 = f32[2,5]{1,0} copy(d.1)
}

%other (p: f32[5,2]) -> f32[5,2] {
  ROOT p = f32[5,2]{1,0} parameter(0)
}

outside (p: f32[5,2]) -> f32[5,2] {
  ROOT c.3 = f32[5,2]{1,0} copy(p)
}

%branch (p: f32[5,2]) -> f32[5,2] {
  ROOT f = f32[5,2]{1,0} fusion(p), kind=kLoop, calls=copying
}

%body (p: (s32[], f32[5,2])) -> (s32[], f32[5,2]) {
  ROOT c = f32[5,2] conditional(i, x, x), branch_computations={%other, %branch}
}

%cond (p: (s32[], f32[5,2])) -> pred[] {
  ROOT %c.4 = pred[] constant(false)
}

ENTRY %main (p: f32[5,2]) -> f32[5,2] {
  %c.5 = f32[5,2]{1,0} copy(p)
  %f.2 = f32[5,2]{1,0} call(p), to_apply=outside
  ROOT %w = (s32[], f32[5,2]) while(t), condition=%cond, body=%body
}
"""


def test_reads_text_of_other_kinds():
  found = oracles.copies_in_loops(_PROGRAM, (5, 2))
  assert [line.split(" = ")[0] for line in found] == [
    *("copying: c.1", "copying: s.1")
  ]
