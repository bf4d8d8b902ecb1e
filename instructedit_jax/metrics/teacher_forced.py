"""Scores of an answer whose every token is predicted after the right ones.

All of them compare token ids or log-probabilities at the answer's positions;
L is the number of the answer's tokens.
"""

import math
from collections.abc import Sequence

import numpy as np


def token_share(wanted: np.ndarray, predicted: np.ndarray) -> float:
  """Share of positions, 0 to 1, where int [L] arrays agree."""
  if not len(wanted) or wanted.shape != predicted.shape:
    raise ValueError(f"token ids {wanted.shape} against {predicted.shape}")
  return float((wanted == predicted).mean())


def exact(wanted: np.ndarray, predicted: np.ndarray) -> float:
  """1.0 if every token agrees, else 0.0; never above `token_share`."""
  return float(token_share(wanted, predicted) == 1.0)


def edit_success(
  same_after: Sequence[np.ndarray],
  opposite_after: Sequence[np.ndarray],
  same_before: Sequence[np.ndarray],
) -> float:
  """How far replies of the wanted sentiment outweigh those of the other.

  sigmoid(s' - o') * min(1, exp(s' - s)): s and o are the mean log-probability
  of a token in replies of the wanted and of the opposite sentiment, the prime
  marks the edited model (SERAC, arXiv 2206.06520, section 4.2). The second
  factor takes off for an edit that makes every reply unlikely.

  Args:
    same_after, opposite_after: log-probabilities (nats) of each reply's
      tokens, float [L] a reply, under the edited model.
    same_before: those of the first under the unedited model.

  Returns:
    between 0 and 1.
  """
  after, before = _mean(same_after), _mean(same_before)
  margin = after - _mean(opposite_after)
  # Written so that neither side of zero can overflow.
  odds = math.exp(-abs(margin))
  preferred = (1.0 if margin >= 0 else odds) / (1.0 + odds)
  return preferred * math.exp(min(0.0, after - before))


def _mean(replies: Sequence[np.ndarray]) -> float:
  """Over all tokens of all replies."""
  return float(np.concatenate(replies).mean())
