"""Tasks that are held out in turn."""

from instructedit_jax.tasks.mixture import Mixture
from instructedit_jax.tasks.record import Record


class Rotating(Mixture):
  """Half of a batch from one task, the other from the rest, in turn."""

  def batch(self, step: int, size: int) -> list[Record]:
    count = len(self._tasks)
    cycle, turn = divmod(step, count)
    held = self._tasks[turn]
    rest = [task for task in self._tasks if task != held]
    chosen = [rest[i % len(rest)] for i in range(size // 2)]
    chosen += [held] * (size - size // 2)
    found = []
    for i, task in enumerate(chosen):
      # A task's slots within a cycle: half a batch when held, less otherwise.
      own = self._tasks.index(task)
      if task == held:
        place = i - size // 2
      else:
        place = size // 2 + ((turn - own - 1) % count) * (
          size // 2 // len(rest)
        )
        place += i // len(rest)
      position = cycle * size + place
      epoch, at = divmod(position, len(self.records[task]))
      found.append(self.records[task][int(self._order(task, epoch)[at])])
    return found
