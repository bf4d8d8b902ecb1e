"""Fills a decoder's parameters from a checkpoint, and names them one by one.

Parameters are named by paths with blocks numbered from the bottom
("blocks.3.mlp.up.kernel"), whether a block is scanned (its arrays stacked with
those of the other prefix blocks) or unrolled.
"""

import functools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.errors import UserError
from instructedit_jax.models import tensors
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.models.decoder import Decoder

# Buffers that old checkpoints carry and nobody reads: causal masks, rotary
# tables.
_BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$")
_DTYPES = ("float32", "bfloat16")
_SHOWN = 8

# (path of the array in the parameter tree, host array) -> device array.
Place = Callable[[str, Any], jax.Array]


class Source(Protocol):
  """A checkpoint: tensors by their transformers names."""

  name: str

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor."""
    ...

  def read(self, name: str) -> np.ndarray:
    """One tensor, in its stored precision."""
    ...


def abstract(config: DecoderConfig) -> tuple[nnx.GraphDef, nnx.State]:
  """A decoder's graph and the shapes of its parameters; nothing allocated."""
  return nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))


def leaf_dtype(path: str, dtype: str) -> Any:
  """What a parameter is kept in.

  Matrices and embeddings are kept in `dtype`; norms and biases always in
  float32: they are small, and bfloat16 would cost accuracy for nothing.
  """
  if dtype not in _DTYPES:
    raise UserError(f"dtype {dtype!r}: choose one of {', '.join(_DTYPES)}")
  matrix = path.endswith("kernel") or path in ("embedding", "positions")
  return jnp.dtype(dtype if matrix else "float32")


def tree_path(key_path: Any) -> str:
  """Dotted path of an array in the tree: "prefix_blocks.mlp.up.kernel"."""
  keys = [_key(key) for key in key_path]
  return ".".join(key for key in keys if key not in ("value", "raw_value"))


def stacked(key_path: Any) -> bool:
  """Whether this leaf stacks the arrays of the prefix's blocks."""
  return _key(key_path[0]) == "prefix_blocks"


def leaf_paths(config: DecoderConfig, key_path: Any) -> list[str]:
  """Our paths of one leaf: several where it stacks the prefix's blocks."""
  keys = tree_path(key_path).split(".")
  if keys[0] == "prefix_blocks":
    rest = ".".join(keys[1:])
    return [f"blocks.{i}.{rest}" for i in range(config.first_editable)]
  if keys[0] == "suffix_blocks":
    index = config.first_editable + int(keys[1])
    return [".".join(["blocks", str(index), *keys[2:]])]
  return [".".join(keys)]


def load(
  config: DecoderConfig,
  source: Source,
  dtype: str = "float32",
  place: Place | None = None,
) -> tuple[nnx.GraphDef, nnx.State]:
  """Reads every parameter of a decoder from a checkpoint.

  One parameter (or one stack of them) is in flight at a time, so memory peaks
  at the model plus its largest stack.

  Args:
    config: the decoder's shape.
    source: the checkpoint.
    dtype: see `leaf_dtype`.
    place: puts each finished array on its devices, e.g. sharded; called with
      the array's dotted path in the tree. Default: the default device.

  Raises:
    UserError: tensors are missing, left over or of another shape; all of them
      are named at once.
  """
  graph, shapes = abstract(config)
  table = {entry.path: entry for entry in tensors.checkpoint_table(config)}
  names = _check(config, source, table, shapes)
  flat, tree = jax.tree_util.tree_flatten_with_path(shapes)
  leaves = []
  for key_path, leaf in flat:
    paths = leaf_paths(config, key_path)
    out = np.empty(leaf.shape, leaf_dtype(paths[0], dtype))
    for i, path in enumerate(paths):
      value = _ours(table[path], source.read(names[table[path].name]))
      out[i if stacked(key_path) else ...] = value
    put = jnp.asarray(out) if place is None else place(tree_path(key_path), out)
    leaves.append(put)
  return graph, jax.tree_util.tree_unflatten(tree, leaves)


def random(
  config: DecoderConfig,
  key: jax.Array,
  dtype: str = "float32",
  place: Place | None = None,
) -> tuple[nnx.GraphDef, nnx.State]:
  """Normal (0.02) matrices, neutral norms, zero biases; made on the device.

  A parameter's numbers depend on the key and its path only, so the same model
  comes out whatever `suffix` is. `place` is as in `load`, but its array is on
  the default device already.
  """
  graph, shapes = abstract(config)

  def create(key_path: Any, leaf: Any) -> jax.Array:
    paths = leaf_paths(config, key_path)
    kind = leaf_dtype(paths[0], dtype)
    if paths[0].endswith((".scale", ".bias")):
      fill = 1.0 if paths[0].endswith(".scale") else 0.0
      made = jnp.full(leaf.shape, fill, kind)
    else:
      seeds = np.array([zlib.crc32(path.encode()) for path in paths], np.uint32)
      made = _draw(key, seeds, leaf.shape, kind)
    return made if place is None else place(tree_path(key_path), made)

  return graph, jax.tree_util.tree_map_with_path(create, shapes)


# One program a shape: a single one for all of them compiles for seconds.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw(
  key: jax.Array, seeds: jax.Array, shape: tuple[int, ...], dtype: Any
) -> jax.Array:
  """An array of `shape`, its leading part (one a seed) drawn in turn."""
  each = shape[1:] if len(shape) > 2 else shape

  def part(seed: jax.Array) -> jax.Array:
    drawn = jax.random.normal(jax.random.fold_in(key, seed), each)
    return (0.02 * drawn).astype(dtype)

  # In turn, not vmapped: every part's random bits would be held at once.
  return jax.lax.map(part, seeds).reshape(shape)


def _ours(entry: tensors.Tensor, value: np.ndarray) -> np.ndarray:
  """A checkpoint's tensor (or the part of it that is ours) as we keep it."""
  if entry.part is not None:
    index, sizes = entry.part
    start = sum(sizes[:index])
    value = value[..., start : start + sizes[index]]
  return value.T if entry.transposed else value


def _theirs(entry: tensors.Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of the checkpoint tensor that holds our [shape]."""
  if entry.part is not None:
    return (*shape[:-1], sum(entry.part[1]))
  return shape[::-1] if entry.transposed else shape


def _check(
  config: DecoderConfig,
  source: Source,
  table: dict[str, tensors.Tensor],
  shapes: nnx.State,
) -> dict[str, str]:
  """Compares a checkpoint's tensors with the expected ones.

  Returns:
    The name each expected tensor has in the checkpoint: some were saved from
    the bare model, without "transformer." or "model." in front.
  """
  wanted = {}
  for path, shape in our_shapes(config, shapes):
    wanted[table[path].name] = _theirs(table[path], shape)
  held = source.shapes()
  names = {name: _find(name, held) for name in wanted}
  used = set(names.values())
  ignored = {"lm_head.weight"} if config.tied else set()
  missing = [name for name in wanted if names[name] not in held]
  extra = [
    name
    for name in held
    if name not in used | ignored and not _BUFFERS.search(name)
  ]
  misshapen = [
    f"{name} {list(held[names[name]])}, expected {list(shape)}"
    for name, shape in wanted.items()
    if names[name] in held and tuple(held[names[name]]) != shape
  ]
  problems = [
    f"{len(found)} {what} ({_some(found)})"
    for what, found in (
      ("missing", missing),
      ("unknown", extra),
      ("of another shape", misshapen),
    )
    if found
  ]
  if problems:
    raise UserError(
      f"{source.name}: the tensors do not fit the {config.family} config: "
      + "; ".join(problems)
      + ". Use the config.json that was saved with these weights."
    )
  return names


def our_shapes(
  config: DecoderConfig, shapes: nnx.State
) -> Iterator[tuple[str, tuple[int, ...]]]:
  """(path, shape) of every parameter, stacks taken apart."""
  for key_path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
    shape = leaf.shape[1:] if stacked(key_path) else leaf.shape
    for path in leaf_paths(config, key_path):
      yield path, tuple(shape)


def theirs(
  config: DecoderConfig, params: nnx.State
) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
  """(checkpoint name, function that builds the host array) of every tensor.

  The inverse of `load`, one tensor at a time.
  """
  where = {}
  for key_path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    for i, path in enumerate(leaf_paths(config, key_path)):
      where[path] = (leaf, i if stacked(key_path) else None)
  groups: dict[str, list[tensors.Tensor]] = {}
  for entry in tensors.checkpoint_table(config):
    groups.setdefault(entry.name, []).append(entry)

  def build(group: list[tensors.Tensor]) -> np.ndarray:
    parts = []
    for entry in group:
      leaf, index = where[entry.path]
      value = np.asarray(leaf if index is None else leaf[index])
      parts.append(value.T if entry.transposed else value)
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
    return np.ascontiguousarray(whole)

  for name, group in groups.items():
    yield name, functools.partial(build, group)


def _find(name: str, held: dict[str, tuple[int, ...]]) -> str:
  bare = name.split(".", 1)[1] if "." in name else name
  return bare if name not in held and bare in held else name


def _some(names: Iterable[str]) -> str:
  names = list(names)
  more = len(names) - _SHOWN
  return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _key(key: Any) -> str:
  for field in ("key", "name", "idx"):
    if hasattr(key, field):
      return str(getattr(key, field))
  return str(key)
