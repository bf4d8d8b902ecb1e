"""Floating-point operations of a program, counted in its jaxpr.

Only matrix products are counted (two operations for each multiply and add):
they are what a machine's stated rate is about, and all that matters here.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count(jaxpr: Any, chosen: Callable[[Any], bool] | None = None) -> float:
  """FLOPs of all matrix products of a jaxpr, those in loops included.

  Of branches, the one with most FLOPs counts, whatever `chosen` says: parts of
  a program add up to the whole.

  Args:
    jaxpr: from `jax.make_jaxpr`.
    chosen: counts only the products for which it is true of the equation.
  """
  total = 0.0
  for equation, times in equations(jaxpr):
    product = equation.primitive.name == "dot_general"
    if product and (chosen is None or chosen(equation)):
      total += times * _product(equation)
  return total


def touches(size: int) -> Callable[[Any], bool]:
  """Chooses products with an axis of `size`, such as the vocabulary."""

  def chosen(equation: Any) -> bool:
    arrays = (*equation.invars, *equation.outvars)
    return any(size in array.aval.shape for array in arrays)

  return chosen


def equations(jaxpr: Any, times: float = 1.0) -> Iterator[tuple[Any, float]]:
  """Every equation of a jaxpr and its sub-programs, with its repetitions.

  A loop whose length is known only when it runs counts as one turn.
  """
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    inner = times
    if equation.primitive.name == "scan":
      inner = times * equation.params["length"]
    found = list(subprograms(equation))
    if equation.primitive.name == "cond":
      found = [max(found, key=count)]  # one branch runs: at worst, this one
    for sub in found:
      yield from equations(sub, inner)
    if not found:
      yield equation, times


def subprograms(equation: Any) -> Iterator[Any]:
  """The jaxprs that an equation runs."""
  skipped = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd")
  for name, value in equation.params.items():
    if name in skipped:
      continue
    for item in value if isinstance(value, tuple | list) else (value,):
      if hasattr(item, "eqns") or hasattr(item, "jaxpr"):
        yield item


def trace(function: Callable[..., Any], *arguments: Any) -> Any:
  """The jaxpr of a function of arrays given as shapes."""
  return jax.make_jaxpr(function)(*arguments)


def _product(equation: Any) -> float:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  depth = math.prod(left[axis] for axis in contracted)
  return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
