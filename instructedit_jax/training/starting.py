"""Training that starts from an editor instead of from nothing.

What an editor of one method has learned serves another that has more to learn:
the instruction's part of `instructedit` does nothing at first, so one that
starts from `mend` is that `mend`; and an editor may go on with other episodes.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from instructedit_jax import parallel
from instructedit_jax.editors.trained import TrainedEditor, load_editor
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.step import TrainState

# What the numbers mean depends on these; their shapes show the rest.
_SAME = ("network", "rate", "rows", "rounds")


def started(
  fresh: TrainState, config: TrainConfig, model: LanguageModel
) -> TrainState:
  """The state of step 0 with the numbers of `config.start_from`.

  Args:
    fresh: whose numbers stay where that editor has none, and whose optimizer
      starts as ever.
    config: the run; without `start_from` its state is `fresh`.
    model: the base model.

  Raises:
    UserError: no editor there, one of another model, or one whose numbers do
      not fit this run's editor.
  """
  if not config.start_from:
    return fresh
  editor = load_editor(config.start_from)
  editor.check(model)
  _require_same(editor, config)
  learned = {"params": editor.params, "statistics": editor.statistics}
  into = {"params": fresh.params, "statistics": fresh.statistics}
  taken = _taken(config.start_from, into, learned)
  return dataclasses.replace(fresh, **taken)


def _require_same(editor: TrainedEditor, config: TrainConfig) -> None:
  for name in _SAME:
    theirs, ours = getattr(editor.config, name), getattr(config.editor, name)
    if theirs != ours:
      raise UserError(
        f"config.start_from: the editor in {config.start_from} has"
        f" editor.{name}={theirs}, this run {ours}; give it the same"
      )


def _taken(where: str, into: Any, learned: Any) -> Any:
  """`into` with every number of `learned`, on the devices `into` is on."""
  found = {
    jax.tree_util.keystr(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(learned)
  }
  paths, tree = jax.tree_util.tree_flatten_with_path(into)
  names = [jax.tree_util.keystr(path) for path, _ in paths]
  unknown = found.keys() - set(names)
  if unknown:
    raise UserError(
      f"config.start_from: the editor in {where} has {min(unknown)}, this"
      " run's has not; start from an editor of a method that this one extends"
    )
  leaves = []
  for name, (_, leaf) in zip(names, paths, strict=True):
    value = found.get(name)
    if value is not None and np.shape(value) != leaf.shape:
      raise UserError(
        f"config.start_from: {name} of the editor in {where} has shape"
        f" {np.shape(value)}, this run's {leaf.shape}"
      )
    leaves.append(leaf if value is None else _placed(value, leaf))
  return jax.tree.unflatten(tree, leaves)


def _placed(value: Any, like: jax.Array) -> jax.Array:
  host = np.asarray(value).astype(like.dtype)
  return parallel.place(host, like.sharding)
