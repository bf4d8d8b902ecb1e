"""Checkpoint directories as transformers writes and reads them."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from instructedit_jax.errors import UserError
from instructedit_jax.models import families, tokenizer, weights
from instructedit_jax.models.config import DecoderConfig

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
SHARD_BYTES = 4 << 30
_FLOATS = ("float32", "bfloat16", "float16", "float64")


class HfDirectory:
  """config.json beside model.safetensors, or its shards and their index.

  Attributes:
    name: the directory.
    config: the decoder's shape.
    eos_ids: the end-of-text ids that the configs declare.

  Raises:
    UserError: a file is missing or damaged, or the model is not supported.
  """

  def __init__(self, directory: str | os.PathLike[str]):
    self.path = pathlib.Path(directory)
    self.name = str(directory)
    if not self.path.is_dir():
      raise UserError(f"{directory}: no such directory")
    file = self.path / "config.json"
    held = _json(file)
    self.config = families.from_transformers(held, name=str(file))
    self.eos_ids = self._declared_ends(held)
    self._files = self._locate()

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, from the files' headers alone."""
    result = {}
    for file in sorted(set(self._files.values())):
      with self._open(file) as handle:
        for name in handle.keys():  # noqa: SIM118 (not a mapping)
          if self._files.get(name) == file:
            result[name] = tuple(handle.get_slice(name).get_shape())
    return result

  def read(self, name: str) -> np.ndarray:
    """One tensor in its stored dtype."""
    with self._open(self._files[name]) as handle:
      value = handle.get_tensor(name)
    if value.dtype.name not in _FLOATS:
      raise UserError(
        f"{self._files[name]}: {name} holds {value.dtype}, expected one of"
        f" {', '.join(_FLOATS)}; quantised checkpoints are not supported"
      )
    return value

  def _locate(self) -> dict[str, pathlib.Path]:
    """Which file holds each tensor."""
    index, single = self.path / _INDEX, self.path / _SINGLE
    if single.is_file():
      with self._open(single) as handle:
        return dict.fromkeys(handle.keys(), single)
    if not index.is_file():
      raise UserError(
        f"{self.path}: neither {_SINGLE} nor {_INDEX} is there. Checkpoints"
        " in other formats must be saved as safetensors first"
        " (transformers: model.save_pretrained)."
      )
    places = _json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
      raise UserError(f"{index}: the field weight_map is missing or empty")
    absent = sorted(
      file for file in set(places.values()) if not (self.path / file).is_file()
    )
    if absent:
      raise UserError(
        f"{self.path}: {_INDEX} names files that are not there:"
        f" {', '.join(absent)}; download them again"
      )
    return {name: self.path / file for name, file in places.items()}

  def _declared_ends(self, held: dict[str, Any]) -> tuple[int, ...]:
    declared = [held.get("eos_token_id")]
    generation = self.path / "generation_config.json"
    if generation.is_file():
      declared.append(_json(generation).get("eos_token_id"))
    found: list[Any] = []
    for value in declared:
      found += value if isinstance(value, list) else [value]
    return tuple(sorted({end for end in found if isinstance(end, int)}))

  @contextlib.contextmanager
  def _open(self, file: pathlib.Path) -> Iterator[Any]:
    try:
      with safetensors.safe_open(str(file), "np") as handle:
        yield handle
    except safetensors.SafetensorError as error:
      raise UserError(
        f"{file}: not readable as safetensors ({error}); download it again"
      ) from error


def save(
  directory: str | os.PathLike[str],
  config: DecoderConfig,
  params: nnx.State,
  tokens: tokenizer.Tokenizer | None,
  *,
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes a directory for transformers; see `language_model.save_hf`."""
  target = pathlib.Path(directory)
  if target.exists():
    raise UserError(
      f"{target}: already exists; choose another place or remove it"
    )
  temporary: pathlib.Path | None = None
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(
      tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)
    )
    _write_config(temporary, config, params, tokens)
    _write_tensors(temporary, config, params, shard_bytes)
    if tokens is not None:
      tokens.save(temporary)
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o777 & ~mask)
    temporary.replace(target)
    temporary = None
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(
      f"{target}: cannot be written ({error}). Free some space or choose"
      " another folder; nothing was left half-written."
    ) from error
  finally:
    if temporary is not None:
      shutil.rmtree(temporary, ignore_errors=True)


def _write_config(
  directory: pathlib.Path,
  config: DecoderConfig,
  params: nnx.State,
  tokens: tokenizer.Tokenizer | None,
) -> None:
  held = families.to_transformers(config)
  held["dtype"] = str(params["embedding"][...].dtype)
  # Absent, transformers would fill in ids of its own.
  held["bos_token_id"] = held["eos_token_id"] = held["pad_token_id"] = None
  if tokens is not None and tokens.eos_ids:
    held["eos_token_id"] = sorted(tokens.eos_ids)
  if tokens is not None and tokens.bos_ids:
    held["bos_token_id"] = tokens.bos_ids[0]
  text = json.dumps(held, indent=2, sort_keys=True) + "\n"
  (directory / "config.json").write_text(text, encoding="utf-8")


def _write_tensors(
  directory: pathlib.Path,
  config: DecoderConfig,
  params: nnx.State,
  shard_bytes: int,
) -> None:
  """One file, or several of at most `shard_bytes` with an index."""
  shards: list[list[str]] = [[]]
  held: dict[str, np.ndarray] = {}
  size = total = 0

  def flush() -> None:
    file = directory / f"shard-{len(shards)}"
    safetensors.numpy.save_file(held, file, metadata={"format": "pt"})
    held.clear()

  for name, build in weights.theirs(config, params):
    value = build()
    if held and size + value.nbytes > shard_bytes:
      flush()
      shards.append([])
      size = 0
    held[name] = value
    shards[-1].append(name)
    size += value.nbytes
    total += value.nbytes
  flush()
  if len(shards) == 1:
    (directory / "shard-1").rename(directory / _SINGLE)
    return
  places = {}
  for i, names in enumerate(shards, 1):
    file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
    (directory / f"shard-{i}").rename(directory / file)
    places.update(dict.fromkeys(names, file))
  index = {"metadata": {"total_size": total}, "weight_map": places}
  text = json.dumps(index, indent=2) + "\n"
  (directory / _INDEX).write_text(text, encoding="utf-8")


def _json(file: pathlib.Path) -> dict[str, Any]:
  try:
    held = json.loads(file.read_text(encoding="utf-8"))
  except OSError as error:
    raise UserError(
      f"{file}: cannot be read ({error.strerror or error})"
    ) from error
  except ValueError as error:
    raise UserError(f"{file}: not valid JSON ({error})") from error
  if not isinstance(held, dict):
    raise UserError(f"{file}: expected a JSON object")
  return held
