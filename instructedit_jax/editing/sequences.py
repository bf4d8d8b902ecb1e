"""Token sequences with scored ends, packed side by side into rows.

A question with its answer is short (a dozen tokens), so several share one row:
no padding between them, one shape for every batch, and one edit a row.

Axes: B rows, T tokens a row, P scored positions a row.
"""

import dataclasses
from collections.abc import Sequence as Sequence_
from typing import NamedTuple

import numpy as np

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
    tokens, positions, segments: int32 [B, T]; segment 0 is padding.
    at: int32 [B, P], token index of each scored position.
    labels: int32 [B, P], the token predicted there.
    owner: int32 [B, P], number of the sequence in its row; -1 = unused.
  """

  tokens: np.ndarray
  positions: np.ndarray
  segments: np.ndarray
  at: np.ndarray
  labels: np.ndarray
  owner: np.ndarray


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


def pack(
  rows: Sequence_[Sequence_[Scored]], tokens: int, scored: int
) -> Packed:
  """Lays each row's sequences end to end.

  Args:
    rows: the sequences of each row.
    tokens: T, at least the total length of every row.
    scored: P, at least the number of labels of every row.

  Raises:
    ValueError: a row does not fit.
  """
  shape, ends = (len(rows), tokens), (len(rows), scored)
  packed = Packed(
    tokens=np.zeros(shape, np.int32),
    positions=np.zeros(shape, np.int32),
    segments=np.zeros(shape, np.int32),
    at=np.zeros(ends, np.int32),
    labels=np.zeros(ends, np.int32),
    owner=np.full(ends, -1, np.int32),
  )
  for b, row in enumerate(rows):
    place = count = 0
    for number, sequence in enumerate(row):
      length, labels = len(sequence.tokens), len(sequence.labels)
      if place + length > tokens or count + labels > scored:
        raise ValueError(f"row {b} does not fit {tokens} tokens, {scored} ends")
      span, ends_ = slice(place, place + length), slice(count, count + labels)
      packed.tokens[b, span] = sequence.tokens
      packed.positions[b, span] = np.arange(length)
      packed.segments[b, span] = number + 1
      packed.at[b, ends_] = np.arange(place + length - labels, place + length)
      packed.labels[b, ends_] = sequence.labels
      packed.owner[b, ends_] = number
      place, count = place + length, count + labels
  return packed


def bucket(length: int, buckets: Sequence_[int]) -> int:
  """The smallest bucket that holds `length`; the next power of two beyond."""
  for size in buckets:
    if length <= size:
      return size
  return 1 << (length - 1).bit_length()
