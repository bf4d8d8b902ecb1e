"""The editors that are trained, by name: what training and use ask of each.

A new one is a module with these functions, a line here, and a line in
`metalearned.METHODS`.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax

from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.rows import Rows
from instructedit_jax.editors import ke, metalearned
from instructedit_jax.editors.metalearned import Condition, EditorConfig, Params
from instructedit_jax.models import decoder
from instructedit_jax.models.config import DecoderConfig


class Trainable(Protocol):
  """Pure functions; a module will do."""

  # Whether it reads the token embeddings, which a step leaves out otherwise.
  READS_TOKENS: bool

  def init(
    self, key: jax.Array, config: EditorConfig, model: DecoderConfig, /
  ) -> tuple[Params, Any]:
    """Fresh parameters, and statistics of what it has seen, empty."""

  def look(
    self, model: decoder.Decoder, rows: Rows, config: EditorConfig, /
  ) -> tuple[Any, jax.Array]:
    """What edits of B requests are made from, constant in training.

    Returns:
      any pytree, and the unedited model's losses [B].
    """

  def fold(
    self,
    statistics: Any,
    config: EditorConfig,
    model: DecoderConfig,
    seen: Any,
    condition: Condition,
    /,
  ) -> Any:
    """The statistics with those of a batch, as `look` gave it, added."""

  def propose(
    self,
    params: Params,
    statistics: Any,
    config: EditorConfig,
    model: decoder.Decoder,
    rows: Rows,
    seen: Any,
    condition: Condition,
    /,
  ) -> LowRankEdit:
    """B independent edits of B requests."""

  @property
  def further(self) -> Callable[..., LowRankEdit] | None:
    """What one more round adds to edits; None where there is none.

    Takes what `propose` takes, with these edits last, in place of `seen`.
    """


_MODULES: dict[str, Trainable] = {
  **dict.fromkeys(metalearned.METHODS, metalearned),
  metalearned.KE: ke,
}


def of(config: EditorConfig) -> Trainable:
  """The functions of a configured method."""
  return _MODULES[config.method]
