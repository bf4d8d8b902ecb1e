"""The compiled meta-training step.

One program does an inner gradient (the factors), the editor, the outer loss
through the edited suffix, its gradient with respect to the editor alone, and
the optimizer's update. Rows of a batch are independent episodes, so a batch
sharded over devices needs no code of its own: sums over rows become sums over
devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from instructedit_jax.editors import trainable
from instructedit_jax.editors.metalearned import (
  Condition,
  EditorConfig,
  Params,
)
from instructedit_jax.errors import require_least
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.training import remat as remat_lib
from instructedit_jax.training.batches import Batch
from instructedit_jax.training.losses import LossConfig, Metrics, outer_loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that training changes.

  Attributes:
    step: int32 [], steps taken.
    params: the editor.
    statistics: of what the editor has seen; some have none.
    optimizer: optax state.
  """

  step: jax.Array
  params: Params
  statistics: Any
  optimizer: Any


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Adam with warm-up and cosine decay.

  Attributes:
    learning_rate: of the hypernetwork and the conditioner.
    rates_learning_rate: of the edit's own step sizes, which count in units of
      the configured rate.
    warmup: steps.
    clip: largest global norm of a gradient.
    b2: decay of Adam's second moment.
    accumulate: micro-steps whose gradients make one update.
  """

  learning_rate: float = 1e-3
  rates_learning_rate: float = 2e-2
  warmup: int = 50
  clip: float = 10.0
  b2: float = 0.99
  accumulate: int = 1

  def __post_init__(self):
    require_least(self, "config.optimizer.", accumulate=1)


def optimizer(
  config: OptimizerConfig, steps: int
) -> optax.GradientTransformation:
  """The update rule over `steps` micro-steps."""
  updates = max(steps // config.accumulate, 1)
  warmup = min(config.warmup, max(updates // 2, 1))

  def adam(peak: float) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
      0.0, peak, warmup, max(updates, warmup + 1), 0.02 * peak
    )
    return optax.chain(
      # Each group by itself: the few step sizes have the largest gradients and
      # would scale everything else to nothing.
      optax.clip_by_global_norm(config.clip),
      optax.adam(schedule, b2=config.b2),
    )

  def label(params: Params) -> dict[str, str]:
    return {key: "rates" if key == "rates" else "network" for key in params}

  rule = optax.multi_transform(
    {
      "network": adam(config.learning_rate),
      "rates": adam(config.rates_learning_rate),
    },
    label,
  )
  if config.accumulate > 1:
    return optax.MultiSteps(rule, config.accumulate).gradient_transformation()
  return rule


def init_state(
  key: jax.Array,
  editor: EditorConfig,
  model: DecoderConfig,
  rule: optax.GradientTransformation,
) -> TrainState:
  """A fresh state."""
  params, statistics = trainable.of(editor).init(key, editor, model)
  return TrainState(
    jnp.zeros((), jnp.int32), params, statistics, rule.init(params)
  )


def make_train_step(
  graph: nnx.GraphDef,
  editor: EditorConfig,
  loss: LossConfig,
  model: DecoderConfig,
  rule: optax.GradientTransformation,
  remat: str = "none",
) -> Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]:
  """Builds step(state, base weights, batch) -> (state, metrics); not jitted.

  A step whose loss or gradient is not finite changes nothing but the count and
  says so in its metrics. `remat` is one of `remat.POLICIES`.
  """
  method = trainable.of(editor)

  def step(
    state: TrainState, weights: Any, batch: Batch
  ) -> tuple[TrainState, Metrics]:
    decode = nnx.merge(graph, weights)
    # Not for the factors: their probes look into the blocks.
    asked = remat_lib.rematerialised(decode, remat)
    seen, nll_B = method.look(decode, batch.edit, editor)
    told = _told(batch)
    statistics = method.fold(state.statistics, editor, model, seen, told)

    def objective(params: Params) -> tuple[jax.Array, Metrics]:
      edit = method.propose(
        params, statistics, editor, decode, batch.edit, seen, told
      )
      return outer_loss(asked, edit, batch, loss)

    gradient, metrics = jax.grad(objective, has_aux=True)(state.params)
    norm = optax.tree.norm(gradient)
    updates, memory = rule.update(gradient, state.optimizer, state.params)
    new = TrainState(
      state.step,
      optax.apply_updates(state.params, updates),
      statistics,
      memory,
    )
    finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
    kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
    metrics |= {"inner_loss": nll_B.mean(), "gradient_norm": norm}
    metrics["finite"] = finite
    return dataclasses.replace(kept, step=state.step + 1), metrics

  return step


def make_validation_step(
  graph: nnx.GraphDef,
  editor: EditorConfig,
  loss: LossConfig,
) -> Callable[[TrainState, Any, Batch], Metrics]:
  """Builds step(state, base weights, batch) -> metrics, statistics frozen."""
  method = trainable.of(editor)

  def step(state: TrainState, weights: Any, batch: Batch) -> Metrics:
    decode = nnx.merge(graph, weights)
    seen, _ = method.look(decode, batch.edit, editor)
    edit = method.propose(
      state.params,
      state.statistics,
      editor,
      decode,
      batch.edit,
      seen,
      _told(batch),
    )
    return outer_loss(decode, edit, batch, loss)[1]

  return step


def _told(batch: Batch) -> Condition:
  """What a batch says of its requests beside the prompts."""
  return Condition(batch.instruction, batch.instructed, batch.tokens)
