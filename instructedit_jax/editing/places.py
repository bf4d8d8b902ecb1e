"""Work at the real places of a padded batch alone.

Every batch has one shape, so that it is compiled once; many of its scored
positions and most of its answer rows are padding. What is costly at a place
(the head, above all) is done here for the real ones only, a few dozen at
a time: their places are brought to the front, and turns without any are passed
over.

Axes: B rows, P places of a row, G pools of rows, M places of a pool.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from instructedit_jax.models.layers import take_tokens

# Rows whose places are brought together, at most; a device has its own.
POOL = 8
# Places of a pool at a time. Fewer would read the head too often, more would
# end in more padding.
TURN = 40
# Shares of a pool's answer rows that a program is made for, beside all of them:
# facts have few, opinions many, and most batches of both are between. Each
# share more costs memory: all branches keep values for the gradient.
SHARES = (0.25, 0.45)


def pool_size(rows: int, devices: int | None = None) -> int:
  """How many rows to take together: a divisor of one device's share of them."""
  devices = jax.device_count() if devices is None else devices
  if rows % devices:
    return 1 if devices > 1 else _divisor(rows)
  return _divisor(rows // devices)


def _divisor(rows: int) -> int:
  return max(size for size in range(1, POOL + 1) if rows % size == 0)


def at_real(
  function: Callable[..., Any],
  mask: jax.Array,
  *arrays: jax.Array,
  turn: int = TURN,
  pool: int | None = None,
) -> Any:
  """function(*arrays) where `mask` holds, zeros elsewhere.

  Args:
    function: arrays [G, m, ...] to a tree of arrays [G, m, ...], every place by
      itself.
    mask: bool [B, P].
    arrays: [B, P, ...].
    turn: places of a pool looked at together, at most.
    pool: rows brought together, a divisor of B; by default `pool_size`.

  Returns:
    the tree with arrays [B, P, ...].
  """
  rows, places = mask.shape
  pool = pool_size(rows) if pool is None else pool
  count = pool * places
  turns = -(-count // turn)
  size = -(-count // turns)
  order = _order(mask, pool)

  def split(array: jax.Array) -> jax.Array:
    array = _gather(array, order)
    wide = [(0, 0), (0, turns * size - count)] + [(0, 0)] * (array.ndim - 2)
    array = jnp.pad(array, wide)
    array = array.reshape(len(array), turns, size, *array.shape[2:])
    return jnp.moveaxis(array, 1, 0)

  parts = tuple(map(split, arrays))
  nothing = _zeros(function, *(part[0] for part in parts))

  def run(_: None, inputs: Any) -> tuple[None, Any]:
    real, *given = inputs
    return None, jax.lax.cond(
      real.any(), lambda: function(*given), lambda: nothing
    )

  _, found = jax.lax.scan(run, None, (split(mask), *parts))

  def join(array: jax.Array) -> jax.Array:
    array = jnp.moveaxis(array, 0, 1)
    array = array.reshape(len(order), turns * size, *array.shape[3:])
    return _scatter(array[:, :count], order, mask)

  return jax.tree.map(join, found)


def at_first(
  function: Callable[..., Any],
  mask: jax.Array,
  *arrays: jax.Array,
  shares: Sequence[float] = SHARES,
  pool: int | None = None,
) -> Any:
  """As `at_real`, for the smallest share of all places that holds the real.

  There is one turn, compiled for every share; unlike `at_real` it costs nothing
  more where the function is differentiated with respect to weights of its own.

  Args:
    function, mask, arrays, pool: as for `at_real`.
    shares: of a pool's places, ascending; all of them is the last resort.
  """
  rows, places = mask.shape
  pool = pool_size(rows) if pool is None else pool
  count = pool * places
  sizes = sorted({min(math.ceil(share * count), count) for share in shares})
  order = _order(mask, pool)
  sorted_arrays = [_gather(array, order) for array in arrays]

  def first(size: int) -> Callable[[], Any]:
    def run() -> Any:
      found = function(*(array[:, :size] for array in sorted_arrays))
      return jax.tree.map(lambda array: _lengthened(array, count), found)

    return run

  most = mask.reshape(-1, count).sum(-1).max()
  fitting = sum((most > size).astype(jnp.int32) for size in sizes)
  branches = [first(size) for size in (*sizes, count)]
  found = jax.lax.switch(jnp.asarray(fitting), branches)
  return jax.tree.map(lambda array: _scatter(array, order, mask), found)


def _order(mask: jax.Array, pool: int) -> jax.Array:
  """int32 [G, M]: every pool's places, the real ones first."""
  return jnp.argsort(~mask.reshape(len(mask) // pool, -1), axis=-1, stable=True)


def _gather(array: jax.Array, order: jax.Array) -> jax.Array:
  """[B, P, ...] to [G, M, ...], in order."""
  return take_tokens(array.reshape(*order.shape, *array.shape[2:]), order)


def _scatter(array: jax.Array, order: jax.Array, mask: jax.Array) -> jax.Array:
  """[G, M, ...] in order back to [B, P, ...], zeros where there is no place."""
  array = take_tokens(array, jnp.argsort(order, axis=-1))
  array = array.reshape(*mask.shape, *array.shape[2:])
  real = mask.reshape(*mask.shape, *[1] * (array.ndim - 2))
  return jnp.where(real, array, jnp.zeros((), array.dtype))


def _lengthened(array: jax.Array, count: int) -> jax.Array:
  missing = count - array.shape[1]
  return jnp.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))


def _zeros(function: Callable[..., Any], *arrays: jax.Array) -> Any:
  return jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
    jax.eval_shape(function, *arrays),
  )
