"""Memory is handed back between compiling and running."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax import heap


def test_a_function_is_traced_once_and_memory_released_before_it_runs(
  monkeypatch,
):
  events = []
  monkeypatch.setattr(heap, "release", lambda: events.append("released"))

  def double(x):
    events.append("traced")
    jax.debug.callback(lambda: events.append("ran"))
    return 2 * x

  function = heap.CompiledFirst(jax.jit(double))
  for _ in range(2):
    result = function(jnp.arange(3.0))
    jax.effects_barrier()
    np.testing.assert_array_equal(result, [0, 2, 4])
  assert events == ["traced", "released", "ran", "ran"]


def test_other_shapes_are_compiled_when_they_come():
  function = heap.CompiledFirst(jax.jit(jnp.sum))
  assert function(jnp.ones(2)) == 2
  assert function(jnp.ones((3, 3))) == 9


def test_arguments_may_be_given_away():
  function = heap.CompiledFirst(jax.jit(lambda x: x + 1, donate_argnums=0))
  given = jnp.zeros(4)
  result = function(function(given))
  assert given.is_deleted()
  np.testing.assert_array_equal(result, np.full(4, 2.0))


def test_freed_memory_can_be_released_at_any_time():
  held = [bytes(1000) for _ in range(1000)]
  del held
  heap.release()


@pytest.mark.skipif(not heap._MAPS.exists(), reason="Linux counts maps")
def test_programs_go_where_they_fill_the_memory_maps():
  """And where they do not, they stay."""
  function = jax.jit(lambda x: x + 1)
  function(jnp.zeros(4))
  assert not heap.make_room(share=1.0)
  assert function._cache_size() == 1
  assert heap.make_room(share=0.0)
  assert function._cache_size() == 0
  np.testing.assert_array_equal(function(jnp.zeros(4)), np.ones(4))


def test_where_maps_are_not_counted_programs_stay(monkeypatch, tmp_path):
  monkeypatch.setattr(heap, "_MAPS", tmp_path / "none")
  assert not heap.make_room(share=0.0)
