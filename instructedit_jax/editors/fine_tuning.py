"""Fine-tuning of one matrix: FT-L and FT-M.

Both are Adam on one MLP matrix, a few steps, until the loss is small. They
differ in what they minimise:

  ft_l  as published for this comparison: from the prompt alone, the next-token
        distribution p at its last token; the loss is the mean over the target
        of -log p(token). All target tokens are asked for at one position, so a
        target of several tokens is never learned in order.
  ft_m  the mean negative log-likelihood of the target after the prompt, each
        token after the right ones: what fine-tuning should minimise.

Published settings (the code behind arXiv 2402.16123): the MLP's
out-projection, of block 0 of 48 in GPT2-XL, every entry held within 5e-4 of the
original, and of block 21 of 32 in LLaMA-2-7B, without that bound; Adam 5e-4, at
most 25 steps, stop below a loss of 1e-2. Two things differ here by default.
Only the blocks behind the frozen prefix are editable, so the first of those is
taken; load the model with a larger suffix and name a block for an earlier one.
And ft_m may take 100 steps: Adam moves an entry by at most its rate a step, so
a smaller matrix needs more of them until the loss ends it, and the published
cap would measure the cap. ft_l, which is here to be compared with the published
numbers, keeps it.

Several requests at once are one fine-tuning on the mean of their losses.

Axes: B requests, n inputs, m outputs of the matrix.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from instructedit_jax.editing.dense import DenseEdit
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editors.descent import descend
from instructedit_jax.editors.requests import RequestLike
from instructedit_jax.editors.training_free import (
  OneMatrix,
  TrainingFree,
  answer_weight,
  read_rows,
  refuse_overflow,
  require_rate,
  target_loss,
)
from instructedit_jax.errors import UserError, require_least
from instructedit_jax.models import decoder
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.models.language_model import LanguageModel

TARGET, PROMPT_LAST = "target", "prompt_last"
_UNGATED_BOUND = 5e-4
# Of the updates that are fitted together; Adam needs four times as much beside.
_UPDATE_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuningConfig(OneMatrix):
  """Hyperparameters.

  Attributes:
    objective: "target" (FT-M) or "prompt_last" (FT-L).
    rate, steps: of Adam.
    stop: fine-tuning ends below this loss.
    bound: how far an entry may move; inf for no bound; None takes the
      published ones: 5e-4 in an ungated MLP (GPT-2), none in a gated one
      (Llama).
  """

  objective: str = TARGET
  rate: float = 5e-4
  steps: int = 100
  stop: float = 1e-2
  bound: float | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.objective not in (TARGET, PROMPT_LAST):
      raise UserError(
        f"objective={self.objective}: must be {TARGET} or {PROMPT_LAST}"
      )
    require_rate(self.rate)
    require_least(self, steps=0)
    if self.bound is not None and not self.bound >= 0:
      raise UserError(f"bound={self.bound}: must be at least 0, or inf")

  def limit(self, model: DecoderConfig) -> float:
    """How far an entry of this model's matrix may move."""
    if self.bound is not None:
      return self.bound
    return math.inf if model.gated else _UNGATED_BOUND


@dataclasses.dataclass(frozen=True)
class FineTuning(TrainingFree):
  """FT-L or FT-M."""

  config: FineTuningConfig = dataclasses.field(default_factory=FineTuningConfig)
  name: str = "ft_m"

  def propose_each(
    self,
    model: LanguageModel,
    requests: RequestLike | Sequence[RequestLike],
    cache: PrefixCache | None = None,
  ) -> DenseEdit:
    """One fine-tuned matrix a request, update [B, n, m].

    Raises:
      UserError: the matrix is not editable, a prompt is too long, an update
        overflows, or there is no request.
    """
    name = self.config.named(model.config)
    found, rows = read_rows(model, requests, self.config, cache)
    size = 4 * math.prod(model.config.matrix_shape(name))
    most = max(_UPDATE_BYTES // size, 1)
    parts = [
      self._fit(model, name, rows.part(start, start + most), joint=False)
      for start in range(0, len(rows.labels), most)
    ]
    fitted = jnp.concatenate(parts)[: len(found)]
    refuse_overflow(fitted, found)
    return DenseEdit({name: fitted})

  def propose(
    self,
    model: LanguageModel,
    requests: RequestLike | Sequence[RequestLike],
    cache: PrefixCache | None = None,
  ) -> DenseEdit:
    """One matrix fine-tuned on all requests together, update [n, m].

    Raises:
      UserError: as `propose_each`.
    """
    name = self.config.named(model.config)
    found, rows = read_rows(model, requests, self.config, cache)
    fitted = self._fit(model, name, rows, joint=True)
    refuse_overflow(fitted, found)
    return DenseEdit({name: fitted[0]})

  def _fit(
    self, model: LanguageModel, name: str, rows: Rows, *, joint: bool
  ) -> jax.Array:
    return _fit(
      (model.graph, self.config, model.config.matrix_shape(name)),
      name,
      joint,
      self.config.limit(model.config),
      model.params,
      rows,
    )


def losses(
  model: decoder.Decoder,
  rows: Rows,
  name: str,
  update: jax.Array,
  objective: str = TARGET,
) -> jax.Array:
  """The loss of each request, [B].

  Args:
    model: the frozen decoder.
    rows: one request a row.
    name: of the matrix.
    update: what is added to it, [n, m] or [B, n, m].
    objective: see `FineTuningConfig`.
  """
  tap = DenseEdit({name: update}).tap()
  if objective == TARGET:
    return target_loss(model, rows, tap)
  # The position that predicts the first answer token ends the prompt.
  last = rows.at[:, :1]
  hidden = model.suffix(rows.hidden, rows.sequence, tap, last)
  cost = -jax.nn.log_softmax(model.logits(hidden)[:, 0])
  chosen = jnp.take_along_axis(cost, rows.labels, -1)
  return (chosen * answer_weight(rows)).sum(-1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _fit(
  setting: tuple[nnx.GraphDef, FineTuningConfig, tuple[int, int]],
  name: str,
  joint: bool,
  bound: float,
  weights: nnx.State,
  rows: Rows,
) -> jax.Array:
  """Fine-tuned updates, [B, n, m]; [1, n, m] if the requests share one."""
  graph, config, shape = setting
  model = nnx.merge(graph, weights)

  def each(update: jax.Array, rows: Rows, live: jax.Array) -> jax.Array:
    rows = rows.only(live)
    if not joint:
      return losses(model, rows, name, update, config.objective)
    found = losses(model, rows, name, update[0], config.objective)
    # Empty rows have no loss and do not count.
    return found.sum(keepdims=True) / rows.mask.any(-1).sum()

  problems = 1 if joint else rows.labels.shape[0]
  start = jnp.zeros((problems, *shape), jnp.float32)
  fitted, _ = descend(
    each,
    start,
    rows,
    rate=config.rate,
    steps=config.steps,
    stop=config.stop,
    bound=bound,
  )
  return fitted
