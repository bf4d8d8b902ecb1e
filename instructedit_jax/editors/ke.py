"""KnowledgeEditor: the request's text gates its own gradient.

A network reads what is asked, what the model says now and what it shall say
(`gating`), and makes of it, for each matrix W with n inputs and m outputs,

  W' = W + scale * sigmoid(e) * (G * A + B),
  A = a_in softmax(a_out)^T,   B = b_in softmax(b_out)^T,

where G is the gradient of the target's mean negative log-likelihood and
"* A" goes entry by entry (arXiv 2104.08164, equations 4 to 6). G is a sum over
tokens of x delta^T, so G * A is the sum of (a_in x) (softmax(a_out) delta)^T:
an edit of the gradient's own rank, and one more for B. Nothing of the size of
a matrix is built.

The original, for BART and BERT, edits one request at a time; several at once
are here the sum of their edits. It is trained to keep KL(base || edited) below
a margin, by a Lagrange multiplier; here the losses of all trained editors
serve, as in the comparison of arXiv 2402.16123. Its text is "old >> new ||
prompt"; here the marks between the parts are learned vectors, so that no
tokenizer has to know them, "old" is what the unedited model finds likeliest at
each token of the answer, and the token embeddings are the model's own, frozen,
where the original trains a copy.

Of an `EditorConfig` this reads answer_tokens, rows and gates; published is
rows="all", the whole gradient.

Axes: B requests, P answer rows, T tokens, D width, n inputs, m outputs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.factors import Factors
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editors import gating, metalearned
from instructedit_jax.editors.metalearned import (
  Condition,
  EditorConfig,
  Params,
)
from instructedit_jax.errors import UserError
from instructedit_jax.models import decoder
from instructedit_jax.models.config import DecoderConfig

READS_TOKENS = True
further = None  # of a gated gradient there is no second round


class Seen(NamedTuple):
  """What is known of B requests before they are edited.

  Attributes:
    factors: of their gradients.
    old: int32 [B, P], the unedited model's answer.
  """

  factors: Factors
  old: jax.Array


def init(
  key: jax.Array, config: EditorConfig, model: DecoderConfig
) -> tuple[Params, dict[str, Any]]:
  """Fresh parameters and no statistics; the first edits change nothing."""
  networks, marks = jax.random.split(key)
  return {
    "gates": gating.init(
      networks, model.width, metalearned.shapes(model), config.gates
    ),
    "marks": 0.1 * jax.random.normal(marks, (2, model.width)),
  }, {}


def look(
  model: decoder.Decoder, rows: Rows, config: EditorConfig
) -> tuple[Seen, jax.Array]:
  """The requests' gradients and old answers; and their losses [B]."""
  factors, each, old = metalearned.factors_and_answers(model, rows, config.rows)
  return Seen(factors, old), each


def fold(
  statistics: dict[str, Any],
  config: EditorConfig,
  model: DecoderConfig,
  seen: Seen,
  condition: Condition,
) -> dict[str, Any]:
  """The statistics as they were: there are none."""
  del config, model, seen, condition
  return statistics


def propose(
  params: Params,
  statistics: dict[str, Any],
  config: EditorConfig,
  model: decoder.Decoder,
  rows: Rows,
  seen: Seen,
  condition: Condition,
) -> LowRankEdit:
  """B independent edits of B requests; a pure function.

  Args:
    params: from `init`, or trained.
    statistics: none.
    config: the editor.
    model: the frozen decoder, with its token embeddings.
    rows: the requests.
    seen: from `look`.
    condition: the requests' tokens; instructions do not act.

  Raises:
    UserError: the model was loaded without its token embeddings.
  """
  del statistics
  matrices = metalearned.shapes(model.config)
  text, mask = read(params, model, rows, seen.old, condition.tokens)
  gates = gating.apply(params["gates"], matrices, text, mask)
  u, v = {}, {}
  for name, (_, outputs) in matrices.items():
    gate, x = gates[name], seen.factors.x[name]
    delta = seen.factors.delta[name]
    scale = (config.gates.scale or outputs) * gate.strength
    u[name] = jnp.concatenate(
      [x * gate.inputs[:, None], gate.own_inputs[:, None]], 1
    )
    v[name] = scale[:, None, None] * jnp.concatenate(
      [delta * gate.outputs[:, None], gate.own_outputs[:, None]], 1
    )
  return LowRankEdit(u, v)


def read(
  params: Params,
  model: decoder.Decoder,
  rows: Rows,
  old: jax.Array,
  tokens: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """The text "old >> new || prompt" as embeddings, with gaps.

  Args:
    params: holds the marks.
    model: gives the embeddings.
    rows: the requests, one sequence a row.
    old: int32 [B, P].
    tokens: int32 [B, T], those of the rows.

  Returns:
    [B, 2 P + 2 + T, D] and a mask of what is there.
  """
  table = model.embedding[...]
  if tokens is None or not table.size:
    raise UserError(
      "KnowledgeEditor reads token embeddings, but the model was loaded without"
      " its prefix; load it with load_model(..., prefix=True)"
    )
  batch, width = len(old), table.shape[1]
  first, second = (
    jnp.broadcast_to(mark, (batch, 1, width)) for mark in params["marks"]
  )
  here = jnp.ones((batch, 1), bool)
  # The prompt ends with the token that predicts the answer's first.
  order = jnp.arange(tokens.shape[1])[None, :]
  prompt = (order <= rows.at[:, :1]) & (rows.ends > 0)
  old_, new, asked = (
    table[ids].astype(jnp.float32) for ids in (old, rows.labels, tokens)
  )
  text = jnp.concatenate([old_, first, new, second, asked], 1)
  mask = [rows.mask, here, rows.mask, here, prompt]
  return text, jnp.concatenate(mask, 1)
