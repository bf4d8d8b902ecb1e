"""Teacher-forced predictions before and after edits, many edits at once.

A row has one edit, and sequences of its record laid over each other where they
begin alike: an instruction or a prompt is read once, however many answers
follow it. A record may take several rows. The prefix is read from the cache and
so is the unedited model's output, which leaves one suffix pass and the head.

Axes: B rows, T tokens, P scored positions, L an answer's tokens, V vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.editing import head, places, shared_prefix
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import Array
from instructedit_jax.editing.sequences import Scored, bucket
from instructedit_jax.editing.shared_prefix import SharedRow
from instructedit_jax.models import decoder
from instructedit_jax.models.language_model import LanguageModel

_ROWS = 16
_TOKENS = (128, 256, 512)


class Prediction(NamedTuple):
  """What the two models make of one answer; arrays [L].

  Attributes:
    labels: the answer's tokens.
    before, after: likeliest tokens of the unedited and of the edited model.
    log_before, log_after: log-probabilities of the labels (nats).
    divergence: KL(unedited || edited) at each position (nats); NaN where whole
      distributions were not compared.
  """

  labels: Array
  before: Array
  after: Array
  log_before: Array
  log_after: Array
  divergence: Array


class Unedited(NamedTuple):
  """What the base model makes of one answer: `before` and `log_before`."""

  before: Array
  log_before: Array


class _Row(NamedTuple):
  """One row: whose edit it has, and its owner's sequences, by number."""

  owner: int
  texts: dict[int, Scored]
  laid: SharedRow

  @property
  def ends(self) -> int:
    """Scored positions."""
    return sum(len(text.labels) for text in self.texts.values())


class _Rows(NamedTuple):
  """Rows as arrays.

  Attributes:
    hidden: float32 [B, T, D], prefix states.
    positions, ends: int32 [B, T], see `decoder.Branches`.
    final: float32 [B, P, D], unedited input of the head.
    at, labels: int32 [B, P].
    number: int32 [B, P], of the sequence that is scored; -1 = padding.
    compared: bool [B, P], where whole distributions are.
  """

  hidden: Array
  positions: Array
  ends: Array
  final: Array
  at: Array
  labels: Array
  number: Array
  compared: Array


def predict(
  model: LanguageModel,
  cache: PrefixCache,
  sequences: Sequence[Sequence[Scored]],
  edit: Any = None,
  *,
  compared: Sequence[Sequence[bool]] | None = None,
  known: dict[Scored, Unedited] | None = None,
) -> list[list[Prediction]]:
  """Predictions for every record's sequences.

  Args:
    model: the base model.
    cache: of that model.
    sequences: those of each record.
    edit: one for each record along the leading axis, if it says so by its
      attribute `batched`; or one for all; or None for the base model alone.
    compared: of which sequences whole distributions are compared; by default of
      all. Others cost half as much where `known` has them.
    known: what the base model made of sequences, for those that are not
      compared; what is missing is added.
  """
  cache.warm([scored for row in sequences for scored in row])
  if compared is None:
    compared = [[True] * len(row) for row in sequences]
  known = {} if known is None else known
  plain = [
    scored
    for row, flags in zip(sequences, compared, strict=True)
    for scored, flag in zip(row, flags, strict=True)
    if edit is None or not flag
  ]
  _know(model, cache, plain, known)
  if edit is None:
    return [
      [_same(scored, known[scored]) for scored in row] for row in sequences
    ]
  found: list[dict[int, Prediction]] = [{} for _ in sequences]
  for shape, rows in _by_shape(sequences).items():
    for start in range(0, len(rows), _ROWS):
      chosen = rows[start : start + _ROWS]
      owners = np.zeros(_ROWS, np.int32)
      owners[: len(chosen)] = [row.owner for row in chosen]
      batched = getattr(edit, "batched", False)
      own = edit[owners] if batched else edit
      arrays = _arrays(cache, chosen, shape, model.config.width, compared)
      scores = jax.device_get(_edited(model.graph, model.params, arrays, own))
      for b, row in enumerate(chosen):
        for number, scored in row.texts.items():
          mine = Prediction(*(a[b, arrays.number[b] == number] for a in scores))
          if not compared[row.owner][number]:
            mine = mine._replace(**known[scored]._asdict())
          found[row.owner][number] = mine
  return [[held[n] for n in range(len(held))] for held in found]


def _same(scored: Scored, known: Unedited) -> Prediction:
  """The base model, compared with itself."""
  nothing = np.zeros_like(known.log_before)
  labels = np.asarray(scored.labels, np.int32)
  twice = (known.before, known.before, known.log_before, known.log_before)
  return Prediction(labels, *twice, nothing)


def _know(
  model: LanguageModel,
  cache: PrefixCache,
  sequences: Sequence[Scored],
  known: dict[Scored, Unedited],
) -> None:
  """Adds what the base model makes of those that are missing."""
  missing = [s for s in dict.fromkeys(sequences) if s not in known]
  none = [[False] * len(missing)]
  for shape, rows in _by_shape([missing]).items():
    for start in range(0, len(rows), _ROWS):
      chosen = rows[start : start + _ROWS]
      arrays = _arrays(cache, chosen, shape, model.config.width, none)
      real = arrays.number >= 0
      scores = jax.device_get(
        _unedited(model.graph, model.params, arrays.final, arrays.labels, real)
      )
      for b, row in enumerate(chosen):
        for number, scored in row.texts.items():
          own = arrays.number[b] == number
          known[scored] = Unedited(*(array[b, own] for array in scores))


def _by_shape(
  sequences: Sequence[Sequence[Scored]],
) -> dict[tuple[int, int], list[_Row]]:
  """Rows of the few shapes (T, P), each of one record's sequences."""
  by_length: dict[int, list[_Row]] = {}
  for owner, mine in enumerate(sequences):
    groups: dict[int, list[int]] = {}
    for number, scored in enumerate(mine):
      length = bucket(len(scored.tokens), _TOKENS)
      groups.setdefault(length, []).append(number)
    for length, numbers in groups.items():
      for laid in shared_prefix.lay([mine[n].tokens for n in numbers], length):
        texts = {numbers[i]: mine[numbers[i]] for i in laid.places}
        laid.places = {numbers[i]: at for i, at in laid.places.items()}
        by_length.setdefault(length, []).append(_Row(owner, texts, laid))
  # One shape for all rows of a length: room for positions costs little, as the
  # head passes padding over, and rows left over cost a whole batch.
  return {
    (length, bucket(max(row.ends for row in rows), _TOKENS)): rows
    for length, rows in by_length.items()
  }


def _arrays(
  cache: PrefixCache,
  rows: Sequence[_Row],
  shape: tuple[int, int],
  width: int,
  compared: Sequence[Sequence[bool]],
) -> _Rows:
  """Up to `_ROWS` rows, padded to as many, with their states."""
  tokens, ends = shape
  tree = shared_prefix.stack([row.laid for row in rows], _ROWS, tokens)
  scored_at = (_ROWS, ends)
  arrays = _Rows(
    hidden=np.zeros((_ROWS, tokens, width), np.float32),
    positions=tree.positions,
    ends=tree.ends,
    final=np.zeros((*scored_at, width), np.float32),
    at=np.zeros(scored_at, np.int32),
    labels=np.zeros(scored_at, np.int32),
    number=np.full(scored_at, -1, np.int32),
    compared=np.zeros(scored_at, bool),
  )
  for b, row in enumerate(rows):
    place = 0
    states = cache(list(row.texts.values()))
    for (number, scored), state in zip(row.texts.items(), states, strict=True):
      at, size = row.laid.places[number], len(scored.labels)
      span = slice(place, place + size)
      arrays.hidden[b, at] = state.hidden
      arrays.final[b, span] = state.final
      arrays.at[b, span] = at[len(at) - size :]
      arrays.labels[b, span] = scored.labels
      arrays.number[b, span] = number
      arrays.compared[b, span] = compared[row.owner][number]
      place += size
  return arrays


@functools.partial(jax.jit, static_argnums=0)
def _unedited(
  graph: nnx.GraphDef,
  params: nnx.State,
  final: jax.Array,
  labels: jax.Array,
  real: jax.Array,
) -> Unedited:
  """Likeliest tokens and log-probabilities [B, P]."""
  model = nnx.merge(graph, params)

  def look(final: jax.Array, label: jax.Array) -> Unedited:
    loss, _, first = head.answer_loss(model.logits(final), label)
    return Unedited(first, -loss)

  dtype = model.embedding[...].dtype
  return places.at_real(look, real, jnp.asarray(final, dtype), labels)


@functools.partial(jax.jit, static_argnums=0)
def _edited(
  graph: nnx.GraphDef, params: nnx.State, rows: _Rows, edit: Any
) -> Prediction:
  """The fields of `Prediction` at every scored position, [B, P]."""
  model = nnx.merge(graph, params)
  # Cached states left the model in its own type: the same numbers go back in.
  dtype = model.embedding[...].dtype
  labels, compared = jnp.asarray(rows.labels), jnp.asarray(rows.compared)
  real = jnp.asarray(rows.number) >= 0
  tree = decoder.Branches(jnp.asarray(rows.positions), jnp.asarray(rows.ends))
  given = (jnp.asarray(rows.hidden, dtype), tree)
  last = model.suffix(*given, edit.tap(), jnp.asarray(rows.at))
  base = jnp.asarray(rows.final, dtype)
  if jnp.finfo(dtype).bits < 32:
    # Kept states were computed in other rows. In half precision that alone
    # turns a first choice in fifty: here nothing differs but the edit.
    base = model.suffix(*given, at=jnp.asarray(rows.at))

  def alone(last: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    loss, _, first = head.answer_loss(model.logits(last), label)
    return first, -loss

  def both(base: jax.Array, last: jax.Array, label: jax.Array) -> Prediction:
    old, new = model.logits(base), model.logits(last)
    old_loss, _, before = head.answer_loss(old, label)
    new_loss, _, after = head.answer_loss(new, label)
    change, _ = head.divergence(old, new)
    # Rounding may take a divergence a hair below zero.
    change = jnp.maximum(change, 0.0)
    return Prediction(label, before, after, -old_loss, -new_loss, change)

  first, log_after = places.at_real(alone, real & ~compared, last, labels)
  whole = places.at_real(both, compared, base, last, labels)
  return whole._replace(
    labels=labels,
    after=jnp.where(compared, whole.after, first),
    log_after=jnp.where(compared, whole.log_after, log_after),
    divergence=jnp.where(compared, whole.divergence, jnp.nan),
  )
