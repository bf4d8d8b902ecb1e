"""The editors of an experiment; what is missing is trained."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import logging

from instructedit_jax import files, heap
from instructedit_jax.editors.catalogue import open_editor
from instructedit_jax.errors import Stopped, UserError
from instructedit_jax.evaluation.independent import BASE
from instructedit_jax.experiments.setup import Setup
from instructedit_jax.training import config as config_lib
from instructedit_jax.training import loop
from instructedit_jax.training.config import TrainConfig

_MARK = "finished.json"


@dataclasses.dataclass(frozen=True)
class Entrant:
  """One editor of a comparison.

  Attributes:
    name: in tables.
    specs: a folder for each seed; or one name that the evaluator knows.
    trained_on: its training tasks, where they are known.
    seeds: of its training, in the order of `specs`; () where unknown.
    dtype: of the base weights that it was trained with; "" where unknown.
  """

  name: str
  specs: tuple[str, ...]
  trained_on: tuple[str, ...] = ()
  seeds: tuple[int, ...] = ()
  dtype: str = ""


def entrants(setup: Setup) -> tuple[list[Entrant], dict[str, str]]:
  """The editors of an experiment, and why others could not be trained.

  Editors of `setup.given` stand for those of the configuration with the same
  name; others follow them.

  Raises:
    UserError: there is none, or `setup.only` names an unknown one.
  """
  recipes = _recipes(setup)
  found: list[Entrant] = []
  failed: dict[str, str] = {}
  for name, recipe in recipes.items():
    if isinstance(recipe, str):
      recipe = (recipe,)
    if isinstance(recipe, tuple):
      try:
        found.append(given(name, recipe))
      except UserError as error:
        logging.error("%s: %s", name, error)
        failed[name] = str(error)
      continue
    specs, seeds = [], []
    for seed in setup.seeds:
      config = train_config(setup, recipe, seed)
      folder = setup.work / "editors" / f"{name}-{seed}"
      try:
        train_missing(config, folder)
        specs.append(str(folder))
        seeds.append(seed)
      except Stopped:
        raise
      except UserError as error:
        # One that diverges must not stop the others: it is a result, too.
        logging.error("%s, seed %d: %s", name, seed, error)
        failed[f"{name}, seed {seed}"] = str(error)
    if specs:
      tasks = tuple(config.weights)
      made = Entrant(name, tuple(specs), tasks, tuple(seeds), config.dtype)
      found.append(made)
  if not found:
    reason = next(iter(failed.values()), "the configuration names none")
    raise UserError(f"there is no editor: {reason}")
  return found, failed


def given(name: str, specs: tuple[str, ...]) -> Entrant:
  """An editor that is there already, or a method that is not trained.

  Raises:
    UserError: no such folder or method.
  """
  details = [open_editor(spec).details for spec in specs if spec != BASE]
  configs = [each.get("config") or {} for each in details]
  if not configs or not all("tasks" in each for each in configs):
    return Entrant(name, specs)
  seeds = [each["seed"] for each in configs if "seed" in each]
  # The published recipe names tasks without weights.
  weighted = [
    (each, 1.0) if isinstance(each, str) else each
    for each in configs[0]["tasks"]
  ]
  tasks = tuple(task for task, weight in weighted if weight > 0)
  return Entrant(
    *(name, specs, tasks),
    tuple(seeds) if len(seeds) == len(specs) else (),
    configs[0].get("dtype", ""),
  )


def train_config(
  setup: Setup, recipe: ml_collections.ConfigDict, seed: int
) -> TrainConfig:
  """The training run of one seed of a recipe."""
  config = recipe.copy_and_resolve_references()
  with config.unlocked():
    config.data, config.seed = setup.data, seed
    config.model = setup.config.model
    if setup.steps is not None:
      config.steps = setup.steps
    if setup.prefix_cache is not None:
      config.prefix_cache = setup.prefix_cache
    if setup.dtype is not None:
      config.dtype = setup.dtype
    if setup.instructions:
      # "Seen" descriptions are those that training drew from.
      config.instructions = setup.instructions
  return config_lib.from_config(config)


def train_missing(config: TrainConfig, folder: pathlib.Path) -> None:
  """Trains an editor, unless the same run is finished.

  Raises:
    UserError: the folder holds a longer run, or one of another configuration.
  """
  now = json.loads(json.dumps(config_lib.to_dict(config)))
  mark = folder / _MARK
  try:
    if json.loads(mark.read_text(encoding="utf-8")) == now:
      return
  except (OSError, ValueError):
    pass  # not finished
  logging.info("training %s", folder)
  heap.make_room()
  loop.train(config, folder)
  with files.atomic_write(mark) as path:
    path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


def dtype(found: Sequence[Entrant], wanted: str | None = None) -> str:
  """Of the base weights: one for all, that of the editors' training.

  Args:
    found: the editors.
    wanted: `Setup.dtype`.

  Raises:
    UserError: they were trained with different ones, or not with that.
  """
  names = dict.fromkeys(e.dtype for e in found if e.dtype)
  if wanted is not None:
    names[wanted] = None
  if len(names) > 1:
    raise UserError(
      f"the editors want base weights in {' and '.join(names)}; compare them"
      " apart, with --only, and as they were trained (--dtype)"
    )
  return next(iter(names), "float32")


def is_base(entrant: Entrant) -> bool:
  """Whether it is the unedited model."""
  return entrant.specs == (BASE,)


def _recipes(setup: Setup) -> Mapping[str, Any]:
  """name -> recipe, name that the evaluator knows, or tuple of folders."""
  configured = setup.config.editors
  # A ConfigDict sorts its keys; tables want the order of the file.
  order = dict.fromkeys((*setup.config.get("order", ()), *configured))
  recipes: dict[str, Any] = {name: configured[name] for name in order}
  recipes |= setup.given
  unknown = [name for name in setup.only if name not in recipes]
  if unknown:
    raise UserError(
      f"--only: there is no editor {unknown[0]!r}, only {', '.join(recipes)}"
    )
  if not setup.only:
    return recipes
  return {name: recipes[name] for name in setup.only}
