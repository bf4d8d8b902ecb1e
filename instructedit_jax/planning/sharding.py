"""Bytes of one device when a run's arrays are divided by the run's rules."""

import dataclasses
from typing import Any

import jax
from jax.sharding import AbstractMesh

from instructedit_jax import parallel
from instructedit_jax.planning import shapes
from instructedit_jax.planning.shapes import RunShapes


@dataclasses.dataclass(frozen=True)
class Resident:
  """What one device holds throughout, in bytes.

  Attributes:
    weights: of the base model's parts.
    editor, optimizer, statistics: of the training state.
    gathered: whole copies of what the step reads, where arrays are divided
      over `data` and put together when needed.
  """

  weights: dict[str, int]
  editor: int
  optimizer: int
  statistics: int
  gathered: int


def resident(run: RunShapes, data: int, model: int) -> Resident:
  """Per-device bytes on a mesh of `data` x `model` devices.

  Raises:
    UserError: a rule of the configuration does not fit.
  """
  mesh: Any = AbstractMesh((data, model), (parallel.DATA, parallel.MODEL))
  config = run.run.sharding

  def placed(tree: Any, rules: Any, name: str) -> Any:
    own = not getattr(config, name)
    where = f"config.sharding.{name}"
    return parallel.shardings(tree, rules, mesh, where, exact=not own)

  state, tied = run.state, run.model.tied
  at = placed(run.weights, config.weights_for(run.model, mesh), "weights")
  editor_at = placed(state.params, config.editor_rules(), "editor")
  gathered = 0
  if config.fsdp and data > 1:
    whole = _local(run.weights, parallel.gathered(at))
    read = shapes.bytes_of(whole, tied)
    editor = _local(state.params, parallel.gathered(editor_at))
    gathered = read["suffix"] + read["head"] + shapes.nbytes(editor)
  optimizer_at = placed(
    state.optimizer,
    config.optimizer_rules(),
    "optimizer" if config.optimizer else "editor",
  )
  seen_at = placed(state.statistics, config.editor_rules(), "editor")
  return Resident(
    shapes.bytes_of(_local(run.weights, at), tied),
    shapes.nbytes(_local(state.params, editor_at)),
    shapes.nbytes(_local(state.optimizer, optimizer_at)),
    shapes.nbytes(_local(state.statistics, seen_at)),
    gathered,
  )


def _local(tree: Any, placed: Any) -> Any:
  """The tree as one device sees it."""

  def part(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype)

  return jax.tree.map(part, tree, placed)
