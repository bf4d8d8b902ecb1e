"""Running mean and deviation of rows, folded in chunk by chunk.

A normaliser must see every row of training once, in whatever chunks they come,
on whatever device. Three numbers a coordinate are enough (Welford; Chan, Golub
and LeVeque for merging two of them), and the merge is associative, so any
order and any split over devices gives the same result.

Axes: n coordinates, ... rows in any arrangement.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

# Added to the deviation, not to the variance, as in the published editor.
_EPSILON = 1e-7


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
  """What is known of the rows seen so far.

  Attributes:
    count: float [], rows seen. A float saturates where an integer would wrap.
    mean: float [n].
    square: float [n], sum of squared differences from the mean.
  """

  count: jax.Array
  mean: jax.Array
  square: jax.Array


def empty(n: int, dtype: Any = jnp.float32) -> Moments:
  """Moments of no rows of n coordinates."""
  return Moments(jnp.zeros((), dtype), jnp.zeros(n, dtype), jnp.zeros(n, dtype))


def fold(moments: Moments, rows: jax.Array, mask: jax.Array) -> Moments:
  """Adds rows; equal to adding them one at a time.

  Args:
    moments: the rows seen before.
    rows: [..., n]; what masked rows hold does not matter.
    mask: bool [...], which rows are real.
  """
  dtype = moments.mean.dtype
  kept = mask[..., None]
  axes = tuple(range(mask.ndim))
  rows = jnp.where(kept, rows.astype(dtype), 0)
  count = jnp.sum(mask, dtype=dtype)
  mean = rows.sum(axes) / jnp.maximum(count, 1)
  centre = mean.reshape((1,) * mask.ndim + mean.shape)
  square = jnp.where(kept, jnp.square(rows - centre), 0).sum(axes)
  return merge(moments, Moments(count, mean, square))


def merge(a: Moments, b: Moments) -> Moments:
  """Moments of both sets of rows."""
  count = a.count + b.count
  share = b.count / jnp.maximum(count, 1)
  gap = b.mean - a.mean
  return Moments(
    count=count,
    mean=a.mean + gap * share,
    square=a.square + b.square + jnp.square(gap) * (a.count * share),
  )


def deviation(moments: Moments) -> jax.Array:
  """Sample standard deviation [n]; 1 where fewer than two rows were seen."""
  several = moments.count > 1
  variance = moments.square / jnp.where(several, moments.count - 1, 1)
  return jnp.where(several, jnp.sqrt(variance), 1)


def whiten(
  moments: Moments, rows: jax.Array, least: float = _EPSILON
) -> jax.Array:
  """(rows - mean) / (deviation + least), the moments held constant.

  Args:
    moments: of n coordinates.
    rows: [..., n].
    least: added to the deviation.
  """
  fixed = jax.lax.stop_gradient((moments.mean, deviation(moments) + least))
  mean, scale = (v.reshape((1,) * (rows.ndim - 1) + v.shape) for v in fixed)
  return (rows - mean) / scale
