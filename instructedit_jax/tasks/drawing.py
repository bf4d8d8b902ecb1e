"""One of several values, by chance."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def one(rng: np.random.Generator, options: Sequence[T]) -> T:
  """Any of them, all equally likely; the values are not copied to an array."""
  return options[int(rng.integers(len(options)))]
