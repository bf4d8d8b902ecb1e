"""The compiled functions of a run, and where their inputs live."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from instructedit_jax import heap, parallel
from instructedit_jax.editors import trainable
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.training import prefix_fill
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import Batch
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.step import TrainState

# All sharding rules take arrays by their paths; a batch's are its fields.
_WEIGHTS = "config.sharding.weights"


@dataclasses.dataclass(frozen=True)
class Programs:
  """What a training loop runs.

  Attributes:
    train: (state, weights, batch) -> (state, metrics); takes its state away.
    validate: (state, weights, batch) -> metrics.
    state: a fresh one, sharded; its shapes alone once a run has taken it.
    weights: of the base model, as far as a step reads them.
    place: this process's rows of a batch -> the whole batch, sharded.
    rows: of every batch, those that this process provides.
    turn: to be held while a program over several devices is started, where
      another thread starts such programs too.
  """

  train: heap.CompiledFirst
  validate: heap.CompiledFirst
  state: TrainState
  weights: Any
  place: Callable[[Batch], Batch]
  rows: list[int]
  turn: contextlib.AbstractContextManager[Any]


def load(config: TrainConfig, mesh: Mesh) -> LanguageModel:
  """Loads the base model, to be divided among devices if that is wanted.

  Where its store holds all prefix states of the run, the prefix is left out.
  """
  filled = prefix_fill.is_filled(config)
  if trainable.of(config.editor).READS_TOKENS:
    filled = False  # the token embeddings would be left out as well
  logging.info("loading %s%s", config.model, " without its prefix" * filled)
  options: dict[str, Any] = {"suffix": config.suffix, "dtype": config.dtype}
  options["prefix"] = not filled
  sharding = config.sharding
  if mesh.size > 1 and (
    sharding.fsdp or sharding.weights or mesh.shape["model"] > 1
  ):
    # Whole it may fit the host's memory only.
    try:
      host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
      logging.info("JAX_PLATFORMS has no cpu: weights pass through one device")
    else:
      options["place"] = lambda _, array: jax.device_put(array, host)
  return load_model(config.model, **options)


def divided(
  model: LanguageModel, config: TrainConfig, mesh: Mesh
) -> LanguageModel:
  """The model that reads new text: on this process's devices, by the rules.

  Of several processes each reads its own text, so none can wait for another:
  there the model is divided among one process's devices only. A model that no
  rule divides is on one of them.
  """
  if jax.process_count() > 1:
    mesh = parallel.local_mesh(mesh)
  wanted = _weight_shardings(model.params, config, model.config, mesh)
  if parallel.divides(wanted):
    params = parallel.place(model.params, wanted)
    return dataclasses.replace(model, params=params)
  # `load` leaves in the host's memory what several processes divide.
  own = set(mesh.local_devices)
  if own & set().union(*(x.devices() for x in jax.tree.leaves(model.params))):
    return model
  params = jax.device_put(model.params, mesh.local_devices[0])
  return dataclasses.replace(model, params=params)


def build(config: TrainConfig, model: LanguageModel, mesh: Mesh) -> Programs:
  """Jits the steps over a mesh, everything placed by the rules.

  Raises:
    UserError: a rule does not fit.
  """
  rule = step_lib.optimizer(config.optimizer, config.steps)

  def fresh() -> TrainState:
    key = jax.random.key(config.seed)
    return step_lib.init_state(key, config.editor, model.config, rule)

  state_at = _state_shardings(jax.eval_shape(fresh), config, mesh)
  weights, gather = _step_weights(model, config, mesh)
  common = (model.graph, config.editor, config.loss)
  step = step_lib.make_train_step(
    *common, model.config, rule, remat=config.remat
  )
  validate = step_lib.make_validation_step(*common)
  place, rows = _placement(config, mesh)
  return Programs(
    train=heap.CompiledFirst(
      jax.jit(
        lambda state, weights, batch: step(state, gather(weights), batch),
        donate_argnums=0,
        out_shardings=(state_at, NamedSharding(mesh, PartitionSpec())),
      )
    ),
    validate=heap.CompiledFirst(
      jax.jit(
        lambda state, weights, batch: validate(state, gather(weights), batch),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
      )
    ),
    state=jax.jit(fresh, out_shardings=state_at)(),
    weights=weights,
    place=place,
    rows=rows,
    turn=threading.Lock() if _spread(model) else contextlib.nullcontext(),
  )


def _state_shardings(
  state: TrainState, config: TrainConfig, mesh: Mesh
) -> TrainState:
  sharding = config.sharding

  def of(tree: Any, rules: Any, name: str, own: bool) -> Any:
    where = f"config.sharding.{name}"
    return parallel.shardings(tree, rules, mesh, where, exact=own)

  editor = (sharding.editor_rules(), "editor", bool(sharding.editor))
  return TrainState(
    step=NamedSharding(mesh, PartitionSpec()),  # type: ignore[arg-type]
    params=of(state.params, *editor),
    statistics=of(state.statistics, *editor),
    optimizer=of(
      state.optimizer,
      sharding.optimizer_rules(),
      "optimizer" if sharding.optimizer else "editor",
      bool(sharding.optimizer or sharding.editor),
    ),
  )


def _weight_shardings(
  params: Any, config: TrainConfig, model: DecoderConfig, mesh: Mesh
) -> Any:
  rules = config.sharding.weights_for(model, mesh)
  own = bool(config.sharding.weights)
  return parallel.shardings(params, rules, mesh, _WEIGHTS, exact=own)


def _step_weights(
  model: LanguageModel, config: TrainConfig, mesh: Mesh
) -> tuple[Any, Callable[[Any], Any]]:
  """The weights a step reads, placed; and what gathers them inside it.

  What lies before the first editable matrix is replaced by arrays without
  elements: a step is given the hidden states there.
  """
  if mesh.size == 1:
    return model.params, lambda weights: weights
  flat, structure = jax.tree_util.tree_flatten_with_path(model.params)
  needed = jax.tree_util.tree_unflatten(
    structure,
    [
      leaf if _read(parallel.dotted(keys), model.config, config) else _nothing()
      for keys, leaf in flat
    ],
  )
  wanted = _weight_shardings(needed, config, model.config, mesh)
  whole = parallel.gathered(wanted)
  weights = parallel.place(needed, wanted)
  if jax.tree.leaves(whole) == jax.tree.leaves(wanted):
    return weights, lambda weights: weights
  return weights, lambda weights: parallel.constrain(weights, whole)


def _read(path: str, model: DecoderConfig, config: TrainConfig) -> bool:
  """Whether a step reads this parameter."""
  if path == "embedding":
    return model.tied or trainable.of(config.editor).READS_TOKENS
  before = ("prefix_blocks.", "positions", "suffix_blocks.0.attention")
  return not path.startswith(before)


def _nothing() -> np.ndarray:
  return np.zeros(0, np.float32)


def _placement(
  config: TrainConfig, mesh: Mesh
) -> tuple[Callable[[Batch], Batch], list[int]]:
  """How host rows become a batch, and which of its rows are ours."""
  size, sharding = config.batch_size, config.sharding

  def wanted(batch: Batch) -> Any:
    whole = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype),
      batch,
    )
    return parallel.shardings(
      whole, sharding.batch_rules(), mesh, "config.sharding.batch"
    )

  # By the rules' first axes alone: no batch is there yet.
  first = [
    NamedSharding(mesh, PartitionSpec(*axes[:1]))
    for _, axes in sharding.batch_rules()
  ]
  rows = parallel.own_rows(first, size)

  def place(batch: Batch) -> Batch:
    return parallel.assemble(batch, wanted(batch), rows, size)

  return place, rows


def _spread(model: LanguageModel) -> bool:
  """Whether reading text takes several devices at once."""
  return any(
    len(leaf.sharding.device_set) > 1
    for leaf in jax.tree.leaves(model.params)
    if isinstance(leaf, jax.Array)
  )
