"""GRACE: a codebook of replaced outputs (arXiv 2211.11031).

An edit's key is the input of one MLP matrix at the last token of its prompt;
its value is learned: Adam (1.0) on the target's mean negative log-likelihood,
with the matrix's output replaced by the value at every token near the key. A
value starts at random between 0 and 1 ("cold") or at the output it replaces
("warm").

Requests are entered one after the other. Let d be the distance from the new key
to the nearest one in the book, of radius e:

  d > e + radius        a new entry, with the initial radius
  else, another target  a new entry; both radii become d / 2 (the old one's a
                        hair less)
  else, same target     no new entry; if d > e, the nearest one's radius grows
                        to d, and its value is trained on

Published: GPT2-XL block 35 of 48, first matrix of the MLP, 200 steps;
LLaMA-2-7B block 27 of 32, out-projection, 50 steps; radius 1, within which
hardly any other wording falls: published generalization is near zero, and a
larger radius pays for it with locality. Here the first editable block is the
default, with the out-projection for gated and ungated models alike, and a value
is done when its loss is below `stop`; published: 0, all steps.

Axes: B requests, T tokens, C codebook entries, n inputs, m outputs.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.editing.codebook import UNUSED, CodebookEdit
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editing.sequences import bucket
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.descent import descend
from instructedit_jax.editors.requests import RequestLike
from instructedit_jax.editors.training_free import (
  OneMatrix,
  TrainingFree,
  read_rows,
  refuse_overflow,
  require_rate,
  target_loss,
)
from instructedit_jax.errors import UserError, require_least
from instructedit_jax.models import decoder
from instructedit_jax.models.decoder import take_tokens
from instructedit_jax.models.language_model import LanguageModel

COLD, WARM = "cold", "warm"
_ENTRIES = (1, 4, 16, 64)
_HAIR = 1e-5
# The same text in another batch gives another last bit: a key must still know
# itself when its radius has been halved to nothing.
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraceConfig(OneMatrix):
  """Hyperparameters.

  Attributes:
    radius: of a new entry, in units of the matrix's input.
    rate, steps: of Adam on the values.
    stop: a value is done below this loss.
    start: "cold" or "warm".
    seed: of cold starts.
  """

  radius: float = 1.0
  rate: float = 1.0
  steps: int = 100
  stop: float = 1e-2
  start: str = COLD
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    if self.start not in (COLD, WARM):
      raise UserError(f"start={self.start}: must be {COLD} or {WARM}")
    require_least(self, radius=0, steps=0, seed=0)
    require_rate(self.rate)


class Book:
  """Keys, radii and targets of a codebook that is being filled; on the host.

  Args:
    radius: of a new entry.
  """

  def __init__(self, radius: float):
    self.keys: list[np.ndarray] = []
    self.radii: list[float] = []
    self.targets: list[str] = []
    self._radius = radius

  def enter(self, key: np.ndarray, target: str) -> tuple[int, bool]:
    """Makes room for one request; see the module docstring.

    Args:
      key: [n].
      target: its label.

    Returns:
      the entry whose value is to be trained, and whether it is a new one.
    """
    if not self.keys:
      return self._add(key, target, self._radius)
    gaps = [float(np.linalg.norm(key - held)) for held in self.keys]
    # Entries that were halved away no longer stand for their key.
    open_gaps = [
      gap if radius >= 0 else np.inf
      for gap, radius in zip(gaps, self.radii, strict=True)
    ]
    nearest = int(np.argmin(open_gaps))
    distance = open_gaps[nearest]
    if distance > self._radius + self.radii[nearest]:
      return self._add(key, target, self._radius)
    if self.targets[nearest] == target:
      self.radii[nearest] = max(self.radii[nearest], distance)
      return nearest, False
    own = _ROUNDING * float(np.linalg.norm(key))
    half = distance / 2
    # Two keys nearer than rounding are one key: the later request has it.
    self.radii[nearest] = half - _HAIR if half > own else UNUSED
    return self._add(key, target, max(half, own))

  def _add(
    self, key: np.ndarray, target: str, radius: float
  ) -> tuple[int, bool]:
    self.keys.append(key)
    self.targets.append(target)
    self.radii.append(radius)
    return len(self.keys) - 1, True


@dataclasses.dataclass(frozen=True)
class Grace(TrainingFree):
  """GRACE."""

  config: GraceConfig = dataclasses.field(default_factory=GraceConfig)
  name: str = "grace"

  def propose_each(
    self,
    model: LanguageModel,
    requests: RequestLike | Sequence[RequestLike],
    cache: PrefixCache | None = None,
  ) -> CodebookEdit:
    """A codebook with one entry for each request, keys [B, 1, n].

    Raises:
      UserError: the matrix is not editable, a prompt is too long, a value
        overflows, or there is no request.
    """
    name = self.config.named(model.config)
    found, rows = read_rows(model, requests, self.config, cache)
    keys, starts = self._look(model, name, found, rows)
    edit = CodebookEdit(
      name,
      keys[:, None],
      starts[:, None],
      jnp.full((len(keys), 1), self.config.radius, jnp.float32),
    )
    entries = np.zeros(len(keys), np.int32)
    values = self._fit(model, edit, rows, entries)
    edit = dataclasses.replace(edit, values=values[:, None])[: len(found)]
    refuse_overflow(edit, found)
    return edit

  def propose(
    self,
    model: LanguageModel,
    requests: RequestLike | Sequence[RequestLike],
    cache: PrefixCache | None = None,
  ) -> CodebookEdit:
    """One codebook with all requests entered in their order, keys [C, n].

    Raises:
      UserError: as `propose_each`.
    """
    name = self.config.named(model.config)
    found, rows = read_rows(model, requests, self.config, cache)
    keys, starts = (
      np.asarray(part) for part in self._look(model, name, found, rows)
    )
    book = Book(self.config.radius)
    room = bucket(len(found), _ENTRIES)
    values = np.zeros((room, starts.shape[-1]), np.float32)
    for number, request in enumerate(found):
      entry, new = book.enter(keys[number], request.target)
      if new:
        values[entry] = starts[number]
      fitted = self._fit(
        model,
        jax.tree.map(lambda leaf: leaf[None], _edit(name, book, values, room)),
        rows.part(number, number + 1),
        np.asarray([entry], np.int32),
      )
      refuse_overflow(fitted, [request])
      values[entry] = np.asarray(fitted[0])
    return _edit(name, book, values, room)[: len(book.keys)]

  def _look(
    self,
    model: LanguageModel,
    name: str,
    requests: Sequence[Request],
    rows: Rows,
  ) -> tuple[jax.Array, jax.Array]:
    """Keys [B, n] and first values [B, m] of each row."""
    keys, outputs = look(model, name, rows)
    if self.config.start == WARM:
      return keys, outputs
    drawn = np.zeros(outputs.shape, np.float32)
    for row, request in enumerate(requests):
      # Of the request alone, not of its neighbours.
      text = f"{request.prompt}\n{request.target}".encode()
      rng = np.random.default_rng((self.config.seed, zlib.crc32(text)))
      drawn[row] = rng.uniform(size=outputs.shape[-1])
    return keys, jnp.asarray(drawn)

  def _fit(
    self,
    model: LanguageModel,
    edit: CodebookEdit,
    rows: Rows,
    entries: np.ndarray,
  ) -> jax.Array:
    config = self.config
    schedule = (config.rate, config.steps, config.stop)
    return _fit(model.graph, schedule, model.params, edit, rows, entries)


def _edit(name: str, book: Book, values: np.ndarray, room: int) -> CodebookEdit:
  """The book so far, with unused entries up to `room`: few programs serve."""
  empty = room - len(book.keys)
  keys = np.pad(np.stack(book.keys), ((0, empty), (0, 0)))
  radii = np.pad(
    np.asarray(book.radii, np.float32), (0, empty), constant_values=UNUSED
  )
  return CodebookEdit(
    name, jnp.asarray(keys), jnp.asarray(values), jnp.asarray(radii)
  )


def look(
  model: LanguageModel, name: str, rows: Rows
) -> tuple[jax.Array, jax.Array]:
  """A matrix's input [B, n] and output [B, m] where each row's prompt ends.

  Args:
    model: the base model.
    name: of the matrix.
    rows: one request a row.
  """
  return _look(model.graph, name, model.params, rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _look(
  graph: nnx.GraphDef, name: str, weights: nnx.State, rows: Rows
) -> tuple[jax.Array, jax.Array]:
  model = nnx.merge(graph, weights)
  seen: dict[str, tuple[jax.Array, jax.Array]] = {}

  def tap(at: str, x: jax.Array, y: jax.Array) -> jax.Array:
    seen[at] = x, y
    return y

  # In the model's own type, as it will be when the key is looked up.
  hidden = jnp.asarray(rows.hidden, model.embedding[...].dtype)
  last = rows.at[:, :1]
  model.suffix(hidden, rows.sequence, tap, last)
  in_last_block = name.startswith(f"{model.config.blocks - 1}.")
  keys, outputs = (
    part if in_last_block else take_tokens(part, last) for part in seen[name]
  )
  return keys[:, 0].astype(jnp.float32), outputs[:, 0].astype(jnp.float32)


def losses(
  model: decoder.Decoder,
  rows: Rows,
  edit: CodebookEdit,
  entries: jax.Array,
  values: jax.Array,
) -> jax.Array:
  """The loss of each request, [B], with `values` [B, m] at its entry.

  Args:
    model: the frozen decoder.
    rows: one request a row.
    edit: B codebooks.
    entries: int32 [B], which entry is being learned.
    values: [B, m].
  """
  here = jnp.arange(edit.keys.shape[1])[None, :] == entries[:, None]
  mixed = jnp.where(here[:, :, None], values[:, None], edit.values)
  tap = dataclasses.replace(edit, values=mixed).tap()
  return target_loss(model, rows, tap)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fit(
  graph: nnx.GraphDef,
  schedule: tuple[float, int, float],
  weights: nnx.State,
  edit: CodebookEdit,
  rows: Rows,
  entries: Any,
) -> jax.Array:
  """The learned values, [B, m]."""
  model = nnx.merge(graph, weights)
  rate, steps, stop = schedule
  start = edit.values[jnp.arange(len(entries)), entries]

  def each(values: jax.Array, given: Any, live: jax.Array) -> jax.Array:
    rows, edit, entries = given
    return losses(model, rows.only(live), edit, entries, values)

  values, _ = descend(
    each,
    start,
    (rows, edit, entries),
    rate=rate,
    steps=steps,
    stop=stop,
  )
  return values
