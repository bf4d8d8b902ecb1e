"""Files that appear whole or not at all, and disks that say when they fail."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from instructedit_jax.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`; renames it when the block ends.

  The temporary file is removed if the block raises, so a reader never meets a
  half-written file. Parent folders are made.

  Raises:
    UserError: the disk is full or the folder cannot be written.
  """
  target = pathlib.Path(path)
  temporary: pathlib.Path | None = None
  with disk_errors(target):
    try:
      target.parent.mkdir(parents=True, exist_ok=True)
      handle, name = tempfile.mkstemp(
        prefix=f".{target.name}.", dir=target.parent
      )
      os.close(handle)
      temporary = pathlib.Path(name)
      yield temporary
      # mkstemp makes private files; a result should obey the user's umask.
      mask = os.umask(0)
      os.umask(mask)
      temporary.chmod(0o666 & ~mask)
      temporary.replace(target)
    finally:
      if temporary is not None:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns a full or forbidden disk into a UserError, whoever reports it.

  TensorStore reports failed writes as a ValueError that carries the system's
  error code; other ValueErrors pass unchanged.

  Raises:
    UserError: names `path` and the reason.
  """
  try:
    yield
  except UserError:
    raise
  except (OSError, ValueError) as error:
    text = str(error)
    if not isinstance(error, OSError) and "os_error_code" not in text:
      raise
    reason = getattr(error, "strerror", None) or text.split("\n")[0][:300]
    advice = "Free some space or choose another folder"
    if "No space left" in text or "quota" in text.lower():
      reason = "the disk is full"
    elif isinstance(error, TimeoutError):
      advice = "The disk or the machine is too busy: start again"
    raise UserError(
      f"{path}: cannot be written ({reason}). {advice}; nothing was left"
      " half-written."
    ) from error


def require_space(directory: str | os.PathLike[str], size: int) -> None:
  """Refuses at once what cannot fit: quicker and quieter than the attempt.

  Args:
    directory: an existing folder.
    size: bytes about to be written there.

  Raises:
    UserError: the disk has less than `size` bytes free.
  """
  free = shutil.disk_usage(directory).free
  if size > free:
    raise UserError(
      f"{directory}: the disk is full ({size / 1e6:.0f} MB needed,"
      f" {free / 1e6:.0f} MB free). Free some space or choose another folder;"
      " what was saved before is untouched."
    )
