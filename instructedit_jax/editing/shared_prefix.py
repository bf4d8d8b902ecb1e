"""Sequences laid over each other where they begin alike.

Attention is causal: the states of a common beginning are the same in every
sequence that starts with it. A row therefore holds a tree of tokens, and the
instruction in front of a hundred prompts, or the prompt in front of three
answers, is computed once a row. What is compared are tokens, never texts: two
texts that begin alike may be cut into tokens differently.

Axes: B rows, T tokens a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_OPEN = 16  # rows a sequence may still join; keeps the layout linear


class Tree(NamedTuple):
  """Rows as arrays; see `decoder.Branches`.

  Attributes:
    tokens, positions, ends: int32 [B, T].
  """

  tokens: np.ndarray
  positions: np.ndarray
  ends: np.ndarray


class SharedRow:
  """A row being filled.

  Attributes:
    tokens, positions, ends: of the tokens laid so far.
    places: for each sequence laid, by its number, the row indices of its
      tokens; int32.
  """

  def __init__(self) -> None:
    self.tokens: list[int] = []
    self.positions: list[int] = []
    self.ends: list[int] = []
    self.places: dict[int, np.ndarray] = {}
    self._path: list[int] = []

  def common(self, tokens: Sequence[int]) -> int:
    """How many first tokens are those of the sequence laid last."""
    count = 0
    for index, token in zip(self._path, tokens, strict=False):
      if self.tokens[index] != token:
        break
      count += 1
    return count

  def add(self, number: int, tokens: Sequence[int], shared: int) -> None:
    """Lays a sequence, its first `shared` tokens over those laid last."""
    end = len(self.tokens)
    fresh = range(end, end + len(tokens) - shared)
    self._path = [*self._path[:shared], *fresh]
    self.tokens += tokens[shared:]
    self.positions += range(shared, len(tokens))
    self.ends += [0] * len(fresh)
    # What is off the path keeps its end; what is on it goes on.
    for index in self._path:
      self.ends[index] = end + len(fresh)
    self.places[number] = np.asarray(self._path, np.int32)


def lay(
  sequences: Sequence[Sequence[int]], size: int, share: bool = True
) -> list[SharedRow]:
  """Distributes token sequences over rows of at most `size` tokens.

  In the order of their tokens a sequence's longest common beginning is with
  its neighbour, so rows that remember the sequence laid last find it.

  Args:
    sequences: tokens; none longer than `size`.
    size: of a row.
    share: False lays every sequence by itself.
  """
  # Without sharing: longest first, which wastes least.
  order = sorted(
    range(len(sequences)),
    key=lambda i: tuple(sequences[i]) if share else (-len(sequences[i]),),
  )
  rows: list[SharedRow] = []
  for number in order:
    tokens = sequences[number]
    best, most = None, -1
    for row in rows[-_OPEN:]:
      shared = row.common(tokens) if share else 0
      new = len(tokens) - shared
      if shared > most and len(row.tokens) + new <= size:
        best, most = row, shared
    if best is None:
      best, most = SharedRow(), 0
      rows.append(best)
    best.add(number, tokens, most)
  return rows


def stack(rows: Sequence[SharedRow], count: int, size: int) -> Tree:
  """Arrays of `count` rows of `size` tokens; what is not given is padding."""
  tree = Tree(*(np.zeros((count, size), np.int32) for _ in Tree._fields))
  for b, row in enumerate(rows):
    used = slice(0, len(row.tokens))
    tree.tokens[b, used] = row.tokens
    tree.positions[b, used] = row.positions
    tree.ends[b, used] = row.ends
  return tree
