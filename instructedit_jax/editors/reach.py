"""An instruction says how far an edit reaches: `instructedit_reach`.

An edit made from both forms of its prompt, the cloze and the question, takes in
both. Here the instruction weighs the rows of the other form, matrix by matrix,
between minus one and two: one is the edit as ever, where nothing is said or
nothing is learned. Towards zero the other form is left as it is; its keys stay
in the least-squares problem (`ridge`), which keeps the edit's own rows from
firing for it, and below zero what still leaks is taken back. All else is
`instructedit`.

Axes: B requests, R answer rows, T tokens, C code, M matrices.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.factors import Factors
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editing.statistics import Moments
from instructedit_jax.editors import conditioner, metalearned
from instructedit_jax.editors.metalearned import (
  Condition,
  EditorConfig,
  Params,
)
from instructedit_jax.errors import UserError
from instructedit_jax.models import decoder
from instructedit_jax.models.config import DecoderConfig

READS_TOKENS = False
LEAST, MOST = -1.0, 2.0
_WEIGHTS = "reach"  # of a code, among those of its other effects

look, fold = metalearned.look, metalearned.fold


def init(
  key: jax.Array, config: EditorConfig, model: DecoderConfig
) -> tuple[Params, Any]:
  """Those of `instructedit`, and weights that do nothing yet.

  Raises:
    UserError: rows that are not the answer's, whose form is not known.
  """
  if config.rows != "answer":
    raise UserError(
      f"editor.rows: {config.rows!r}, but {config.method} weighs the rows of"
      " the answer; set 'answer'"
    )
  params, statistics = metalearned.init(key, config, model)
  zeros = jnp.zeros((config.conditioner.code, len(model.editable)))
  told = params["conditioner"] | {_WEIGHTS: zeros}
  return params | {"conditioner": told}, statistics


def propose(
  params: Params,
  statistics: Any,
  config: EditorConfig,
  model: decoder.Decoder,
  rows: Rows,
  seen: Factors,
  condition: Condition,
) -> LowRankEdit:
  """B independent edits of B requests, see `metalearned.propose`."""
  edit = _weighed(
    metalearned.propose_round(
      params,
      statistics,
      config,
      metalearned.shapes(model.config),
      seen,
      condition,
    ),
    weights(params, statistics, condition),
    rows,
  )
  for index in range(1, config.rounds):
    edit += further(
      params, statistics, config, model, rows, condition, edit, index
    )
  return edit


def further(
  params: Params,
  statistics: Any,
  config: EditorConfig,
  model: decoder.Decoder,
  rows: Rows,
  condition: Condition,
  edit: LowRankEdit,
  index: int = -1,
) -> LowRankEdit:
  """What a round adds to edits so far, see `metalearned.further`."""
  added = metalearned.further(
    params, statistics, config, model, rows, condition, edit, index
  )
  return _weighed(added, weights(params, statistics, condition), rows)


def meant(
  params: Params, statistics: Any, rows: Rows, condition: Condition
) -> Rows:
  """Without the other form's answers where it counts less than half."""
  mean_B = weights(params, statistics, condition).mean(-1)
  left_out_BR = _of_other(rows) & (mean_B < 0.5)[:, None]
  return rows._replace(mask=rows.mask & ~left_out_BR)


def weights(params: Params, statistics: Any, condition: Condition) -> jax.Array:
  """How much the other form counts, [B, M]; 1 where nothing is said."""
  moments: Moments = statistics[metalearned.SAID][metalearned.POOLED]
  code_BC, _ = conditioner.read(
    params["conditioner"], moments, condition.instruction, condition.given
  )
  return weight(code_BC @ params["conditioner"][_WEIGHTS])


def weight(asked: jax.Array) -> jax.Array:
  """From LEAST to MOST, 1 at 0."""
  # sigmoid(log 2) is 2 / 3, two thirds of the way.
  return LEAST + (MOST - LEAST) * jax.nn.sigmoid(asked + jnp.log(2.0))


def _weighed(
  edit: LowRankEdit, weights_BM: jax.Array, rows: Rows
) -> LowRankEdit:
  """The edit with the other form's rows times their matrix's weight."""
  other_BR = _of_other(rows)
  return dataclasses.replace(
    edit,
    v={
      name: v * jnp.where(other_BR, weights_BM[:, i, None], 1)[..., None]
      for i, (name, v) in enumerate(sorted(edit.v.items()))
    },
  )


def _of_other(rows: Rows) -> jax.Array:
  """Which answer rows are of the other form, bool [B, R]."""
  # The first sequence of a row is the request's own prompt.
  return jnp.take_along_axis(rows.segments, rows.at, 1) > 1
