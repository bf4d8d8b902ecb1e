"""What editors without learned numbers share: inputs and loss.

Axes: B requests, T tokens, P answer tokens, D width.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instructedit_jax.editing import head
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import Rows, rows_of
from instructedit_jax.editing.sequences import Sizes, pack_rounded, score
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.requests import RequestLike, as_requests
from instructedit_jax.errors import UserError, require_least
from instructedit_jax.models import decoder
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.models.language_model import LanguageModel

BARE, INSTRUCTED = "bare", "instructed"
VIEWS = (BARE, INSTRUCTED)
_SIZES = Sizes((1, 4, 16, 64), (16, 24, 32, 48, 64, 128, 256), (4, 8, 16, 32))
# Places of all requests together whose logits are made at a time.
_TURN = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
  """Hyperparameters of every such editor.

  Attributes:
    suffix: editable blocks to load a model with, where the editor decides.
    view: the prompt that is edited, "bare" or "instructed" (with its
      instruction in front, where the request has one).
    answer_tokens: an edit uses at most this many tokens of its target.
  """

  suffix: int = 3
  view: str = BARE
  answer_tokens: int = 32

  def __post_init__(self):
    if self.view not in VIEWS:
      raise UserError(f"view={self.view}: must be one of {', '.join(VIEWS)}")
    require_least(self, suffix=1, answer_tokens=1)

  def prompts(self, request: Request) -> list[str]:
    """The texts whose continuation by the target makes the edit."""
    if self.view == BARE or request.instruction is None:
      return [request.prompt]
    return [request.instruction.apply(request.prompt)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneMatrix(Common):
  """Hyperparameters of an editor that changes a single matrix.

  Attributes:
    block: its block; None for the first editable one, which is as far from
      the output as an edit can be.
    matrix: "gate", "up" or "down".
  """

  block: int | None = None
  matrix: str = "down"

  def named(self, model: DecoderConfig) -> str:
    """The matrix's full name, e.g. "27.down".

    Raises:
      UserError: the model has no such matrix, or it is not editable.
    """
    if self.matrix not in model.mlp_matrices:
      raise UserError(
        f"matrix={self.matrix}: this model's MLP has"
        f" {', '.join(model.mlp_matrices)}"
      )
    block = editable_block(model, self.block, default=model.first_editable)
    return f"{block}.{self.matrix}"


def editable_block(
  model: DecoderConfig, block: int | None, *, default: int
) -> int:
  """A block by its number, None for the default.

  Raises:
    UserError: the model has no such block, or it is not editable.
  """
  block = default if block is None else block
  if not 0 <= block < model.blocks:
    raise UserError(
      f"block={block}: the model has blocks 0 to {model.blocks - 1}"
    )
  if block < model.first_editable:
    raise UserError(
      f"block={block}: only the last {model.suffix} of {model.blocks} blocks"
      f" are editable; load the model with suffix={model.blocks - block}"
    )
  return block


@dataclasses.dataclass(frozen=True)
class TrainingFree:
  """An editor that is a rule and not a trained network.

  Attributes:
    config: its hyperparameters.
    name: how tables call it.
  """

  config: Any
  name: str

  @property
  def suffix(self) -> int:
    """Editable blocks to load a model with."""
    return self.config.suffix

  @property
  def details(self) -> Mapping[str, Any]:
    """Nothing: such an editor belongs to no model and to no data."""
    return {}

  def check(self, model: LanguageModel) -> None:
    """Raises a UserError unless this editor can edit `model`."""
    if isinstance(self.config, OneMatrix):
      self.config.named(model.config)


def read_rows(
  model: LanguageModel,
  requests: RequestLike | Sequence[RequestLike],
  config: Common,
  cache: PrefixCache | None,
) -> tuple[list[Request], Rows]:
  """Requests and their rows, one a row, with empty rows up to a common size.

  Raises:
    UserError: no request, or one that is too long for the model.
  """
  found = as_requests(requests)
  if not found:
    raise UserError("no edit request was given")
  for request in found:
    if request.other_form is not None:
      raise UserError(
        f"edit request {request.prompt!r}: only editors that are trained to"
        " take another form of it; leave other_form out"
      )
  cache = PrefixCache(model) if cache is None else cache
  texts = [
    [
      score(
        model.text,
        prompt,
        request.target,
        context=model.config.context,
        limit=config.answer_tokens,
      )
      for prompt in config.prompts(request)
    ]
    for request in found
  ]
  packed = pack_rounded(texts, _SIZES)
  cache.warm([text for row in texts for text in row])
  states = [cache(row) for row in texts]
  return found, rows_of(packed, states, model.config.width)


def target_loss(
  model: decoder.Decoder, rows: Rows, tap: decoder.Tap
) -> jax.Array:
  """Mean negative log-likelihood of each row's target, [B]; 0 without one."""
  hidden = model.suffix(rows.hidden, rows.sequence, tap, rows.at)
  return answer_losses(model, rows, hidden)


def answer_losses(
  model: decoder.Decoder, rows: Rows, hidden: jax.Array
) -> jax.Array:
  """`target_loss` from the head's input [B, P, D] on."""
  return head.head_loss(
    model.logits,
    head.label_loss,
    hidden,
    answer_weight(rows),
    rows.mask,
    rows.labels,
    pool=len(hidden),
    turn=_TURN,
  )[0]


def answer_weight(rows: Rows) -> jax.Array:
  """What each answer token counts in its row's mean, [B, P]."""
  count = jnp.maximum(rows.mask.sum(-1, keepdims=True), 1)
  return jnp.where(rows.mask, 1 / count, 0.0)


def require_rate(rate: float) -> None:
  """Raises a UserError unless Adam can take this rate."""
  if not rate > 0:
    raise UserError(f"rate={rate}: must be above 0")


def refuse_overflow(edit: Any, requests: Sequence[Request]) -> None:
  """Raises a UserError naming the first request whose numbers are not finite.

  Args:
    edit: arrays with a leading axis of requests; or without, for all of them.
    requests: the requests.
  """
  for leaf in jax.tree.leaves(edit):
    bad = ~np.asarray(jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(-1))
    if bad.any():
      number = int(bad.argmax()) if len(bad) == len(requests) else 0
      raise UserError(
        f"edit request {requests[number].prompt!r}: the edit's numbers"
        " overflow; take a smaller rate or fewer steps"
      )
