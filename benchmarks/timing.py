"""Times of several programs, taken in turns.

On a shared machine two runs one after the other meet different loads. Here
every repetition runs all programs once, each time in another order, so that a
slow minute slows them all; medians are compared, and quartiles say how far to
trust them. The processor time of this process is kept too: it barely depends
on what else runs.
"""

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


@dataclasses.dataclass
class Times:
  """Repeated measurements of one program.

  Attributes:
    work: units of work a call does.
    walls: seconds of each call.
    cpus: seconds of processor time, over all threads.
  """

  work: float = 1.0
  walls: list[float] = dataclasses.field(default_factory=list)
  cpus: list[float] = dataclasses.field(default_factory=list)

  @property
  def wall(self) -> float:
    """Median seconds of a call."""
    return statistics.median(self.walls)

  @property
  def cpu(self) -> float:
    """Median seconds of processor time."""
    return statistics.median(self.cpus)

  @property
  def rate(self) -> float:
    """Units of work a second."""
    return self.work / self.wall

  @property
  def rates(self) -> list[float]:
    """Lower and upper quartile of the rate."""
    return [self.work / self.quantile(q) for q in (0.75, 0.25)]

  def quantile(self, share: float) -> float:
    """Seconds that `share` of the calls stay below."""
    held = sorted(self.walls)
    place = share * (len(held) - 1)
    low = int(place)
    high = min(low + 1, len(held) - 1)
    return held[low] + (place - low) * (held[high] - held[low])


def side_by_side(
  programs: Mapping[str, Callable[[], Any]],
  repeats: int,
  work: Mapping[str, float] | None = None,
  warm: int = 1,
) -> dict[str, Times]:
  """Runs every program `repeats` times, in turns.

  Args:
    programs: what to run; JAX arrays that a call returns are waited for.
    repeats: measured calls of each.
    work: units of work a call does, where not 1.
    warm: calls of each before, not measured: compilation, caches.
  """
  for _ in range(warm):
    for call in programs.values():
      jax.block_until_ready(call())
  found = {name: Times((work or {}).get(name, 1.0)) for name in programs}
  names = list(programs)
  for turn in range(repeats):
    shift = turn % len(names)
    for name in names[shift:] + names[:shift]:
      wall, cpu = time.perf_counter(), _cpu()
      jax.block_until_ready(programs[name]())
      found[name].walls.append(time.perf_counter() - wall)
      found[name].cpus.append(_cpu() - cpu)
  return found


def _cpu() -> float:
  used = resource.getrusage(resource.RUSAGE_SELF)
  return used.ru_utime + used.ru_stime
