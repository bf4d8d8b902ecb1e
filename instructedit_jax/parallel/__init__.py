"""One program over many devices and hosts.

`mesh` arranges devices along the axes `data` (independent episodes) and `model`
(parts of a matrix); `rules` says which array is divided how; `arrays` puts host
arrays there; `processes` is about several hosts; `report` reads off a compiled
program what it costs.
"""

from instructedit_jax.parallel.arrays import (
  assemble,
  constrain,
  gathered,
  own_rows,
  place,
)
from instructedit_jax.parallel.mesh import (
  DATA,
  MODEL,
  MeshConfig,
  local_mesh,
  local_shape,
  make_mesh,
)
from instructedit_jax.parallel.report import compiled_report
from instructedit_jax.parallel.rules import (
  ShardingConfig,
  divides,
  dotted,
  shardings,
)

__all__ = [
  "DATA",
  "MODEL",
  "MeshConfig",
  "ShardingConfig",
  "assemble",
  "compiled_report",
  "constrain",
  "divides",
  "dotted",
  "gathered",
  "local_mesh",
  "local_shape",
  "make_mesh",
  "own_rows",
  "place",
  "shardings",
]
