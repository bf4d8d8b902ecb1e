"""Prints what is in the data, what was dropped from it, and why.

python -m instructedit_jax.tasks.report --data=embedded
python -m instructedit_jax.tasks.report --data=FOLDER --tasks=zsre --json
"""

import json
import sys
from collections.abc import Sequence

from absl import flags

from instructedit_jax import app
from instructedit_jax.errors import UserError
from instructedit_jax.tasks.record import TASKS
from instructedit_jax.tasks.splits import load_split
from instructedit_jax.tasks.validation import ValidationReport


def reports(
  data: str, tasks: Sequence[str], splits: Sequence[str]
) -> tuple[list[ValidationReport], list[str]]:
  """The report of every task and split, and why others have none."""
  found, errors = [], []
  for task in tasks:
    for split in splits:
      try:
        found.append(load_split(data, task, split)[1])
      except UserError as error:
        # One bad file must not hide what is wrong with the others.
        errors.append(f"{task}/{split}: {error}")
  return found, errors


def _define_flags() -> None:
  """Only where this is the program: other commands have such flags too."""
  flags.DEFINE_string(
    "data", "embedded", "A folder, a file, 'embedded' or 'hub'."
  )
  flags.DEFINE_list("tasks", list(TASKS), "Tasks to report on.")
  flags.DEFINE_list("splits", ["train", "test"], "Splits of each.")
  flags.DEFINE_bool("json", False, "One JSON list instead of text.")


def main(argv: Sequence[str]) -> None:
  """Prints the reports.

  Raises:
    UserError: a task or split could not be read; the others are printed.
  """
  del argv
  given = flags.FLAGS
  found, errors = reports(given.data, given.tasks, given.splits)
  if given.json:
    print(json.dumps([report.to_dict() for report in found], indent=1))
  else:
    print("\n\n".join(str(report) for report in found))
  for error in errors:
    print(f"\n{error}", file=sys.stderr)
  if errors:
    raise UserError(f"{len(errors)} of the splits could not be read.")


if __name__ == "__main__":
  _define_flags()
  app.run(main)
