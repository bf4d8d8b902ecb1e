"""What an editor makes of requests, as factors of updates.

The paper's editing area is the direction of the pseudo-gradient: the sum over
rows of x~ delta~^T that the hypernetwork returns, before any step size. Beside
it stand what goes in and what comes out:

  gradient  the loss gradient, sum of x delta^T: no hypernetwork at all
  whitened  of the same rows in units of the running statistics; this is also
            what an untrained hypernetwork returns, as it starts as the identity
  pseudo    what the trained hypernetwork returns in its first round, times
            what the instruction makes of the step size, if anything
  answer    the same without the rows of the instruction's tokens; differs from
            pseudo only where an editor takes all rows, as published
  update    the whole edit, all rounds and step sizes

Axes: B requests, R rows, T tokens, n inputs, m outputs of a matrix.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.editing.factors import Factors
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editors import hypernetwork, metalearned
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.metalearned import Condition, EditorConfig
from instructedit_jax.editors.trained import TrainedEditor, instruction_sequence
from instructedit_jax.models.language_model import LanguageModel

STAGES = ("gradient", "whitened", "pseudo", "answer", "update")
# Of editors without a hypernetwork of MEND's form.
OTHERS = ("gradient", "update")
_BATCH = 16
# name -> x [B, R, n], and name -> delta [B, R, m].
Sides = tuple[dict[str, Any], dict[str, Any]]


class Updates(NamedTuple):
  """N updates of each named matrix: sums over rows of u v^T.

  Attributes:
    u: name -> float32 [N, R, n].
    v: name -> float32 [N, R, m].
  """

  u: dict[str, np.ndarray]
  v: dict[str, np.ndarray]


def updates(
  model: LanguageModel,
  editor: TrainedEditor,
  requests: Sequence[Request],
  stages: Sequence[str],
  cache: PrefixCache | None = None,
) -> dict[str, Updates]:
  """The updates of every request at each of some `STAGES`.

  Raises:
    UserError: another model, or a prompt that is too long.
  """
  editor.check(model)
  cache = PrefixCache(model) if cache is None else cache
  parts: dict[str, list[Any]] = {stage: [] for stage in stages}
  for start in range(0, len(requests), _BATCH):
    batch = list(requests[start : start + _BATCH])
    count = len(batch)
    for stage, found in _batch(model, editor, batch, stages, cache).items():
      sides = [{k: np.asarray(x)[:count] for k, x in s.items()} for s in found]
      parts[stage].append(sides)
  return {
    stage: Updates(*(_joined([part[i] for part in mine]) for i in range(2)))
    for stage, mine in parts.items()
  }


def _batch(
  model: LanguageModel,
  editor: TrainedEditor,
  batch: Sequence[Request],
  stages: Sequence[str],
  cache: PrefixCache,
) -> dict[str, Sides]:
  """Both sides of the factors at each stage; rows of padding at the end."""
  found: dict[str, Sides] = {}
  early = tuple(stage for stage in stages if stage != "update")
  if early:
    rows, condition = editor.inputs(model, batch, cache)
    told = np.zeros(len(rows.hidden), np.int32)
    for i, request in enumerate(batch):
      if request.instruction is not None:
        told[i] = len(instruction_sequence(model, request.instruction).tokens)
    found |= _early(
      *(editor.config, early, model.graph, model.params, editor.params),
      *(editor.statistics, rows, condition, told),
    )
  if "update" in stages:
    edit = editor.propose_each(model, batch, cache)
    found["update"] = (edit.u, edit.v)
  return found


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """One array a matrix; rows that are zero everywhere are left out at the end.

  Batches have as many rows as their longest answer needs.
  """
  found = {}
  for name in parts[0]:
    rows = max(part[name].shape[1] for part in parts)
    whole = np.concatenate(
      [
        np.pad(p[name], ((0, 0), (0, rows - p[name].shape[1]), (0, 0)))
        for p in parts
      ]
    )
    used = np.flatnonzero(np.any(whole != 0, (0, 2)))
    found[name] = whole[:, : int(used[-1]) + 1 if len(used) else 1]
  return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _early(
  config: EditorConfig,
  stages: tuple[str, ...],
  graph: nnx.GraphDef,
  weights: nnx.State,
  params: metalearned.Params,
  statistics: hypernetwork.Statistics,
  rows: Rows,
  condition: Condition,
  told: jax.Array,
) -> dict[str, Sides]:
  """Factors x and delta of every matrix, masked rows zero; one gradient."""
  model = nnx.merge(graph, weights)
  matrices = metalearned.shapes(model.config)
  # One round as it is, but for the step sizes and what mixes rows.
  plain = dataclasses.replace(config, rounds=1, ridge=0.0, rate=-1.0)
  ones = jnp.ones((1, len(matrices)))

  def pseudo(factors: Factors) -> Sides:
    edit = metalearned.propose_round(
      {**params, "rates": ones}, statistics, plain, matrices, factors, condition
    )
    return edit.u, edit.v

  def whitened(factors: Factors) -> Sides:
    seen = hypernetwork.by_matrix(statistics, matrices, config.network)
    return _zeroed(hypernetwork.whiten(seen, config.network, factors))

  def answer(factors: Factors) -> Sides:
    if config.rows == "all":
      last = f"{model.config.blocks - 1}."
      factors = _without(factors, told, last)
    return pseudo(factors)

  made = {
    "gradient": _zeroed,
    "whitened": whitened,
    "pseudo": pseudo,
    "answer": answer,
  }
  factors, _ = metalearned.edit_factors(model, rows, config.rows)
  return {stage: made[stage](factors) for stage in stages}


def _without(factors: Factors, told: jax.Array, last: str) -> Factors:
  """Masks the first `told` [B] tokens; the last block has answer rows only."""
  mask = {}
  for name, kept in factors.mask.items():
    place = jnp.arange(kept.shape[1])[None, :]
    late = place >= told[:, None]
    mask[name] = kept if name.startswith(last) else kept & late
  return factors._replace(mask=mask)


def _zeroed(factors: Factors) -> Sides:
  def side(values: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {
      name: jnp.where(factors.mask[name][..., None], value, 0)
      for name, value in values.items()
    }

  return side(factors.x), side(factors.delta)
