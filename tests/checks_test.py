"""Tests of the checks of arguments."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly import checks


@pytest.mark.parametrize(
  ("shape", "spec", "message"),
  [
    ((3,), "N W", "x has shape [3]; it must be [N, W] (unbatched: vmap over"),
    ((1, 3), "W", "x has shape [1, 3]; it must be [W] (unbatched: vmap over"),
    ((1,), "", "x has shape [1]; it must be a scalar (unbatched: vmap over"),
    ((), "... W", "x has shape []; it must be [..., W] (unbatched: vmap over"),
    ((2, 4), "N 3", "x has shape [2, 4]; it must be [N, 3]."),
    (
      (2, 3),
      "N N",
      "x has shape [2, 3]; it must be [N, N] with N = 2, as in x",
    ),
    ((1, 3), "K W", "it must be [K, W] with K = 2, as in words."),
    (
      (2, 5, 3),
      "*B W",
      "x has shape [2, 5, 3]; it must be [*B, W] with *B = [2, 4], as in lead.",
    ),
    (
      (4, 3),
      "*B W",
      "with *B = [2, 4], as in lead (unbatched: vmap over further axes).",
    ),
    ((), "*B W", "x has shape []; it must be [*B, W] (unbatched: vmap over"),
  ],
)
def test_other_shapes_are_refused(shape, spec, message):
  sizes = {}
  checks.real("words", jnp.zeros(2), "K", sizes)
  checks.real("lead", jnp.zeros((2, 4)), "*B", sizes)
  with pytest.raises(ValueError) as caught:
    checks.real("x", jnp.zeros(shape), spec, sizes)
  assert message in str(caught.value)


def test_shapes_that_fit_are_taken_and_remembered():
  sizes = {}
  checks.real("words", jnp.zeros((4, 3)), "N W", sizes)
  checks.real("states", jnp.zeros((7, 5, 4)), "... N", sizes)
  checks.real("scalar", 2.0, "", sizes)
  several = {}
  checks.real("batch", jnp.zeros((2, 6, 5)), "*B T", several)
  checks.real("mask", jnp.zeros((2, 6)), "*B", several)
  assert sizes == {"N": (4, "words"), "W": (3, "words")}
  assert several == {"*B": ((2, 6), "batch"), "T": (5, "batch")}


@pytest.mark.parametrize("x", [None, "a", object(), 10**30])
def test_what_is_no_array_is_refused(x):
  with pytest.raises(
    ValueError, match=r"^x is of type .*; it must be an array \[N\]"
  ):
    checks.array("x", x, "N")


def test_whole_numbers_take_the_type_of_what_they_meet():
  for x in (np.array([1, 2]), jnp.array([1, 2]), [1, 2], jnp.ones(2, bool)):
    real = checks.real("x", x, "N")
    assert real.dtype == jnp.float32
    assert (real * jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
  assert checks.real("x", jnp.ones(2, jnp.bfloat16), "N").dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ("check", "x"),
  [
    (checks.real, jnp.ones(2, jnp.complex64)),
    (checks.integers, jnp.ones(2)),
    (checks.integers, jnp.ones(2, bool)),
    (checks.mask, jnp.ones(2)),
    (checks.mask, jnp.ones(2, jnp.int32)),
  ],
)
def test_other_types_are_refused(check, x):
  with pytest.raises(ValueError, match=r"^x is of type .*; it must"):
    check("x", x, "N")


def test_typed_single_keys_are_asked_for():
  checks.key("key", jax.random.key(0))
  for x, message in {
    "an old key": (jnp.zeros(2, jnp.uint32), "must be a typed key"),
    "a number": (0, "must be a typed key"),
    "several": (jax.random.split(jax.random.key(0)), "unbatched: vmap over"),
  }.values():
    with pytest.raises(ValueError, match=message):
      checks.key("key", x)


_KINDS = (float, np.float32, np.float16, np.asarray, jnp.asarray)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize(
  ("value", "bounds", "message"),
  [
    (0.0, {"above": 0}, "x is 0.0; it must be finite and above 0."),
    (-1.0, {"least": 0}, "x is -1.0; it must be finite and at least 0."),
    (2.0, {"least": 0, "most": 1}, "it must be at least 0 and at most 1."),
    (1.0, {"least": 0, "below": 1}, "it must be at least 0 and below 1."),
    (math.nan, {}, "x is nan; it must be a finite number."),
    (math.inf, {"least": 0}, "x is inf; it must be finite and at least 0."),
    (math.nan, {"may_be_infinite": True}, "x is nan; it must be a number."),
  ],
)
def test_numbers_out_of_range_are_refused(kind, value, bounds, message):
  with pytest.raises(ValueError) as caught:
    checks.number("x", kind(value), **bounds)
  assert message in str(caught.value)


@pytest.mark.parametrize("kind", _KINDS)
def test_numbers_on_their_bounds_are_taken(kind):
  for value in (0.0, 1.0):
    assert checks.number("x", kind(value), least=0, most=1) == value
  assert checks.number("x", kind(0.5), above=0, below=1) == 0.5
  infinite = checks.number("x", kind(math.inf), least=0, may_be_infinite=True)
  assert infinite == math.inf


def test_numbers_of_numpy_become_pythons():
  for x in (np.float32(0.5), np.float64(0.5), np.array(0.5), 0.5):
    assert type(checks.number("x", x)) is float
  assert type(checks.number("x", np.int64(2))) is int


def test_numbers_that_are_traced_pass():
  double = jax.jit(lambda x: 2 * checks.number("x", x, above=0))
  assert double(-1.0) == -2.0
  with pytest.raises(ValueError, match="unbatched"):
    double(jnp.ones(2))


@pytest.mark.parametrize("x", [[1], None, "1", np.ones(2)])
def test_what_is_no_number_is_refused(x):
  with pytest.raises(ValueError, match="it must be a number"):
    checks.number("x", x)


@pytest.mark.parametrize("x", [3, np.int32(3), np.array(3), jnp.array(3)])
def test_whole_numbers_become_pythons(x):
  count = checks.whole_number("count", x, least=1)
  assert type(count) is int
  assert count == 3


@pytest.mark.parametrize("x", [2.0, True, None, np.float32(2), [2], -1])
def test_other_counts_are_refused(x):
  with pytest.raises(ValueError, match=r"^count is .*; it must be"):
    checks.whole_number("count", x)


def test_traced_counts_are_refused():
  with pytest.raises(ValueError, match="not known while tracing"):
    jax.jit(lambda n: checks.whole_number("count", n))(3)


def test_what_is_stored_keeps_its_value_or_is_refused():
  """Each pair of types: refused, or all of the first's values are kept."""
  types = (
    *(jnp.bool_, jnp.int8, jnp.uint8, jnp.int16, jnp.int32, jnp.uint32),
    *(jnp.float16, jnp.bfloat16, jnp.float32),
  )
  for given in types:
    for dtype in types:
      is_integer = jnp.issubdtype(given, jnp.integer)
      ends = (jnp.iinfo(given).min, jnp.iinfo(given).max) if is_integer else ()
      for value in (0, 1, *ends):
        x = jnp.asarray(value, given)
        try:
          stored = checks.storable("x", x, dtype)
        except ValueError as error:
          assert f"of type {x.dtype}" in str(error) and str(error)[-1] == "."
          continue
        assert stored.dtype == dtype and not stored.weak_type
        # Ordinary rounding, of large whole numbers as well.
        is_rounded = jnp.issubdtype(dtype, jnp.floating)
        np.testing.assert_allclose(
          np.float64(stored), float(value), rtol=0.01 if is_rounded else 0
        )


@pytest.mark.parametrize(
  ("x", "dtype"),
  [
    (jnp.float32(1), jnp.int32),
    (jnp.float32(1), jnp.bool_),
    (jnp.int32(1), jnp.bool_),
    (jnp.int32(1), jnp.int8),
    (jnp.uint8(1), jnp.int8),
    (1.0, jnp.int32),
    (256, jnp.uint8),
    (2**31, jnp.int32),
    ([0, -1], jnp.uint8),
    (np.array([0, 2**31]), jnp.int32),
    (1j, jnp.float32),
    (1e39, jnp.float32),
    (np.float32(3.4e38), jnp.bfloat16),
    ("1", jnp.float32),
    (None, jnp.float32),
    (jax.random.key(0), jnp.uint32),
  ],
)
def test_what_a_type_cannot_hold_is_refused(x, dtype):
  with pytest.raises(ValueError, match=r"^reward is .*; it is stored as .*\.$"):
    checks.storable("reward", x, dtype)


@pytest.mark.parametrize(("x", "dtype"), [(0.5, "float32"), (3, "int32")])
def test_what_is_stored_is_not_weakly_typed(x, dtype):
  for given in (x, jnp.asarray(x)):
    assert not checks.storable("x", given, dtype).weak_type
  stored = jax.jit(lambda x: checks.storable("x", x, dtype))(x)
  assert stored.dtype == dtype and not stored.weak_type
