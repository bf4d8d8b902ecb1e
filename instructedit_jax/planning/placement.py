"""A run on a machine: bytes of one device by kind, time, and does it fit?"""

import dataclasses

from instructedit_jax.editors import trainable
from instructedit_jax.errors import UserError
from instructedit_jax.planning.costs import Costs
from instructedit_jax.planning.machines import Machine
from instructedit_jax.planning.shapes import RunShapes
from instructedit_jax.planning.sharding import resident

# One batch is being used while the next is on its way.
_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class Placement:
  """A run on a machine.

  Attributes:
    machine: where.
    model_axis: devices that share one copy of weights and editor.
    episodes: of one step on one group of `model_axis` devices.
    cached: the prefix is not loaded: all its states are there already.
    bytes: of one device by kind.
    seconds: of one step at the machine's rate.
  """

  machine: Machine
  model_axis: int
  episodes: int
  cached: bool
  bytes: dict[str, int]
  seconds: float

  @property
  def total(self) -> int:
    """Bytes of one device."""
    return sum(self.bytes.values())

  @property
  def fits(self) -> bool:
    """Whether one device has that much."""
    return self.total <= self.machine.usable

  @property
  def data_axis(self) -> int:
    """Groups of devices that work on different episodes."""
    return self.machine.devices // self.model_axis

  @property
  def rate(self) -> float:
    """Episodes per second of the whole machine."""
    return self.data_axis * self.episodes / self.seconds


def place(
  run: RunShapes,
  costs: Costs,
  machine: Machine,
  batch_size: int,
  model_axis: int = 1,
  cached: bool = False,
  step_bytes: int | None = None,
) -> Placement:
  """Distributes a run over a machine.

  Weights, editor and optimizer are divided by the run's own rules, the batch
  among groups of `model_axis` devices. An upper bound for the step: the devices
  of a group may share the episodes' arrays too.

  Args:
    run: its arrays.
    costs: of the run.
    machine: the devices.
    batch_size: episodes of a step over all devices.
    model_axis: devices that share one copy of the weights.
    cached: all prefix states are there: without the prefix and whatever only it
      needs, as far as the method can do without.
    step_bytes: what a compiler says of the step's intermediate values, in place
      of the estimate.

  Raises:
    UserError: the devices or the batch do not divide; says what would.
  """
  _require_divisor(machine.devices, machine.processes, "processes")
  groups, episodes = _divided(machine.devices, model_axis, batch_size)
  held = resident(run, groups, model_axis, machine.processes)
  loaded = dict(held.weights)
  # An editor that reads tokens needs their embeddings: then all is loaded.
  if cached and not trainable.of(run.run.editor).READS_TOKENS:
    loaded["prefix"] = loaded["embedding"] = 0
  step = costs.step_fixed // model_axis + episodes * costs.step_episode
  found = {
    **{f"weights: {part}": size for part, size in loaded.items()},
    "weights: the step's own copy": held.step_weights,
    "editor": held.editor,
    "optimizer": held.optimizer,
    "statistics": held.statistics,
    "batch": _BATCHES * episodes * costs.batch,
    "step: activations, logits": step if step_bytes is None else step_bytes,
    "gathered for the step": held.gathered,
    "prefix states being computed": 0 if cached else costs.prefix_program,
  }
  work = costs.step_flops * episodes / model_axis
  return Placement(
    machine, model_axis, episodes, cached, found, work / machine.rate
  )


def smallest_axis(
  run: RunShapes, costs: Costs, machine: Machine, cached: bool = False
) -> int | None:
  """Fewest devices that must share the weights for one episode each to fit.

  Returns:
    a divisor of the device count, or None where nothing fits.
  """
  for axis in _divisors(machine.devices):
    batch = machine.devices // axis
    if place(run, costs, machine, batch, axis, cached).fits:
      return axis
  return None


def least(
  run: RunShapes, costs: Costs, machine: Machine, cached: bool = False
) -> Placement:
  """The placement of one episode a group that takes least of a device."""
  return min(
    (
      place(run, costs, machine, machine.devices // axis, axis, cached)
      for axis in _divisors(machine.devices)
    ),
    key=lambda placed: placed.total,
  )


def largest_batch(
  run: RunShapes,
  costs: Costs,
  machine: Machine,
  model_axis: int = 1,
  cached: bool = False,
) -> int:
  """Most episodes one group of devices can take at once; 0 where none fits."""
  groups = machine.devices // model_axis
  one = place(run, costs, machine, groups, model_axis, cached)
  if not one.fits:
    return 0
  each = costs.step_episode + _BATCHES * costs.batch
  return 1 + int((machine.usable - one.total) // max(1, each))


def _divided(devices: int, model_axis: int, batch: int) -> tuple[int, int]:
  """Groups of devices, and episodes of each."""
  _require_divisor(devices, model_axis, "devices for the model axis")
  groups = devices // model_axis
  if batch % groups:
    below = batch // groups * groups
    fitting = [size for size in (below, below + groups) if size]
    raise UserError(
      f"config.batch_size = {batch} does not divide among {groups} groups of"
      f" devices; {' or '.join(map(str, fitting))} would"
    )
  return groups, batch // groups


def _require_divisor(devices: int, size: int, what: str) -> None:
  if devices % size:
    raise UserError(
      f"{size} {what} do not divide {devices} devices;"
      f" {', '.join(map(str, _divisors(devices)))} would"
    )


def _divisors(count: int) -> list[int]:
  return [size for size in range(1, count + 1) if count % size == 0]
