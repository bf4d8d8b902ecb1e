"""MEND and InstructEdit: an edit from the gradient factors of one request.

The methods share this code and differ in two places only: where the factors
come from and what conditions their transformation. What trains and uses them
calls their functions as of every method in `trainable`.

  mend               factors of the bare prompt; nothing else
  instructedit_text  factors of the prompt with the instruction in front, as
                     published (arXiv 2402.16123)
  instructedit       factors of the bare prompt; the instruction's embedding
                     modulates the hypernetwork (`modulation`)
  instructedit_views factors of both prompts side by side, and the same
                     modulation
  instructedit_rows  factors of the bare prompt; the embedding weighs their
                     rows (`row_weights`)
  instructedit_experts  the same; the embedding calls in experts (`experts`)

KnowledgeEditor, "ke", shares their configuration and their factors and is in
`ke`.

Axes: B requests, R answer rows, n inputs, m outputs of a matrix.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from instructedit_jax.editing import factors as factors_lib
from instructedit_jax.editing import head
from instructedit_jax.editing import statistics as stats
from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.factors import Factors
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editors import conditioner as conditioner_lib
from instructedit_jax.editors import (
  experts,
  gating,
  hypernetwork,
  modulation,
  ridge,
  row_weights,
)
from instructedit_jax.errors import UserError, require_least
from instructedit_jax.models import decoder
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.tasks import augment
from instructedit_jax.tasks.instructions import Instruction

READS_TOKENS = False
KE = "ke"
BARE, INSTRUCTED = "bare", "instructed"
# Statistics of the instructions, beside those of the matrices' rows.
SAID, _POOLED = "instruction", "pooled"


class Method(NamedTuple):
  """What tells one method from another.

  Attributes:
    views: the prompts factors are taken of.
    form: what an instruction does to the network; None: nothing.
  """

  views: tuple[str, ...]
  form: conditioner_lib.Form | None = None


METHODS = {
  "mend": Method((BARE,)),
  "instructedit_text": Method((INSTRUCTED,)),
  "instructedit": Method((BARE,), modulation),
  "instructedit_views": Method((BARE, INSTRUCTED), modulation),
  "instructedit_rows": Method((BARE,), row_weights),
  "instructedit_experts": Method((BARE,), experts),
  KE: Method((BARE,)),
}
ROWS = ("answer", "all")
Params = dict[str, Any]


class Condition(NamedTuple):
  """The instructions of B requests.

  Attributes:
    instruction: float [B, I] of each, from `conditioner.pooled`.
    given: bool [B], False where there is none.
    tokens: int32 [B, T], those of the requests' rows, where they are wanted.
  """

  instruction: jax.Array
  given: jax.Array
  tokens: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class EditorConfig:
  """What makes an editor, apart from its learned numbers.

  Attributes:
    method: one of METHODS.
    network: the hypernetwork.
    conditioner: how an instruction acts, where the method is conditioned.
    rate: first step size of every matrix; the update descends by it. Training
      changes it a few times over, and slowly.
    answer_tokens: an edit uses at most this many tokens of its target.
    rows: whose factors make the edit: "answer" takes the tokens that predict
      the target; "all", as published, every token with an input and a gradient,
      in the last block those same ones, before it the prompt's too.
    both_forms: whether the edit is made from the prompt in its other form, too,
      where there is one: a question of a cloze and a cloze of a question
      (`augment.other_form`). From one alone the other hardly follows.
      Published: no.
    rounds: times the edit is made; each further round takes the factors of
      the model as edited so far and mends what is left. Published: 1.
    ridge: first strength of `ridge.decorrelate`; 0 leaves rows as they are, as
      published.
    gates: KnowledgeEditor's networks, in place of `network`.
    insist: rounds that an edit in use gets beyond these while it does not say
      its answer, see `insistence`; published: 0. Training makes none.
    enough: mean loss of an answer's tokens (nats) below which an edit in use is
      scaled down, see `restraint`; 0, as published: never. Training does not.
  """

  method: str = "instructedit"
  network: hypernetwork.HypernetworkConfig = dataclasses.field(
    default_factory=lambda: hypernetwork.HypernetworkConfig(
      rank=256,
      v_scale="width",
      statistics_per="matrix",
      last_clamp=False,
    )
  )
  conditioner: conditioner_lib.ConditionerConfig = dataclasses.field(
    default_factory=conditioner_lib.ConditionerConfig
  )
  rate: float = 1.2e-3
  answer_tokens: int = 32
  rows: str = "answer"
  both_forms: bool = False
  rounds: int = 2
  ridge: float = 1.0
  gates: gating.GatingConfig = dataclasses.field(
    default_factory=gating.GatingConfig
  )
  insist: int = 1
  enough: float = 1e-4

  def __post_init__(self):
    if self.method not in METHODS:
      raise UserError(
        f"editor.method: {self.method!r} is none of {', '.join(METHODS)}"
      )
    require_least(self, "editor.", rounds=1, ridge=0, insist=0, enough=0)
    if self.rows not in ROWS:
      raise UserError(
        f"editor.rows: {self.rows!r} is none of {', '.join(ROWS)}"
      )

  @property
  def conditioned(self) -> bool:
    """Whether the instruction acts on the hypernetwork."""
    return METHODS[self.method].form is not None

  def views(
    self,
    instruction: Instruction | None,
    prompt: str,
    other_form: str | None = None,
  ) -> list[str]:
    """The texts whose factors make the edit; plain where nothing is said.

    Raises:
      UserError: another form of the prompt, and an editor that reads none.
    """
    if other_form and not self.both_forms:
      raise UserError(
        f"edit request {prompt!r}: this editor was trained to make an edit from"
        " one form of its prompt; leave other_form out"
      )
    if self.both_forms:
      other_form = other_form or augment.other_form(prompt)
    forms = [prompt, other_form] if other_form else [prompt]
    if instruction is None:
      return forms
    views = METHODS[self.method].views
    return [
      instruction.apply(form) if view == INSTRUCTED else form
      for form in forms
      for view in views
    ]


def shapes(model: DecoderConfig) -> dict[str, tuple[int, int]]:
  """The editable matrices of a decoder, in listed order."""
  return {name: model.matrix_shape(name) for name in model.editable}


def init(
  key: jax.Array, config: EditorConfig, model: DecoderConfig
) -> tuple[Params, hypernetwork.Statistics]:
  """Fresh parameters and empty statistics; the first edits already descend."""
  matrices = shapes(model)
  network_key, conditioner_key = jax.random.split(key)
  network, statistics = hypernetwork.init(network_key, matrices, config.network)
  # In units of the configured rate: an optimizer treats all parameters alike.
  rates = jnp.ones((config.rounds, len(matrices)))
  params = {"network": network, "rates": rates}
  if config.ridge:
    # Not weakly typed, as a lone number would be: the step returns strong ones
    # and would be compiled again for them.
    strength = jnp.log(config.ridge * jnp.ones(()))
    params["ridge"] = dict.fromkeys(matrices, strength)
  form = METHODS[config.method].form
  if form is not None:
    params["conditioner"] = conditioner_lib.init(
      conditioner_key, model.width, len(matrices), config.conditioner
    ) | form.init(conditioner_key, matrices, config.network, config.conditioner)
    empty = stats.empty(conditioner_lib.size(model.width))
    statistics = statistics | {SAID: {_POOLED: empty}}
  return params, statistics


def edit_factors(
  model: decoder.Decoder,
  rows: Rows,
  kept: str = "answer",
  edit: LowRankEdit | None = None,
) -> tuple[Factors, jax.Array]:
  """Factors of each request's mean negative log-likelihood.

  Args:
    model: the frozen decoder.
    rows: one request a row: its prompt (or its views, side by side) with the
      target, whose tokens are what is scored.
    kept: which rows, see `EditorConfig.rows`.
    edit: what has been changed already, one edit a row.

  Returns:
    the factors and the losses [B].
  """
  return factors_and_answers(model, rows, kept, edit)[:2]


def look(
  model: decoder.Decoder, rows: Rows, config: EditorConfig
) -> tuple[Factors, jax.Array]:
  """The factors of the unedited model, and the losses [B]."""
  return edit_factors(model, rows, config.rows)


def fold(
  statistics: hypernetwork.Statistics,
  config: EditorConfig,
  model: DecoderConfig,
  factors: Factors,
  condition: Condition,
) -> hypernetwork.Statistics:
  """The statistics with those of a batch added."""
  folded = hypernetwork.fold_factors(
    statistics, shapes(model), config.network, factors
  )
  if not config.conditioned:
    return folded
  said = stats.fold(
    statistics[SAID][_POOLED], condition.instruction, condition.given
  )
  return folded | {SAID: {_POOLED: said}}


def factors_and_answers(
  model: decoder.Decoder,
  rows: Rows,
  kept: str = "answer",
  edit: LowRankEdit | None = None,
) -> tuple[Factors, jax.Array, jax.Array]:
  """As `edit_factors`, and the likeliest token at each answer row, [B, R]."""
  edited = None if edit is None else edit.tap()

  def loss(tap: decoder.Tap) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    def both(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
      return tap(name, x, y if edited is None else edited(name, x, y))

    hidden = model.suffix(rows.hidden, rows.sequence, both, rows.at)
    count = jnp.maximum(rows.mask.sum(-1, keepdims=True), 1)
    each, answers = head.head_loss(
      model.logits,
      head.answer_loss,
      hidden,
      jnp.where(rows.mask, 1 / count, 0),
      rows.mask,
      rows.labels,
    )
    return each.sum(), (each, answers)

  inputs, deltas, _, (each, answers) = factors_lib.probe(loss)
  if kept == "all":
    return factors_lib.all_rows(inputs, deltas), each, answers
  # The suffix runs its last block at the scored tokens only.
  last = f"{model.config.blocks - 1}."
  gathered = [name for name in inputs if name.startswith(last)]
  factors = factors_lib.answer_rows(
    inputs, deltas, rows.at, rows.mask, gathered
  )
  return factors, each, answers


def propose(
  params: Params,
  statistics: hypernetwork.Statistics,
  config: EditorConfig,
  model: decoder.Decoder,
  rows: Rows,
  factors: Factors,
  condition: Condition,
) -> LowRankEdit:
  """B independent edits of B requests; a pure function.

  Args:
    params, statistics: from `init`, or trained.
    config: the editor.
    model: the frozen decoder.
    rows: the requests.
    factors: of the unedited model, from `edit_factors`.
    condition: the requests' instructions.
  """
  learned = (params, statistics, config)
  edit = propose_round(*learned, shapes(model.config), factors, condition)
  for index in range(1, config.rounds):
    edit += further(*learned, model, rows, condition, edit, index)
  return edit


def further(
  params: Params,
  statistics: hypernetwork.Statistics,
  config: EditorConfig,
  model: decoder.Decoder,
  rows: Rows,
  condition: Condition,
  edit: LowRankEdit,
  index: int = -1,
) -> LowRankEdit:
  """What a round adds to edits that have been made so far.

  Args:
    edit: B independent edits, one a row.
    index: whose step sizes serve; in use the last round's, for any beyond.
  """
  # Factors are constants, in this round as in the first.
  so_far = jax.lax.stop_gradient(edit)
  left, _ = edit_factors(model, rows, config.rows, so_far)
  matrices = shapes(model.config)
  return propose_round(
    params, statistics, config, matrices, left, condition, index
  )


def propose_round(
  params: Params,
  statistics: hypernetwork.Statistics,
  config: EditorConfig,
  matrices: hypernetwork.Shapes,
  factors: Factors,
  condition: Condition,
  index: int = 0,
) -> LowRankEdit:
  """What one round adds: rows [B, R, ...] of factors to those of an edit."""
  rates = params["rates"].reshape(config.rounds, -1)[index][None, :]
  seen = hypernetwork.by_matrix(statistics, matrices, config.network)
  white = hypernetwork.whiten(seen, config.network, factors)
  common = (params["network"], matrices, config.network, white)
  form = METHODS[config.method].form
  if form is None:
    pseudo = hypernetwork.transform(*common)
  else:
    told, given = params["conditioner"], condition.given
    code, change = conditioner_lib.read(
      told, statistics[SAID][_POOLED], condition.instruction, given
    )
    pseudo = form.apply(told, *common, code, given)
    rates = rates * change
  # Downhill: W' = W - rate * sum of x~ delta~^T (the published rule adds).
  step = -config.rate * rates
  keys = pseudo.x
  if config.ridge:
    keys = ridge.decorrelate(keys, params["ridge"])
  return LowRankEdit(
    u=keys,
    v={
      name: pseudo.delta[name] * step[:, i, None, None]
      for i, name in enumerate(matrices)
    },
  )
