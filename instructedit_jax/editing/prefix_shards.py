"""Shards of prefix states: whole files of a store, written once.

A shard is an array_record file of records, the last of which is their index.
It appears under its name when it is finished, and is never changed.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import time
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from array_record.python import array_record_module

from instructedit_jax import files
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel

SUFFIX = ".array_record"
_FORMAT = 1
_STALE_S = 3600.0  # a temporary file this old has lost its writer
_DIGEST = 16
_PADDING = 128 << 10  # bytes: array_record files end on a block of 64 KiB
_ENTRY = np.dtype([("key", np.uint8, _DIGEST), ("check", np.uint32)])


@dataclasses.dataclass(frozen=True)
class Identity:
  """Whose states a store holds; those of any other model are of no use.

  Attributes:
    format: of the files.
    fingerprint: of the base model.
    suffix: its editable blocks.
    dtype: of its matrices. States are float32 in any case: a compiled bfloat16
      model does not round its last sum.
    width: of a state.
  """

  format: int
  fingerprint: str
  suffix: int
  dtype: str
  width: int

  @classmethod
  def of(cls, model: LanguageModel) -> "Identity":
    """Of the states that `model` computes."""
    dtype = jax.tree.leaves(model.params["embedding"])[0].dtype.name
    config = model.config
    return cls(_FORMAT, model.fingerprint, config.suffix, dtype, config.width)

  def __str__(self) -> str:
    return (
      f"weights {self.fingerprint[:12]}…, suffix {self.suffix}, {self.dtype},"
      f" format {self.format}"
    )


class DamagedError(Exception):
  """A shard is not what its writer wrote."""


class Writer:
  """Collects states and writes them as shards.

  Attributes:
    pending: records not yet written, by key.
    stopped: why nothing more is written; empty while there is room.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    identity: Identity,
    max_bytes: int,
    shard_bytes: int,
  ):
    self._folder, self._identity = folder, identity
    self._max_bytes, self._shard_bytes = max_bytes, shard_bytes
    self.pending: dict[bytes, bytes] = {}
    self._bytes = 0
    self.stopped = ""
    _sweep(folder)

  @property
  def due(self) -> bool:
    """Whether enough has been collected for a shard."""
    return self._bytes >= self._shard_bytes

  def add(self, key: bytes, record: bytes) -> None:
    """Collects one record."""
    if not self.stopped and key not in self.pending:
      self.pending[key] = record
      self._bytes += len(record)

  def flush(self) -> tuple[str | None, np.ndarray]:
    """Writes a shard.

    Returns:
      its name, None if there was none to write; and its index.
    """
    pending, size = self.pending, self._bytes
    self.pending, self._bytes = {}, 0
    entries = _index_of(pending)
    if not pending or not self._room(size):
      return None, entries
    # Unlike any other writer's, and in the order of time.
    name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
    path = self._folder / f"{name}{SUFFIX}"
    try:
      with files.atomic_write(path) as temporary:
        writer = array_record_module.ArrayRecordWriter(
          str(temporary), "group_size:1,uncompressed"
        )
        for record in pending.values():
          writer.write(record)
        writer.write(_index_record(self._identity, entries))
        writer.close()
    except (UserError, RuntimeError) as error:
      self._stop(str(error))
      return None, entries
    return path.name, entries

  def _room(self, size: int) -> bool:
    held = bytes_in(self._folder)
    if held + size + _PADDING > self._max_bytes:
      self._stop(
        f"the store holds {held / 2**30:.3g} of at most"
        f" {self._max_bytes / 2**30:.3g} GiB"
      )
      return False
    try:
      files.require_space(self._folder, 2 * size)
    except UserError as error:
      self._stop(str(error))
      return False
    return True

  def _stop(self, reason: str) -> None:
    if not self.stopped:
      logging.warning(
        "%s: no more prefix states are stored (%s)", self._folder, reason
      )
    self.stopped = reason


def _index_of(records: Mapping[bytes, bytes]) -> np.ndarray:
  entries = np.zeros(len(records), _ENTRY)
  for entry, (key, record) in zip(entries, records.items(), strict=True):
    entry["key"] = np.frombuffer(key, np.uint8)
    entry["check"] = check(key, record)
  return entries


def _index_record(identity: Identity, entries: np.ndarray) -> bytes:
  head = json.dumps(dataclasses.asdict(identity)).encode() + b"\n"
  body = head + entries.tobytes()
  return digest(body) + body


def read_index(
  path: pathlib.Path, reader: Any, identity: Identity
) -> np.ndarray:
  """A shard's index, after a look at everything that can be wrong with it.

  Args:
    path: of the shard, for messages.
    reader: of the shard.
    identity: it should have.

  Returns:
    one entry (key, check) a record, in their order.

  Raises:
    DamagedError: it is not a whole shard.
    UserError: it holds another model's states.
  """
  count = reader.num_records() if reader.ok() else 0
  if not count:
    raise DamagedError("it is cut off or no array_record file")
  try:
    record = reader.read([count - 1])[0]
  except (RuntimeError, ValueError) as error:
    raise DamagedError(str(error).split("\n")[0][:200]) from error
  body = record[_DIGEST:]
  head, _, entries = body.partition(b"\n")
  if digest(body) != record[:_DIGEST]:
    raise DamagedError("its index has a wrong checksum")
  if (held := Identity(**json.loads(head))) != identity:
    raise UserError(
      f"{path}: holds prefix states of another model or setting ({held}), not"
      f" of this run's ({identity}); delete it"
    )
  index = np.frombuffer(entries, _ENTRY)
  if len(index) != count - 1:
    raise DamagedError("records are missing")
  return index


def check(key: bytes, record: bytes) -> int:
  """A checksum that also ties a record to its key."""
  return zlib.crc32(record, zlib.crc32(key))


def digest(data: bytes, key: bytes = b"") -> bytes:
  """16 bytes that tell data apart; others under another key."""
  return hashlib.blake2b(data, digest_size=_DIGEST, key=key).digest()


def bytes_in(folder: pathlib.Path) -> int:
  """Bytes of a folder's shards."""
  total = 0
  for path in folder.glob(f"*{SUFFIX}"):
    with contextlib.suppress(OSError):  # deleted meanwhile
      total += path.stat().st_size
  return total


def _sweep(folder: pathlib.Path) -> None:
  """Deletes what killed writers left half-written."""
  for path in folder.glob(f".*{SUFFIX}.*"):
    with contextlib.suppress(OSError):
      if time.time() - path.stat().st_mtime > _STALE_S:
        path.unlink()
