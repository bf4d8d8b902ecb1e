"""Episodes as arrays of one fixed shape, with the cached prefix states in.

Axes: B episodes, T tokens a row, R answer tokens of the edit, K locality
positions, P in-scope positions, D width.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import Array, Rows, rows_of
from instructedit_jax.editing.sequences import Packed, Scored, pack
from instructedit_jax.editors.conditioner import heard, pooled
from instructedit_jax.training.episodes import Episode, Kind


@dataclasses.dataclass(frozen=True)
class BatchShape:
  """The one shape every batch is padded to.

  Attributes:
    edit_tokens, edit_rows: longest edit prompt with target (all its views, laid
      over each other where they begin alike), and its answer (in all of them).
    query_tokens: all queries of an episode together; those that do not fit
      are left out, the last ones first.
    keep_positions, edit_positions: scored positions of each sort.
  """

  edit_tokens: int = 40
  edit_rows: int = 20
  query_tokens: int = 176
  keep_positions: int = 22
  edit_positions: int = 44


class Batch(NamedTuple):
  """One step's input.

  Attributes:
    edit: the requests, one a row.
    query: all questions; the first K scored positions are out of scope.
    base: float32 [B, K, D], unedited head input at those K positions.
    weight: float32 [B, K + P], each position's share of its row's loss; the
      shares of one kind add up to 1 (or 0 where a row has none).
    avoid: bool [B, P], in-scope positions whose labels must become unlikely.
    instruction: float32 [B, 2 D], the instructions, from `conditioner.pooled`.
    instructed: bool [B], whether the editor may see it.
    tokens: int32 [B, T], those of the requests' rows.
  """

  edit: Rows
  query: Rows
  base: Array
  weight: Array
  avoid: Array
  instruction: Array
  instructed: Array
  tokens: Array | None = None


def fitting(episode: Episode, shape: BatchShape) -> list[tuple[Kind, Scored]]:
  """The episode's queries that fit the shape, out-of-scope ones first.

  Every kind keeps its own budget of positions, and the bare prompt, which
  comes first, always fits.
  """
  tokens, keep, edit = 0, 0, 0
  chosen = []
  for kind, query in _alternating(episode.queries):
    ends = len(query.labels)
    length = tokens + len(query.tokens)
    if length > shape.query_tokens:
      continue
    if kind is Kind.KEEP:
      if keep + ends > shape.keep_positions:
        continue
      keep += ends
    else:
      if edit + ends > shape.edit_positions:
        continue
      edit += ends
    tokens = length
    chosen.append((kind, query))
  return sorted(chosen, key=lambda pair: pair[0] is not Kind.KEEP)


def _alternating(
  queries: Sequence[tuple[Kind, Scored]],
) -> list[tuple[Kind, Scored]]:
  """In scope, out of scope, in scope, ...: a full row holds both."""
  inside = [pair for pair in queries if pair[0] is not Kind.KEEP]
  outside = [pair for pair in queries if pair[0] is Kind.KEEP]
  mixed = []
  for i in range(max(len(inside), len(outside))):
    mixed += inside[i : i + 1] + outside[i : i + 1]
  return mixed


class Batcher:
  """Episodes to batches.

  Args:
    cache: gives prefix states.
    shape: of every batch.
  """

  def __init__(self, cache: PrefixCache, shape: BatchShape, width: int):
    self._cache = cache
    self.shape = shape
    self._width = width

  def __call__(
    self,
    episodes: Sequence[Episode],
    instructions: Sequence[Scored],
  ) -> Batch:
    """Builds one batch.

    Args:
      episodes: B of them.
      instructions: each episode's instruction as a token sequence.
    """
    shape = self.shape
    chosen = [fitting(episode, shape) for episode in episodes]
    self._cache.warm(
      [view for episode in episodes for view in episode.edit]
      + [query for row in chosen for _, query in row]
      + list(instructions)
    )
    edits = [episode.edit for episode in episodes]
    edit = pack(edits, shape.edit_tokens, shape.edit_rows)
    query, weight, avoid = self._queries(chosen)
    queries = [[scored for _, scored in row] for row in chosen]
    states = [self._cache(row) for row in queries]
    base = np.zeros(
      (len(episodes), shape.keep_positions, self._width), np.float32
    )
    for b, row in enumerate(states):
      kept = [
        state.final
        for (kind, _), state in zip(chosen[b], row, strict=True)
        if kind is Kind.KEEP
      ]
      if kept:
        final = np.concatenate(kept)
        base[b, : len(final)] = final
    said = [
      pooled(heard(state.hidden, episode.unheard, episode.seed))
      for episode, state in zip(
        episodes, self._cache(instructions), strict=True
      )
    ]
    return Batch(
      rows_of(edit, [self._cache(row) for row in edits], self._width),
      rows_of(query, states, self._width),
      base,
      weight,
      avoid,
      np.stack(said),
      np.asarray([episode.told for episode in episodes]),
      edit.tokens,
    )

  def _queries(
    self, chosen: Sequence[Sequence[tuple[Kind, Scored]]]
  ) -> tuple[Packed, np.ndarray, np.ndarray]:
    """Packs the queries with out-of-scope positions first, then in-scope."""
    shape = self.shape
    keep, ends = shape.keep_positions, shape.edit_positions
    rows = [[scored for _, scored in row] for row in chosen]
    packed = pack(rows, shape.query_tokens, keep + ends)
    at = np.zeros_like(packed.at)
    labels = np.zeros_like(packed.labels)
    owner = np.full_like(packed.owner, -1)
    weight = np.zeros(packed.at.shape, np.float32)
    avoid = np.zeros((len(rows), ends), bool)
    for b, row in enumerate(chosen):
      places = {Kind.KEEP: 0, Kind.EDIT: keep}
      counts = {kind: sum(k is kind for k, _ in row) for kind in Kind}
      for number, (kind, scored) in enumerate(row):
        side = Kind.KEEP if kind is Kind.KEEP else Kind.EDIT
        place, size = places[side], len(scored.labels)
        span, source = slice(place, place + size), packed.owner[b] == number
        at[b, span] = packed.at[b, source]
        labels[b, span] = packed.labels[b, source]
        owner[b, span] = number
        weight[b, span] = 1 / (counts[kind] * size)
        if kind is Kind.AVOID:
          avoid[b, place - keep : place - keep + size] = True
        places[side] = place + size
    return packed._replace(at=at, labels=labels, owner=owner), weight, avoid
