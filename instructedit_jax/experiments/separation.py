"""How far groups of directions lie apart: numbers beside a picture.

Everything takes the matrix of cosines of N directions and a label for each.
"""

import dataclasses

import numpy as np

from instructedit_jax.metrics import summary

_FOLDS, _SHUFFLES = 5, 10


@dataclasses.dataclass(frozen=True)
class Separation:
  """One set of directions under one labelling.

  Attributes:
    silhouette: mean over directions of (b - a) / max(a, b), where a is the
      mean distance 1 - cosine to its own group, b to the nearest other one.
    within, between: mean cosine of two directions of one group, of two.
    groups: group -> the same of its own directions: with each other, and with
      those of all other groups.
    probe: share of directions whose label a linear probe tells, in percent,
      cross-validated; low, high: its 95 % interval.
    chance: the share of the largest group, in percent.
    shuffled: the probe's share for labels in random order.
    count: N.
  """

  silhouette: float
  within: float
  between: float
  groups: dict[str, tuple[float, float]]
  probe: float
  low: float
  high: float
  chance: float
  shuffled: float
  count: int


def separation(
  cosine: np.ndarray, labels: np.ndarray, seed: int = 0
) -> Separation:
  """All numbers; NaN where there is only one group."""
  groups = cohesion(cosine, labels)
  labels = np.unique(labels, return_inverse=True)[1]
  rng = np.random.default_rng(seed)
  right = probe(cosine, labels, rng)
  shuffles = [
    probe(cosine, rng.permutation(labels), rng).mean() for _ in range(_SHUFFLES)
  ]
  within, between = similarity(cosine, labels)
  low, high = summary.interval(right.astype(float).tolist(), seed=seed)
  return Separation(
    silhouette(cosine, labels),
    *(within, between, groups),
    *(100 * float(right.mean()), 100 * low, 100 * high),
    100 * float(np.bincount(labels).max() / len(labels)),
    100 * float(np.mean(shuffles)),
    len(labels),
  )


def silhouette(cosine: np.ndarray, labels: np.ndarray) -> float:
  """Rousseeuw's mean silhouette for the distance 1 - cosine; in [-1, 1].

  A direction alone in its group counts 0.
  """
  distance = np.clip(1 - cosine, 0, None)
  np.fill_diagonal(distance, 0)
  groups = np.unique(labels)
  if len(groups) < 2:
    return float("nan")
  member = (labels[:, None] == groups[None, :]).astype(float)  # [N, groups]
  size = member.sum(0)
  total = distance @ member
  own = (total * member).sum(1)
  mine = (size[None, :] * member).sum(1)
  a = own / np.maximum(mine - 1, 1)
  others = np.where(member > 0, np.inf, total / size[None, :])
  b = others.min(1)
  top = np.maximum(a, b)
  score = np.divide(b - a, top, out=np.zeros_like(top), where=top > 0)
  return float(np.where(mine > 1, score, 0).mean())


def similarity(cosine: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
  """Mean cosine of two different directions of one group, and of two."""
  same = labels[:, None] == labels[None, :]
  apart = ~np.eye(len(labels), dtype=bool)
  # A single group has no pair between groups.
  return _mean(cosine[same & apart]), _mean(cosine[~same])


def cohesion(
  cosine: np.ndarray, labels: np.ndarray
) -> dict[str, tuple[float, float]]:
  """group -> mean cosine of two of its directions, and of one with others."""
  found = {}
  for group in np.unique(labels):
    mine = labels == group
    own = cosine[np.ix_(mine, mine)]
    pairs = own[~np.eye(len(own), dtype=bool)]
    found[str(group)] = _mean(pairs), _mean(cosine[np.ix_(mine, ~mine)])
  return found


def _mean(values: np.ndarray) -> float:
  """NaN where there is none."""
  return float(values.mean()) if values.size else float("nan")


def probe(
  cosine: np.ndarray,
  labels: np.ndarray,
  rng: np.random.Generator,
  strength: float = 1e-2,
) -> np.ndarray:
  """Whether a linear classifier tells each direction's label, bool [N].

  Kernel ridge regression on one-hot labels, with a constant feature, over
  stratified folds: each direction is judged by weights that never saw it.

  Args:
    cosine: the kernel, [N, N].
    labels: numbers from 0, [N].
    rng: draws the folds.
    strength: of the ridge, relative to the kernel's mean diagonal.
  """
  count = len(labels)
  fold = np.empty(count, int)
  for group in np.unique(labels):
    mine = rng.permutation(np.flatnonzero(labels == group))
    # Where a small group begins is random: else all would fill fold 0.
    fold[mine] = (np.arange(len(mine)) + rng.integers(_FOLDS)) % _FOLDS
  kernel = cosine + 1.0
  targets = np.eye(int(labels.max()) + 1)[labels]
  right = np.zeros(count, bool)
  for number in range(_FOLDS):
    test = fold == number
    train = ~test
    if not test.any() or not train.any():
      continue
    inside = kernel[np.ix_(train, train)]
    ridge = (
      strength * float(np.trace(inside)) * np.eye(len(inside)) / len(inside)
    )
    weights = np.linalg.solve(inside + ridge, targets[train])
    guess = (kernel[np.ix_(test, train)] @ weights).argmax(1)
    right[test] = guess == labels[test]
  return right
