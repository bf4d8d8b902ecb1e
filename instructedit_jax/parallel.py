"""Devices as a mesh.

One axis for now: `data`, over which independent episodes are spread. Arrays
that carry no episode axis are replicated.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from instructedit_jax.errors import UserError


def data_mesh(batch_size: int) -> Mesh:
  """All devices along `data`.

  Raises:
    UserError: the batch does not divide among them; says what would.
  """
  devices = jax.devices()
  if batch_size % len(devices):
    below = batch_size // len(devices) * len(devices)
    fitting = [size for size in (below, below + len(devices)) if size]
    raise UserError(
      f"config.batch_size = {batch_size} does not divide among"
      f" {len(devices)} devices; {' or '.join(map(str, fitting))} would"
    )
  return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
