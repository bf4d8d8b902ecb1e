"""The frozen prefix, computed once for every distinct token sequence.

Neither meta-training nor an edit changes anything before the first editable
matrix, so the hidden states there are a function of the tokens alone. They are
computed in large packed batches, common beginnings once a row, and kept; so is
the unedited model's final hidden state at the scored positions, from which the
head gives the reference distribution of the locality loss.
"""

import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.editing import shared_prefix
from instructedit_jax.editing.sequences import Scored, bucket
from instructedit_jax.editing.shared_prefix import SharedRow
from instructedit_jax.errors import UserError
from instructedit_jax.models import decoder
from instructedit_jax.models.language_model import LanguageModel

# Tokens of a row, and of one that is run by itself (a single request waits for
# its padding, so there are more); rows of a large batch.
_LENGTHS = (128, 256, 512)
_SINGLE = (32, 64, 96, 128, 192, 256, 512)
_ROWS = 16


class State(NamedTuple):
  """What is kept of one sequence.

  Attributes:
    hidden: [T, D], residual stream in front of the first editable MLP.
    final: [P, D], unedited input of the head at the scored positions.
  """

  hidden: np.ndarray
  final: np.ndarray


class Store(Protocol):
  """States kept beyond the run; see `prefix_store.PrefixStore`."""

  def read(self, sequences: Sequence[Scored]) -> dict[Scored, State]:
    """Those of the sequences that are held."""
    ...

  def add(self, states: Mapping[Scored, State]) -> None:
    """Keeps states, room permitting."""
    ...


class _Laid(NamedTuple):
  """A row of sequences, always to be computed in batches of one shape.

  Other rows of a batch, and a row's place in it, change no bit of its states.

  Attributes:
    row: their tokens.
    places: of each sequence, the row indices of its tokens.
    shape: [B, T].
  """

  row: SharedRow
  places: dict[Scored, np.ndarray]
  shape: tuple[int, int]


class PrefixCache:
  """Sequences' states, read or computed when first asked for and kept.

  May be used from several threads.

  Attributes:
    store: on disk, or None.
    computed: sequences whose states the model computed so far.
    tokens: tokens it read for that; those of a shared beginning count once.

  Args:
    model: the base model; one without its prefix can only read `store`.
    max_bytes: memory for states; beyond, those unused for longest are dropped.
      What a single call asks for is held whole. 0: nothing is kept.
    store: keeps them on disk, too.
    share: compute the common beginning of sequences once a row.
  """

  def __init__(
    self,
    model: LanguageModel,
    max_bytes: int = 8 << 30,
    *,
    store: Store | None = None,
    share: bool = True,
  ):
    self._model = model
    self._max_bytes = max_bytes
    self.store = store
    self._share = share
    self._bytes = 0
    self._held: dict[Scored, State] = {}
    self._planned: dict[Scored, _Laid] = {}
    self._lock = threading.RLock()
    self.computed = self.tokens = 0

  def __len__(self) -> int:
    return len(self._held)

  @property
  def nbytes(self) -> int:
    """Bytes of the states held."""
    return self._bytes

  def __call__(self, sequences: Sequence[Scored]) -> list[State]:
    """The states of `sequences`, in their order.

    Raises:
      UserError: one is neither held nor computable without the prefix.
    """
    with self._lock:
      self._fetch(sequences)
      states = [self._held[sequence] for sequence in sequences]
      if not self._max_bytes:
        self._held.clear()
        self._bytes = 0
    return states

  def warm(self, sequences: Iterable[Scored]) -> None:
    """Reads or computes what is missing, in large batches.

    Raises:
      UserError: as when called.
    """
    if self._max_bytes or self.store is not None:
      with self._lock:
        self._fetch(sequences)

  def plan(self, sequences: Iterable[Scored]) -> None:
    """Gives sequences that may be asked for their rows; computes nothing.

    A state depends by a rounding on where in a row its sequence stands, since
    float32 sums do on their order. What is planned stands in one place for
    good: however often and whenever it is computed, by this run or by one that
    continues it, it is the same to the bit.
    """
    if self._model.whole and (self._max_bytes or self.store is not None):
      with self._lock:
        wanted = dict.fromkeys(sequences)
        for laid in self._lay([s for s in wanted if s not in self._planned]):
          self._planned.update(dict.fromkeys(laid.places, laid))

  def _fetch(self, sequences: Iterable[Scored]) -> None:
    wanted = list(dict.fromkeys(sequences))
    for sequence in wanted:
      if sequence in self._held:
        self._held[sequence] = self._held.pop(sequence)  # the latest used
    missing = [s for s in wanted if s not in self._held]
    if not missing:
      return
    self._make_room(wanted, missing)
    if self.store is not None:
      self._hold(self.store.read(missing))
      missing = [s for s in missing if s not in self._held]
    if missing and not self._model.whole:
      raise UserError(
        f"{len(missing)} of {len(wanted)} sequences are not among the stored"
        f" prefix states, and {self._model.name} was loaded without its prefix"
        " to compute them. Fill the store (python -m"
        " instructedit_jax.prefix_cache) or load the model with prefix=True."
      )
    asked = set(missing)
    for states in self._compute(missing):
      if self.store is not None:
        self.store.add(states)
      # A planned row may hold others, too; they are kept where there is room.
      if self._bytes + _nbytes(states) > self._max_bytes:
        states = {key: s for key, s in states.items() if key in asked}
      self._hold(states)

  def _hold(self, states: Mapping[Scored, State]) -> None:
    new = {key: s for key, s in states.items() if key not in self._held}
    self._held.update(new)
    self._bytes += _nbytes(new)

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

  def _compute(self, missing: list[Scored]) -> Iterator[dict[Scored, State]]:
    """The states of a batch after the other, each of one of few shapes."""
    planned = [self._planned[s] for s in missing if s in self._planned]
    rows = list({id(laid): laid for laid in planned}.values())
    rows += self._lay([s for s in missing if s not in self._planned])
    by_shape: dict[tuple[int, int], list[_Laid]] = {}
    for laid in rows:
      by_shape.setdefault(laid.shape, []).append(laid)
    running = None
    for shape, group in sorted(by_shape.items()):
      for start in range(0, len(group), shape[0]):
        batch = group[start : start + shape[0]]
        self.computed += sum(len(laid.places) for laid in batch)
        self.tokens += sum(len(laid.row.tokens) for laid in batch)
        started = self._start([laid.row for laid in batch], *shape)
        # The next batch is under way while the last one's states are copied.
        if running is not None:
          yield _cut(*running)
        running = batch, started
    if running is not None:
      yield _cut(*running)

  def _lay(self, sequences: list[Scored]) -> list[_Laid]:
    """Rows for sequences; those of one length share the rows of one size."""
    by_length: dict[int, list[Scored]] = {}
    for sequence in sequences:
      length = bucket(len(sequence.tokens), _LENGTHS)
      by_length.setdefault(length, []).append(sequence)
    found = []
    for length, group in sorted(by_length.items()):
      tokens = [sequence.tokens for sequence in group]
      rows = shared_prefix.lay(tokens, length, self._share)
      for row, shape in zip(rows, _shapes(rows, length), strict=True):
        places = {group[number]: at for number, at in row.places.items()}
        found.append(_Laid(row, places, shape))
    return found

  def _start(
    self, rows: list[SharedRow], count: int, size: int
  ) -> tuple[jax.Array, jax.Array]:
    tree = shared_prefix.stack(rows, count, size)
    return _states(
      self._model.graph,
      self._model.params,
      jnp.asarray(tree.tokens),
      decoder.Branches(jnp.asarray(tree.positions), jnp.asarray(tree.ends)),
    )


def _shapes(rows: list[SharedRow], length: int) -> Iterator[tuple[int, int]]:
  """For each row the shape [B, T] of the batch it is to run in.

  Rows that are left over go into half a batch where they fill it; a few, such
  as a single request's, go one by one in as short a row as will do: a full
  batch would be mostly padding.
  """
  count = max(1, _ROWS * _LENGTHS[0] // length)
  half, few = count // 2, max(1, count // 4)
  full, left = divmod(len(rows), count)
  sizes = [count] * full * count
  if left > half + few:
    sizes += [count] * left
  elif left > few:
    sizes += [half] * min(left, half)
  sizes += [1] * (len(rows) - len(sizes))
  for row, size in zip(rows, sizes, strict=True):
    yield size, length if size > 1 else bucket(len(row.tokens), _SINGLE)


def _cut(
  rows: list[_Laid], started: tuple[jax.Array, jax.Array]
) -> dict[Scored, State]:
  """Each sequence's own states out of its row's, copied."""
  hidden_BTD, final_BTD = map(np.asarray, started)
  states = {}
  for b, laid in enumerate(rows):
    for sequence, places in laid.places.items():
      ends = places[len(places) - len(sequence.labels) :]
      states[sequence] = State(hidden_BTD[b, places], final_BTD[b, ends])
  return states


def _nbytes(states: Mapping[Scored, State]) -> int:
  return sum(s.hidden.nbytes + s.final.nbytes for s in states.values())


@functools.partial(jax.jit, static_argnums=0)
def _states(
  graph: nnx.GraphDef,
  params: nnx.State,
  tokens: jax.Array,
  branches: decoder.Branches,
) -> tuple[jax.Array, jax.Array]:
  model = nnx.merge(graph, params)
  hidden = model.prefix(tokens, branches)
  final = model.suffix(hidden, branches)
  return hidden.astype(jnp.float32), final.astype(jnp.float32)
