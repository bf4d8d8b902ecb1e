"""The published recipe as a run: records in, an editor's folder out.

What a micro-step does is in `editors.reference`, the data in `reference_data`.
The run keeps the authors' habits: validation looks at records that are trained
on too and decides nothing, and the editor is the last state.

Unlike theirs it takes exactly as many micro-steps as it is told (theirs stops
one short, or at a whole number of epochs), and goes on where it was cut off,
statistics included.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from flax import nnx

from instructedit_jax import figures
from instructedit_jax.checkpoints import CheckpointStore
from instructedit_jax.editors import hypernetwork, metalearned, reference
from instructedit_jax.editors.hypernetwork import HypernetworkConfig, Shapes
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.editors.reference import Batch, ReferenceConfig, State
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.errors import Stopped, UserError, require_least
from instructedit_jax.metric_writer import FILE_NAME, MetricWriter
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.parallel import processes
from instructedit_jax.progress import Progress
from instructedit_jax.tasks import instructions
from instructedit_jax.training import workdir as workdir_lib
from instructedit_jax.training.reference_data import (
  Order,
  load_examples,
  make_batch,
)

METHODS = ("instructedit_text", "mend")
Metrics = dict[str, jax.Array]
# A run may be continued with other values of these.
_FREE = ("micro_steps", "validate_every", "checkpoint_every", "log_every")


@dataclasses.dataclass(frozen=True)
class ReferenceRun:
  """Everything a run depends on.

  Attributes:
    model: as `load_model` takes it.
    suffix: editable blocks.
    order: the matrices of a block in the order in which they are listed, a
      permutation of the model's own ("gate", "up", "down" or "up", "down");
      empty takes that one.
    dtype: of the base weights.
    method: "instructedit_text", or "mend" for the same without instructions.
    data: "embedded", "hub" or a folder.
    tasks: to train on; each counts by its number of records.
    limits: by task, the most records to take of it.
    instructions: file of instruction pools; empty takes the project's own.
    micro_steps: of one record each.
    validation_records: the last of the records trained on.
    validate_every, checkpoint_every, log_every: micro-steps.
    max_tokens: strings are cut there.
    seed: of everything random.
    recipe: the authors' values.
  """

  model: str
  suffix: int = 3
  order: tuple[str, ...] = ()
  dtype: str = "float32"
  method: str = "instructedit_text"
  data: str = "embedded"
  tasks: tuple[str, ...] = ("counterfact", "wikirecent")
  limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
  instructions: str = ""
  micro_steps: int = 1000
  validation_records: int = 500
  validate_every: int = 5000
  checkpoint_every: int = 1000
  log_every: int = 10
  max_tokens: int = 128
  seed: int = 42
  recipe: ReferenceConfig = dataclasses.field(default_factory=ReferenceConfig)

  def __post_init__(self):
    require_least(self, "config.", **dict.fromkeys((*_FREE, "max_tokens"), 1))
    if self.method not in METHODS:
      known = ", ".join(METHODS)
      raise UserError(f"config.method: {self.method!r} is none of {known}")
    if not self.tasks:
      raise UserError("config.tasks: name at least one task")


def from_config(config: ml_collections.ConfigDict) -> ReferenceRun:
  """The run a configuration file describes.

  Raises:
    UserError: an unknown key, or a value that is not allowed.
  """
  raw = config.to_dict()
  raw.pop("trainer", None)
  try:
    values = dict(raw.pop("recipe", {}))
    network = HypernetworkConfig(**values.pop("hypernetwork", {}))
    recipe = ReferenceConfig(hypernetwork=network, **values)
    return ReferenceRun(**raw, recipe=recipe)
  except TypeError as error:
    raise UserError(f"config: not a reference run ({error})") from error


def train(
  config: ReferenceRun,
  workdir: str | os.PathLike[str],
  model: LanguageModel | None = None,
) -> TrainedEditor:
  """Trains as published, or goes on where a killed run stopped.

  WORKDIR gets config.json, metrics.jsonl, tensorboard/, checkpoints/,
  curves.png and editor/, the last state.

  Args:
    config: the run.
    workdir: its folder; the same call continues a run that was cut off.
    model: the base model, if it is loaded already.

  Raises:
    UserError: bad input, another run's folder, or a request to stop.
  """
  folder = pathlib.Path(workdir)
  whole = dataclasses.asdict(config)
  workdir_lib.claim(folder, whole, _FREE, config.micro_steps)
  pools = instructions.POOLS
  if config.instructions:
    pools = instructions.load_pools(config.instructions)
  instructed = config.method == "instructedit_text"
  examples = load_examples(
    config.data,
    config.tasks,
    config.limits,
    config.seed,
    pools=pools if instructed else None,
  )
  if model is None:
    logging.info("loading %s", config.model)
    model = load_model(config.model, suffix=config.suffix, dtype=config.dtype)
  shapes = listed_shapes(model.config, config.order)
  text, most = model.text, min(config.max_tokens, model.config.context)
  run = _Run(
    config,
    model,
    shapes,
    [functools.partial(make_batch, text, e, most) for e in examples],
  )
  state = reference.init(jax.random.key(config.seed), shapes, config.recipe)
  with CheckpointStore(folder / "checkpoints") as store:
    if store.latest_step() is not None:
      state, _ = store.restore(state)
      logging.info("going on from micro-step %d", int(state.step))
    start = int(state.step)
    with MetricWriter(folder, start if start else None) as writer:
      state = run(state, store, writer)
  figures.learning_curves(
    folder / FILE_NAME, folder / "curves.png", f"{config.method}, as published"
  )
  editor = exported(config, model, state)
  editor.save(folder / "editor")
  logging.info("editor written to %s", folder / "editor")
  return editor


def listed_shapes(model: DecoderConfig, order: Sequence[str] = ()) -> Shapes:
  """The editable matrices as the recipe lists them: block by block.

  Args:
    model: gives the blocks and the shapes.
    order: of the matrices of one block; empty is the model's own.

  Raises:
    UserError: `order` is not a permutation of one block's matrices.
  """
  order = tuple(order) or model.mlp_matrices
  if sorted(order) != sorted(model.mlp_matrices):
    raise UserError(
      f"config.order: {', '.join(order)}; the blocks of this model have"
      f" {', '.join(model.mlp_matrices)}, each to be named once"
    )
  names = [
    f"{block}.{matrix}"
    for block in range(model.first_editable, model.blocks)
    for matrix in order
  ]
  return {name: model.matrix_shape(name) for name in names}


def exported(
  config: ReferenceRun, model: LanguageModel, state: State
) -> TrainedEditor:
  """The trained state as an editor; their edits are equal.

  The two count alike except that this recipe adds rate * x~ delta~^T, may list
  matrices in another order, and takes every row: so rates change sign, rates
  and modes are reordered, and the editor's `rows` is "all". Targets are
  tokenised with their prompts, as the editor does it: the same labels, unless
  the tokenizer has a BOS or makes the blank before a word its own token.
  """
  form, ours = config.recipe.hypernetwork, metalearned.shapes(model.config)
  theirs = listed_shapes(model.config, config.order)
  rates = state.params["edit_lrs"]
  places = [list(theirs).index(name) for name in ours]
  params = {
    "network": _in_order(state.params["networks"], theirs, ours, form),
    "rates": -rates[jnp.asarray(places)],
  }
  return TrainedEditor(
    EditorConfig(
      method=config.method,
      network=form,
      rate=1.0,
      answer_tokens=config.max_tokens,
      rows="all",
      rounds=1,
      ridge=0.0,
      insist=0,
      enough=0.0,
    ),
    params,
    state.statistics,
    model.fingerprint,
    model.config.suffix,
    {
      "model": config.model,
      "data": config.data,
      "tasks": list(config.tasks),
      "step": int(state.step),
      "config": dataclasses.asdict(config),
    },
  )


def _in_order(
  networks: hypernetwork.Params,
  theirs: Shapes,
  ours: Shapes,
  form: HypernetworkConfig,
) -> hypernetwork.Params:
  """Networks whose modes follow `ours`."""
  before = hypernetwork.members(theirs, form)
  after = hypernetwork.members(ours, form)

  def layer(network: str, held: dict[str, jax.Array]) -> dict[str, jax.Array]:
    modes = [before[network].index(name) for name in after[network]]
    tables = ("scale", "shift")
    return {
      key: value[jnp.asarray(modes)] if key in tables else value
      for key, value in held.items()
    }

  return {
    network: {
      side: [layer(network, held) for held in layers]
      for side, layers in sides.items()
    }
    for network, sides in networks.items()
  }


class _Run:
  """The loop itself; `batches` make one example's batch each."""

  def __init__(
    self,
    config: ReferenceRun,
    model: LanguageModel,
    shapes: Shapes,
    batches: Sequence[Callable[[], Batch]],
  ):
    self._config, self._model, self._batches = config, model, batches
    self._order = Order(len(batches), config.seed)
    self._step, self._look = _programs(model.graph, shapes, config.recipe)
    self._pending: list[Metrics] = []

  def __call__(
    self, state: State, store: CheckpointStore, writer: MetricWriter
  ) -> State:
    config, start = self._config, int(state.step)
    # Leaves of a fresh state share buffers; the step donates every one.
    state = jax.tree.map(jnp.copy, state)
    label = f"train {config.method}"
    with (
      Progress(config.micro_steps, label, start=start) as bar,
      processes.StopRequest() as stop,
    ):
      for number in range(start + 1, config.micro_steps + 1):
        batch = self._batches[self._order(number - 1)]()
        state, metrics = self._step(state, self._model.params, batch)
        self._pending.append(metrics)
        bar.update(1, loss=metrics["loss"])
        done = number == config.micro_steps
        stopping = stop.asked(number) and not done
        if number % config.log_every == 0 or done or stopping:
          self._write(number, writer)
        if number % config.validate_every == 0 or done:
          self._validate(number, state, writer)
        if number % config.checkpoint_every == 0 or done or stopping:
          # A killed run goes on after this step: its rows must be there.
          writer.flush()
          store.save(number, state, {})
        if stopping:
          store.wait()
          raise Stopped(
            f"stopped by request after micro-step {number}; the same command"
            " goes on"
          )
    store.wait()
    return state

  def _write(self, number: int, writer: MetricWriter) -> None:
    """Means since the last row; what was skipped is counted apart."""
    rows = [
      {name: float(value) for name, value in metrics.items()}
      for metrics in self._pending
    ]
    self._pending = []
    good = [row for row in rows if row.pop("finite")]
    numbers = {"train/skipped": float(len(rows) - len(good))}
    if numbers["train/skipped"]:
      logging.warning(
        "until micro-step %d: %d of %d were skipped, for gradients that are"
        " not finite",
        number,
        len(rows) - len(good),
        len(rows),
      )
    writer.write(number, numbers | _means("train", good))

  def _validate(self, number: int, state: State, writer: MetricWriter) -> None:
    count = min(self._config.validation_records, len(self._batches))
    rows = [
      self._look(state, self._model.params, batch())
      for batch in self._batches[len(self._batches) - count :]
    ]
    writer.write(number, _means("validation", rows))
    writer.flush()


def _means(split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  names = rows[0] if rows else {}
  return {
    f"{split}/{name}": float(np.mean([float(row[name]) for row in rows]))
    for name in names
  }


def _programs(
  graph: nnx.GraphDef, shapes: Shapes, config: ReferenceConfig
) -> tuple[
  Callable[[State, nnx.State, Batch], tuple[State, Metrics]],
  Callable[[State, nnx.State, Batch], Metrics],
]:
  """A micro-step, and a look at what an edit does; both compiled."""

  def step(
    state: State, weights: nnx.State, batch: Batch
  ) -> tuple[State, Metrics]:
    decoder = nnx.merge(graph, weights)
    state, report = reference.micro_step(decoder, state, shapes, config, batch)
    metrics = _metrics(report.scalars, report.logits, batch)
    return state, metrics | {"finite": reference.is_finite(report.gradients)}

  def look(state: State, weights: nnx.State, batch: Batch) -> Metrics:
    decoder = nnx.merge(graph, weights)
    scalars, logits = reference.validate(
      decoder, state.params, state.statistics, shapes, config, batch
    )
    return _metrics(scalars, logits, batch)

  return jax.jit(step, donate_argnums=0), jax.jit(look)


def _metrics(
  scalars: Mapping[str, jax.Array],
  logits: Mapping[str, jax.Array],
  batch: Batch,
) -> Metrics:
  """The names every run uses; agreement is over the answers' tokens only."""
  width = batch.answer_mask.shape[1]
  first, second = (
    logits[name][:, -width:].argmax(-1) for name in ("base_loc", "post_loc")
  )
  kept = jnp.asarray(batch.answer_mask) != 0
  return {
    "loss": scalars["l_total"],
    "edit_loss": scalars["l_edit"],
    "locality_kl": scalars["l_loc"],
    "token_accuracy": scalars["acc"],
    "locality_agreement": ((first == second) & kept).sum() / kept.sum(),
    "inner_loss": scalars["inner_nll"],
  }
