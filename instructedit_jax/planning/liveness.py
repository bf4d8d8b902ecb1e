"""How much memory a program's intermediate values need, without compiling it.

A compiler keeps only some values in memory: what a matrix product, a loop or a
gather reads or writes. Everything else (sums, masks, activations, conversions)
is computed inside the loop that needs it. This module applies that rule to a
jaxpr, drops what is never used or computed twice, and adds up what is alive at
once; it is an estimate of what a compiler's own report would say.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from instructedit_jax.planning.flops import subprograms


def _words(text: str) -> frozenset[str]:
  return frozenset(text.split())


# Inlined: the equation is its sub-program.
_CALLS = _words("""
  pjit jit closed_call core_call custom_jvp_call custom_vjp_call
  custom_vjp_call_jaxpr
""")
_AGAIN = _words("""remat remat2 checkpoint""")
# The same bytes under another name.
_VIEWS = _words("""
  reshape squeeze expand_dims copy copy_p stop_gradient transpose
  sharding_constraint optimization_barrier
""")
# Computed inside whatever reads them.
_FUSED = _words("""
  add sub mul div neg sign floor ceil round max min abs exp exp2 log log1p
  expm1 tanh logistic sqrt rsqrt square pow integer_pow erf erf_inv sin cos
  and or not xor eq ne lt le gt ge select_n convert_element_type
  broadcast_in_dim iota slice clamp is_finite add_any rem pad rev
  shift_right_logical shift_left real imag nextafter stop_gradient
""")
# Worth keeping rather than computing once for each reader.
_COSTLY = _words("""
  exp exp2 log log1p expm1 tanh logistic pow erf erf_inv sin cos
""")
# Written into their first argument's memory.
_IN_PLACE = _words("""
  scatter scatter-add scatter_add dynamic_update_slice
""")
_REDUCTIONS = _words("""
  reduce_sum reduce_max reduce_min reduce_and reduce_or reduce_prod argmax
  argmin
""")


@dataclasses.dataclass
class _Op:
  """One equation after inlining; values are numbers."""

  name: str
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  inner: int = 0


class _Program:
  """A flat list of operations and the size of every value."""

  def __init__(self) -> None:
    self.ops: list[_Op] = []
    self.bytes: list[int] = []
    self._seen: dict[Any, tuple[int, ...]] = {}

  def value(self, aval: Any) -> int:
    """A new value's number."""
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 8)
    self.bytes.append(math.prod(getattr(aval, "shape", ())) * itemsize)
    return len(self.bytes) - 1

  def run(self, jaxpr: Any, arguments: list[int]) -> list[int]:
    """Inlines a jaxpr; returns the numbers of its results."""
    closed = jaxpr
    jaxpr = getattr(closed, "jaxpr", closed)
    names: dict[Any, int] = {}
    for variable in jaxpr.constvars:
      names[variable] = self.value(variable.aval)
    names.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> int:
      if hasattr(atom, "val"):
        return self._constant(atom)
      return names[atom]

    for equation in jaxpr.eqns:
      inputs = [read(atom) for atom in equation.invars]
      outputs = self._equation(equation, inputs)
      names.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

  def _constant(self, atom: Any) -> int:
    key = ("literal", repr(atom))
    if key not in self._seen:
      self._seen[key] = (self.value(atom.aval),)
    return self._seen[key][0]

  def _equation(self, equation: Any, inputs: list[int]) -> list[int]:
    name = equation.primitive.name
    if name in _AGAIN:
      # What is computed again on purpose is not shared with the first time.
      seen, self._seen = self._seen, {}
      outputs = self.run(next(subprograms(equation)), inputs)
      self._seen = seen
      return outputs
    if name in _CALLS:
      return self.run(next(subprograms(equation)), inputs)
    avals = [variable.aval for variable in equation.outvars]
    if name in _VIEWS and len(avals) == len(inputs):
      return inputs
    converts = name == "convert_element_type"
    if converts and equation.invars[0].aval.dtype == avals[0].dtype:
      return inputs[:1]
    # Two equal computations are one.
    subs = list(subprograms(equation))
    key = None if subs else (name, str(equation.params), tuple(inputs))
    if key is not None and key in self._seen:
      return list(self._seen[key])
    made = tuple(self.value(aval) for aval in avals)
    inner = max((peak(sub) for sub in subs), default=0)
    self.ops.append(_Op(name, tuple(inputs), made, inner))
    if key is not None:
      self._seen[key] = made
    return list(made)


def peak(jaxpr: Any) -> int:
  """Bytes of intermediate values alive at the worst moment.

  Arguments and results are not counted.
  """
  program = _Program()
  core = getattr(jaxpr, "jaxpr", jaxpr)
  arguments = [program.value(v.aval) for v in core.invars]
  results = program.run(jaxpr, arguments)
  ops = _needed(program.ops, results)
  kept = _kept(ops, set(results))
  return _peak(program, ops, kept)


def _needed(ops: list[_Op], results: list[int]) -> list[_Op]:
  wanted, chosen = set(results), []
  for op in reversed(ops):
    if wanted.intersection(op.outputs):
      chosen.append(op)
      wanted.update(op.inputs)
  return chosen[::-1]


def _kept(ops: list[_Op], results: set[int]) -> set[int]:
  """Values that get memory of their own, results aside."""
  readers: dict[int, list[_Op]] = collections.defaultdict(list)
  for op in ops:
    for value in set(op.inputs):
      readers[value].append(op)
  kept = set()
  for op in ops:
    for value in op.outputs:
      if value in results:
        continue
      if op.name not in _FUSED or _is_stored(op, value, readers[value]):
        kept.add(value)
  return kept


def _is_stored(op: _Op, value: int, readers: list[_Op]) -> bool:
  """Does the result of a fusible operation get memory all the same?"""
  outside = [r for r in readers if r.name not in _FUSED | _REDUCTIONS]
  if op.name == "broadcast_in_dim" and all(
    r.name in _IN_PLACE and r.inputs[0] == value for r in outside
  ):
    return False  # the zeros that something is added into: counted as its own
  return bool(outside) or (len(readers) > 1 and op.name in _COSTLY)


def _peak(program: _Program, ops: list[_Op], kept: set[int]) -> int:
  made = {value for op in ops for value in op.outputs}
  roots: dict[int, frozenset[int]] = {}
  last: dict[int, int] = {}
  for time, op in enumerate(ops):
    reads: frozenset[int] = frozenset().union(
      *(_root(value, roots, kept, made) for value in op.inputs)
    )
    fused = op.name in _FUSED
    for value in op.outputs:
      roots[value] = reads if fused and value not in kept else frozenset()
    stored = not fused or any(value in kept for value in op.outputs)
    unread = fused and not stored
    if not unread:
      last.update(dict.fromkeys(reads, time))
    last.update({value: time for value in op.outputs if value in kept})
  return max(_alive(program, ops, kept, last), default=0)


def _root(
  value: int,
  roots: dict[int, frozenset[int]],
  kept: set[int],
  made: set[int],
) -> frozenset[int]:
  """The stored values a value is computed from: itself, if it is stored."""
  if value in kept:
    return frozenset((value,))
  return roots.get(value, frozenset()) if value in made else frozenset()


def _alive(
  program: _Program, ops: list[_Op], kept: set[int], last: dict[int, int]
) -> Iterator[int]:
  ends: dict[int, list[int]] = collections.defaultdict(list)
  for value, time in last.items():
    ends[time].append(value)
  now = 0
  for time, op in enumerate(ops):
    dying = [program.bytes[value] for value in ends[time]]
    made = [program.bytes[value] for value in op.outputs if value in kept]
    # An elementwise result takes the place of an argument no one needs again.
    reused = sum(size for size in made if op.name in _FUSED and size in dying)
    yield now + sum(made) - reused + op.inner
    now += sum(made) - sum(dying)
