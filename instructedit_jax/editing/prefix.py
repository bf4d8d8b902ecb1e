"""The frozen prefix, computed once for every distinct token sequence.

Neither meta-training nor an edit changes anything before the first editable
matrix, so the hidden states there are a function of the tokens alone. They are
computed in large packed batches and kept; so is the unedited model's final
hidden state at the scored positions, from which the head gives the reference
distribution of the locality loss.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.editing.sequences import Scored, bucket, fill, pack
from instructedit_jax.models import decoder
from instructedit_jax.models.language_model import LanguageModel

_ROWS = 16
_LENGTHS = (128, 256, 512)


class State(NamedTuple):
  """What is kept of one sequence.

  Attributes:
    hidden: [T, D], residual stream in front of the first editable MLP.
    final: [P, D], unedited input of the head at the scored positions.
  """

  hidden: np.ndarray
  final: np.ndarray


class PrefixCache:
  """Sequences' states, computed when first asked for and kept in memory.

  Args:
    model: the base model.
    max_bytes: when more than this is held, the oldest states are dropped.
  """

  def __init__(self, model: LanguageModel, max_bytes: int = 8 << 30):
    self._model = model
    self._max_bytes = max_bytes
    self._bytes = 0
    self._held: dict[Scored, State] = {}

  def __len__(self) -> int:
    return len(self._held)

  @property
  def nbytes(self) -> int:
    """Bytes of the states held."""
    return self._bytes

  def __call__(self, sequences: Sequence[Scored]) -> list[State]:
    """The states of `sequences`, in their order."""
    self.warm(sequences)
    return [self._held[sequence] for sequence in sequences]

  def warm(self, sequences: Iterable[Scored]) -> None:
    """Computes what is missing, in batches of one of few shapes."""
    wanted = list(dict.fromkeys(sequences))
    missing = [s for s in wanted if s not in self._held]
    self._make_room(wanted, missing)
    by_length: dict[int, list[Scored]] = {}
    for sequence in missing:
      length = bucket(len(sequence.tokens), _LENGTHS)
      by_length.setdefault(length, []).append(sequence)
    for length, group in sorted(by_length.items()):
      rows = fill(group, length)
      count = max(1, _ROWS * _LENGTHS[0] // length)
      for start in range(0, len(rows), count):
        chosen = [
          [group[i] for i in row] for row in rows[start : start + count]
        ]
        self._compute(chosen, length, count)

  def _make_room(self, wanted: list[Scored], missing: list[Scored]) -> None:
    width = self._model.config.width * 4
    needed = sum((len(s.tokens) + len(s.labels)) * width for s in missing)
    keep = set(wanted)
    for sequence in list(self._held):
      if self._bytes + needed <= self._max_bytes:
        return
      if sequence not in keep:
        state = self._held.pop(sequence)
        self._bytes -= state.hidden.nbytes + state.final.nbytes

  def _compute(self, rows: list[list[Scored]], length: int, count: int) -> None:
    padded = rows + [[] for _ in range(count - len(rows))]
    packed = pack(padded, length, length)
    hidden, final = _states(
      self._model.graph,
      self._model.params,
      jnp.asarray(packed.tokens),
      decoder.Sequence(
        jnp.asarray(packed.positions), jnp.asarray(packed.segments)
      ),
    )
    hidden_BTD, final_BTD = np.asarray(hidden), np.asarray(final)
    for b, row in enumerate(rows):
      place = 0
      for sequence in row:
        end = place + len(sequence.tokens)
        state = State(
          hidden_BTD[b, place:end].copy(),
          final_BTD[b, end - len(sequence.labels) : end].copy(),
        )
        self._held[sequence] = state
        self._bytes += state.hidden.nbytes + state.final.nbytes
        place = end


@functools.partial(jax.jit, static_argnums=0)
def _states(
  graph: nnx.GraphDef,
  params: nnx.State,
  tokens: jax.Array,
  sequence: decoder.Sequence,
) -> tuple[jax.Array, jax.Array]:
  model = nnx.merge(graph, params)
  hidden = model.prefix(tokens, sequence)
  final = model.suffix(hidden, sequence)
  return hidden.astype(jnp.float32), final.astype(jnp.float32)
