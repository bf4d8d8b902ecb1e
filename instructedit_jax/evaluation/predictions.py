"""Teacher-forced predictions before and after edits, many edits at once.

Sequences of one record share packed rows, so a row has one edit; a record may
take several rows. The prefix is read from the cache and so is the unedited
model's output, which leaves one suffix pass and the head.

Axes: B rows, T tokens, P scored positions, L an answer's tokens, V vocabulary.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.editing import head, places
from instructedit_jax.editing.prefix import PrefixCache, State
from instructedit_jax.editing.rows import Array, Rows, rows_of
from instructedit_jax.editing.sequences import Scored, bucket, fill, pack
from instructedit_jax.models.language_model import LanguageModel

_ROWS = 16
_TOKENS = (128, 256, 512)
_ENDS = (32, 64, 128)


class Prediction(NamedTuple):
  """What the two models make of one answer; arrays [L].

  Attributes:
    labels: the answer's tokens.
    before, after: likeliest tokens of the unedited and of the edited model.
    log_before, log_after: log-probabilities of the labels (nats).
    divergence: KL(unedited || edited) at each position (nats).
  """

  labels: Array
  before: Array
  after: Array
  log_before: Array
  log_after: Array
  divergence: Array


class _Row(NamedTuple):
  """One row: whose edit it has, and which of the owner's sequences it holds."""

  owner: int
  numbers: list[int]


def predict(
  model: LanguageModel,
  cache: PrefixCache,
  sequences: Sequence[Sequence[Scored]],
  edit: Any = None,
) -> list[list[Prediction]]:
  """Predictions for every record's sequences.

  Args:
    model: the base model.
    cache: of that model.
    sequences: those of each record.
    edit: one for each record along the leading axis, if it says so by its
      attribute `batched`; or one for all; or None for the base model alone.
  """
  cache.warm([scored for row in sequences for scored in row])
  found: list[dict[int, Prediction]] = [{} for _ in sequences]
  for (tokens, ends), rows in _by_shape(sequences).items():
    for start in range(0, len(rows), _ROWS):
      chosen = rows[start : start + _ROWS]
      texts = [[sequences[r.owner][n] for n in r.numbers] for r in chosen]
      owners = np.zeros(_ROWS, np.int32)
      owners[: len(chosen)] = [row.owner for row in chosen]
      batched = getattr(edit, "batched", False)
      scores = _run(
        model, cache, texts, (tokens, ends), edit[owners] if batched else edit
      )
      for row, predictions in zip(chosen, scores, strict=True):
        found[row.owner].update(zip(row.numbers, predictions, strict=True))
  return [[held[n] for n in range(len(held))] for held in found]


def _by_shape(
  sequences: Sequence[Sequence[Scored]],
) -> dict[tuple[int, int], list[_Row]]:
  """Rows of the few shapes (T, P), each of one record's sequences."""
  found: dict[tuple[int, int], list[_Row]] = {}
  for owner, mine in enumerate(sequences):
    by_length: dict[int, list[int]] = {}
    for number, scored in enumerate(mine):
      length = bucket(len(scored.tokens), _TOKENS)
      by_length.setdefault(length, []).append(number)
    for length, numbers in by_length.items():
      for row in fill([mine[n] for n in numbers], length):
        for part in _few_ends([numbers[i] for i in row], mine):
          ends = bucket(sum(len(mine[n].labels) for n in part), _ENDS)
          found.setdefault((length, ends), []).append(_Row(owner, part))
  return found


def _few_ends(
  numbers: Sequence[int], sequences: Sequence[Scored]
) -> Iterator[list[int]]:
  """Splits a row so that its answers fit the smallest number of positions."""
  part: list[int] = []
  room = _ENDS[0]
  for number in numbers:
    size = len(sequences[number].labels)
    if part and size > room:
      yield part
      part, room = [], _ENDS[0]
    part.append(number)
    room -= size
  yield part


def _run(
  model: LanguageModel,
  cache: PrefixCache,
  texts: list[list[Scored]],
  shape: tuple[int, int],
  edit: Any,
) -> list[list[Prediction]]:
  """The predictions of up to `_ROWS` rows."""
  padded = [*texts, *([] for _ in range(_ROWS - len(texts)))]
  packed = pack(padded, *shape)
  states = [cache(row) for row in padded]
  scores = jax.device_get(
    _scores(
      model.graph,
      model.params,
      rows_of(packed, states, model.config.width),
      _final(states, shape[1], model.config.width),
      edit,
    )
  )
  return [
    [
      Prediction(*(array[b, packed.owner[b] == number] for array in scores))
      for number in range(len(row))
    ]
    for b, row in enumerate(texts)
  ]


def _final(
  states: Sequence[Sequence[State]], ends: int, width: int
) -> np.ndarray:
  """Unedited head inputs at the scored positions, float32 [B, P, D]."""
  final = np.zeros((len(states), ends, width), np.float32)
  for b, row in enumerate(states):
    if row:
      values = np.concatenate([state.final for state in row])
      final[b, : len(values)] = values
  return final


@functools.partial(jax.jit, static_argnums=0)
def _scores(
  graph: nnx.GraphDef,
  params: nnx.State,
  rows: Rows,
  final: jax.Array,
  edit: Any,
) -> Prediction:
  """The fields of `Prediction` at every scored position, [B, P]."""
  model = nnx.merge(graph, params)
  # Cached states left the model in its own type: the same numbers go back in.
  dtype = model.embedding[...].dtype
  labels, mask = jnp.asarray(rows.labels), jnp.asarray(rows.mask)
  base = jnp.asarray(final, dtype)

  def unedited(base: jax.Array, label: jax.Array) -> Prediction:
    loss, _, before = head.answer_loss(model.logits(base), label)
    return Prediction(label, before, before, -loss, -loss, jnp.zeros_like(loss))

  def both(base: jax.Array, last: jax.Array, label: jax.Array) -> Prediction:
    old, new = model.logits(base), model.logits(last)
    old_loss, _, before = head.answer_loss(old, label)
    new_loss, _, after = head.answer_loss(new, label)
    change, _ = head.divergence(old, new)
    # Rounding may take a divergence a hair below zero.
    change = jnp.maximum(change, 0.0)
    return Prediction(label, before, after, -old_loss, -new_loss, change)

  if edit is None:
    return places.at_real(unedited, mask, base, labels)
  hidden = jnp.asarray(rows.hidden, dtype)
  last = model.suffix(hidden, rows.sequence, edit.tap(), jnp.asarray(rows.at))
  return places.at_real(both, mask, base, last, labels)
