"""Memory that this process needs no longer, but has not handed back."""

import contextlib
import ctypes
import pathlib
from typing import Any

import jax

_MAPS = pathlib.Path("/proc/self/maps")
_MOST_MAPS = pathlib.Path("/proc/sys/vm/max_map_count")


def release() -> None:
  """Hands freed memory back to the system, where the C library can.

  A compiler frees a gigabyte in small pieces, which glibc keeps for others as
  small; the arrays of the program's first run would come on top of them.
  """
  # Found in glibc alone.
  with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(None).malloc_trim(0)


def make_room(share: float = 0.5) -> bool:
  """Lets go of all compiled programs where they fill the memory maps.

  On a CPU a program takes some hundreds of the maps that Linux allows a process
  (65,530), and where none is left the compiler ends the process, however much
  memory there is. For long runs of many programs; what is called again is
  compiled again, or read from the compile cache.

  Args:
    share: of the maps, beyond which programs go.

  Returns:
    whether they had to.
  """
  try:
    most = int(_MOST_MAPS.read_text("ascii"))
    with _MAPS.open("rb") as maps:
      used = sum(1 for _ in maps)
  except (OSError, ValueError):
    return False  # no Linux
  if used <= share * most:
    return False
  jax.clear_caches()
  release()
  return True


class CompiledFirst:
  """A jitted function that releases what compiling it took before it runs.

  Args:
    function: from `jax.jit`; it keeps what it compiles by its arguments'
      shapes, so nothing is compiled twice.
  """

  def __init__(self, function: Any):
    self.lower = function.lower
    self._function, self._waits = function, True

  def __call__(self, *arguments: Any) -> Any:
    """What the function returns."""
    if self._waits:
      self._waits = False
      self.lower(*arguments).compile()
      release()
    return self._function(*arguments)
