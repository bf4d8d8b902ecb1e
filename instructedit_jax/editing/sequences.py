"""Token sequences with scored ends, packed side by side into rows.

A question with its answer is short (a dozen tokens), so several share one row:
no padding between them, one shape for every batch, and one edit a row. Where
they begin alike, behind the same instruction, they lie over each other.

Axes: B rows, T tokens a row, P scored positions a row.
"""

import dataclasses
from collections.abc import Sequence as Sequence_
from typing import NamedTuple

import numpy as np

from instructedit_jax.editing.shared_prefix import SharedRow, stack
from instructedit_jax.errors import UserError
from instructedit_jax.models.tokenizer import Tokenizer


class TooLongError(UserError):
  """A sequence that is longer than the model's context."""


@dataclasses.dataclass(frozen=True)
class Scored:
  """Tokens fed to the model, the last of which predict `labels`.

  Attributes:
    tokens: what is fed; the last label is not among them.
    labels: the tokens predicted at the last len(labels) positions.
  """

  tokens: tuple[int, ...]
  labels: tuple[int, ...]


class Packed(NamedTuple):
  """Where the sequences of every row stand; numpy arrays.

  Attributes:
    tokens, positions, ends: int32 [B, T]; see `decoder.Branches`.
    at: int32 [B, P], token index of each scored position.
    labels: int32 [B, P], the token predicted there.
    owner: int32 [B, P], number of the sequence in its row; -1 = unused.
    places: for each row and each of its sequences, the token indices of the
      sequence's tokens; int32.
  """

  tokens: np.ndarray
  positions: np.ndarray
  ends: np.ndarray
  at: np.ndarray
  labels: np.ndarray
  owner: np.ndarray
  places: list[list[np.ndarray]]


class Sizes(NamedTuple):
  """What packed arrays' sizes are rounded up to: few programs are compiled.

  Attributes:
    rows, tokens, scored: ascending; beyond the last, powers of two.
  """

  rows: tuple[int, ...]
  tokens: tuple[int, ...]
  scored: tuple[int, ...]


def score(
  tokenizer: Tokenizer,
  prompt: str,
  target: str,
  *,
  context: int,
  limit: int | None = None,
) -> Scored:
  """Tokenises prompt + " " + target together and marks the target's tokens.

  Args:
    tokenizer: the model's.
    prompt: text before the answer.
    target: the answer, without a leading blank.
    context: the longest sequence the model can read.
    limit: at most this many target tokens are scored (and fed).

  Raises:
    UserError: no target token is left.
    TooLongError: the sequence exceeds the context.
  """
  ids, start = tokenizer.encode_pair(prompt, target)
  if start >= len(ids) or start < 1:
    raise UserError(
      f"prompt {prompt!r}, target {target!r}: the target has no token of its"
      " own; give a non-empty target"
    )
  end = len(ids) if limit is None else min(len(ids), start + limit)
  if end - 1 > context:
    raise TooLongError(
      f"prompt {prompt[:60]!r}…: {end - 1} tokens with its target, but the"
      f" model reads at most {context}; shorten the prompt"
    )
  return Scored(tuple(ids[: end - 1]), tuple(ids[start:end]))


def unscored(tokenizer: Tokenizer, text: str) -> Scored:
  """A text of which nothing is predicted, such as an instruction."""
  return Scored(tuple(tokenizer.encode(text)), ())


def laid(row: Sequence_[Scored]) -> SharedRow:
  """Lays sequences over each other as far as nothing is predicted there.

  A token that predicts a label is its sequence's own: what two answers give of
  it, its gradients above all, must stay apart. Gradients at a shared token are
  the sum of its sequences', which only editors that keep all rows see.
  """
  filled = SharedRow()
  free = 0  # first tokens of the last sequence that predict nothing
  for number in sorted(range(len(row)), key=lambda i: row[i].tokens):
    tokens = row[number].tokens
    own = len(tokens) - len(row[number].labels)
    filled.add(number, tokens, min(filled.common(tokens), free, own))
    free = own
  return filled


def row_length(row: Sequence_[Scored]) -> int:
  """How many tokens the sequences of one row take, laid over each other."""
  return len(laid(row).tokens)


def pack(
  rows: Sequence_[Sequence_[Scored]], tokens: int, scored: int
) -> Packed:
  """Lays each row's sequences behind and, as far as they can be, on each other.

  Args:
    rows: the sequences of each row.
    tokens: T, at least the `row_length` of every row.
    scored: P, at least the number of labels of every row.

  Raises:
    ValueError: a row does not fit.
  """
  return _pack(rows, [laid(row) for row in rows], tokens, scored)


def pack_rounded(rows: Sequence_[Sequence_[Scored]], sizes: Sizes) -> Packed:
  """`pack` into one of few shapes; rows that are added hold nothing.

  Args:
    rows: the sequences of each row.
    sizes: that the three sizes are rounded up to.
  """
  padded = list(rows)
  padded += [()] * (bucket(len(rows), sizes.rows) - len(rows))
  filled = [laid(row) for row in padded]
  tokens = max(len(row.tokens) for row in filled)
  scored = max(sum(len(one.labels) for one in row) for row in rows)
  return _pack(
    padded, filled, bucket(tokens, sizes.tokens), bucket(scored, sizes.scored)
  )


def _pack(
  rows: Sequence_[Sequence_[Scored]],
  filled: Sequence_[SharedRow],
  tokens: int,
  scored: int,
) -> Packed:
  ends = (len(rows), scored)
  at = np.zeros(ends, np.int32)
  labels = np.zeros(ends, np.int32)
  owner = np.full(ends, -1, np.int32)
  places: list[list[np.ndarray]] = []
  for b, row in enumerate(rows):
    said = [len(sequence.labels) for sequence in row]
    if len(filled[b].tokens) > tokens or sum(said) > scored:
      raise ValueError(f"row {b} does not fit {tokens} tokens, {scored} ends")
    places.append([filled[b].places[number] for number in range(len(row))])
    count = 0
    for number, sequence in enumerate(row):
      span = slice(count, count + said[number])
      place = places[b][number]
      at[b, span] = place[len(place) - said[number] :]
      labels[b, span] = sequence.labels
      owner[b, span] = number
      count += said[number]
  tree = stack(filled, len(rows), tokens)
  return Packed(*tree, at, labels, owner, places)


def bucket(length: int, buckets: Sequence_[int]) -> int:
  """The smallest bucket that holds `length`; the next power of two beyond."""
  for size in buckets:
    if length <= size:
      return size
  return 1 << (length - 1).bit_length()
