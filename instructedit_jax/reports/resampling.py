"""Bootstrap draws of means over runs.

Axes: S resamples, R runs.
"""

import numpy as np


def over_runs(means: np.ndarray, seed: int = 0) -> np.ndarray:
  """Draws [S] of the mean over runs that are drawn with replacement, too.

  The runs' deviations are widened by sqrt(R / (R - 1)), as R runs drawn from R
  vary too little. A seed draws the same runs for all matrices of a shape.

  Args:
    means: [S, R], each run's mean over the records of a draw.
    seed: of the draws.
  """
  size, runs = means.shape
  if runs == 1:
    return means[:, 0]
  center = means.mean(1, keepdims=True)
  wide = (means - center) * np.sqrt(runs / (runs - 1))
  chosen = np.random.default_rng([seed, runs]).integers(runs, size=(size, runs))
  return (center + np.take_along_axis(wide, chosen, 1)).mean(1)
