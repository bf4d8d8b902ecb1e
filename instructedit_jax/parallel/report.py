"""What a compiled program costs each device, read off the program itself.

The compiler's own figures give memory. Traffic and matrix products are counted
in the optimised program's text: each collective with the bytes it works on, and
what is in a loop as often as the loop is known to run. Of the two sides of a
branch, the one with more of both counts.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

_KINDS = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?)"
  r" (?P<op>[a-z][a-z0-9\-]*)\((?P<rest>.*)$"
)
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(
  r"\b(?:calls|to_apply|body|condition|branch_computations"
  r"|true_computation|false_computation|called_computations)="
  r"(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_TRIPS = re.compile(r'known_trip_count[^}]*"n":"?(\d+)')
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_OPERAND = re.compile(r"%([\w.\-]+)")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_PARTITIONS = re.compile(r"num_partitions=(\d+)")
_REPLICAS = re.compile(r"replica_count=(\d+)")


@dataclasses.dataclass
class _Instruction:
  """Of a program's text.

  Attributes:
    kind: the operation.
    shapes: bytes of its results.
    sizes: lengths of the axes of its first result.
    rest: from the first operand on.
    flops: of a matrix product.
  """

  kind: str
  shapes: list[int]
  sizes: list[int]
  rest: str
  flops: float = 0.0


def compiled_report(compiled: Any) -> dict[str, Any]:
  """Memory, arithmetic and traffic of one run of a compiled program.

  Args:
    compiled: `jax.jit(f).lower(...).compile()`.

  Returns:
    devices: how many the program spans.
    argument_bytes, output_bytes, temp_bytes, alias_bytes, code_bytes: of one
      device; aliased are outputs that take a donated argument's place.
    peak_bytes: arguments, temporaries and what outputs need beside them.
    flops: of one device, as the compiler counts them; a loop's body counts
      once.
    product_flops: of one device, matrix products alone, those in loops as often
      as they run. Products that a compiler hands to a library (a GPU's does)
      are not among them.
    collectives: kind -> {"count", "bytes", "sent"}: how often it runs, the
      bytes of the arrays it works on (what is reduced, or what is gathered),
      and the bytes each device sends if it goes round a ring.
    collective_bytes, sent_bytes: sums over the kinds.
  """
  text = compiled.as_text()
  memory = compiled.memory_analysis()
  cost = compiled.cost_analysis() or {}
  cost = cost[0] if isinstance(cost, list) else cost
  collectives = collective_bytes(text)
  arguments = int(memory.argument_size_in_bytes)
  outputs = int(memory.output_size_in_bytes)
  aliased = int(memory.alias_size_in_bytes)
  temporary = int(memory.temp_size_in_bytes)
  return {
    "devices": _devices(text),
    "argument_bytes": arguments,
    "output_bytes": outputs,
    "temp_bytes": temporary,
    "alias_bytes": aliased,
    "code_bytes": int(memory.generated_code_size_in_bytes),
    "peak_bytes": arguments + temporary + outputs - aliased,
    "flops": float(cost.get("flops", 0.0)),
    "product_flops": product_flops(text),
    "collectives": collectives,
    "collective_bytes": sum(c["bytes"] for c in collectives.values()),
    "sent_bytes": sum(c["sent"] for c in collectives.values()),
  }


def collective_bytes(text: str) -> dict[str, dict[str, float]]:
  """kind -> {"count", "bytes", "sent"} of a program's text; see above."""
  computations, entry = _parse(text)
  everyone = _devices(text)
  found: dict[str, dict[str, float]] = {}
  for instruction, times in _walk(computations, entry, 1):
    kind = instruction.kind.removesuffix("-start")
    if kind not in _KINDS:
      continue
    size, group = _payload(instruction), _group(instruction.rest, everyone)
    if kind == "reduce-scatter":
      size *= group  # its result is a share of what is reduced
    share = (group - 1) / group
    sent = {"all-reduce": 2 * share * size}.get(kind, share * size)
    if kind.startswith("collective-"):
      sent = float(size)
    row = found.setdefault(kind, {"count": 0, "bytes": 0, "sent": 0.0})
    row["count"] += times
    row["bytes"] += times * size
    row["sent"] += times * sent
  return found


def product_flops(text: str) -> float:
  """FLOPs of the matrix products of a program's text."""
  computations, entry = _parse(text)
  return sum(
    times * instruction.flops
    for instruction, times in _walk(computations, entry, 1)
  )


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
  computations: dict[str, list[_Instruction]] = {}
  entry, current = "", ""
  axes: dict[str, list[int]] = {}
  for line in text.splitlines():
    if not line.startswith(" "):
      match = _COMPUTATION.match(line)
      if match and not line.startswith("HloModule"):
        current, axes = match[2], {}
        computations[current] = []
        entry = current if match[1] else entry
      continue
    match = _INSTRUCTION.match(line)
    if match and current:
      shapes = _SHAPE.findall(match["type"])
      sizes = [int(d) for d in shapes[0][1].split(",") if d] if shapes else []
      axes[match["name"]] = sizes
      made = _Instruction(
        match["op"], [_bytes(*shape) for shape in shapes], sizes, match["rest"]
      )
      if made.kind == "dot":
        made.flops = _product(made, axes)
      computations[current].append(made)
  return computations, entry


def _product(dot: _Instruction, axes: dict[str, list[int]]) -> float:
  left, contracted = _OPERAND.search(dot.rest), _CONTRACTED.search(dot.rest)
  if not left or not contracted:
    return 0.0
  sizes = axes.get(left[1], [])
  depth = math.prod(sizes[int(d)] for d in contracted[1].split(",") if d)
  return 2.0 * depth * math.prod(dot.sizes)


def _walk(
  computations: dict[str, list[_Instruction]], name: str, times: int
) -> Iterator[tuple[_Instruction, int]]:
  """Every instruction that runs, with how often."""
  for instruction in computations.get(name, ()):
    yield instruction, times
    inner = times
    if instruction.kind == "while":
      trips = _TRIPS.search(instruction.rest)
      inner = times * int(trips[1]) if trips else times
    if instruction.kind.removesuffix("-start") in _KINDS:
      continue  # what it calls adds two numbers
    called = [
      name.strip().lstrip("%")
      for match in _CALLED.finditer(instruction.rest)
      for name in (match[1] or match[2]).split(",")
    ]
    if instruction.kind == "conditional":
      called = [max(called, key=lambda name: _weight(computations, name))]
    for each in called:
      yield from _walk(computations, each, inner)


def _weight(
  computations: dict[str, list[_Instruction]], name: str
) -> tuple[float, int]:
  """FLOPs and traffic of one side of a branch, to tell the larger."""
  flops, traffic = 0.0, 0
  for instruction, times in _walk(computations, name, 1):
    flops += times * instruction.flops
    if instruction.kind.removesuffix("-start") in _KINDS:
      traffic += times * _payload(instruction)
  return flops, traffic


def _payload(instruction: _Instruction) -> int:
  """Bytes of a collective's results; begun ones list their operands too."""
  shapes, kind = instruction.shapes, instruction.kind
  if kind == "all-gather-start":
    return sum(shapes[len(shapes) // 2 :])
  if kind == "collective-permute-start":
    return shapes[0] if shapes else 0
  return sum(shapes)


def _group(rest: str, everyone: int) -> int:
  """Devices that take part together."""
  listed = _LISTED.search(rest)
  if listed:
    return max(len(listed[1].split(",")), 1)
  counted = _COUNTED.search(rest)
  return int(counted[2]) if counted else everyone


def _devices(text: str) -> int:
  header = text.split("\n", 1)[0]
  sizes = [p.search(header) for p in (_PARTITIONS, _REPLICAS)]
  return math.prod(int(match[1]) for match in sizes if match)


def _bytes(kind: str, dims: str) -> int:
  """Size of an array such as bf16[8,128]; 0 for tokens and the like."""
  digits = re.match(r"[a-z]+(\d+)", kind)
  if kind == "pred":
    bits = 8
  elif digits:
    bits = int(digits[1])
  else:
    return 0
  count = math.prod(int(d) for d in dims.split(",") if d)
  return -(-count * bits // 8)
