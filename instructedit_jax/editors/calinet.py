"""CaliNet: a few new slots beside one MLP, trained on the edit.

Slots (`editing.side`) are added to the feed-forward part of one block. They
alone are trained, by Adam on the mean negative log-likelihood of the target;
the model is frozen. Their values start at zero, so an edit that has not been
trained changes nothing; their keys start at random (normal, of variance 1/D),
the same for every request.

Published (arXiv 2210.03329): 64 or 256 slots in the last decoder block of
T5-base, no bias and no dropout, Adafactor at a constant rate, one network for
all facts of a corpus, each fact in several wordings. Here, as in the comparison
of arXiv 2402.16123, the edits themselves are trained on: `propose_each` gives
each request a network of its own, `propose` all of them one together, trained
on the mean of their losses. Adam takes Adafactor's place, whose only gain is
memory. `paraphrases` adds wordings made by rule.

Slots act on every text, so an edit costs locality the more, the longer and the
faster they are trained. The defaults are the best of nine settings on training
records (docs/paper.md): slow, and no further than the answer needs.

Axes: B requests, S slots, D width.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editing.side import SideEdit
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.descent import descend
from instructedit_jax.editors.requests import RequestLike
from instructedit_jax.editors.training_free import (
  Common,
  TrainingFree,
  answer_losses,
  editable_block,
  read_rows,
  refuse_overflow,
  require_rate,
  target_loss,
)
from instructedit_jax.errors import require_least
from instructedit_jax.models import decoder
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks import augment


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalinetConfig(Common):
  """Hyperparameters.

  Attributes:
    block: whose MLP gets the slots; None for the last.
    slots: how many.
    rate, steps: of Adam.
    stop: training ends below this loss.
    paraphrases: wordings besides the prompt's own that a network is trained
      on; fewer where the rules know fewer. A paraphrase costs as much as the
      prompt.
    seed: of the keys' first values.
  """

  block: int | None = None
  slots: int = 64
  rate: float = 3e-4
  steps: int = 300
  stop: float = 0.1
  paraphrases: int = 0
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    require_rate(self.rate)
    require_least(self, slots=1, steps=0, paraphrases=0, seed=0)

  def place(self, model: DecoderConfig) -> int:
    """The block's number.

    Raises:
      UserError: the model has no such block, or it is not editable.
    """
    return editable_block(model, self.block, default=model.blocks - 1)

  def prompts(self, request: Request) -> list[str]:
    """The prompt, and paraphrases of it."""
    others = augment.paraphrases(request.prompt, "")[: self.paraphrases]
    asked = [dataclasses.replace(request, prompt=text) for text in others]
    return [
      text for each in (request, *asked) for text in Common.prompts(self, each)
    ]


@dataclasses.dataclass(frozen=True)
class Calinet(TrainingFree):
  """CaliNet."""

  config: CalinetConfig = dataclasses.field(default_factory=CalinetConfig)
  name: str = "calinet"

  def check(self, model: LanguageModel) -> None:
    """Raises a UserError unless this editor can edit `model`."""
    self.config.place(model.config)

  def propose_each(
    self,
    model: LanguageModel,
    requests: RequestLike | Sequence[RequestLike],
    cache: PrefixCache | None = None,
  ) -> SideEdit:
    """One side network a request, keys [B, D, S].

    Raises:
      UserError: the block is not editable, a prompt is too long, a network
        overflows, or there is no request.
    """
    self.check(model)
    found, rows = read_rows(model, requests, self.config, cache)
    edit = _fit(model.graph, self.config, False, model.params, rows)
    refuse_overflow(edit[: len(found)], found)
    return edit[: len(found)]

  def propose(
    self,
    model: LanguageModel,
    requests: RequestLike | Sequence[RequestLike],
    cache: PrefixCache | None = None,
  ) -> SideEdit:
    """One side network trained on all requests together, keys [D, S].

    Raises:
      UserError: as `propose_each`.
    """
    self.check(model)
    found, rows = read_rows(model, requests, self.config, cache)
    edit = _fit(model.graph, self.config, True, model.params, rows)
    refuse_overflow(edit, found)
    return edit[0]


def start(
  config: CalinetConfig, model: DecoderConfig, problems: int
) -> SideEdit:
  """Untrained side networks, all alike: they change nothing."""
  shape = (model.width, config.slots)
  keys = jax.random.normal(jax.random.key(config.seed), shape, jnp.float32)
  return SideEdit(
    config.place(model),
    model.activation,
    jnp.broadcast_to(keys / model.width**0.5, (problems, *shape)),
    jnp.zeros((problems, config.slots, model.width), jnp.float32),
  )


def losses(
  model: decoder.Decoder,
  rows: Rows,
  edit: SideEdit,
  front: jax.Array | None = None,
) -> jax.Array:
  """The loss of each request, [B].

  Args:
    model: the frozen decoder.
    rows: one request a row.
    edit: one for each of them or one for all.
    front: what `approach` returns for the rows, where the slots are behind it.
  """
  if front is None:
    return target_loss(model, rows, edit.tap())
  return answer_losses(model, rows, model.finish(front, edit.tap()))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _fit(
  graph: nnx.GraphDef,
  config: CalinetConfig,
  joint: bool,
  weights: nnx.State,
  rows: Rows,
) -> SideEdit:
  """Trained side networks, B of them; one if the requests share it."""
  model = nnx.merge(graph, weights)

  front = None
  if config.place(model.config) == model.config.blocks - 1:
    # What lies before the slots is the same in every step.
    front = model.approach(rows.hidden, rows.sequence, at=rows.at)

  def each(
    edit: SideEdit, given: tuple[Rows, jax.Array | None], live: jax.Array
  ) -> jax.Array:
    rows, front = given
    rows = rows.only(live)
    if not joint:
      return losses(model, rows, edit, front)
    found = losses(model, rows, edit[0], front)
    # Empty rows have no loss and do not count.
    return found.sum(keepdims=True) / rows.mask.any(-1).sum()

  problems = 1 if joint else rows.labels.shape[0]
  fitted, _ = descend(
    each,
    start(config, model.config, problems),
    (rows, front),
    rate=config.rate,
    steps=config.steps,
    stop=config.stop,
  )
  return fitted
