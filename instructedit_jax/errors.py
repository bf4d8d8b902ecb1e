"""The one exception a user is meant to read, and its commonest reason."""

from typing import Any


class UserError(ValueError):
  """Bad input; its message names the file, record and field and what to do.

  Entry points print the message alone, without a traceback, and exit with 2.
  """


class Stopped(UserError):
  """Work was ended by a signal; the same command goes on."""


def require_least(settings: Any, prefix: str = "", /, **least: float) -> None:
  """Checks attributes against their smallest values; NaN is never enough.

  Args:
    settings: what has them.
    prefix: of their names in the message, "config." for instance.
    least: the smallest value of each.

  Raises:
    UserError: names the first one that is too small.
  """
  for name, smallest in least.items():
    value = getattr(settings, name)
    if not value >= smallest:
      raise UserError(f"{prefix}{name}={value}: must be at least {smallest}")
