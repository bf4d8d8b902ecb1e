"""The pool file that a search leaves, with where everything came from."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import instructedit_jax
from instructedit_jax.digest import digest
from instructedit_jax.errors import UserError
from instructedit_jax.instructing.state import State, TaskState, now

if TYPE_CHECKING:
  from instructedit_jax.instructing.search import Settings

FORMAT = 1


def assemble(
  state: State, settings: "Settings", stopped: str
) -> dict[str, Any]:
  """The pool file as plain values; `tasks.instructions.load_pools` reads it.

  Of the best `keep + held_out` descriptions, by held-out score, those to hold
  out are drawn, so that neither list is better than the other.

  Args:
    state: of the search.
    settings: how many to keep.
    stopped: why it stopped early, "" if it did not.

  Raises:
    UserError: no task has a description.
  """
  tasks, provenance = {}, {}
  for number, (task, of_task) in enumerate(state.tasks.items()):
    made = _lists(of_task, settings, number)
    if made["train"]:
      tasks[task] = made
    provenance[task] = _origin(of_task, made)
  if not tasks:
    raise UserError(
      f"no description was found and scored ({stopped or 'none was usable'})."
      " Raise the limit; the same command goes on from here."
    )
  missing = [task for task in state.tasks if task not in tasks]
  return {
    "format": FORMAT,
    "version": digest(tasks)[:16],
    "tasks": tasks,
    "provenance": {
      "writer": state.settings["writer"],
      "scorer": state.settings["scorer"],
      "prompts_sha256": state.settings["templates_sha256"],
      "started": state.started,
      "written": now(),
      "instructedit_jax": instructedit_jax.__version__,
      "stopped": stopped,
      "tasks_without_descriptions": missing,
      "calls": state.calls,
      "prompt_tokens": state.prompt_tokens,
      "reply_tokens": state.reply_tokens,
      "tokens_estimated": state.estimated,
      "cost": round(state.cost, 6),
      "settings": _plain(settings),
      "records_sha256": state.settings["records"],
      "tasks": provenance,
    },
  }


def _lists(
  of_task: TaskState, settings: "Settings", number: int
) -> dict[str, list[str]]:
  scored = [c for c in of_task.candidates if c.scored]
  ranked = sorted(scored, key=lambda c: c.order, reverse=True)
  best = [c.text for c in ranked[: settings.keep + settings.held_out]]
  # Fewer than wanted are shared out in the same proportion.
  wanted = settings.held_out / (settings.keep + settings.held_out)
  aside = min(settings.held_out, int(len(best) * wanted))
  rng = np.random.default_rng([settings.seed, number])
  chosen = set(rng.permutation(len(best))[:aside].tolist())
  return {
    "train": [text for i, text in enumerate(best) if i not in chosen],
    "held_out": [text for i, text in enumerate(best) if i in chosen],
  }


def _origin(
  of_task: TaskState, made: Mapping[str, list[str]]
) -> dict[str, Any]:
  """Every description with its scores and what became of it."""
  places = {text: split for split, texts in made.items() for text in texts}
  return {
    "done": of_task.done,
    "rounds": [dataclasses.asdict(round_) for round_ in of_task.rounds],
    "descriptions": [
      {"split": places.get(c.text, ""), **dataclasses.asdict(c)}
      for c in of_task.candidates
    ],
  }


def _plain(settings: "Settings") -> dict[str, Any]:
  fields = dataclasses.asdict(settings)
  fields.pop("out")
  return fields
