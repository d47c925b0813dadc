"""Catch: move a paddle left and right below a falling ball.

A board of pixels, three actions, one reward at the end: the smallest task of
discrete actions that needs credit over several steps. `persistence` makes
consecutive episodes alike, so that a single learner sees a narrow stream of
experience; permutations of the pixels and of the actions make related tasks,
as for continual learning.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.envs import environment, rendering, wrappers
from lilly.envs.environment import Environment

__all__ = ["State", "make", "observe", "render"]

_LEFT, _STAY, _RIGHT = range(3)


class State(NamedTuple):
  """Positions of the ball and of the paddle, which is in the last row."""

  row: jax.Array  # [] int32, of the ball; 0 at the top
  column: jax.Array  # [] int32, of the ball
  paddle: jax.Array  # [] int32, column of the paddle


def observe(
  state: State, *, num_rows: int = 10, num_columns: int = 5
) -> jax.Array:
  """Observes the board: 1 at the ball and at the paddle, else 0.

  Args:
    state: ball and paddle.
    num_rows: rows of the board.
    num_columns: columns of the board.

  Returns:
    The pixels, row by row, [num_rows * num_columns] float32.

  >>> observe(State(0, 1, 0), num_rows=2, num_columns=2).tolist()
  [0.0, 1.0, 1.0, 0.0]
  """
  places = jnp.arange(num_rows * num_columns)
  ball = state.row * num_columns + state.column
  paddle = (num_rows - 1) * num_columns + state.paddle
  return ((places == ball) | (places == paddle)).astype(jnp.float32)


def make(
  num_rows: int = 10,
  num_columns: int = 5,
  *,
  persistence: float = 1.0,
  pixel_permutation: Sequence[int] | np.ndarray | None = None,
  action_permutation: Sequence[int] | np.ndarray | None = None,
  num_steps: int | None = None,
) -> Environment:
  """Makes the task.

  The ball falls from the top by one row in each step. Actions move the paddle
  to the left (0), not at all (1) or to the right (2). An episode terminates
  when the ball is in the last row, after num_rows - 1 steps: the reward is 1 if
  it is on the paddle, else -1.

  Args:
    num_rows: rows of the board.
    num_columns: columns of the board; the ball starts in a random one.
    persistence: expected number of episodes, under `wrappers.auto_reset`, until
      the ball's column is drawn anew; in between it stays the same. With 1 it
      is drawn for each episode; infinite: never again.
    pixel_permutation: order in which the pixels are observed, a permutation of
      the num_rows * num_columns places; None: row by row.
    action_permutation: the meaning of each action, a permutation of 0, 1 and 2.
    num_steps: time limit of an episode; None: no limit.

  Returns:
    The environment.

  Raises:
    ValueError: a size is below 2, persistence is below 1, or an order is no
      permutation.

  Reference:
    Mnih et al., 2014 (arXiv 1406.6247), section 4.2, with another board;
    Osband et al., 2020 (arXiv 1908.03568), whose bsuite has this one.

  >>> env = make()
  >>> env.observation_spec.shape, env.action_spec.num_values
  ((50,), 3)
  """
  num_rows = checks.whole_number("num_rows", num_rows, least=2)
  num_columns = checks.whole_number("num_columns", num_columns, least=2)
  persistence = checks.number(
    "persistence", persistence, least=1, may_be_infinite=True
  )
  size = num_rows * num_columns
  pixels = _permutation("pixel_permutation", pixel_permutation, size)
  actions = _permutation("action_permutation", action_permutation, 3)

  def see(state):
    board = observe(state, num_rows=num_rows, num_columns=num_columns)
    return board[pixels]

  def start(column):
    middle = jnp.asarray(num_columns // 2, jnp.int32)
    state = State(jnp.zeros((), jnp.int32), column, middle)
    return state, see(state)

  def reset(key):
    return start(jax.random.randint(key, (), 0, num_columns, jnp.int32))

  def restart(key, state):
    key_change, key_column = jax.random.split(key)
    column = jax.random.randint(key_column, (), 0, num_columns, jnp.int32)
    is_new = jax.random.bernoulli(key_change, 1 / persistence)
    return start(jnp.where(is_new, column, state.column))

  def reward(state, action, following):
    del state, action
    is_over = following.row >= num_rows - 1
    is_caught = following.paddle == following.column
    return jnp.where(is_over, jnp.where(is_caught, 1.0, -1.0), 0.0)

  def step(key, state, action):
    del key
    action = checks.integers("action", action, "")
    move = jnp.asarray(actions)[jnp.clip(action, _LEFT, _RIGHT)] - _STAY
    following = State(
      row=state.row + 1,
      column=state.column,
      paddle=jnp.clip(state.paddle + move, 0, num_columns - 1),
    )
    r = reward(state, action, following)
    is_over = following.row >= num_rows - 1
    return following, environment.make_step(see(following), r, is_over)

  def draw(state, size):
    return render(state, size, num_rows=num_rows, num_columns=num_columns)

  env = Environment(
    reset,
    step,
    observation_spec=environment.box(np.zeros(size), np.ones(size)),
    action_spec=environment.discrete(3),
    render=draw,
    observe=see,
    reward=reward,
    restart=None if persistence == 1 else restart,
  )
  return wrappers.time_limit(env, num_steps)


def _permutation(name, order, size):
  """The order as an array; None: as it is."""
  if order is None:
    return np.arange(size, dtype=np.int32)
  order = np.asarray(order)
  if order.shape != (size,) or (np.sort(order) != np.arange(size)).any():
    raise ValueError(f"{name} must be a permutation of 0 to {size - 1}.")
  return order.astype(np.int32)


def render(
  state: State, size: int = 64, *, num_rows: int = 10, num_columns: int = 5
) -> jax.Array:
  """Renders the board, with the ball in orange and the paddle in blue.

  Args:
    state: ball and paddle.
    size: height and width of the image, in pixels.
    num_rows: rows of the board.
    num_columns: columns of the board.

  Returns:
    [size, size, 3] uint8.

  >>> render(State(0, 1, 0), size=8).shape
  (8, 8, 3)
  """
  # The centre of the first row is 0, that of the last 1 - num_rows.
  centre = ((num_columns - 1) / 2, (1 - num_rows) / 2)
  longest = max(num_rows, num_columns)
  scene = rendering.canvas(size, longest + 0.5, centre)
  half = (num_columns / 2, num_rows / 2)
  scene = rendering.paint(
    scene, rendering.box(scene, centre, half), rendering.GREY
  )
  paddle = rendering.box(scene, (state.paddle, 1 - num_rows), (0.5, 0.3))
  scene = rendering.paint(scene, paddle, rendering.BLUE)
  ball = rendering.circle(scene, (state.column, -state.row), 0.4)
  return rendering.image(rendering.paint(scene, ball, rendering.ORANGE))
