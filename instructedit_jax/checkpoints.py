"""Training state and finished editors on disk, exact to the bit.

`CheckpointStore` keeps the last few states of a run and its best one.
`save_editor` and `load_editor_arrays` move a finished editor to and from one
self-contained folder. Both hand Orbax a flat `{name: array}` mapping beside a
list of the names, shapes and dtypes. Hence any pytree can be stored, a state
that does not fit its configuration is told apart from a damaged file, and a
restored array takes the placement the reader asks for: another number of
devices, another mesh, another sharding.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from instructedit_jax import files, leaves
from instructedit_jax.errors import UserError

PyTree = Any
EDITOR_FORMAT = "instructedit_jax editor"
EDITOR_VERSION = 1

_PARTIAL = ".orbax-checkpoint-tmp"  # Orbax's name for an unfinished step


class CheckpointStore:
  """The last `keep` states of a run, and its best one, in one folder.

  Saving returns as soon as the arrays are copied; a thread writes them. A step
  appears under its final name only when all of it is written, so a killed
  process costs at most the step it was writing.

  Args:
    directory: made if absent; every process of a run must see the same one.
    keep: number of latest steps kept, 1 or more.
    best_metric: name in `metrics` that ranks steps; the best is never deleted.
    best_mode: "min" or "max".
  """

  def __init__(
    self,
    directory: str | os.PathLike[str],
    keep: int = 2,
    best_metric: str = "loss",
    best_mode: str = "min",
  ):
    if keep < 1 or best_mode not in ("min", "max"):
      raise ValueError(f"keep={keep} (1 or more), best_mode={best_mode!r}")
    self._directory = pathlib.Path(directory).absolute()
    self._best_metric = best_metric
    self._sign = 1.0 if best_mode == "max" else -1.0
    with files.disk_errors(self._directory):
      self._manager = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
          best_fn=self._score,
          best_mode="max",
          cleanup_tmp_directories=True,
          preservation_policy=policies.AnyPreservationPolicy(
            [
              policies.LatestN(keep),
              policies.BestN(get_metric_fn=self._score, n=1),
            ]
          ),
        ),
      )
      # Kept here because the file of a step being written is not there yet.
      self._scores = {
        step: self._score(self._manager.metrics(step))
        for step in self._manager.all_steps()
      }

  def __enter__(self) -> "CheckpointStore":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    # A process that fails must not wait for others, which may wait for it.
    if kind is None or jax.process_count() == 1:
      self.close()

  def save(
    self,
    step: int,
    state: PyTree,
    data: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
  ) -> bool:
    """Starts writing a step; False if that step is already there.

    Args:
      step: counts up; at least the latest step in the store.
      state: pytree of arrays; typed PRNG keys are stored as uint32 key data.
      data: anything JSON can hold: position in the data, configuration.
      metrics: numbers of this step; `best_metric` among them ranks it. A value
        that is not finite never wins.

    Raises:
      UserError: the disk is full or not writable, now or in the save before,
        or the store holds a later step.
    """
    latest = self.latest_step()
    if latest is not None and step < latest:
      raise UserError(
        f"{self._directory}: holds step {latest} already, so step {step}"
        " cannot follow it. Continue from the latest step or give another"
        " --workdir."
      )
    if step == latest:
      return False
    json.dumps(dict(data))  # fails here, not in the writer's thread
    described, arrays = leaves.encode(state)
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(arrays),
      data=ocp.args.JsonSave({"leaves": described, "data": dict(data)}),
    )
    with self._clean_failure():
      self._manager.wait_until_finished()
      _require_space(self._directory, arrays)
      numbers = {k: float(v) for k, v in (metrics or {}).items()}
      # force: our own rule on steps, above, is the only one.
      self._manager.save(step, args=args, metrics=numbers, force=True)
      self._scores[step] = self._score(numbers)
    return True

  def restore(
    self, abstract_state: PyTree, step: int | str | None = None
  ) -> tuple[PyTree, dict[str, Any]]:
    """Returns (state, data) of a step; None and "latest" mean the newest.

    A newest step that cannot be read (say, the machine lost power) is set
    aside as `unreadable-STEP` with a warning, and the one before is taken.

    Args:
      abstract_state: pytree of arrays or `jax.ShapeDtypeStruct`, in structure,
        shape and dtype like the stored state. A sharding given by a leaf is
        used; a leaf without one comes back uncommitted; NumPy stays NumPy.
      step: a step of this store, "latest" or None.

    Raises:
      UserError: no such step, a damaged one, one of another configuration, or
        one that cannot be read for the moment.
    """
    self.wait()
    if step not in (None, "latest"):
      if step not in self._manager.all_steps():
        raise UserError(
          f"{self._directory}: no checkpoint of step {step}; there are"
          f" {sorted(self._manager.all_steps()) or 'none'}."
        )
      return self._read(int(step), abstract_state)  # type: ignore[arg-type]
    for candidate in sorted(self._manager.all_steps(), reverse=True):
      try:
        return self._read(candidate, abstract_state)
      except _DamagedError as error:
        logging.warning("%s Trying the step before.", error)
        self._set_aside(candidate)
    raise UserError(f"{self._directory}: no readable checkpoint.")

  def latest_step(self) -> int | None:
    """The newest step, one still being written included; None if none."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """The step with the best finite `best_metric`; None if none has one."""
    steps = [
      (self._scores.get(step, -math.inf), step)
      for step in self._manager.all_steps()
    ]
    score, best = max(steps, default=(-math.inf, None))
    return best if score > -math.inf else None

  def wait(self) -> None:
    """Blocks until the step being written is on disk, or raises UserError."""
    with self._clean_failure():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the step being written and stops the threads."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def _score(self, metrics: Mapping[str, Any] | None) -> float:
    """The ranking number, higher is better, -inf where there is none."""
    value = self._sign * float((metrics or {}).get(self._best_metric, math.nan))
    return value if math.isfinite(value) else -math.inf

  def _read(self, step: int, abstract: PyTree) -> tuple[PyTree, dict[str, Any]]:
    path = self._directory / str(step)
    with _damage(path):
      stored = self._manager.restore(
        step, args=ocp.args.Composite(data=ocp.args.JsonRestore())
      )["data"]
      described, data = stored["leaves"], stored["data"]
    target = leaves.target(path, described, abstract)
    with _damage(path):
      arrays = self._manager.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
      )["state"]
    return leaves.decode(arrays, abstract), data

  def _set_aside(self, step: int) -> None:
    if jax.process_index() == 0:
      aside = self._directory / f"unreadable-{step}"
      shutil.rmtree(aside, ignore_errors=True)
      (self._directory / str(step)).rename(aside)
    _all_processes("checkpoint_set_aside")
    self._manager.reload()

  @contextlib.contextmanager
  def _clean_failure(self) -> Iterator[None]:
    """A failed save leaves no half-written step to fill the disk further."""
    try:
      with files.disk_errors(self._directory):
        yield
    except UserError:
      if jax.process_index() == 0:
        for path in self._directory.glob(f"*{_PARTIAL}*"):
          shutil.rmtree(path, ignore_errors=True)
      self._manager.reload()  # forget the step that never arrived
      raise


def save_editor(
  directory: str | os.PathLike[str],
  params: PyTree,
  statistics: PyTree,
  metadata: Mapping[str, Any],
) -> None:
  """Writes a self-contained editor folder, whole or not at all.

  The folder holds `arrays/` (Orbax) and `editor.json`: the format's version,
  the arrays' names, shapes and dtypes, and `metadata`. An editor that is
  already there is moved aside, to .NAME.replaced, just before the new one takes
  its name; if the process is killed in between, the next call puts it back
  first.

  Args:
    directory: the folder to make.
    params: pytree of arrays, the editor's parameters.
    statistics: pytree of arrays, its running normalisation; may be empty.
    metadata: what JSON can hold: the configuration, the fingerprint of the
      base model, the step.

  Raises:
    UserError: the disk is full or not writable, or `directory` holds something
      that is not an editor.
  """
  target = pathlib.Path(directory).absolute()
  if jax.process_index() == 0 and not target.exists():
    with files.disk_errors(target), contextlib.suppress(FileNotFoundError):
      _aside(target).rename(target)
  _all_processes("editor_put_back")
  in_use = target.exists() and (not target.is_dir() or any(target.iterdir()))
  if in_use and not (target / "editor.json").exists():
    raise UserError(
      f"{target}: exists and is not an editor (no editor.json), so it is not"
      " replaced. Choose another folder."
    )
  partial = target.parent / f".{target.name}.partial"
  described, arrays = leaves.encode(
    {"params": params, "statistics": statistics}
  )
  header = {
    "format": EDITOR_FORMAT,
    "version": EDITOR_VERSION,
    "metadata": dict(metadata),
    "leaves": described,
  }
  text = json.dumps(header, indent=1, allow_nan=False) + "\n"
  with files.disk_errors(target):
    try:
      if jax.process_index() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _require_space(partial, arrays)
      _all_processes("editor_folder")
      if arrays:  # Orbax refuses to store nothing
        with ocp.StandardCheckpointer() as checkpointer:
          checkpointer.save(partial / "arrays", arrays)
      if jax.process_index() == 0:
        (partial / "editor.json").write_text(text, encoding="utf-8")
        _replace_folder(partial, target)
      _all_processes("editor_written")
    finally:
      shutil.rmtree(partial, ignore_errors=True)


def load_editor_arrays(
  directory: str | os.PathLike[str], abstract: PyTree | None = None
) -> tuple[dict[str, PyTree], dict[str, Any]]:
  """Returns ({"params": …, "statistics": …}, metadata) of a saved editor.

  Args:
    directory: a folder made by `save_editor`.
    abstract: pytree of the same structure under the same two names, as for
      `CheckpointStore.restore`: gives containers, placement and a check of
      shapes. Without it, containers come back as dicts and lists, and leaves
      as uncommitted arrays.

  Raises:
    UserError: the folder is missing, incomplete, damaged, of another version
      or does not match `abstract`.
  """
  folder = pathlib.Path(directory).absolute()
  header = _read_header(folder)
  described = header["leaves"]
  nested = leaves.nest(described) if abstract is None else abstract
  target = leaves.target(folder, described, nested)
  arrays = _read_arrays(folder, target) if target else {}
  return leaves.decode(arrays, nested), header["metadata"]


def _read_arrays(
  folder: pathlib.Path, target: Mapping[str, Any]
) -> dict[str, Any]:
  try:
    with _damage(folder), ocp.StandardCheckpointer() as checkpointer:
      return checkpointer.restore(folder / "arrays", dict(target))
  except _DamagedError as error:
    raise UserError(f"{error} Export or copy the editor again.") from error


def _read_header(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / "editor.json"
  try:
    header = json.loads(path.read_text(encoding="utf-8"))
    known = header["format"] == EDITOR_FORMAT
    version = header["version"]
    complete = isinstance(header["leaves"], list) and "metadata" in header
  except FileNotFoundError:
    what = "holds no editor.json" if folder.is_dir() else "does not exist"
    raise UserError(
      f"{folder}: {what}. Give the folder that training exported its editor to."
    ) from None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f"{path}: not readable as an editor ({error}). Export or copy it again."
    ) from error
  if not known or version != EDITOR_VERSION:
    raise UserError(
      f"{path}: format {header['format']!r} version {version!r}; this program"
      f" reads {EDITOR_FORMAT!r} version {EDITOR_VERSION}. Export the editor"
      " again with this version."
    )
  if not complete:
    raise UserError(f"{path}: incomplete. Export or copy the editor again.")
  return header


def _aside(target: pathlib.Path) -> pathlib.Path:
  """Where an editor is while another takes its place."""
  return target.parent / f".{target.name}.replaced"


def _replace_folder(new: pathlib.Path, target: pathlib.Path) -> None:
  old = _aside(target)
  shutil.rmtree(old, ignore_errors=True)
  if target.exists():
    target.rename(old)
  try:
    new.rename(target)
  except OSError:
    if old.exists():
      old.rename(target)
    raise
  shutil.rmtree(old, ignore_errors=True)


class _DamagedError(UserError):
  """A file of ours that is there but cannot be read."""


@contextlib.contextmanager
def _damage(path: pathlib.Path) -> Iterator[None]:
  """Whatever the reader stumbles over, the user learns which folder it was."""
  try:
    yield
  except Exception as error:
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    if _is_passing(error):
      raise UserError(
        f"{path}: cannot be read now ({reason}). It is left as it is; mend that"
        " and start again."
      ) from error
    raise _DamagedError(f"{path}: damaged or incomplete ({reason}).") from error


def _is_passing(error: Exception) -> bool:
  """Whether it tells of the machine, not of what is stored.

  Memory, open files, permissions, a network's disk: what is there may be good.
  """
  missing = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
  if isinstance(error, OSError):
    return not isinstance(error, missing)
  text = str(error)
  if "os_error_code" in text:
    return "os_error_code='2'" not in text
  return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text


def _require_space(directory: pathlib.Path, arrays: Mapping[str, Any]) -> None:
  # Of several processes each writes a share that only Orbax knows.
  if jax.process_count() == 1:
    size = sum(x.size * x.dtype.itemsize for x in arrays.values())
    files.require_space(directory, size)


def _all_processes(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
