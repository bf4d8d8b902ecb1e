r"""Where a training step's time goes, part by part.

  python -m benchmarks.parts --data=DIR --out=parts.json

Each part of the default step is compiled and timed by itself on a real batch,
the whole step beside them, in turns; GFLOP are those of matrix products. Parts
compiled alone share nothing, so they may add up to more than the step.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import nnx

from benchmarks import options, rows, steps
from benchmarks.rows import Row
from benchmarks.timing import side_by_side
from configs import multi
from instructedit_jax import app
from instructedit_jax.editors import metalearned
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.models.decoder import Sequence as Places
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.planning import flops
from instructedit_jax.training import losses
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import Batch
from instructedit_jax.training.config import TrainConfig, from_config
from instructedit_jax.training.losses import LossConfig

WHOLE = "whole step"
# Rows and tokens of a batch in which prefix states are computed.
_PREFIX = (16, 128)
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Of the weights."
)
_METHOD = flags.DEFINE_enum(
  "method",
  "",
  ["", *(method for method in multi.METHODS if method != "ke")],
  "Trained as configs/multi.py does; by default instructedit of one form.",
)


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  del argv
  model = load_model(
    options.MODEL.value,
    suffix=options.SUFFIX.value,
    dtype=_DTYPE.value,
  )
  tasks = options.tasks("convsent", "counterfact", "wikirecent")
  wanted = TrainConfig()
  if _METHOD.value:
    wanted = from_config(multi.get_config(_METHOD.value))
  config = steps.run_config(wanted.editor, wanted.shape.edit_tokens, tasks, 1)
  shape = dataclasses.replace(config.shape, edit_rows=wanted.shape.edit_rows)
  config = dataclasses.replace(config, shape=shape)
  batch = jax.device_put(steps.Ours(model, config).batches[0])
  found = measure(model, config.editor, batch, options.repeats(7))
  for row in found:
    row.config.update(used(batch), batch=config.batch_size)
  rows.finish(found, options.OUT.value)


def used(batch: Batch) -> dict[str, float]:
  """Shares of a batch's places that are no padding."""
  return {
    "used_edit_tokens": float(np.mean(np.asarray(batch.edit.ends) > 0)),
    "used_edit_rows": float(np.mean(np.asarray(batch.edit.mask))),
    "used_query_tokens": float(np.mean(np.asarray(batch.query.ends) > 0)),
    "used_scored": float(np.mean(np.asarray(batch.query.mask))),
  }


def measure(
  model: LanguageModel,
  editor: EditorConfig,
  batch: Batch,
  repeats: int,
  name: str = "",
) -> list[Row]:
  """A row a part: milliseconds, with GFLOP and their rate beside it.

  Args:
    model, editor: what is trained.
    batch: on the device.
    repeats: measured runs of each part.
    name: in front of the parts' own.
  """
  rule = step_lib.optimizer(step_lib.OptimizerConfig(), 1000)
  state = jax.jit(
    lambda key: step_lib.init_state(key, editor, model.config, rule)
  )(jax.random.key(0))
  programs: dict[str, Callable[[], Any]] = {}
  work = {}
  parts = _parts(model, editor, batch, state, rule)
  if model.whole:
    parts |= _frozen(model)
  for part, (function, arguments) in parts.items():
    compiled = jax.jit(function).lower(*arguments).compile()
    work[part] = flops.count(flops.trace(function, *arguments))
    programs[part] = functools.partial(compiled, *arguments)
  times = side_by_side(programs, repeats)
  whole = times[WHOLE].wall
  return [
    rows.latency(
      name + part,
      found.wall * 1e3,
      None,
      share=found.wall / whole,
      cpu_ms=found.cpu * 1e3,
      quartiles_ms=[found.quantile(q) * 1e3 for q in (0.25, 0.75)],
      gflop=work[part] / 1e9,
      gflop_a_second=work[part] / found.wall / 1e9,
    )
    for part, found in times.items()
  ]


def _parts(
  model: LanguageModel,
  editor: EditorConfig,
  batch: Batch,
  state: step_lib.TrainState,
  rule: optax.GradientTransformation,
) -> dict[str, tuple[Callable[..., Any], tuple]]:
  weights, loss = model.params, LossConfig()
  matrices = metalearned.shapes(model.config)
  condition = metalearned.Condition(batch.instruction, batch.instructed)

  def decode(weights: Any) -> Any:
    return nnx.merge(model.graph, weights)

  def inner(weights: Any, rows_: Any) -> Any:
    return metalearned.edit_factors(decode(weights), rows_, editor.rows)

  factors, _ = jax.jit(inner)(weights, batch.edit)

  def rounds(params: Any, factors: Any) -> Any:
    made = [
      metalearned.propose_round(
        params, state.statistics, editor, matrices, factors, condition, i
      )
      for i in range(editor.rounds)
    ]
    return sum(made[1:], made[0])

  edit = jax.jit(rounds)(state.params, factors)

  def suffix(edit: Any, weights: Any, query: Any) -> Any:
    return decode(weights).suffix(
      query.hidden, query.sequence, edit.tap(), query.at
    )

  hidden = jax.jit(suffix)(edit, weights, batch.query)

  def head(weights: Any, hidden: Any, batch: Batch) -> Any:
    """The outer loss with the suffix's work taken as done."""
    done: Any = _Done(decode(weights), hidden)
    return losses.outer_loss(done, edit, batch, loss)

  step = step_lib.make_train_step(model.graph, editor, loss, model.config, rule)
  return {
    WHOLE: (step, (state, weights, batch)),
    f"inner gradient, one of {editor.rounds}": (inner, (weights, batch.edit)),
    "hypernetwork, forward and backward": (
      _both(rounds),
      (state.params, edit, factors),
    ),
    "suffix of the outer loss, forward": (suffix, (edit, weights, batch.query)),
    "suffix of the outer loss, forward and backward": (
      _both(suffix),
      (edit, hidden, weights, batch.query),
    ),
    "head and losses, forward": (head, (weights, hidden, batch)),
    "head and losses, forward and backward": (
      jax.value_and_grad(head, argnums=1, has_aux=True),
      (weights, hidden, batch),
    ),
    "optimizer": (
      lambda g, o, p: rule.update(g, o, p),
      (state.params, state.optimizer, state.params),
    ),
  }


def _frozen(
  model: LanguageModel,
) -> dict[str, tuple[Callable[..., Any], tuple]]:
  """What makes prefix states."""
  tokens = jnp.zeros(_PREFIX, jnp.int32)
  positions = jnp.broadcast_to(jnp.arange(_PREFIX[1]), _PREFIX)
  places = Places(positions, jnp.ones_like(tokens))

  def run(weights: Any, tokens: Any, places: Any) -> Any:
    return nnx.merge(model.graph, weights).prefix(tokens, places)

  name = f"frozen blocks, {tokens.size} tokens"
  return {name: (run, (model.params, tokens, places))}


def _both(function: Callable[..., Any]) -> Callable[..., Any]:
  """(first argument, cotangent of the result, others) -> result, gradient."""

  def run(first: Any, change: Any, *others: Any) -> Any:
    result, back = jax.vjp(lambda value: function(value, *others), first)
    return result, back(change)

  return run


class _Done:
  """A decoder whose suffix has run already."""

  def __init__(self, decoder: Any, hidden: jax.Array):
    self._hidden, self.config = hidden, decoder.config
    self.logits = decoder.logits

  def suffix(self, *_: Any) -> jax.Array:
    """The given states."""
    return self._hidden


if __name__ == "__main__":
  app.run(main)
