"""Directions as points of a plane, by t-SNE (van der Maaten and Hinton 2008).

A picture only: distances between groups mean nothing in it. `separation` has
the numbers.
"""

import numpy as np

_DIMENSIONS = 50


def coordinates(
  cosine: np.ndarray, dimensions: int = _DIMENSIONS
) -> np.ndarray:
  """Kernel principal components [N, at most `dimensions`], largest first."""
  count = len(cosine)
  mean = cosine.mean(0)
  centred = cosine - mean[:, None] - mean[None, :] + mean.mean()
  values, vectors = np.linalg.eigh((centred + centred.T) / 2)
  order = np.argsort(values)[::-1][: min(dimensions, count)]
  kept = values[order] > 1e-10 * max(float(values.max()), 1e-300)
  order = order[kept] if kept.any() else order[:1]
  found = vectors[:, order] * np.sqrt(np.maximum(values[order], 0))[None, :]
  # Eigenvectors have no sign of their own; this one is always the same.
  sign = np.sign(found[np.abs(found).argmax(0), np.arange(found.shape[1])])
  return found * np.where(sign == 0, 1, sign)[None, :]


def tsne(
  cosine: np.ndarray, perplexity: float = 30.0, seed: int = 0
) -> np.ndarray:
  """Points [N, 2] of N directions; the same ones every time.

  Args:
    cosine: of the directions, [N, N].
    perplexity: neighbours that count; lowered for few directions.
    seed: of the optimisation.

  Directions that do not differ, or a single one, all lie at the origin.
  """
  # Imported late: it takes a second, and only pictures need it.
  from sklearn import manifold

  points = coordinates(cosine)
  if np.ptp(points) < 1e-6:
    return np.zeros((len(points), 2))
  if points.shape[1] == 1:
    points = np.concatenate([points, np.zeros_like(points)], 1)
  limit = max(1.0, (len(cosine) - 1) / 3)
  model = manifold.TSNE(
    perplexity=min(perplexity, limit), init="pca", random_state=seed, n_jobs=1
  )
  return np.asarray(model.fit_transform(points.astype(np.float64)))
