"""The one exception a user is meant to read."""


class UserError(ValueError):
  """Bad input; its message names the file, record and field and what to do.

  Entry points print the message alone, without a traceback, and exit with 2.
  """


class Stopped(UserError):
  """Work was ended by a signal; the same command goes on."""
