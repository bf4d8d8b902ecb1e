"""UltraEdit's closed form: an edit with nothing learned (arXiv 2505.14679).

For each matrix, with x the inputs and delta the loss gradients at the outputs
of the rows that predict the target, and x^, delta^ the same whitened by the
mean and deviation of all rows seen so far:

  d_i = -rate |x^_i|^2 delta^_i             what row i's output shall gain
  W' = W + (X^T X + I)^-1 X^T D             ridge least squares

Inputs enter the solution raw, the shift whitened. As (X^T X + I)^-1 X^T equals
X^T (X X^T + I)^-1, the solve has the size of the rows, and the update stays in
factors. It is what MEND does without its network: the control that shows what
learning adds.

"Seen so far" are, as published, the edits before this one in a sequence. An
edit that stands alone has none, and one row cannot be whitened by itself, so
each edit comes after the requests of a calibration set: the first records of
the training data in the package, the same for every edit. Several requests at
once are one solution with statistics over them too; with calibration=0, over
them alone, as published.

Axes: B requests, R rows, n inputs, m outputs of a matrix.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.editing import statistics as stats
from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.factors import Factors
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editing.sequences import bucket
from instructedit_jax.editing.statistics import Moments
from instructedit_jax.editors import metalearned
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.requests import RequestLike
from instructedit_jax.editors.ridge import spd_inverse
from instructedit_jax.editors.training_free import (
  Common,
  TrainingFree,
  read_rows,
  refuse_overflow,
)
from instructedit_jax.errors import UserError, require_least
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks.record import TASKS
from instructedit_jax.tasks.splits import EMBEDDED, load_split

# name -> (of inputs, of gradients)
Statistics = dict[str, tuple[Moments, Moments]]
_BATCH = 16
_ROWS = (8, 32, 128, 512)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UltraEditConfig(Common):
  """Hyperparameters.

  Attributes:
    rate: see the module docstring. Published: 1e-6, for far wider models (the
      shift grows with the inputs of a matrix); 3e-4 was chosen on training
      records of CounterFact and ZsRE with SmolLM2-135M.
    calibration: requests taken of each task's training data.
  """

  rate: float = 3e-4
  calibration: int = 16

  def __post_init__(self):
    super().__post_init__()
    require_least(self, calibration=0)


@dataclasses.dataclass(frozen=True)
class UltraEdit(TrainingFree):
  """The closed form."""

  config: UltraEditConfig = dataclasses.field(default_factory=UltraEditConfig)
  name: str = "ultraedit"
  # By model: what calibration found.
  _held: dict[tuple[str, int], Statistics] = dataclasses.field(
    default_factory=dict, repr=False, compare=False
  )

  def propose_each(
    self,
    model: LanguageModel,
    requests: RequestLike | Sequence[RequestLike],
    cache: PrefixCache | None = None,
  ) -> LowRankEdit:
    """One independent edit a request, [B, R, ...].

    Raises:
      UserError: a prompt is too long, an edit overflows, there is no request,
        or there is no calibration.
    """
    if not self.config.calibration:
      raise UserError(
        "calibration=0 leaves a single edit nothing to be whitened by; give"
        " several requests to propose(), or a calibration"
      )
    found, rows = read_rows(model, requests, self.config, cache)
    known = self.statistics(model)
    factors = _factors(model.graph, model.params, rows)
    edit = _solve_each(known, self.config.rate, factors)[: len(found)]
    refuse_overflow(edit, found)
    return edit

  def propose(
    self,
    model: LanguageModel,
    requests: RequestLike | Sequence[RequestLike],
    cache: PrefixCache | None = None,
  ) -> LowRankEdit:
    """One solution for the rows of all requests, [R, ...].

    Raises:
      UserError: as `propose_each`; without calibration, only if all requests
        together have a single row.
    """
    found, rows = read_rows(model, requests, self.config, cache)
    if not self.config.calibration and np.sum(rows.mask) < 2:
      raise UserError(
        "calibration=0 leaves a single row nothing to be whitened by; give"
        " several requests, or a calibration"
      )
    known = self.statistics(model)
    factors = _side_by_side(_factors(model.graph, model.params, rows))
    edit = _solve_each(known, self.config.rate, factors)
    refuse_overflow(edit, found)
    return edit[0]

  def statistics(self, model: LanguageModel) -> Statistics:
    """What calibration finds for a model; computed once."""
    place = (model.fingerprint, model.config.suffix)
    if place not in self._held:
      self._held[place] = calibrate(model, self._calibration(), self.config)
    return self._held[place]

  def _calibration(self) -> list[Request]:
    count = self.config.calibration
    if not count:
      return []
    return [
      Request(record.prompt, record.target)
      for task in TASKS
      for record in load_split(EMBEDDED, task, "train")[0][:count]
    ]


def calibrate(
  model: LanguageModel,
  requests: Sequence[Request],
  config: UltraEditConfig,
) -> Statistics:
  """Moments of the rows of `requests`, which are not themselves edited."""
  shapes = metalearned.shapes(model.config)
  known = {
    name: (stats.empty(n), stats.empty(m)) for name, (n, m) in shapes.items()
  }
  for start in range(0, len(requests), _BATCH):
    batch = requests[start : start + _BATCH]
    # A cache of its own: these states are not asked for again.
    _, rows = read_rows(model, batch, config, PrefixCache(model))
    factors = _factors(model.graph, model.params, rows)
    known = _fold(known, factors)
  return known


def solve(
  known: Statistics, rate: float | jax.Array, factors: Factors
) -> LowRankEdit:
  """The closed form for one set of rows.

  Args:
    known: of the rows before these, which are added for the purpose.
    rate: see the module docstring.
    factors: x [R, n], delta [R, m] and mask [R] of each matrix.

  Returns:
    u = (X X^T + I)^-1 X and v = D; masked rows are zero.
  """
  found = _fold(known, factors)
  u, v = {}, {}
  for name, (of_x, of_delta) in found.items():
    kept = factors.mask[name][:, None]
    x = jnp.where(kept, factors.x[name].astype(jnp.float32), 0)
    whitened = stats.whiten(of_x, x)
    shift = -rate * jnp.square(whitened).sum(-1, keepdims=True)
    shift = shift * stats.whiten(of_delta, factors.delta[name])
    gram = x @ x.T
    u[name] = spd_inverse(gram + jnp.eye(len(gram), dtype=gram.dtype)) @ x
    v[name] = jnp.where(kept, shift, 0)
  return LowRankEdit(u, v)


_solve_each = jax.jit(jax.vmap(solve, in_axes=(None, None, 0)))


@functools.partial(jax.jit, static_argnums=0)
def _factors(graph: nnx.GraphDef, weights: nnx.State, rows: Rows) -> Factors:
  """Factors of the rows that predict the target."""
  return metalearned.edit_factors(nnx.merge(graph, weights), rows)[0]


@jax.jit
def _fold(known: Statistics, factors: Factors) -> Statistics:
  return {
    name: (
      stats.fold(of_x, factors.x[name], factors.mask[name]),
      stats.fold(of_delta, factors.delta[name], factors.mask[name]),
    )
    for name, (of_x, of_delta) in known.items()
  }


def _side_by_side(factors: Factors) -> Factors:
  """The real rows of all requests as those of one request, [1, R, ...]."""
  mask = np.asarray(next(iter(factors.mask.values())))
  count = int(mask.sum())
  room = bucket(count, _ROWS)

  def gather(value: jax.Array) -> jax.Array:
    chosen = np.asarray(value)[mask]
    return jnp.asarray(np.pad(chosen, ((0, room - count), (0, 0))))[None]

  kept = jnp.asarray(np.arange(room) < count)[None]
  return Factors(
    x={name: gather(value) for name, value in factors.x.items()},
    delta={name: gather(value) for name, value in factors.delta.items()},
    mask=dict.fromkeys(factors.mask, kept),
  )
