"""Which mixture of training tasks is best: a surface through a few runs.

Scheffé's quadratic mixture model: with shares s_i that sum to one,

  value = sum over i of a_i s_i + sum over i < j of b_ij s_i s_j,

fitted by weighted least squares. The best mixture is that of the highest point
between the shares that were tried; its interval comes from refitting values
drawn within their own intervals.

Axes: E runs, K tasks, F features.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from instructedit_jax.errors import UserError

_GRID, _DRAWS = 20, 500


@dataclasses.dataclass(frozen=True)
class Recommendation:
  """The best mixture according to the fit.

  Attributes:
    shares, low, high: of each task, with 95 % intervals.
    value: what the fit expects there.
    error: how far a run is from a fit without it, root mean square; NaN if
      there are too few runs to leave one out.
    spread: deviation of the runs' values: a fit is worth something if its
      error is smaller.
  """

  shares: list[float]
  low: list[float]
  high: list[float]
  value: float
  error: float
  spread: float


def recommend(
  shares: np.ndarray,
  values: Sequence[float],
  deviations: Sequence[float],
  seed: int = 0,
) -> Recommendation:
  """Fits the surface and finds its highest point.

  Args:
    shares: [E, K], each row sums to one.
    values: [E], what is to be high.
    deviations: [E], standard deviations of the values.
    seed: of the draws.

  Raises:
    UserError: fewer runs than the surface has numbers.
  """
  features = _features(shares)
  if len(features) < features.shape[1]:
    raise UserError(
      f"{len(features)} mixtures were tried; a surface over"
      f" {shares.shape[1]} tasks needs {features.shape[1]}"
    )
  value, sd = np.asarray(values, float), np.asarray(deviations, float)
  weight = 1 / np.maximum(sd, 1e-3 * max(float(np.abs(value).max()), 1e-9))
  grid = _between(shares)
  heights = _features(grid)
  rng = np.random.default_rng(seed)
  drawn = value[None, :] + sd[None, :] * rng.normal(size=(_DRAWS, len(value)))
  fit = _fit(features, weight)
  found = grid[(drawn @ fit.T @ heights.T).argmax(1)]
  expected = heights @ (fit @ value)
  low, high = np.quantile(found, [0.025, 0.975], axis=0)
  return Recommendation(
    grid[expected.argmax()].tolist(),
    low.tolist(),
    high.tolist(),
    float(expected.max()),
    _left_out(features, weight, value),
    float(value.std(ddof=1)),
  )


def _features(shares: np.ndarray) -> np.ndarray:
  pairs = itertools.combinations(range(shares.shape[1]), 2)
  products = [shares[:, i] * shares[:, j] for i, j in pairs]
  return np.column_stack([shares, *products])


def _fit(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
  """Linear map [F, E] from values to coefficients."""
  return np.linalg.pinv(features * weight[:, None]) * weight[None, :]


def _left_out(
  features: np.ndarray, weight: np.ndarray, value: np.ndarray
) -> float:
  count = len(value)
  if count <= features.shape[1]:
    return float("nan")
  errors = []
  for i in range(count):
    rest = np.arange(count) != i
    made = _fit(features[rest], weight[rest]) @ value[rest]
    errors.append(float(features[i] @ made - value[i]))
  return float(np.sqrt(np.mean(np.square(errors))))


def _between(shares: np.ndarray) -> np.ndarray:
  """Mixtures on a grid within the lowest and highest shares that were tried."""
  count = shares.shape[1]
  steps = itertools.product(range(_GRID + 1), repeat=count - 1)
  grid = np.array(
    [[*each, _GRID - sum(each)] for each in steps if sum(each) <= _GRID], float
  )
  grid /= _GRID
  inside = (grid >= shares.min(0) - 1e-9) & (grid <= shares.max(0) + 1e-9)
  return grid[inside.all(1)]
