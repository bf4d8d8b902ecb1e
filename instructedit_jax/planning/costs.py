"""What one run costs: parameters, bytes and FLOPs, from shapes alone."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from instructedit_jax.editing.edits import Edit, LowRankEdit
from instructedit_jax.editors import metalearned, trainable
from instructedit_jax.errors import UserError
from instructedit_jax.models import decoder
from instructedit_jax.planning import flops, liveness, shapes
from instructedit_jax.planning.shapes import RunShapes
from instructedit_jax.training import remat
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import Batch
from instructedit_jax.training.losses import outer_loss

# The prefix's states are computed in packed batches of this shape.
_PREFIX_ROWS, _PREFIX_TOKENS = 16, 128
# An instruction's tokens, for the cost of its states: ours have 20 to 40.
_INSTRUCTION_TOKENS = 32


@dataclasses.dataclass(frozen=True)
class Costs:
  """A run's needs on one device that holds everything.

  Attributes:
    parameters: of each part: prefix, suffix, embedding, head, editor,
      optimizer, statistics.
    weights: bytes of the base model's parts.
    editor, optimizer, statistics: bytes.
    batch: bytes of one episode's input.
    step_fixed: bytes of the step's intermediate values whatever the batch,
      such as the editor's gradient.
    step_episode: further bytes for each episode.
    prefix_program: bytes of intermediate values and results while prefix
      states are computed.
    cache_episode: bytes, on the host, of one new episode's prefix states.
    flops: matrix-product FLOPs of an episode: inner (the factors), editor
      (hypernetwork and the rest of the editor, forward and backward), outer
      (the edited suffix, forward and backward), head (of inner and outer), and
      prefix (once for every distinct sequence, none where it is cached).
  """

  parameters: dict[str, int]
  weights: dict[str, int]
  editor: int
  optimizer: int
  statistics: int
  batch: int
  step_fixed: int
  step_episode: int
  prefix_program: int
  cache_episode: int
  flops: dict[str, float]

  @property
  def step_flops(self) -> float:
    """FLOPs of an episode whose prefix states are there."""
    return sum(v for name, v in self.flops.items() if name != "prefix")

  def step_bytes(self, episodes: int) -> int:
    """Intermediate values of a step of so many episodes."""
    return self.step_fixed + episodes * self.step_episode


def of_run(run: RunShapes) -> Costs:
  """Traces the run's programs and adds up what they need."""
  parts = shapes.parts_of(run.weights, run.model.tied)
  state = run.state
  # A run's peak grows with its batch by a fixed part and one an episode.
  several = max(2, run.run.batch_size)
  one, many = step_bytes(run, 1), step_bytes(run, several)
  episode = max(0, many - one) // (several - 1)
  shape, width = run.run.shape, run.model.width
  positions = shape.keep_positions + shape.edit_positions + shape.edit_rows
  return Costs(
    parameters={
      **parts,
      "editor": shapes.size(state.params),
      "optimizer": shapes.size(state.optimizer),
      "statistics": shapes.size(state.statistics),
    },
    weights=shapes.bytes_of(run.weights, run.model.tied),
    editor=shapes.nbytes(state.params),
    optimizer=shapes.nbytes(state.optimizer),
    statistics=shapes.nbytes(state.statistics),
    batch=shapes.nbytes(run.batch(1)),
    step_fixed=max(0, one - episode),
    step_episode=episode,
    prefix_program=_prefix_bytes(run),
    cache_episode=4 * width * (_tokens(run) + positions),
    flops=episode_flops(run),
  )


def train_step(run: RunShapes) -> Any:
  """The step that training compiles: (state, weights, batch)."""
  config = run.run
  return step_lib.make_train_step(
    run.graph,
    config.editor,
    config.loss,
    run.model,
    run.rule,
    remat=config.remat,
  )


def step_bytes(run: RunShapes, episodes: int) -> int:
  """Estimated intermediate values of a step; arguments and results apart."""
  traced = flops.trace(
    train_step(run), run.state, run.weights, run.batch(episodes)
  )
  return liveness.peak(traced)


def compiled_step(run: RunShapes, episodes: int) -> dict[str, int]:
  """The compiler's own report on a step, for this machine's device.

  Returns:
    bytes of arguments, results, and intermediate values (temporary).
  """
  program = jax.jit(train_step(run), donate_argnums=0)
  lowered = program.lower(run.state, run.weights, run.batch(episodes))
  report = lowered.compile().memory_analysis()
  if report is None:
    raise UserError(
      f"--compile: the compiler for {jax.default_backend()} reports no memory;"
      " plan without it"
    )
  return {
    "arguments": int(report.argument_size_in_bytes),
    "results": int(report.output_size_in_bytes),
    "temporary": int(report.temp_size_in_bytes),
  }


def episode_flops(run: RunShapes) -> dict[str, float]:
  """FLOPs of one episode by part; see `Costs.flops`."""
  config, batch = run.run, run.batch(1)
  head = flops.touches(run.model.vocab)

  def split(traced: Any) -> tuple[float, float]:
    whole, scored = flops.count(traced), flops.count(traced, head)
    return whole - scored, scored

  def factors(
    params: Any, given: Batch, edit: LowRankEdit | None = None
  ) -> Any:
    model = nnx.merge(run.graph, params)
    return metalearned.edit_factors(model, given.edit, config.editor.rows, edit)

  def outer(edit: Edit, params: Any, given: Batch) -> Any:
    model = remat.rematerialised(nnx.merge(run.graph, params), config.remat)
    return outer_loss(model, edit, given, config.loss)[0]

  edit = _edit(run, batch)
  whole, scored = split(
    flops.trace(train_step(run), run.state, run.weights, batch)
  )
  inner, _ = split(flops.trace(factors, run.weights, batch))
  if config.editor.rounds > 1 and config.editor.method != metalearned.KE:
    again, _ = split(flops.trace(factors, run.weights, batch, edit))
    inner += (config.editor.rounds - 1) * again
  asked, _ = split(flops.trace(jax.grad(outer), edit, run.weights, batch))
  return {
    "inner": inner,
    "editor": max(0.0, whole - inner - asked),
    "outer": asked,
    "head": scored,
    "prefix": _prefix_flops(run) * _tokens(run),
  }


def _edit(run: RunShapes, batch: Batch) -> Any:
  config = run.run
  method = trainable.of(config.editor)

  def propose(params: Any, given: Batch) -> Any:
    model = nnx.merge(run.graph, params)
    seen, _ = method.look(model, given.edit, config.editor)
    condition = metalearned.Condition(
      given.instruction, given.instructed, given.tokens
    )
    learned, moments = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
      (run.state.params, run.state.statistics),
    )
    return method.propose(
      learned, moments, config.editor, model, given.edit, seen, condition
    )

  return jax.eval_shape(propose, run.weights, batch)


def _tokens(run: RunShapes) -> int:
  """Tokens of one episode, at most."""
  shape = run.run.shape
  return shape.edit_tokens + shape.query_tokens + _INSTRUCTION_TOKENS


def _prefix(run: RunShapes, tokens: int) -> Any:
  rows: Any = jax.ShapeDtypeStruct((_PREFIX_ROWS, tokens), jnp.int32)

  def states(params: Any, ids: jax.Array, places: decoder.Branches) -> Any:
    model = nnx.merge(run.graph, params)
    hidden = model.prefix(ids, places)
    final = model.suffix(hidden, places)
    return hidden.astype(jnp.float32), final.astype(jnp.float32)

  return flops.trace(states, run.weights, rows, decoder.Branches(rows, rows))


def _prefix_flops(run: RunShapes) -> float:
  """A token's."""
  traced = _prefix(run, _PREFIX_TOKENS)
  return flops.count(traced) / (_PREFIX_ROWS * _PREFIX_TOKENS)


def _prefix_bytes(run: RunShapes) -> int:
  results = 2 * _PREFIX_ROWS * _PREFIX_TOKENS * run.model.width * 4
  # Two batches are under way at once.
  return liveness.peak(_prefix(run, _PREFIX_TOKENS)) + 2 * results
