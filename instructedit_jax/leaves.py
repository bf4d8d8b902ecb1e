"""Any pytree as a flat mapping of named arrays, and back.

A storage format sees only `{name: array}`. What it cannot hold is kept in the
description beside it: typed PRNG keys (stored as uint32 key data) and arrays
without elements.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instructedit_jax.errors import UserError

PyTree = Any
Description = dict[str, Any]

_KEY_KINDS = {
  "key<fry>": "threefry2x32",
  "key<rbg>": "rbg",
  "key<urbg>": "unsafe_rbg",
}
_SHOWN = 3  # differences named in an error


def encode(tree: PyTree) -> tuple[list[Description], dict[str, Any]]:
  """Returns the description of every leaf and the arrays to store, by name.

  A description has `path` (a list of keys and indices), `shape` and `dtype`,
  all JSON-able. Python numbers become NumPy arrays.

  Raises:
    ValueError: two leaves have the same name ("a/b" beside "a" holding "b").
  """
  described, arrays = [], {}
  for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    entry = _describe(keys, leaf)
    described.append(entry)
    if leaf.size:
      arrays[_name(entry)] = (
        jax.random.key_data(leaf) if _is_key(leaf) else leaf
      )
  names = {_name(entry) for entry in described}
  if len(names) != len(described):
    raise ValueError("two leaves of the tree have the same name")
  return described, arrays


def target(
  place: str | os.PathLike[str],
  described: Sequence[Description],
  abstract: PyTree,
) -> dict[str, Any]:
  """Returns what to ask a storage format for, by name, to fill `abstract`.

  Leaves with a sharding are asked for as `jax.ShapeDtypeStruct`, the others as
  NumPy arrays.

  Args:
    place: named in the error.
    described: the stored leaves, from `encode`.
    abstract: pytree of arrays or `jax.ShapeDtypeStruct`.

  Raises:
    UserError: names, shapes or dtypes differ.
  """
  wanted = {}
  request: dict[str, Any] = {}
  for keys, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    entry = _describe(keys, leaf)
    wanted[_name(entry)] = entry
    if leaf.size:
      request[_name(entry)] = _request(leaf)
  _require_equal(place, {_name(entry): entry for entry in described}, wanted)
  return request


def decode(arrays: Mapping[str, Any], abstract: PyTree) -> PyTree:
  """Puts stored arrays into the structure and kinds of `abstract`."""

  def fill(keys: tuple[Any, ...], leaf: Any) -> Any:
    plain = not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    entry = _describe(keys, leaf)
    if leaf.size:
      value = arrays[_name(entry)]
    else:
      value = np.zeros(_data_of(leaf).shape, _data_of(leaf).dtype)
    if plain:
      return value
    value = jnp.asarray(value)
    if _is_key(leaf):
      value = jax.random.wrap_key_data(value, impl=_KEY_KINDS[entry["dtype"]])
    return value

  return jax.tree_util.tree_map_with_path(fill, abstract)


def nest(described: Sequence[Description]) -> PyTree:
  """Rebuilds a tree of `jax.ShapeDtypeStruct` in dicts and lists.

  Tuples come back as lists, and the attributes of a class as a dict.
  """
  tree: dict[str | int, Any] = {}
  for entry in described:
    *parents, last = entry["path"] or [""]
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = _struct(entry)
  return tree[""] if "" in tree else _lists(tree)


def _lists(node: Any) -> Any:
  if not isinstance(node, dict):
    return node
  if node and all(isinstance(key, int) for key in node):
    # An element that held nothing (None, an empty tuple) has no leaf here.
    return [_lists(node.get(i)) for i in range(max(node) + 1)]
  return {key: _lists(value) for key, value in node.items()}


def _struct(entry: Description) -> jax.ShapeDtypeStruct:
  shape, name = tuple(entry["shape"]), entry["dtype"]
  if name in _KEY_KINDS:
    kind = _KEY_KINDS[name]
    dtype = jax.eval_shape(lambda: jax.random.key(0, impl=kind)).dtype
    return jax.ShapeDtypeStruct(shape, dtype)
  return jax.ShapeDtypeStruct(shape, jnp.dtype(name))


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data_of(leaf: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype as stored: key data for a typed key."""
  struct = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
  return (
    jax.eval_shape(jax.random.key_data, struct) if _is_key(leaf) else struct
  )


def _request(leaf: Any) -> Any:
  stored = _data_of(leaf)
  sharding = getattr(leaf, "sharding", None)
  if isinstance(leaf, jax.Array) and not leaf.committed:
    sharding = None  # where an array merely happened to be binds nobody
  if sharding is None:
    # A view of one number: the request must not cost the array's memory.
    return np.broadcast_to(np.zeros((), stored.dtype), stored.shape)
  return jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=sharding)


def _describe(keys: tuple[Any, ...], leaf: Any) -> Description:
  name = leaf.dtype.name if _is_key(leaf) else np.dtype(leaf.dtype).name
  path = [_entry(key) for key in keys]
  return {"path": path, "shape": list(leaf.shape), "dtype": name}


def _entry(key: Any) -> str | int:
  """One level of a path: int for a place in a list, str for anything else."""
  if isinstance(key, jax.tree_util.SequenceKey):
    return key.idx
  return jax.tree_util.keystr((key,), simple=True)


def _name(entry: Description) -> str:
  return "/".join(map(str, entry["path"])) or "value"


def _require_equal(
  place: str | os.PathLike[str],
  stored: Mapping[str, Description],
  wanted: Mapping[str, Description],
) -> None:
  differences = []
  for name in sorted(stored.keys() | wanted.keys()):
    there, here = stored.get(name), wanted.get(name)
    if here is None:
      differences.append(f"{name} is not in this configuration")
    elif there is None:
      differences.append(f"{name} was not saved")
    elif (there["shape"], there["dtype"]) != (here["shape"], here["dtype"]):
      differences.append(f"{name} is {_text(there)}, not {_text(here)}")
  if differences:
    more = len(differences) - _SHOWN
    text = "; ".join(differences[:_SHOWN])
    text += f"; and {more} more" if more > 0 else ""
    raise UserError(
      f"{place}: saved with another configuration ({text}). Use the"
      " configuration it was made with, or another folder."
    )


def _text(entry: Description) -> str:
  return f"{entry['dtype']}[{','.join(map(str, entry['shape']))}]"
