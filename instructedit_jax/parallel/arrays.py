"""Host arrays onto meshes, of one process or of many."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from instructedit_jax.parallel.mesh import DATA


def place(tree: Any, shardings: Any) -> Any:
  """Puts arrays that every process holds whole onto the devices.

  Args:
    tree: pytree of arrays, the same on every process.
    shardings: one for each array, see `rules.shardings`.
  """

  def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
      return jax.device_put(leaf, sharding)
    # Unlike device_put, this does not ask all processes whether they agree.
    host = np.asarray(leaf)
    return jax.make_array_from_callback(
      host.shape, sharding, lambda index: host[index]
    )

  return jax.tree.map(put, tree, shardings)


def own_rows(shardings: Any, size: int) -> list[int]:
  """The rows of a batch of `size` that this process's devices hold."""
  rows: set[int] = set()
  for sharding in jax.tree.leaves(shardings):
    spec = PartitionSpec(*sharding.spec[:1])
    first = NamedSharding(sharding.mesh, spec)
    for index in first.addressable_devices_indices_map((size,)).values():
      if index is not None:
        rows.update(range(*index[0].indices(size)))
  return sorted(rows)


def assemble(tree: Any, shardings: Any, rows: Sequence[int], size: int) -> Any:
  """Makes one batch of what every process has of it.

  Args:
    tree: pytree of host arrays, this process's rows along their first axis.
    shardings: of the whole batch.
    rows: which rows these are, from `own_rows`.
    size: rows of the whole batch.
  """
  if len(rows) == size:
    return place(tree, shardings)
  where = {row: place for place, row in enumerate(rows)}

  def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    def part(index: Any) -> np.ndarray:
      wanted = [where[row] for row in range(*index[0].indices(size))]
      return np.asarray(leaf)[wanted][(slice(None), *index[1:])]

    shape = (size, *leaf.shape[1:])
    return jax.make_array_from_callback(shape, sharding, part)

  return jax.tree.map(put, tree, shardings)


def gathered(shardings: Any) -> Any:
  """The same shardings with nothing divided over `data`."""

  def whole(sharding: NamedSharding) -> NamedSharding:
    kept = []
    for axis in sharding.spec:
      names = (axis,) if isinstance(axis, str) else axis or ()
      left = tuple(name for name in names if name != DATA)
      kept.append(left if len(left) > 1 else left[0] if left else None)
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))

  return jax.tree.map(whole, shardings)


def constrain(tree: Any, shardings: Any) -> Any:
  """Inside a program: these arrays are to be laid out so."""
  return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings)
