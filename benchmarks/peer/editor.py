"""Our default editor, as training finds it, on both sides.

Untrained it is gradient descent in essence; an edit costs what a trained one's
does.
"""

import jax

from benchmarks.peer.batched import Batched
from benchmarks.peer.language_model import Peer
from instructedit_jax.editing.sequences import Scored, score
from instructedit_jax.editors import metalearned
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks.record import Record
from instructedit_jax.training.losses import LossConfig
from instructedit_jax.training.step import OptimizerConfig


def untrained(model: LanguageModel) -> TrainedEditor:
  """Ours; it makes no more rounds than it is told to, as PyTorch's."""
  config = EditorConfig(insist=0)
  params, statistics = metalearned.init(jax.random.key(0), config, model.config)
  return TrainedEditor(
    config, params, statistics, model.fingerprint, model.config.suffix
  )


def in_torch(peer: Peer, editor: TrainedEditor) -> Batched:
  """The same in PyTorch."""
  return Batched(
    peer,
    editor.config,
    editor.params,
    editor.statistics,
    LossConfig(),
    OptimizerConfig(),
  )


def request(model: LanguageModel, record: Record) -> Scored:
  """The tokens an edit is made from."""
  return score(
    model.text,
    record.prompt,
    record.target,
    context=model.config.context,
    limit=EditorConfig().answer_tokens,
  )
