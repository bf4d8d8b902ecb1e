"""Memory that this process has freed, but not handed back."""

import contextlib
import ctypes
from typing import Any


def release() -> None:
  """Hands freed memory back to the system, where the C library can.

  A compiler frees a gigabyte in small pieces, which glibc keeps for others as
  small; the arrays of the program's first run would come on top of them.
  """
  # Found in glibc alone.
  with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(None).malloc_trim(0)


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
