"""Devices as a mesh of two axes, `data` and `model`."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from instructedit_jax.errors import UserError

DATA, MODEL = "data", "model"


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How many devices stand along each axis.

  Attributes:
    data: devices among which episodes are spread; -1 takes all that `model`
      leaves.
    model: devices among which one matrix is spread.
  """

  data: int = -1
  model: int = 1

  def __post_init__(self):
    if self.model < 1:
      raise UserError(f"config.mesh.model = {self.model}: must be at least 1")
    if self.data < 1 and self.data != -1:
      raise UserError(
        f"config.mesh.data = {self.data}: must be at least 1, or -1 for all"
        " devices that config.mesh.model leaves"
      )


def make_mesh(
  config: MeshConfig = MeshConfig(),
  batch_size: int | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Arranges devices as (data, model).

  The devices of one `model` row are neighbours: that axis talks the most.

  Args:
    config: the shape.
    batch_size: if given, must divide among the `data` axis.
    devices: all devices of all processes by default.

  Raises:
    UserError: the shape does not fit the devices, or the batch does not
      divide; says what would.
  """
  devices = jax.devices() if devices is None else devices
  count, model = len(devices), config.model
  data = count // model if config.data == -1 else config.data
  if data * model != count:
    shown = "all" if config.data == -1 else config.data
    fitting = [
      f"data={count // size} model={size}"
      for size in range(1, count + 1)
      if count % size == 0
    ]
    raise UserError(
      f"config.mesh: data={shown} model={model} does not fit {count}"
      f" device{'s' if count > 1 else ''}; {_or(fitting)} would"
    )
  if batch_size is not None and batch_size % data:
    below = batch_size // data * data
    sizes = [str(size) for size in (below, below + data) if size]
    raise UserError(
      f"config.batch_size = {batch_size} does not divide among the {data}"
      f" devices of mesh axis {DATA}; {_or(sizes)} would"
    )
  auto = (AxisType.Auto, AxisType.Auto)
  return jax.make_mesh((data, model), (DATA, MODEL), auto, devices=devices)


def local_mesh(mesh: Mesh) -> Mesh:
  """This process's devices, with as much of the axis `model` as they hold."""
  devices = mesh.local_devices
  _, model = local_shape(mesh.shape[MODEL], len(devices))
  return make_mesh(MeshConfig(model=model), devices=devices)


def local_shape(model: int, devices: int) -> tuple[int, int]:
  """(data, model) of `local_mesh`.

  Args:
    model: size of the axis over all processes.
    devices: of one process.
  """
  axis = math.gcd(model, devices)
  return devices // axis, axis


def _or(choices: Sequence[str]) -> str:
  if len(choices) == 1:
    return choices[0]
  return f"{', '.join(choices[:-1])} or {choices[-1]}"
