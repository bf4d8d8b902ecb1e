"""Running moments equal those of all rows at once, however they arrive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from instructedit_jax.editing import statistics
from instructedit_jax.editing.statistics import Moments

N = 5


def draw(seed: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
  """Rows far from zero, of unequal spread, and a mask that keeps some."""
  rng = np.random.default_rng(seed)
  spread = np.array([1e-3, 0.1, 1, 10, 100])
  rows = rng.normal(3, 1, (*shape, N)) * spread
  return rows.astype(np.float32), rng.random(shape) < 0.7


def fold_all(rows: np.ndarray, mask: np.ndarray) -> Moments:
  return statistics.fold(statistics.empty(N), jnp.asarray(rows), mask)


def check(moments: Moments, kept: np.ndarray, rtol: float = 2e-5) -> None:
  wide = kept.astype(np.float64)
  assert moments.count == len(wide)
  np.testing.assert_allclose(moments.mean, wide.mean(0), rtol)
  np.testing.assert_allclose(
    statistics.deviation(moments), wide.std(0, ddof=1), rtol
  )


def same(a: Moments, b: Moments, rtol: float = 2e-5) -> None:
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol), a, b)


@pytest.mark.parametrize("chunk", [1, 3, 7, 40])
def test_chunks_equal_all_rows_at_once(chunk):
  rows, mask = draw(0, 40)
  moments, fold = statistics.empty(N), jax.jit(statistics.fold)
  for i in range(0, 40, chunk):
    moments = fold(moments, rows[i : i + chunk], mask[i : i + chunk])
  check(moments, rows[mask])


def test_rows_may_lie_on_any_axes():
  rows, mask = draw(1, 2, 3, 4)
  same(fold_all(rows, mask), fold_all(rows.reshape(-1, N), mask.reshape(-1)))
  one = statistics.fold(statistics.empty(N), rows[0, 0, 0], np.array(True))
  np.testing.assert_array_equal(one.mean, rows[0, 0, 0])


def test_masked_rows_are_ignored_whatever_they_hold():
  rows, mask = draw(2, 20)
  poisoned = np.where(mask[:, None], rows, np.nan)
  same(fold_all(poisoned, mask), fold_all(rows, mask), 0)
  start = fold_all(rows, mask)
  same(statistics.fold(start, rows, np.zeros(20, bool)), start, 0)


def test_merge_is_associative_and_commutative():
  a, b, c = (fold_all(*draw(seed, 10 * seed + 2)) for seed in range(3))
  merge = statistics.merge
  same(merge(merge(a, b), c), merge(a, merge(b, c)))
  same(merge(a, b), merge(b, a))
  same(merge(a, statistics.empty(N)), a, 0)
  same(merge(statistics.empty(N), a), a, 0)


def test_before_two_rows_the_deviation_is_one():
  rows, _ = draw(3, 2)
  moments = statistics.empty(N)
  np.testing.assert_array_equal(statistics.deviation(moments), np.ones(N))
  np.testing.assert_allclose(statistics.whiten(moments, rows), rows, 1e-6)
  moments = fold_all(rows[:1], np.array([True]))
  np.testing.assert_array_equal(statistics.deviation(moments), np.ones(N))


def test_whitened_rows_have_mean_zero_and_deviation_one():
  rows, _ = draw(4, 60)
  white = statistics.whiten(fold_all(rows, np.ones(60, bool)), rows)
  np.testing.assert_allclose(white.mean(0), np.zeros(N), atol=1e-5)
  np.testing.assert_allclose(white.std(0, ddof=1), np.ones(N), 1e-3)


def test_a_coordinate_that_never_moved_gives_numbers():
  rows = np.ones((4, N), np.float32)
  white = statistics.whiten(fold_all(rows, np.ones(4, bool)), rows + 1)
  # The published 1e-7 is all that is left to divide by.
  np.testing.assert_allclose(white, np.full((4, N), 1e7), 1e-5)


def test_moments_are_constants_of_whitening():
  rows, mask = draw(5, 8)

  def total(rows):
    moments = statistics.fold(statistics.empty(N), rows, mask)
    return statistics.whiten(moments, rows).sum()

  moments = fold_all(rows, mask)
  wanted = np.broadcast_to(1 / statistics.deviation(moments), rows.shape)
  np.testing.assert_allclose(jax.grad(total)(rows), wanted, 1e-3)


def test_vmap_keeps_streams_apart():
  rows, mask = draw(6, 4, 9)
  start = jax.vmap(lambda _: statistics.empty(N))(np.arange(4))
  together = jax.vmap(statistics.fold)(start, rows, mask)
  for i in range(4):
    one = jax.tree.map(lambda leaf, i=i: leaf[i], together)
    same(one, fold_all(rows[i], mask[i]))


def test_devices_agree_on_the_moments_of_all_rows():
  rows, mask = draw(7, 8, 6)
  more, more_mask = draw(8, 10)
  mask[6:] = False  # a device whose rows are all padding
  start = fold_all(more, more_mask)
  mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
  divided = jax.device_put((rows, mask), NamedSharding(mesh, P("data")))
  folded = jax.jit(statistics.fold)(start, *divided)
  same(folded, statistics.fold(start, rows, mask))


def test_float64_stays_float64():
  with jax.enable_x64(True):
    rows, mask = draw(9, 30)
    wide = jnp.asarray(rows, jnp.float64)
    moments = statistics.empty(N, jnp.float64)
    for i in range(0, 30, 7):
      moments = statistics.fold(moments, wide[i : i + 7], mask[i : i + 7])
    assert moments.square.dtype == jnp.float64
    check(moments, rows[mask], 1e-12)
