"""Bytes of one device when a run's arrays are divided by the run's rules."""

import dataclasses
from typing import Any

import jax
from jax.sharding import AbstractMesh

from instructedit_jax import parallel
from instructedit_jax.editors import trainable
from instructedit_jax.planning import shapes
from instructedit_jax.planning.shapes import RunShapes


@dataclasses.dataclass(frozen=True)
class Resident:
  """What one device holds throughout, in bytes.

  Attributes:
    weights: of the base model's parts, as it reads text. Of several processes
      each reads its own: there a model is divided among one's devices only.
    step_weights: a step's own copy of what it reads, divided among all devices;
      0 where one process needs no second one.
    editor, optimizer, statistics: of the training state.
    gathered: whole copies of what the step reads, where arrays are divided
      over `data` and put together when needed.
  """

  weights: dict[str, int]
  step_weights: int
  editor: int
  optimizer: int
  statistics: int
  gathered: int


def resident(
  run: RunShapes, data: int, model: int, processes: int = 1
) -> Resident:
  """Per-device bytes on a mesh of `data` x `model` devices.

  Args:
    run: its arrays.
    data, model: the mesh.
    processes: among which the devices are divided evenly.

  Raises:
    UserError: a rule of the configuration does not fit.
  """
  mesh = _mesh(data, model)
  config = run.run.sharding

  def placed(tree: Any, rules: Any, name: str, mesh: Any = mesh) -> Any:
    own = not getattr(config, name)
    where = f"config.sharding.{name}"
    return parallel.shardings(tree, rules, mesh, where, exact=not own)

  def weights(mesh: Any) -> Any:
    rules = config.weights_for(run.model, mesh)
    return placed(run.weights, rules, "weights", mesh)

  state, tied = run.state, run.model.tied
  at = weights(mesh)
  held, again = shapes.bytes_of(_local(run.weights, at), tied), 0
  if processes > 1:
    again = held["suffix"] + held["head"]
    if trainable.of(run.run.editor).READS_TOKENS:
      again += held["embedding"]
    shape = parallel.local_shape(model, data * model // processes)
    reading = weights(_mesh(*shape))
    held = shapes.bytes_of(_local(run.weights, reading), tied)
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
    held,
    again,
    shapes.nbytes(_local(state.params, editor_at)),
    shapes.nbytes(_local(state.optimizer, optimizer_at)),
    shapes.nbytes(_local(state.statistics, seen_at)),
    gathered,
  )


def _mesh(data: int, model: int) -> Any:
  return AbstractMesh((data, model), (parallel.DATA, parallel.MODEL))


def _local(tree: Any, placed: Any) -> Any:
  """The tree as one device sees it."""

  def part(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype)

  return jax.tree.map(part, tree, placed)
