"""Adam on many small problems at once."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

T = TypeVar("T")
G = TypeVar("G")

# When so small a share of the problems is left, the others are taken out.
# Every share is another compiled loop.
SHARES = (0.5, 0.25, 0.125)


class _State(NamedTuple):
  """Problems under way; arrays have them along the leading axis.

  Attributes:
    values, memory: parameters, and Adam's state of them.
    given: what else their losses depend on.
    place: int32, which problem each one is.
    live: bool, whether it goes on.
    taken: int32, steps of each.
    step: int32 [], steps of the loop.
  """

  values: Any
  memory: Any
  given: Any
  place: jax.Array
  live: jax.Array
  taken: jax.Array
  step: jax.Array


def descend(
  losses: Callable[[T, G, jax.Array], jax.Array],
  start: T,
  given: G,
  *,
  rate: float,
  steps: int,
  stop: float,
  bound: float = float("inf"),
  shares: Sequence[float] = SHARES,
) -> tuple[T, jax.Array]:
  """Adam on B separate problems at once, each until its loss is small.

  Problems end at very different times, so those that have ended are taken out
  whenever few enough are left: a loop of half the problems is half the work.

  Args:
    losses: parameters, arrays [B, ...], `given`, and bool [B], which problems
      go on, to losses [B], each of its own parameters only; for any smaller B,
      too. Of those that do not go on it may be anything.
    start: the parameters, in any pytree.
    given: what belongs to the problems besides, arrays [B, ...]; of any shape
      where B is 1.
    rate, steps: of Adam (0.9, 0.999, 1e-8).
    stop: a problem whose loss is below this is left as it is from then on.
    bound: no entry strays further than this from zero.
    shares: of B.

  Returns:
    the parameters, and int32 [B] steps taken.
  """
  rule = optax.adam(rate)

  def advance(state: _State) -> _State:
    def total(values: T) -> tuple[jax.Array, jax.Array]:
      each = losses(values, state.given, state.live)
      return each.sum(), each

    (_, each), slope = jax.value_and_grad(total, has_aux=True)(state.values)
    # Not `each >= stop`: what is no number must go on and be found out.
    live = state.live & ~(each < stop)
    changes, memory = rule.update(slope, state.memory)

    def move(value: jax.Array, change: jax.Array) -> jax.Array:
      moved = jnp.clip(value + change, -bound, bound)
      return jnp.where(_along(live, value), moved, value)

    return state._replace(
      values=jax.tree.map(move, state.values, changes),
      memory=memory,
      live=live,
      taken=state.taken + live,
      step=state.step + 1,
    )

  problems = jax.tree.leaves(start)[0].shape[0]
  state = _State(
    start,
    rule.init(start),
    given,
    jnp.arange(problems),
    jnp.ones(problems, bool),
    jnp.zeros(problems, jnp.int32),
    jnp.int32(0),
  )
  smaller = {math.ceil(share * problems) for share in shares} - {problems}
  found = start, state.taken
  for rest in (*sorted(smaller, reverse=True), 0):
    state = _run(advance, state, steps, rest)
    found = _put(found, state)
    if rest:
      state = _chosen(state, jnp.argsort(~state.live, stable=True)[:rest])
  return found


def _run(
  advance: Callable[[_State], _State], state: _State, steps: int, rest: int
) -> _State:
  """Until no more than `rest` problems go on."""
  return jax.lax.while_loop(
    lambda now: (now.step < steps) & (now.live.sum() > rest), advance, state
  )


def _put(found: Any, state: _State) -> Any:
  """What has been found for all problems, with these at their places."""
  return jax.tree.map(
    lambda every, some: every.at[state.place].set(some),
    found,
    (state.values, state.taken),
  )


def _along(flags: jax.Array, value: jax.Array) -> jax.Array:
  return flags.reshape((-1,) + (1,) * (value.ndim - 1))


def _chosen(state: _State, chosen: jax.Array) -> _State:
  """Some of the problems; steps belong to none."""
  return jax.tree.map(lambda leaf: leaf[chosen] if leaf.ndim else leaf, state)
