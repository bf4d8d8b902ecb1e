"""Numbers of an experiment's editors, through the usual evaluator."""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import logging

from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.options import Options
from instructedit_jax.evaluation.run import run
from instructedit_jax.evaluation.settings import Settings
from instructedit_jax.experiments.entrants import Entrant, dtype, is_base
from instructedit_jax.experiments.setup import Setup
from instructedit_jax.reports.folders import read_folders
from instructedit_jax.reports.runs import Run, runs_of


@dataclasses.dataclass(frozen=True)
class Way:
  """One way to evaluate.

  Attributes:
    instruction: a choice of `evaluation.choices`.
    queries: styles.
    told: whether the editor gets the instruction too.
  """

  instruction: str = "held_out:0"
  queries: tuple[str, ...] = ("bare",)
  told: bool = True

  @property
  def folder(self) -> str:
    """A name for its files."""
    name = self.instruction if self.told else f"{self.instruction} untold"
    return re.sub(r"[^\w.-]+", "_", f"{name} {' '.join(self.queries)}")


class Measuring:
  """Evaluations of one experiment; models stay loaded between them.

  Attributes:
    failed: editor and way -> why it could not be evaluated at all.
    folders: of the finished evaluations -> the editor's name.
  """

  def __init__(self, setup: Setup):
    self._setup = setup
    self._loaded: dict[Any, Any] = {}
    self.failed: dict[str, str] = {}
    self.folders: dict[pathlib.Path, str] = {}

  def __call__(self, entrants: Sequence[Entrant], way: Way) -> list[Run]:
    """The runs of all editors that could be evaluated, one for each seed.

    Raises:
      UserError: none of them could.
    """
    weights = dtype(entrants, self._setup.dtype)
    # The unedited model takes whatever suffix is there by then.
    found = {
      entrant.name: self._runs(entrant, way, weights)
      for entrant in sorted(entrants, key=is_base)
    }
    if not any(found.values()):
      raise UserError(list(self.failed.values())[-1])
    return [run for entrant in entrants for run in found[entrant.name]]

  def _runs(self, entrant: Entrant, way: Way, dtype: str) -> list[Run]:
    """One for each seed that could be evaluated."""
    seeds: tuple[int | None, ...] = entrant.seeds
    if len(set(seeds)) < len(entrant.specs):
      seeds = (None,) * len(entrant.specs)  # unknown, or one of them twice
    found: list[Run] = []
    for number, spec in enumerate(entrant.specs):
      try:
        folder = self._evaluated(
          spec, way, _file_name(entrant.name, number), dtype
        )
      except UserError as error:
        logging.error("%s, %s: %s", spec, way.instruction, error)
        several = f", {spec}" if len(entrant.specs) > 1 else ""
        self.failed[f"{entrant.name}{several}, {way.instruction}"] = str(error)
        continue
      self.folders[folder] = entrant.name
      # Folders that a user gives under one name are seeds of it by intent.
      found += [
        dataclasses.replace(run, editor=entrant.name, seed=seeds[number])
        for run in runs_of(read_folders([folder]))[0]
      ]
    return found

  def _evaluated(
    self, spec: str, way: Way, name: str, dtype: str
  ) -> pathlib.Path:
    """The folder of one editor's evaluation, which is made if need be."""
    setup, config = self._setup, self._setup.config
    folder = setup.work / "evaluations" / setup.name / way.folder / name
    logging.info("evaluating %s, %s", spec, way.folder)
    run(
      Settings(
        editors=(spec,),
        out=str(folder),
        model=config.model,
        dtype=dtype,
        tasks=setup.tasks,
        data=setup.data,
        limit=setup.limit or None,
        queries=way.queries,
        told=way.told,
        options=Options(
          instruction=way.instruction,
          pools=setup.pools,
          free=config.free,
          free_limit=config.free_limit or None,
          fluency_limit=config.fluency_limit,
        ),
        command=setup.command,
      ),
      self._loaded,
    )
    return folder


def _file_name(editor: str, number: int) -> str:
  """Of an editor's seed; another seed more leaves the names of the others."""
  name = re.sub(r"[^\w.-]+", "_", editor)
  return f"{name}+{number}" if number else name
