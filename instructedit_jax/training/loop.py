"""The training run: steps, validation, checkpoints, and what they leave."""

import dataclasses
import math
import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

from instructedit_jax import figures, parallel
from instructedit_jax.checkpoints import CheckpointStore
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.errors import UserError
from instructedit_jax.metric_writer import FILE_NAME, MetricWriter
from instructedit_jax.models.language_model import LanguageModel, load_model
from instructedit_jax.progress import Progress
from instructedit_jax.training import config as config_lib
from instructedit_jax.training import step as step_lib
from instructedit_jax.training import workdir as workdir_lib
from instructedit_jax.training.batches import Batch
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.data import Episodes, load_records
from instructedit_jax.training.losses import Metrics
from instructedit_jax.training.step import TrainState

# Part of a run's identity: a checkpoint of another run is refused.
_FREE = ("steps", "validate_every", "checkpoint_every", "log_every", "patience")


@dataclasses.dataclass(frozen=True)
class Programs:
  """The compiled functions of a run and where their inputs live."""

  train: Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]
  validate: Callable[[TrainState, Any, Batch], Metrics]
  state: TrainState
  place: Callable[[Batch], Batch]


class _Stop:
  """Remembers a request to stop (SIGTERM), to be honoured between steps."""

  def __init__(self):
    self.asked = False
    self._before: Any = None

  def __enter__(self) -> "_Stop":
    def ask(number: int, frame: FrameType | None) -> None:
      del number, frame
      self.asked = True

    try:
      self._before = signal.signal(signal.SIGTERM, ask)
    except ValueError:  # not the main thread: a notebook, a test
      self._before = None
    return self

  def __exit__(self, *exception: object) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)


def train(
  config: TrainConfig,
  workdir: str | os.PathLike[str],
  model: LanguageModel | None = None,
) -> TrainedEditor:
  """Trains an editor, or goes on where a killed run stopped.

  WORKDIR gets config.json, metrics.jsonl, tensorboard/, checkpoints/,
  curves.png and editor/, the state of the best validation loss.

  Args:
    config: the run.
    workdir: its folder; the same call continues a run that was cut off.
    model: the base model, if it is loaded already.

  Raises:
    UserError: bad input, another run's folder, or a loss that is not finite.
  """
  folder = pathlib.Path(workdir)
  workdir_lib.claim(folder, config_lib.to_dict(config), _FREE)
  if model is None:
    logging.info("loading %s", config.model)
    model = load_model(config.model, suffix=config.suffix, dtype=config.dtype)
  episodes = Episodes(model, config, load_records(config))
  logging.info("%s", episodes.mixture.describe())
  programs = _compile(config, model)
  with CheckpointStore(folder / "checkpoints") as store:
    state, memory = _restore(store, programs.state)
    start = int(state.step)
    with MetricWriter(
      folder, start if start else None, jax.process_index() == 0
    ) as writer:
      run = _Run(config, model, programs, store, writer, episodes)
      run(state, memory)
    figures.learning_curves(
      folder / FILE_NAME, folder / "curves.png", f"{config.editor.method}"
    )
    editor = _best_editor(config, model, store, programs.state)
  editor.save(folder / "editor")
  logging.info("editor written to %s", folder / "editor")
  return editor


class _Run:
  """The loop itself; one method a duty."""

  def __init__(
    self,
    config: TrainConfig,
    model: LanguageModel,
    programs: Programs,
    store: CheckpointStore,
    writer: MetricWriter,
    episodes: Episodes,
  ):
    self._config, self._model, self._programs = config, model, programs
    self._store, self._writer, self._episodes = store, writer, episodes
    self._validation: list[Batch] | None = None

  def __call__(self, state: TrainState, memory: dict[str, Any]) -> None:
    config, start = self._config, int(state.step)
    best, waited = memory.get("best", math.inf), memory.get("waited", 0)
    late: tuple[int, Metrics] | None = None
    label = f"train {config.editor.method}"
    with Progress(config.steps, label, start=start) as bar, _Stop() as stop:
      for number, batch in self._numbered(start):
        state, metrics = self._programs.train(
          state, self._model.params, self._programs.place(batch)
        )
        # Numbers are looked at a step late: the device never waits for us.
        self._record(late, bar)
        late = (number, metrics)
        done = number == config.steps
        scores: dict[str, float] = {}
        if number % config.validate_every == 0 or done:
          self._record(late, bar)
          late = None
          scores = self._validate(number, state)
          waited = 0 if scores["loss"] < best else waited + 1
          best = min(best, scores["loss"])
        tired = bool(config.patience) and waited >= config.patience
        last = done or tired or stop.asked
        if scores or last or number % config.checkpoint_every == 0:
          self._record(late, bar)
          late = None
          memory = {"best": best, "waited": waited}
          self._store.save(number, state, memory, scores or None)
        if tired:
          logging.info("no better loss in %d validations: stopped", waited)
          return
        if stop.asked and not done:
          self._store.wait()
          raise UserError(
            f"stopped by request after step {number}; the same command goes on"
          )
    self._store.wait()

  def _numbered(self, start: int) -> Iterator[tuple[int, Batch]]:
    if start >= self._config.steps:
      return iter(())
    return enumerate(self._episodes.batches(start), start + 1)

  def _record(self, late: tuple[int, Metrics] | None, bar: Progress) -> None:
    """Counts, writes and checks the numbers of a finished step."""
    if late is None:
      return
    number, metrics = late
    values = {name: float(value) for name, value in metrics.items()}
    if not values.pop("finite"):
      raise UserError(
        f"step {number}: the loss or its gradient is not finite"
        f" (loss {values['loss']}, gradient norm {values['gradient_norm']})."
        " The editor is as it was before that step; the last checkpoint is"
        " good. Lower config.optimizer.learning_rate and start again."
      )
    bar.update(1, loss=values["loss"])
    if number % self._config.log_every == 0 or number == 1:
      self._writer.write(
        number, {f"train/{name}": value for name, value in values.items()}
      )

  def _validate(self, number: int, state: TrainState) -> dict[str, float]:
    """Means over the held-out records; statistics frozen."""
    if self._validation is None:
      self._validation = self._episodes.validation_batches()
    rows = [
      self._programs.validate(
        state, self._model.params, self._programs.place(batch)
      )
      for batch in self._validation
    ]
    scores = {
      name: float(np.mean([float(row[name]) for row in rows]))
      for name in rows[0]
    }
    self._writer.write(
      number, {f"validation/{name}": value for name, value in scores.items()}
    )
    self._writer.flush()
    shown = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
    logging.info("step %d validation: %s", number, shown)
    return scores


def _compile(config: TrainConfig, model: LanguageModel) -> Programs:
  """Jits the steps over all devices, batches sharded, the rest replicated."""
  mesh = parallel.data_mesh(config.batch_size)
  replicated = NamedSharding(mesh, PartitionSpec())
  sharded = NamedSharding(mesh, PartitionSpec("data"))
  rule = step_lib.optimizer(config.optimizer, config.steps)

  def fresh() -> TrainState:
    key = jax.random.key(config.seed)
    return step_lib.init_state(key, config.editor, model.config, rule)

  common = (model.graph, config.editor, config.loss)
  step = step_lib.make_train_step(*common, model.config, rule)
  validate = step_lib.make_validation_step(*common)
  return Programs(
    train=jax.jit(
      step, donate_argnums=0, out_shardings=(replicated, replicated)
    ),
    validate=jax.jit(validate),
    state=jax.jit(fresh, out_shardings=replicated)(),
    place=lambda batch: jax.device_put(batch, sharded),
  )


def _restore(
  store: CheckpointStore, fresh: TrainState
) -> tuple[TrainState, dict[str, Any]]:
  if store.latest_step() is None:
    # A copy: the step donates its state, and the fresh one is wanted later.
    return jax.tree.map(lambda leaf: leaf.copy(), fresh), {}
  state, memory = store.restore(fresh)
  logging.info("going on from step %d", int(state.step))
  return state, memory


def _best_editor(
  config: TrainConfig,
  model: LanguageModel,
  store: CheckpointStore,
  fresh: TrainState,
) -> TrainedEditor:
  best = store.best_step()
  state, memory = store.restore(fresh, best)
  return TrainedEditor(
    config.editor,
    state.params,
    state.statistics,
    model.fingerprint,
    config.suffix,
    {
      "model": config.model,
      "data": config.data,
      "tasks": [task for task, _ in config.tasks],
      "step": int(state.step),
      "validation_loss": memory.get("best"),
      "config": config_lib.to_dict(config),
    },
  )
