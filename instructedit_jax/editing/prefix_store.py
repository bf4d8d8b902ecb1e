"""Prefix states on disk, for later runs and for runs beside this one.

A store is a folder. store.json says whose states they are; the rest are shards,
written whole under names of their own and never changed, so any number of
processes may read and write the same store. What a killed writer had not yet
written as a shard is lost, nothing else.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from array_record.python import array_record_module

from instructedit_jax import files
from instructedit_jax.editing import prefix_shards
from instructedit_jax.editing.prefix import PrefixCache, State
from instructedit_jax.editing.prefix_shards import DamagedError, Identity
from instructedit_jax.editing.sequences import Scored
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel

_MANIFEST = "store.json"
_SHARD_BYTES = 128 << 20
_DEFAULT_GB = 64.0
_READERS = 16  # shards held open


class _Entry(NamedTuple):
  """Where a state is: its shard, record and checksum."""

  shard: str
  record: int
  check: int


class PrefixStore:
  """States of one model in a folder.

  Args:
    folder: made if it is not there.
    model: whose states they are.
    max_bytes: when the shards hold as much, nothing more is written.
    shard_bytes: states are collected in memory up to this size.

  Raises:
    UserError: the folder holds another model's states, or something else.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    model: LanguageModel,
    max_bytes: int = int(_DEFAULT_GB * 2**30),
    shard_bytes: int = _SHARD_BYTES,
  ):
    self.folder = pathlib.Path(folder)
    self._identity = Identity.of(model)
    self._salt = prefix_shards.digest(repr(self._identity).encode())
    _claim(self.folder, self._identity)
    small = max(max_bytes // 16, 1 << 16)
    self._writer = prefix_shards.Writer(
      self.folder, self._identity, max_bytes, min(shard_bytes, small)
    )
    # What is left in memory is written when the store or the program ends.
    weakref.finalize(self, self._writer.flush)
    self._index: dict[bytes, _Entry] = {}
    self._known: set[str] = set()
    self._seen_at = -1
    self._readers: OrderedDict[str, Any] = OrderedDict()
    self._refresh()

  def __len__(self) -> int:
    return len(self._index.keys() | self._writer.pending.keys())

  def __contains__(self, sequence: Scored) -> bool:
    key = self._key(sequence)
    return key in self._index or key in self._writer.pending

  def read(self, sequences: Sequence[Scored]) -> dict[Scored, State]:
    """Those of the sequences that are held; other writers' shards, too.

    A damaged shard is reported, deleted and not used.
    """
    self._refresh()
    found: dict[Scored, State] = {}
    places: dict[str, list[tuple[Scored, bytes, _Entry]]] = {}
    for sequence in sequences:
      key = self._key(sequence)
      if (held := self._writer.pending.get(key)) is not None:
        found[sequence] = self._state(sequence, held)
      elif (entry := self._index.get(key)) is not None:
        places.setdefault(entry.shard, []).append((sequence, key, entry))
    for shard, wanted in places.items():
      wanted.sort(key=lambda item: item[2].record)
      with self._damage(shard):
        records = self._records(shard, [entry.record for *_, entry in wanted])
        for (sequence, key, entry), record in zip(wanted, records, strict=True):
          if prefix_shards.check(key, record) != entry.check:
            raise DamagedError("a checksum is wrong")
          found[sequence] = self._state(sequence, record)
    return found

  def add(self, states: Mapping[Scored, State]) -> None:
    """Keeps states; once the store or the disk is full, it does nothing."""
    for sequence, state in states.items():
      key = self._key(sequence)
      if key not in self._index:
        parts = [np.asarray(part, np.float32).tobytes() for part in state]
        self._writer.add(key, b"".join(parts))
    if self._writer.due:
      self.flush()

  def flush(self) -> None:
    """Writes what is collected as a shard."""
    shard, entries = self._writer.flush()
    if shard is not None:
      self._learn(shard, entries)

  @property
  def stopped(self) -> str:
    """Why nothing more is stored; empty while there is room."""
    return self._writer.stopped

  def mark_filled(self, run: Mapping[str, Any], steps: int) -> None:
    """Notes that the store holds all a run needs for its first `steps`.

    A store that was filled for more steps of it keeps its note.
    """
    steps = max(steps, filled_steps(self.folder, run))
    with files.atomic_write(_mark(self.folder, run)) as temporary:
      text = json.dumps({"steps": steps, "run": run}, indent=1) + "\n"
      temporary.write_text(text, encoding="utf-8")

  @property
  def nbytes(self) -> int:
    """Bytes of the shards on disk."""
    return prefix_shards.bytes_in(self.folder)

  def _key(self, sequence: Scored) -> bytes:
    # Of the labels only the number matters: states are those of the tokens.
    numbers = np.asarray([len(sequence.labels), *sequence.tokens], np.uint32)
    return prefix_shards.digest(numbers.tobytes(), self._salt)

  def _state(self, sequence: Scored, record: bytes) -> State:
    values = np.frombuffer(record, np.float32)
    values = values.reshape(-1, self._identity.width)
    tokens = len(sequence.tokens)
    if len(values) != tokens + len(sequence.labels):
      raise DamagedError("a record has a wrong size")
    return State(values[:tokens], values[tokens:])

  def _refresh(self) -> None:
    """Learns of shards written since, whoever wrote them."""
    with files.disk_errors(self.folder):
      changed_at = self.folder.stat().st_mtime_ns
    if changed_at == self._seen_at:
      return
    self._seen_at = changed_at
    for path in sorted(self.folder.glob(f"*{prefix_shards.SUFFIX}")):
      if path.name not in self._known and not path.name.startswith("."):
        with self._damage(path.name):
          entries = prefix_shards.read_index(
            path, self._open(path.name), self._identity
          )
          self._learn(path.name, entries)

  def _learn(self, shard: str, entries: np.ndarray) -> None:
    self._known.add(shard)
    for record, entry in enumerate(entries):
      place = _Entry(shard, record, int(entry["check"]))
      self._index.setdefault(entry["key"].tobytes(), place)

  def _records(self, shard: str, numbers: list[int]) -> list[bytes]:
    reader = self._open(shard)
    if not reader.ok():
      raise DamagedError("it cannot be opened")
    try:
      return reader.read(numbers)
    except (RuntimeError, ValueError, IndexError) as error:
      raise DamagedError(str(error).split("\n")[0][:200]) from error

  def _open(self, shard: str) -> Any:
    if shard in self._readers:
      self._readers.move_to_end(shard)
      return self._readers[shard]
    while len(self._readers) >= _READERS:
      self._readers.popitem(last=False)[1].close()
    # No reading ahead: which states are wanted is for the shuffling to say.
    self._readers[shard] = array_record_module.ArrayRecordReader(
      str(self.folder / shard), "readahead_buffer_size:0"
    )
    return self._readers[shard]

  @contextlib.contextmanager
  def _damage(self, shard: str) -> Iterator[None]:
    """Forgets and deletes a shard that turns out to be damaged."""
    try:
      yield
    except DamagedError as error:
      logging.warning(
        "%s: damaged (%s) and deleted; its prefix states are computed again",
        self.folder / shard,
        error,
      )
      self._known.add(shard)
      self._index = {
        key: entry for key, entry in self._index.items() if entry.shard != shard
      }
      reader = self._readers.pop(shard, None)
      # A reader of a damaged file fails to close; a file may be gone already.
      with contextlib.suppress(OSError, RuntimeError, ValueError):
        (self.folder / shard).unlink()
        if reader is not None:
          reader.close()


def open_cache(
  model: LanguageModel, where: str, memory_bytes: int
) -> PrefixCache:
  """The cache that a configuration's `prefix_cache` names.

  Args:
    model: the base model.
    where: "off", "memory", or "disk:PATH", the folder of a store; with
      "disk:PATH?gb=20" it grows to 20 GiB at most (default 64).
    memory_bytes: memory for states.

  Raises:
    UserError: none of these, or the store cannot be used.
  """
  if where == "off":
    return PrefixCache(model, 0)
  if where == "memory":
    return PrefixCache(model, memory_bytes)
  folder, limit = disk_place(where)
  return PrefixCache(
    model, memory_bytes, store=PrefixStore(folder, model, limit)
  )


def disk_place(where: str) -> tuple[pathlib.Path, int]:
  """Folder and largest size (bytes) of "disk:PATH" or "disk:PATH?gb=20".

  Raises:
    UserError: it is not of that form.
  """
  kind, _, rest = where.partition(":")
  path, _, limit = rest.partition("?gb=")
  try:
    size = float(limit or _DEFAULT_GB)
  except ValueError:
    size = -1.0
  if kind != "disk" or not path or not 0 < size < math.inf:
    raise UserError(
      f"config.prefix_cache: {where!r} is none of off, memory, disk:PATH and"
      " disk:PATH?gb=SIZE"
    )
  return pathlib.Path(path), int(size * 2**30)


def filled_steps(folder: pathlib.Path, run: Mapping[str, Any]) -> int:
  """For how many steps of a run the store was filled; 0 if it was not."""
  try:
    return int(json.loads(_mark(folder, run).read_text("utf-8"))["steps"])
  except (OSError, ValueError, KeyError):
    return 0


def _mark(folder: pathlib.Path, run: Mapping[str, Any]) -> pathlib.Path:
  text = json.dumps(run, sort_keys=True)
  return folder / f"filled-{prefix_shards.digest(text.encode()).hex()}.json"


def _claim(folder: pathlib.Path, identity: Identity) -> None:
  """Writes store.json, or checks that it names the same model."""
  path = folder / _MANIFEST
  wanted = dataclasses.asdict(identity)
  with files.disk_errors(folder):
    folder.mkdir(parents=True, exist_ok=True)
    others = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
  if not path.exists():
    if others and not path.exists():
      raise UserError(
        f"{folder}: no store of prefix states (it holds {others[0]} but no"
        f" {_MANIFEST}); name a new or empty folder in config.prefix_cache"
      )
    with files.atomic_write(path) as temporary:
      text = json.dumps(wanted, indent=1) + "\n"
      temporary.write_text(text, encoding="utf-8")
  try:
    held = json.loads(path.read_text(encoding="utf-8"))
    found = Identity(**held)
  except (OSError, ValueError, TypeError) as error:
    raise UserError(
      f"{path}: not readable ({error}); delete {folder}"
    ) from error
  if found != identity:
    raise UserError(
      f"{folder}: holds prefix states of another model or setting ({found}),"
      f" not of this run's ({identity}); name another folder in"
      " config.prefix_cache, or delete this one"
    )
