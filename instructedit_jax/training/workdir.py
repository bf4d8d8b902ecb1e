"""The folder of a run belongs to one configuration."""

import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from instructedit_jax import files
from instructedit_jax.errors import UserError


def claim(
  folder: pathlib.Path,
  config: Mapping[str, Any],
  free: Collection[str],
  last: int,
) -> None:
  """Writes config.json, unless the folder holds another configuration's run.

  A start that left no state behind (a misspelt model, say) claims nothing.

  Args:
    folder: of the run.
    config: what JSON can hold.
    free: keys in which a continued run may differ.
    last: its last step.

  Raises:
    UserError: another run's folder, that of a longer run, or a file that cannot
      be read.
  """
  path = folder / "config.json"
  now = json.loads(json.dumps(config))
  if path.exists() and (steps(folder) or (folder / "editor").exists()):
    try:
      then = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
      raise UserError(f"{path}: not readable ({error}); delete it") from error
    changed = sorted(
      key
      for key in now.keys() | then.keys()
      if key not in free and now.get(key) != then.get(key)
    )
    if changed:
      raise UserError(
        f"{folder}: holds a run with another configuration (different:"
        f" {', '.join(changed)}). Give another --workdir, or delete it."
      )
  trained = max(steps(folder), default=0)
  if trained > last:
    # There would be nothing to do, and the longer run's editor would be handed
    # out as that of the shorter one.
    raise UserError(
      f"{folder}: was trained for {trained} steps, more than {last}. Give"
      " another folder for the shorter run."
    )
  with files.atomic_write(path) as temporary:
    temporary.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


def steps(folder: pathlib.Path) -> list[int]:
  """Of which there are checkpoints; read without opening them."""
  names = [path.name for path in folder.glob("checkpoints/*")]
  return [int(name) for name in names if name.isdigit()]
