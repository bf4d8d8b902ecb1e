"""Records that an editor is not trained on, for its validation."""

from collections.abc import Sequence

from instructedit_jax.tasks.record import Record


def held_back(records: int, count: int) -> int:
  """Of how many records `count` are set aside: a fifth of them at most."""
  return min(count, records // 5)


def hold_out(
  records: Sequence[Record], count: int
) -> tuple[list[Record], list[Record]]:
  """Sets the last ones aside, with everything else about their subjects.

  Args:
    records: of one task.
    count: as many as are wanted; see `held_back`.
  """
  count = held_back(len(records), count)
  held = list(records[len(records) - count :])
  subjects = {record.subject for record in held}
  train = [r for r in records[: len(records) - count]]
  return [r for r in train if r.subject not in subjects], held
