"""Machines one can rent, as the planner knows them."""

import dataclasses

# Of a device's memory; the rest is the runtime's.
USABLE = 0.92
# Share of the peak that a mixed workload of small matrices is assumed to reach.
EFFICIENCY = 0.35


@dataclasses.dataclass(frozen=True)
class Machine:
  """Some equal devices.

  Attributes:
    name: as printed.
    devices: how many.
    memory: bytes of one.
    peak: FLOPs per second of one, for float32 matrix products at JAX's default
      precision: TF32 on GPUs, bfloat16 passes on TPUs. Makers' figures,
      without sparsity.
    processes: that share the devices, usually one a host.
  """

  name: str
  devices: int
  memory: float
  peak: float
  processes: int = 1

  @property
  def usable(self) -> float:
    """Bytes a program can have of one device."""
    return USABLE * self.memory

  @property
  def rate(self) -> float:
    """FLOPs per second to be expected of one device."""
    return EFFICIENCY * self.peak


MACHINES = (
  Machine("24 GB GPU (L4)", 1, 24e9, 60e12),
  Machine("80 GB GPU (H100)", 1, 80e9, 495e12),
  Machine("8 x 80 GB GPU", 8, 80e9, 495e12),
  Machine("TPU v5e-8", 8, 16e9, 197e12),
  Machine("TPU v5e-64", 64, 16e9, 197e12, 16),
  Machine("TPU v5p-8 (4 chips)", 4, 95e9, 459e12),
  Machine("TPU v5p-64 (32 chips)", 32, 95e9, 459e12, 8),
)
