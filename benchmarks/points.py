"""One configuration of a program whose scaling is measured."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import synthetic
from benchmarks.timing import side_by_side
from instructedit_jax import parallel
from instructedit_jax.editors import metalearned
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import Batch, BatchShape
from instructedit_jax.training.losses import LossConfig

# Texts that "apply" reads at once.
_TEXTS = 8


@dataclasses.dataclass(frozen=True)
class Point:
  """One configuration.

  Attributes:
    kind: "train", a training step; "compile", the same, counted, not run;
      "propose", edits made of requests; "apply", text through the suffix with
      edits applied.
    model: a shape; its prefix is not loaded.
    devices: fake CPU devices, all along `data`.
    batch: episodes a step, over all devices.
    tokens: of an episode's questions.
    rank: of the hypernetwork.
    rows: answer tokens of an edit; the rank of one round of it.
    edits: requests proposed, each its own edit; or added up and applied.
  """

  kind: str = "train"
  model: str = "random:smollm2-135m"
  devices: int = 1
  batch: int = 8
  tokens: int = 176
  rank: int = 256
  rows: int = 10
  edits: int = 1


def run(point: Point, repeats: int) -> dict[str, Any]:
  """Times of a point, or what its compiled program says."""
  model = load_model(point.model, prefix=False, tokenizer=None)
  usual = EditorConfig()
  editor = dataclasses.replace(
    usual, network=dataclasses.replace(usual.network, rank=point.rank)
  )
  if point.kind == "compile":
    return parallel.compiled_report(_compiled(model, editor, point))
  if point.kind == "propose":
    work, unit, program = point.edits, "edits/s", _propose(model, editor, point)
  elif point.kind == "apply":
    work, unit = _TEXTS * point.tokens, "tokens/s"
    program = _apply(model, editor, point)
  else:
    work, unit, program = (
      point.batch,
      "episodes/s",
      _train(model, editor, point),
    )
  times = side_by_side({"it": program}, repeats)["it"]
  return {
    "work": float(work),
    "unit": unit,
    "walls": times.walls,
    "cpus": times.cpus,
  }


def _batch(model: LanguageModel, point: Point, size: int) -> Batch:
  shape = BatchShape(
    edit_tokens=4 * point.rows,
    edit_rows=point.rows,
    query_tokens=point.tokens,
    # The answer is asked for twice, as in real batches.
    edit_positions=2 * point.rows,
  )
  return synthetic.batch(model.config, shape, size)


def _step(
  model: LanguageModel, editor: EditorConfig, point: Point
) -> tuple[Any, Any, NamedSharding, NamedSharding]:
  """The step, a maker of states, and both shardings."""
  mesh = parallel.make_mesh(parallel.MeshConfig(), point.batch)
  whole = NamedSharding(mesh, PartitionSpec())
  rule = step_lib.optimizer(step_lib.OptimizerConfig(), 100)
  step = step_lib.make_train_step(
    model.graph, editor, LossConfig(), model.config, rule
  )
  program = jax.jit(step, out_shardings=(whole, whole))

  def fresh() -> step_lib.TrainState:
    key = jax.random.key(0)
    return step_lib.init_state(key, editor, model.config, rule)

  divided = NamedSharding(mesh, PartitionSpec("data"))
  return program, fresh, whole, divided


def _compiled(model: LanguageModel, editor: EditorConfig, point: Point) -> Any:
  program, fresh, whole, divided = _step(model, editor, point)

  def abstract(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding
      ),
      tree,
    )

  # One row tells the shapes of all.
  batch = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      (point.batch, *leaf.shape[1:]), leaf.dtype
    ),
    _batch(model, point, 1),
  )
  return program.lower(
    abstract(jax.eval_shape(fresh), whole),
    abstract(model.params, whole),
    abstract(batch, divided),
  ).compile()


def _train(
  model: LanguageModel, editor: EditorConfig, point: Point
) -> Callable[[], Any]:
  program, fresh, whole, divided = _step(model, editor, point)
  weights = jax.device_put(model.params, whole)
  batch = jax.device_put(_batch(model, point, point.batch), divided)
  held = {"state": jax.jit(fresh, out_shardings=whole)()}

  def once() -> Any:
    held["state"], metrics = program(held["state"], weights, batch)
    return metrics

  return once


def _propose(
  model: LanguageModel,
  editor: EditorConfig,
  point: Point,
  combined: bool = False,
) -> Callable[[], Any]:
  params, statistics = metalearned.init(jax.random.key(0), editor, model.config)
  batch = jax.device_put(_batch(model, point, point.edits))

  @jax.jit
  def program(weights: Any, params: Any, batch: Batch) -> Any:
    decode = nnx.merge(model.graph, weights)
    factors, _ = metalearned.edit_factors(decode, batch.edit, editor.rows)
    condition = metalearned.Condition(batch.instruction, batch.instructed)
    edit = metalearned.propose(
      params, statistics, editor, decode, batch.edit, factors, condition
    )
    return edit.combined() if combined else edit

  return lambda: program(model.params, params, batch)


def _apply(
  model: LanguageModel, editor: EditorConfig, point: Point
) -> Callable[[], Any]:
  batch = jax.device_put(_batch(model, point, _TEXTS))
  edit = None
  if point.edits:
    edit = _propose(model, editor, point, combined=True)()

  @jax.jit
  def program(weights: Any, edit: Any, query: Any) -> Any:
    decode = nnx.merge(model.graph, weights)
    tap = None if edit is None else edit.tap()
    return decode.suffix(query.hidden, query.sequence, tap, query.at)

  return lambda: program(model.params, edit, batch.query)
