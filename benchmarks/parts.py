r"""Where a training step's time goes, part by part.

  python -m benchmarks.parts --out=parts.json

Each part of the default step is compiled and timed by itself on a real batch,
the whole step beside them, in turns; GFLOP are the compiler's count. Parts
compiled alone share nothing, so they may add up to more than the step.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from absl import flags
from flax import nnx

from benchmarks import rows
from benchmarks.rows import Row
from benchmarks.timing import side_by_side
from instructedit_jax import app
from instructedit_jax.editors import metalearned
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.training import losses
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.batches import Batch
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.data import Episodes, load_records

_OUT = flags.DEFINE_string("out", None, "File for the rows, JSON.")
_MODEL = flags.DEFINE_string("model", "smollm2-135m", "Base model.")
_DATA = flags.DEFINE_string("data", "embedded", "As config.data.")
_BATCH = flags.DEFINE_integer("batch", 8, "Episodes a step.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Measured runs of each part.")


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  del argv
  model = load_model(_MODEL.value)
  config = dataclasses.replace(
    TrainConfig(), data=_DATA.value, steps=1, batch_size=_BATCH.value
  )
  episodes = Episodes(model, config, load_records(config))
  batch = jax.device_put(next(iter(episodes.batches(0))))
  rows.finish(measure(model, config, batch), _OUT.value)


def measure(
  model: LanguageModel, config: TrainConfig, batch: Batch
) -> list[Row]:
  """A row a part: milliseconds, with GFLOP and their rate beside it."""
  rule = step_lib.optimizer(config.optimizer, 1000)
  state = step_lib.init_state(
    jax.random.key(0), config.editor, model.config, rule
  )
  programs: dict[str, Callable[[], Any]] = {}
  flops = {}
  for name, (function, arguments) in _parts(
    model, config, batch, state, rule
  ).items():
    compiled = jax.jit(function).lower(*arguments).compile()
    flops[name] = float((compiled.cost_analysis() or {}).get("flops", 0.0))
    programs[name] = lambda c=compiled, a=arguments: c(*a)
  times = side_by_side(programs, _REPEATS.value)
  return [
    rows.latency(
      name,
      found.wall * 1e3,
      None,
      cpu_ms=found.cpu * 1e3,
      quartiles_ms=[found.quantile(q) * 1e3 for q in (0.25, 0.75)],
      gflop=flops[name] / 1e9,
      gflop_a_cpu_second=flops[name] / found.cpu / 1e9,
    )
    for name, found in times.items()
  ]


def _parts(
  model: LanguageModel,
  config: TrainConfig,
  batch: Batch,
  state: step_lib.TrainState,
  rule: optax.GradientTransformation,
) -> dict[str, tuple[Callable[..., Any], tuple]]:
  editor, weights = config.editor, model.params
  matrices = metalearned.shapes(model.config)
  condition = metalearned.Condition(batch.instruction, batch.instructed)

  def decode(weights: Any) -> Any:
    return nnx.merge(model.graph, weights)

  def inner(weights: Any, rows_: Any, edit: Any) -> Any:
    return metalearned.edit_factors(decode(weights), rows_, editor.rows, edit)

  factors, _ = jax.jit(inner, static_argnums=2)(weights, batch.edit, None)

  def rounds(params: Any, factors: Any) -> Any:
    made = [
      metalearned.propose_round(
        params, state.statistics, editor, matrices, factors, condition, i
      )
      for i in range(editor.rounds)
    ]
    return sum(made[1:], made[0])

  edit = jax.jit(rounds)(state.params, factors)

  def suffix(weights: Any, edit: Any, query: Any) -> Any:
    return decode(weights).suffix(
      query.hidden, query.sequence, edit.tap(), query.at
    )

  hidden = jax.jit(suffix)(weights, edit, batch.query)

  def head(weights: Any, hidden: Any, batch: Batch) -> Any:
    """The outer loss with the suffix's work taken as done."""
    done = _Done(decode(weights), hidden)
    return losses.outer_loss(done, edit, batch, config.loss)

  return {
    "whole step": (
      step_lib.make_train_step(
        model.graph, editor, config.loss, model.config, rule
      ),
      (state, weights, batch),
    ),
    "inner gradient, one round": (
      lambda w, b: inner(w, b, None),
      (weights, batch.edit),
    ),
    "hypernetwork and ridge, all rounds, forward and backward": (
      _both(rounds),
      (state.params, edit, factors),
    ),
    "suffix, forward": (suffix, (weights, edit, batch.query)),
    "suffix, forward and backward": (
      _both(lambda e, w, q: suffix(w, e, q)),
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


def _both(function: Callable[..., Any]) -> Callable[..., Any]:
  """(first argument, cotangent of the result, others) -> result, gradient."""

  def run(first: Any, change: Any, *others: Any) -> Any:
    result, back = jax.vjp(lambda value: function(value, *others), first)
    return result, back(change)

  return run


class _Done:
  """A decoder whose suffix has run already."""

  def __init__(self, decoder: Any, hidden: jax.Array):
    self._hidden = hidden
    self.logits = decoder.logits

  def suffix(self, *_: Any) -> jax.Array:
    """The given states."""
    return self._hidden


if __name__ == "__main__":
  app.run(main)
