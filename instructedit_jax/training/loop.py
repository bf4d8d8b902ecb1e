"""The training run: steps, validation, checkpoints, and what they leave."""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TextIO

import jax
import numpy as np
from absl import logging

from instructedit_jax import figures, parallel
from instructedit_jax.checkpoints import CheckpointStore
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.errors import Stopped, UserError
from instructedit_jax.metric_writer import FILE_NAME, MetricWriter
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.parallel import processes
from instructedit_jax.progress import Progress
from instructedit_jax.training import config as config_lib
from instructedit_jax.training import programs as programs_lib
from instructedit_jax.training import starting
from instructedit_jax.training import workdir as workdir_lib
from instructedit_jax.training.batches import Batch
from instructedit_jax.training.config import TrainConfig
from instructedit_jax.training.data import Episodes, load_records
from instructedit_jax.training.losses import Metrics
from instructedit_jax.training.programs import Programs
from instructedit_jax.training.step import TrainState

# All else is part of a run's identity: another run's checkpoint is refused.
_FREE = (
  *("steps", "validate_every", "checkpoint_every", "log_every", "patience"),
  *("mesh", "sharding", "remat", "prefix_cache", "prefix_cache_gb"),
)


def train(
  config: TrainConfig,
  workdir: str | os.PathLike[str],
  model: LanguageModel | None = None,
) -> TrainedEditor:
  """Trains an editor, or goes on where a killed run stopped.

  WORKDIR gets config.json, metrics.jsonl, tensorboard/, checkpoints/,
  curves.png and editor/, the state of the best validation loss. Several
  processes, joined by `processes.start`, call this alike and see one WORKDIR.

  Args:
    config: the run.
    workdir: its folder; the same call continues a run that was cut off.
    model: the base model, if it is loaded already.

  Raises:
    UserError: bad input, another run's folder, a loss that is not finite, a
      request to stop, or a lost process.
  """
  folder = pathlib.Path(workdir)
  mesh = parallel.make_mesh(config.mesh, config.batch_size)
  with processes.watching():
    processes.first(
      lambda: workdir_lib.claim(
        folder, config_lib.to_dict(config), _FREE, config.steps
      )
    )
    if model is None:
      model = programs_lib.load(config, mesh)
    model = programs_lib.divided(model, config, mesh)
    episodes = Episodes(model, config, load_records(config))
    logging.info("%s", episodes.mixture.describe())
    programs = programs_lib.build(config, model, mesh)
    with CheckpointStore(folder / "checkpoints") as store:
      programs, state, memory = _begin(store, programs, config, model)
      start = int(state.step)
      with MetricWriter(
        folder, start if start else None, processes.is_first()
      ) as writer:
        run = _Run(config, programs, store, writer, episodes)
        run(state, memory)
      processes.first(
        lambda: figures.learning_curves(
          folder / FILE_NAME, folder / "curves.png", config.editor.method
        )
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
    programs: Programs,
    store: CheckpointStore,
    writer: MetricWriter,
    episodes: Episodes,
  ):
    self._config, self._programs = config, programs
    self._store, self._writer, self._episodes = store, writer, episodes
    self._validation: list[Batch] | None = None

  def __call__(self, state: TrainState, memory: dict[str, Any]) -> None:
    config, start = self._config, int(state.step)
    best, waited = memory.get("best", math.inf), memory.get("waited", 0)
    if self._tired(waited):
      return
    late: tuple[int, Metrics] | None = None
    label = f"train {config.editor.method}"
    with (
      _silence() as stream,
      Progress(config.steps, label, start=start, stream=stream) as bar,
      processes.StopRequest() as stop,
    ):
      for number, batch in self._numbered(start):
        with self._programs.turn:
          state, metrics = self._programs.train(
            state, self._programs.weights, self._programs.place(batch)
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
        tired = self._tired(waited)
        stopping = stop.asked(number)
        last = done or tired or stopping
        if scores or last or number % config.checkpoint_every == 0:
          self._record(late, bar)
          late = None
          memory = {"best": best, "waited": waited}
          # A killed run goes on after this step: its rows must be there.
          self._writer.flush()
          self._store.save(number, state, memory, scores or None)
        if tired:
          return
        if stopping and not done:
          self._store.wait()
          processes.meet("stopped")
          raise Stopped(
            f"stopped by request after step {number}; the same command goes on"
          )
    self._store.wait()

  def _tired(self, waited: int) -> bool:
    """Whether so many validations without a better loss end the run."""
    tired = 0 < self._config.patience <= waited
    if tired:
      logging.info("no better loss in %d validations: stopped", waited)
    return tired

  def _numbered(self, start: int) -> Iterator[tuple[int, Batch]]:
    if start >= self._config.steps:
      return iter(())
    batches = self._episodes.batches(
      start, self._programs.rows, self._programs.turn
    )
    return enumerate(batches, start + 1)

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
    with self._programs.turn:
      if self._validation is None:
        self._validation = self._episodes.validation_batches(
          self._programs.rows
        )
      rows = [
        self._programs.validate(
          state, self._programs.weights, self._programs.place(batch)
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


@contextlib.contextmanager
def _silence() -> Iterator[TextIO | None]:
  """A stream for the progress of all processes but the first."""
  if processes.is_first():
    yield None
  else:
    with open(os.devnull, "w", encoding="utf-8") as stream:
      yield stream


def _begin(
  store: CheckpointStore,
  programs: Programs,
  config: TrainConfig,
  model: LanguageModel,
) -> tuple[Programs, TrainState, dict[str, Any]]:
  """The state to go on from, and programs that hold no other beside it."""
  fresh = programs.state
  programs = dataclasses.replace(programs, state=jax.tree.map(_shape, fresh))
  if store.latest_step() is None:
    return programs, starting.started(fresh, config, model), {}
  for leaf in jax.tree.leaves(fresh):
    leaf.delete()
  state, memory = store.restore(programs.state)
  logging.info("going on from step %d", int(state.step))
  return programs, state, memory


def _shape(leaf: jax.Array) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _best_editor(
  config: TrainConfig,
  model: LanguageModel,
  store: CheckpointStore,
  shapes: TrainState,
) -> TrainedEditor:
  best = store.best_step()
  state, memory = store.restore(shapes, best)
  loss = memory.get("best", math.inf)
  return TrainedEditor(
    config.editor,
    state.params,
    state.statistics,
    model.fingerprint,
    config.suffix,
    {
      "model": config.model,
      "data": config.data,
      "tasks": list(config.weights),
      "step": int(state.step),
      # Infinite before the first validation, and JSON has no infinity.
      "validation_loss": loss if math.isfinite(loss) else None,
      "config": config_lib.to_dict(config),
    },
  )
