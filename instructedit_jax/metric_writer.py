"""Numbers of a run, for TensorBoard and for any other reader."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorboardX

from instructedit_jax import files
from instructedit_jax.errors import UserError

FILE_NAME = "metrics.jsonl"


class MetricWriter:
  """Writes WORKDIR/metrics.jsonl and WORKDIR/tensorboard.

  A row of metrics.jsonl is {"step": 120, "train/edit_loss": 0.63, …}. JSON has
  no infinities, so such numbers are written as "nan", "inf" and "-inf".

  Args:
    workdir: made if absent.
    resume_step: the step a run continues from; what was written for later
      steps is dropped, since they will be run again. None starts over.
    enabled: False writes nothing: for all processes but the first.

  Raises:
    UserError: the folder cannot be written.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    resume_step: int | None = None,
    enabled: bool = True,
  ):
    self._enabled = enabled
    if not enabled:
      return
    self._path = pathlib.Path(workdir) / FILE_NAME
    last = -1 if resume_step is None else resume_step
    rows = read_metrics(self._path) if self._path.exists() else []
    with files.atomic_write(self._path) as path:
      kept = [_line(row) for row in rows if row["step"] <= last]
      path.write_text("".join(kept), encoding="utf-8")
    with files.disk_errors(self._path):
      self._rows = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
      # purge_step hides the events of the steps that are run again.
      self._board = tensorboardX.SummaryWriter(
        str(pathlib.Path(workdir) / "tensorboard"), purge_step=last + 1
      )

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def write(self, step: int, numbers: Mapping[str, Any]) -> None:
    """Appends one row; values are anything `float` takes."""
    if not self._enabled:
      return
    row = {name: float(value) for name, value in numbers.items()}
    with files.disk_errors(self._path):
      self._rows.write(_line({"step": int(step), **row}))
      for name, value in row.items():
        if math.isfinite(value):
          self._board.add_scalar(name, value, step)

  def flush(self) -> None:
    """Hands everything written so far to the operating system."""
    if self._enabled:
      with files.disk_errors(self._path):
        self._rows.flush()
        self._board.flush()

  def close(self) -> None:
    """Flushes and closes; the writer cannot be used afterwards."""
    if self._enabled:
      with files.disk_errors(self._path):
        self._rows.close()
        self._board.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """Returns the rows of a metrics.jsonl: an int `step`, the rest floats.

  A last line cut short by a crash is left out.

  Raises:
    UserError: the file is missing, or a line in its middle is no such row.
  """
  try:
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
  rows = []
  for number, line in enumerate(lines, start=1):
    try:
      row = {name: float(value) for name, value in json.loads(line).items()}
      rows.append(row | {"step": int(row["step"])})
    except (ValueError, TypeError, AttributeError, KeyError) as error:
      if number == len(lines):
        break
      raise UserError(
        f"{path}: line {number} is not a row of metrics ({error}). Remove it,"
        " or start in another folder."
      ) from error
  return rows


def _line(row: Mapping[str, Any]) -> str:
  safe = {
    k: v if isinstance(v, int) or math.isfinite(v) else str(v)
    for k, v in row.items()
  }
  return json.dumps(safe, ensure_ascii=False) + "\n"
