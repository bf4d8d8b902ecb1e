"""What an experiment is asked to do: its configuration and the flags."""

import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags

from instructedit_jax import app
from instructedit_jax.errors import UserError
from instructedit_jax.tasks.instructions import (
  POOLS,
  InstructionPool,
  load_pools,
)

WORK = "runs/paper"


@dataclasses.dataclass(frozen=True)
class Setup:
  """One experiment, ready to run.

  Attributes:
    name: of the experiment; names its part of `work`.
    config: the configuration file's values; what only one experiment knows is
      read from here.
    data: "embedded", "hub" or a folder.
    out: folder of the table, the picture and the numbers.
    work: folder of trained editors and evaluations, shared by experiments.
    given: name -> folders of editors that are not to be trained, one a seed.
    only: names of the editors to use; empty for all.
    steps: of training, if others than configured.
    limit: records of each task, from the first on; 0 for all.
    seeds: of training; one editor each.
    prefix_cache: where training keeps prefix states, if not as configured.
    dtype: of the base weights, if not as configured, or as the editors were
      trained with.
    pools: descriptions by task.
    instructions: file that the pools are of, for training, too; empty for the
      project's own.
    command: how it was started.
  """

  name: str
  config: ml_collections.ConfigDict
  data: str
  out: pathlib.Path
  work: pathlib.Path = pathlib.Path(WORK)
  given: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  only: tuple[str, ...] = ()
  steps: int | None = None
  limit: int = 0
  seeds: tuple[int, ...] = (0,)
  prefix_cache: str | None = None
  dtype: str | None = None
  pools: Mapping[str, InstructionPool] = dataclasses.field(
    default_factory=lambda: dict(POOLS)
  )
  instructions: str = ""
  command: str = ""

  @property
  def tasks(self) -> tuple[str, ...]:
    """The tasks to test on."""
    return tuple(self.config.tasks)


def setup(
  name: str, config: ml_collections.ConfigDict, **changes: Any
) -> Setup:
  """A setup with what `config` says, unless `changes` say otherwise.

  Raises:
    UserError: a file of pools cannot be read, or lacks a task.
  """
  values: dict[str, Any] = {
    "data": config.data,
    "out": pathlib.Path("results") / name,
    "limit": config.limit,
    "seeds": tuple(config.seeds),
  }
  given = {key: value for key, value in changes.items() if value is not None}
  if given.get("instructions"):
    values["pools"] = load_pools(given["instructions"])
  made = Setup(name, config, **values | given)
  if not made.tasks:
    raise UserError("the configuration names no task to test on: config.tasks")
  if made.limit < 0:
    raise UserError(f"--limit={made.limit}: must be a number of records, or 0")
  if made.instructions:
    require_pools(made)
  return made


def require_pools(made: Setup) -> None:
  """Raises a UserError unless there are instructions for every task."""
  for task in made.tasks:
    if task not in made.pools:
      raise UserError(
        f"{made.instructions or 'the pools'}: no instructions for task"
        f" {task!r}, only for {', '.join(made.pools)}. Give a file that has"
        " them with --instructions."
      )


def start(name: str, run: Callable[[Setup], None]) -> None:
  """Defines the flags, reads them and runs the experiment."""
  place = app.config_flag()
  flags.DEFINE_string("data", None, "A folder, 'embedded' or 'hub'.")
  flags.DEFINE_string("out", None, "Folder of the results.")
  flags.DEFINE_string("work", WORK, "Folder of trained editors and such.")
  flags.DEFINE_list("editors", [], "NAME=DIR of editors that are trained.")
  flags.DEFINE_list("only", [], "Names of the editors to use; all by default.")
  flags.DEFINE_integer("steps", None, "Of training.")
  flags.DEFINE_integer("limit", None, "Records of each task; 0 for all.")
  flags.DEFINE_list("seeds", None, "Of training, one editor each.")
  flags.DEFINE_string("prefix_cache", None, "Of training, like disk:PATH.")
  flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "Of the base weights everywhere."
  )
  flags.DEFINE_string(
    "instructions", None, "File of instruction pools; the project's by default."
  )

  def main(argv: Sequence[str]) -> None:
    del argv
    values = flags.FLAGS
    program = ("python", "-m", f"instructedit_jax.experiments.{name}")
    if not values.out:
      raise UserError("--out=FOLDER is missing: where should results go?")
    run(
      setup(
        name,
        place.value,
        data=values.data,
        out=pathlib.Path(values.out),
        work=pathlib.Path(values.work),
        given=given_editors(values.editors),
        only=tuple(values.only),
        steps=values.steps,
        limit=values.limit,
        seeds=None if values.seeds is None else _numbers(values.seeds),
        prefix_cache=values.prefix_cache,
        dtype=values.dtype,
        instructions=values.instructions,
        command=shlex.join([*program, *sys.argv[1:]]),
      )
    )
    print(f"Everything is in {values.out}/")

  app.run(main)


def given_editors(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
  """From "NAME=DIR" texts; a name met again is another seed of it."""
  found: dict[str, tuple[str, ...]] = {}
  for text in texts:
    name, equals, folder = text.partition("=")
    if not equals or not name or not folder:
      raise UserError(f"--editors: {text!r} must be NAME=DIR")
    found[name] = (*found.get(name, ()), folder)
  return found


def _numbers(texts: Sequence[str]) -> tuple[int, ...]:
  if not texts or not all(text.isdecimal() for text in texts):
    raise UserError(f"--seeds={','.join(texts)}: must be numbers, like 0,1,2")
  return tuple(map(int, texts))
